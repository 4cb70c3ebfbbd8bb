package cacheaside

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/stretchr/testify/require"
)

func init() {
	promises = append(promises,
		promise{"G31", "what a feed tells is carried out as Invalidate is", nil, checkFeedTells},
		promise{"G31", "what a feed tells voids fetches", nil, checkFeedVoidsFlights},
		promise{"G31", "after Lost nothing counts that was kept, and nothing is kept until Alive", nil, checkFeedLost},
		promise{"G31", "after two seconds without Alive nothing counts that was kept", nil, checkFeedSilent},
		promise{"G31", "what was kept before a feed has begun does not count once it is alive", func(r rig) bool { return !r.remote }, checkFeedBegins},
		promise{"G31", "a fetch that was under way when a feed was lost, or alive again, is not kept", nil, checkFeedsAndFlights},
		promise{"G31", "one of several feeds is enough to be lost", nil, checkSeveralFeeds},
		promise{"feeds", "one that returns or panics counts as lost, and is started again", nil, checkFeedStartsAgain},
		promise{"feeds", "a cache that is opened while one is lost keeps nothing", nil, checkCacheMeetsLostFeed},
		promise{"feeds", "when Follow's context ends, values are kept as without", nil, checkFeedEnds},
		promise{"feeds", "what Redis holds counts again after silence, and is cleared after Lost", func(r rig) bool { return r.remote }, checkFeedsAndRedis},
		promise{"feeds", "bad ones are refused, and bad refs left out", nil, checkBadFeeds},
	)
}

// testFeed is a feed whose sink a test holds. Each run ends with what it is given.
type testFeed struct {
	sinks chan Sink
	ends  chan error
}

func newTestFeed() *testFeed { return &testFeed{sinks: make(chan Sink, 10), ends: make(chan error)} }

func (f *testFeed) Run(ctx context.Context, to Sink) error {
	f.sinks <- to
	select {
	case err := <-f.ends:
		if err == errPanic {
			panic("the feed's own")
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errPanic, errFeed = errors.New("panic"), errors.New("the feed is broken")

// follow returns the sink of a feed that is followed and alive.
func follow(e *env, b *Backend) Sink {
	e.Helper()
	f := newTestFeed()
	require.NoError(e, b.Follow(e.Context(), f))
	sink := <-f.sinks
	sink.Alive()
	return sink
}

// beating calls Alive now and then, until what it returns is called.
func beating(sinks ...Sink) (stop func()) {
	ended, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-time.After(500 * time.Millisecond):
				for _, s := range sinks {
					s.Alive()
				}
			case <-ended:
				return
			}
		}
	}()
	return sync.OnceFunc(func() { close(ended); <-stopped })
}

// fetchesAgain asks twice, and returns whether the second lookup fetched too.
func fetchesAgain(e *env, c *Client[string], key string) bool {
	e.Helper()
	s := serve("again")
	for range 2 {
		_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
		require.NoError(e, err)
	}
	return s.calls.Load() == 2
}

func checkFeedTells(e *env) {
	c := open[string](e, nil, WithTags(func(_, v string) []string { return []string{"tag:" + v} }))
	sink := follow(e, c.Backend())
	for _, k := range []string{"a", "b", "c"} {
		require.NoError(e, c.Set(e.Context(), k, k, time.Minute))
	}
	sink.Invalidate(append(c.Refs("a"), Tags("tag:b")...)...)
	for _, k := range []string{"a", "b"} {
		_, err := c.Get(e.Context(), k)
		require.ErrorIs(e, err, ErrMiss, k)
		many, err := c.GetMany(e.Context(), []string{k})
		require.NoError(e, err)
		require.Empty(e, many)
	}
	v, err := c.Get(e.Context(), "c")
	require.NoError(e, err)
	require.Equal(e, "c", v)
	require.EqualValues(e, 2, c.Stats().FeedRefs)
	require.NoError(e, c.Health(e.Context()))
}

func checkFeedVoidsFlights(e *env) {
	c := open[string](e, nil)
	sink := follow(e, c.Backend())
	tagged := func(s *source[string]) FetchFunc[string] {
		return func(ctx context.Context, key string) (string, error) {
			Tag(ctx, "t")
			return s.fetch(ctx, key)
		}
	}
	for _, refs := range [][]Ref{c.Refs(key), Tags("t")} {
		s := serve("old")
		release := s.hold()
		got := ask(e.Context(), c, key, tagged(s))
		e.settle(func() bool { return s.calls.Load() == 1 }, "the fetch has begun")
		sink.Invalidate(refs...)
		release()
		<-got
		later := serve("new")
		v, err := c.GetWithFetch(e.Context(), key, time.Minute, tagged(later))
		require.NoError(e, err)
		require.Equal(e, "new", v)
		require.NoError(e, c.Delete(e.Context(), key))
	}
}

func checkFeedLost(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.StaleFor, cfg.StaleIfError = time.Hour, time.Hour })
	sink := follow(e, c.Backend())
	require.NoError(e, c.Set(e.Context(), key, "old", time.Minute))
	_, err := c.Get(e.Context(), key)
	require.NoError(e, err)
	sink.Lost(errFeed)
	_, err = c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss)
	many, err := c.GetMany(e.Context(), []string{key})
	require.NoError(e, err)
	require.Empty(e, many)
	require.ErrorIs(e, c.Health(e.Context()), errFeed)
	require.ErrorIs(e, c.Backend().Health(e.Context()), ErrUnavailable)
	require.Equal(e, 1, c.Stats().FeedsLost)
	require.EqualValues(e, 1, c.Stats().FeedGaps)
	require.True(e, fetchesAgain(e, c, key))
	require.NoError(e, c.Set(e.Context(), "other", "set", time.Minute))
	_, err = c.Get(e.Context(), "other")
	require.ErrorIs(e, err, ErrMiss)
	sink.Alive()
	require.NoError(e, c.Health(e.Context()))
	require.Zero(e, c.Stats().FeedsLost)
	e.settle(func() bool { return !c.repeats.isPending(key) }, "what Redis holds is cleared")
	_, err = c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss)
	require.False(e, fetchesAgain(e, c, key))
}

func checkFeedSilent(e *env) {
	c := open[string](e, nil)
	sink := follow(e, c.Backend())
	require.NoError(e, c.Set(e.Context(), key, "old", time.Minute))
	for range 3 { // it lives on while it tells
		e.pass(feedSilence / 2)
		sink.Alive()
	}
	_, err := c.Get(e.Context(), key)
	require.NoError(e, err)
	e.pass(feedSilence + time.Millisecond)
	e.settle(func() bool { return c.Stats().FeedsLost == 1 }, "the silence is noticed")
	_, err = c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss)
	require.True(e, fetchesAgain(e, c, key))
	require.ErrorIs(e, c.Health(e.Context()), errFeedSilent)
	sink.Alive()
	require.False(e, fetchesAgain(e, c, "other"))
}

func checkFeedBegins(e *env) {
	c := open[string](e, nil)
	require.NoError(e, c.Set(e.Context(), key, "old", time.Minute))
	f := newTestFeed()
	require.NoError(e, c.Backend().Follow(e.Context(), f))
	sink := <-f.sinks
	require.NoError(e, c.Health(e.Context()), "it has just begun")
	sink.Alive()
	_, err := c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss)
	require.Zero(e, c.Stats().FeedGaps)
	require.False(e, fetchesAgain(e, c, key))
}

func checkFeedsAndFlights(e *env) {
	c := open[string](e, nil)
	sink := follow(e, c.Backend())
	for _, turn := range []func(){func() { sink.Lost(errFeed) }, sink.Alive} {
		s := serve("old")
		release := s.hold()
		got := ask(e.Context(), c, key, s.fetch)
		e.settle(func() bool { return s.calls.Load() == 1 }, "the fetch has begun")
		turn()
		release()
		require.Equal(e, "old", (<-got).value)
		_, err := c.Get(e.Context(), key)
		require.ErrorIs(e, err, ErrMiss)
	}
}

func checkSeveralFeeds(e *env) {
	c := open[string](e, nil)
	one, other := follow(e, c.Backend()), follow(e, c.Backend())
	stop := beating(one, other)
	require.False(e, fetchesAgain(e, c, "a"))
	stop()
	one.Lost(errFeed)
	other.Alive()
	require.True(e, fetchesAgain(e, c, "a"))
	other.Lost(errFeed)
	one.Alive()
	require.True(e, fetchesAgain(e, c, "a"))
	other.Alive()
	e.settle(func() bool { return !c.repeats.isPending("b") }, "what Redis holds is cleared")
	require.False(e, fetchesAgain(e, c, "b"))
}

func checkFeedStartsAgain(e *env) {
	c := open[string](e, nil)
	f := newTestFeed()
	require.NoError(e, c.Backend().Follow(e.Context(), f))
	for _, err := range []error{errFeed, nil, errPanic} {
		sink := <-f.sinks
		sink.Alive()
		require.False(e, fetchesAgain(e, c, "a"))
		f.ends <- err
		e.settle(func() bool { return c.Stats().FeedsLost == 1 }, "it is lost")
		require.True(e, fetchesAgain(e, c, "a"))
		require.Error(e, c.Health(e.Context()))
		require.NoError(e, c.Delete(e.Context(), "a"))
	}
	(<-f.sinks).Alive()
	require.False(e, fetchesAgain(e, c, "a"))
}

func checkCacheMeetsLostFeed(e *env) {
	b, err := Connect(e.Context(), e.config)
	require.NoError(e, err)
	e.Cleanup(func() { require.NoError(e, b.Close()) })
	sink := follow(e, b)
	sink.Lost(errFeed)
	c, err := New[string](b, "late")
	require.NoError(e, err)
	require.True(e, fetchesAgain(e, c, key))
	sink.Alive()
	require.False(e, fetchesAgain(e, c, key))
}

func checkFeedEnds(e *env) {
	c := open[string](e, nil)
	ctx, cancel := context.WithCancel(e.Context())
	f := newTestFeed()
	require.NoError(e, c.Backend().Follow(ctx, f))
	sink := <-f.sinks
	sink.Lost(errFeed)
	require.True(e, fetchesAgain(e, c, key))
	cancel()
	e.settle(func() bool { return c.Stats().FeedsLost == 0 && !c.repeats.isPending(key) }, "nothing is followed")
	require.False(e, fetchesAgain(e, c, key))
	sink.Lost(errFeed) // comes too late
	sink.Alive()
	require.False(e, fetchesAgain(e, c, "other"))
	require.NoError(e, c.Health(e.Context()))
}

func checkFeedsAndRedis(e *env) {
	c := open[string](e, nil)
	sink := follow(e, c.Backend())
	require.NoError(e, c.Set(e.Context(), key, "v", time.Minute))
	e.pass(feedSilence + time.Millisecond)
	e.settle(func() bool { return c.Stats().FeedsLost == 1 }, "the silence is noticed")
	_, err := c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss)
	sink.Alive()
	v, err := c.Get(e.Context(), key)
	require.NoError(e, err, "nothing was missed")
	require.Equal(e, "v", v)
	sink.Lost(errFeed)
	sink.Alive()
	_, err = c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss)
	e.settle(func() bool {
		return e.at(c.cfg.Prefix+":"+c.cfg.Name+":"+key).Must("EXISTS", c.cfg.Prefix+":"+c.cfg.Name+":"+key) == int64(0)
	}, "it is removed")
}

func checkBadFeeds(e *env) {
	c := open[string](e, nil)
	b := c.Backend()
	require.ErrorIs(e, b.Follow(e.Context(), newTestFeed(), nil), ErrInvalidValue)
	require.ErrorIs(e, (*Backend)(nil).Follow(e.Context()), ErrInvalidValue)
	sink := follow(e, b)
	require.NoError(e, c.Set(e.Context(), key, "v", time.Minute))
	sink.Invalidate(append(c.Refs(key), Ref{})...)
	_, err := c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss)
	sink.Invalidate()
	require.NoError(e, c.Close())
	require.ErrorIs(e, b.Follow(e.Context(), newTestFeed()), ErrClosed)
	sink.Invalidate(c.Refs(key)...)
	sink.Alive()
	sink.Lost(errFeed)
}
