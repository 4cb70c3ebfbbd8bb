package cacheaside

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"
)

func init() {
	promises = append(promises,
		promise{"G32", "there are never more fetches at once than MaxFetches", nil, checkLimit},
		promise{"G32", "nor while the backend is down", isRemote, checkLimitDown},
		promise{"G32", "a fetch that waits for a place gets the next, and none longer than FetchQueue", nil, checkQueue},
		promise{"G32", "a stale value is given out instead", nil, checkStaleInsteadOfPlace},
		promise{"G32", "a caller whose deadline comes first is refused at once", nil, checkQueueAndDeadline},
		promise{"G32", "a fetch inside a fetch takes no second place", nil, checkNestedPlace},
		promise{"G32", "nor does one that had begun to wait before it was asked for from inside", nil, checkLentPlace},
		promise{"G32", "a batch counts once, and so does a fetch of BindMany", nil, checkPlacesOfBatches},
		promise{"G32", "the queue is no part of FetchTimeout", nil, checkQueueAndTimeout},
		promise{"G32", "callers who all leave give up their place in the queue", nil, checkQueueAbandoned},
		promise{"G32", "a refresh does not wait, and leaves places to callers", nil, checkRefreshesAndPlaces},
		promise{"G32", "a fetch that outlives its time keeps its place", nil, checkPlaceOfDeaf},
		promise{"G32", "a fetch that panics gives its place back", nil, checkPlaceOfPanic},
		promise{"refresh", "a Refresh keeps the old value until it has succeeded", nil, checkRefresh},
		promise{"refresh", "a Refresh does not join an older fetch", nil, checkRefreshAndOlderFlight},
		promise{"refresh", "a Delete voids a Refresh", nil, checkRefreshVoid},
		promise{"age", "MaxAge accepts nothing that is older, and joins nothing that is", nil, checkMaxAge},
		promise{"age", "the same in batches", nil, checkMaxAgeMany},
		promise{"age", "a stale value is no answer under MaxAge", nil, checkMaxAgeStale},
		promise{"warm", "Warm fills what is not cached, and says what has failed", nil, checkWarm},
		promise{"warm", "Warm leaves places to callers, and waits for its own", nil, checkWarmPlaces},
		promise{"warm", "Warm by BindMany fetches keys together", nil, checkWarmMany},
	)
}

// limited sets MaxFetches and FetchQueue.
func limited(most int, queue time.Duration, more ...func(*Config)) func(*Config) {
	return func(cfg *Config) {
		cfg.MaxFetches, cfg.FetchQueue = most, queue
		for _, change := range more {
			change(cfg)
		}
	}
}

func staleIfError(cfg *Config) { cfg.StaleIfError = time.Hour }

// fill makes a fetch take the only place, and returns what lets it go.
func fill(e *env, c *Client[string], s *source[string]) (release func(), got <-chan answer[string]) {
	e.Helper()
	release = s.hold()
	calls := s.calls.Load()
	got = ask(e.Context(), c, "holder", s.fetch)
	e.settle(func() bool { return s.calls.Load() == calls+1 }, "the place is taken")
	return release, got
}

func checkLimit(e *env) { checkLimitOf(e, nil) }

func checkLimitDown(e *env) {
	checkLimitOf(e, func(cfg *Config) {
		cfg.Redis, cfg.OpTimeout = RedisConfig{Addrs: []string{"127.0.0.1:1"}}, 50*time.Millisecond
	})
}

func checkLimitOf(e *env, change func(*Config)) {
	const most, callers = 3, 40
	c := open[string](e, func(cfg *Config) {
		limited(most, time.Minute)(cfg)
		if change != nil {
			change(cfg)
		}
	})
	var now, worst, calls atomic.Int64
	fetch := func(context.Context, string) (string, error) {
		defer now.Add(-1)
		n := now.Add(1)
		for old := worst.Load(); n > old; old = worst.Load() {
			if worst.CompareAndSwap(old, n) {
				break
			}
		}
		calls.Add(1)
		e.passInside(2 * time.Millisecond)
		return "v", nil
	}
	var all []<-chan answer[string]
	for i := range callers {
		all = append(all, ask(e.Context(), c, fmt.Sprint("k", i), fetch))
	}
	for _, got := range all {
		require.NoError(e, (<-got).err)
	}
	require.EqualValues(e, callers, calls.Load())
	require.EqualValues(e, most, worst.Load())
	require.NotZero(e, c.Stats().Queued)
	require.Zero(e, c.Stats().Overloaded)
}

func checkQueue(e *env) {
	c := open[string](e, limited(1, 300*time.Millisecond))
	s := serve("v")
	release, holder := fill(e, c, s)
	defer release()
	_, err := c.GetWithFetch(e.Context(), "late", time.Minute, s.fetch)
	require.ErrorIs(e, err, ErrOverloaded)
	require.EqualValues(e, 1, s.calls.Load())
	require.EqualValues(e, 1, c.Stats().Overloaded)
	got := ask(e.Context(), c, "next", s.fetch)
	e.settle(func() bool { return c.Stats().Queued == 2 }, "it queues")
	release()
	require.NoError(e, (<-holder).err)
	require.Equal(e, answer[string]{"v", nil}, <-got)
	_, err = c.GetWithFetch(e.Context(), "late", time.Minute, s.fetch)
	require.NoError(e, err, "that it was refused is not remembered")
	require.Zero(e, c.Stats().FetchErrors)
	require.EqualValues(e, 3, c.Stats().Fetches)
}

func checkStaleInsteadOfPlace(e *env) {
	c := open[string](e, limited(1, time.Hour, staleIfError))
	begun := time.Now()
	require.NoError(e, c.Set(e.Context(), key, "old", short))
	e.boundary(begun, short, func() {}, func() {})
	s := serve("new")
	release, _ := fill(e, c, s)
	defer release()
	r, err := c.Lookup(e.Context(), key, time.Minute, s.fetch)
	require.NoError(e, err)
	require.Equal(e, "old", r.Value)
	require.Equal(e, SourceStale, r.Source)
	require.EqualValues(e, 1, c.Stats().StaleInstead)
	require.EqualValues(e, 1, s.calls.Load())
}

func checkQueueAndDeadline(e *env) {
	c := open[string](e, limited(1, time.Hour))
	s := serve("v")
	release, _ := fill(e, c, s)
	defer release()
	e.pass(200 * time.Millisecond) // no place has come free for so long
	ctx, cancel := context.WithTimeout(e.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := c.GetWithFetch(ctx, key, time.Minute, s.fetch)
	require.ErrorIs(e, err, ErrOverloaded)
	require.NoError(e, ctx.Err())
	require.Zero(e, c.Stats().Queued)
}

func checkNestedPlace(e *env) {
	c := open[string](e, limited(1, 0))
	other := open[string](e, func(cfg *Config) { cfg.Name = "other"; limited(1, 0)(cfg) })
	inner := serve("inner")
	many := func(_ context.Context, keys []string) (map[string]string, error) { return valuesOf(keys...), nil }
	bound, err := c.BindMany(time.Minute, many, Batching{})
	require.NoError(e, err)
	v, err := c.GetWithFetch(e.Context(), "outer", time.Minute, func(ctx context.Context, _ string) (string, error) {
		if _, err := bound.Get(ctx, "bound"); err != nil {
			return "", fmt.Errorf("bound: %w", err)
		}
		if _, err := c.GetManyWithFetch(ctx, []string{"m1", "m2"}, time.Minute, many); err != nil {
			return "", fmt.Errorf("many: %w", err)
		}
		return other.GetWithFetch(ctx, "middle", time.Minute, func(ctx context.Context, _ string) (string, error) {
			return c.GetWithFetch(ctx, "inner", time.Minute, inner.fetch)
		})
	})
	require.NoError(e, err)
	require.Equal(e, "inner", v)
	_, err = c.GetWithFetch(e.Context(), "after", time.Minute, inner.fetch)
	require.NoError(e, err, "all places are back")
}

func checkLentPlace(e *env) {
	c := open[string](e, limited(1, time.Hour))
	s := serve("v")
	bound, err := c.BindMany(time.Minute, func(_ context.Context, keys []string) (map[string]string, error) {
		return valuesOf(keys...), nil
	}, Batching{})
	require.NoError(e, err)
	asks := make(chan struct{})
	outer := ask(e.Context(), c, "outer", func(ctx context.Context, _ string) (string, error) {
		<-asks
		if _, err := bound.Get(ctx, "bound"); err != nil {
			return "", err
		}
		return c.GetWithFetch(ctx, "inner", time.Minute, s.fetch)
	})
	e.settle(func() bool { return c.Stats().Fetches == 1 }, "the place is taken")
	inner := ask(e.Context(), c, "inner", s.fetch)
	member := make(chan error, 1)
	go func() {
		_, err := bound.Get(e.Context(), "bound")
		member <- err
	}()
	e.pass(10 * time.Millisecond)
	e.settle(func() bool { return c.Stats().Queued == 2 }, "both queue")
	close(asks)
	require.Equal(e, answer[string]{"v", nil}, <-outer)
	require.Equal(e, answer[string]{"v", nil}, <-inner)
	require.NoError(e, <-member)
}

func checkPlacesOfBatches(e *env) {
	c := open[string](e, limited(1, 0))
	s := serve("v")
	gate := make(chan struct{})
	held := func(_ context.Context, keys []string) (map[string]string, error) {
		<-gate
		return valuesOf(keys...), nil
	}
	got := make(chan error, 1)
	go func() {
		_, err := c.GetManyWithFetch(e.Context(), []string{"a", "b", "c"}, time.Minute, held)
		got <- err
	}()
	e.settle(func() bool { return c.Stats().Fetches == 1 }, "the batch has its place")
	_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.ErrorIs(e, err, ErrOverloaded)
	_, err = c.GetManyWithFetch(e.Context(), []string{"d", "e"}, time.Minute, held)
	require.ErrorIs(e, err, ErrOverloaded)
	bound, err := c.BindMany(time.Minute, held, Batching{})
	require.NoError(e, err)
	_, err = bound.Get(e.Context(), "f")
	require.ErrorIs(e, err, ErrOverloaded)
	require.EqualValues(e, 1, c.Stats().Fetches)
	require.Zero(e, c.Stats().FetchErrors)
	close(gate)
	require.NoError(e, <-got)
	_, err = bound.Get(e.Context(), "f")
	require.NoError(e, err)
}

func checkQueueAndTimeout(e *env) {
	const timeout = 400 * time.Millisecond
	c := open[string](e, limited(1, time.Hour, func(cfg *Config) { cfg.FetchTimeout = timeout }))
	begun := make(chan struct{})
	slow := func(context.Context, string) (string, error) { // ignores its time
		close(begun)
		e.passInside(2 * timeout)
		return "slow", nil
	}
	holder := ask(e.Context(), c, "holder", slow)
	<-begun
	s := serve("v")
	var left time.Duration
	s.inside = func(ctx context.Context, _ string) {
		deadline, _ := ctx.Deadline()
		left = time.Until(deadline)
	}
	v, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.NoError(e, err)
	require.Equal(e, "v", v)
	require.Greater(e, left, timeout/2)
	require.ErrorIs(e, (<-holder).err, ErrFetchTimeout)
}

func checkQueueAbandoned(e *env) {
	c := open[string](e, limited(1, time.Hour))
	s := serve("v")
	release, holder := fill(e, c, s)
	ctx, cancel := context.WithCancel(e.Context())
	got := ask(ctx, c, key, s.fetch)
	e.settle(func() bool { return c.Stats().Queued == 1 }, "it queues")
	stays := ask(e.Context(), c, "stays", s.fetch)
	leaves := ask(ctx, c, "stays", s.fetch)
	e.settle(func() bool { return c.Stats().Queued == 2 && c.Stats().Joined == 1 }, "one more queues for two")
	cancel()
	require.ErrorIs(e, (<-got).err, context.Canceled)
	require.ErrorIs(e, (<-leaves).err, context.Canceled)
	e.settle(func() bool { return c.Stats().Flights == 2 }, "the one that nobody waits for is gone")
	release()
	require.NoError(e, (<-holder).err)
	require.NoError(e, (<-stays).err)
	require.EqualValues(e, 2, s.calls.Load())
	require.Zero(e, c.Stats().Overloaded)
}

func checkRefreshesAndPlaces(e *env) {
	c := open[string](e, limited(2, 0, func(cfg *Config) { cfg.StaleFor = time.Hour }))
	begun := time.Now()
	for _, k := range []string{"r1", "r2"} {
		require.NoError(e, c.Set(e.Context(), k, "old", short))
	}
	e.boundary(begun, short, func() {}, func() {})
	s := serve("new")
	release := s.hold()
	for _, k := range []string{"r1", "r2"} {
		v, err := c.GetWithFetch(e.Context(), k, time.Minute, s.fetch)
		require.NoError(e, err)
		require.Equal(e, "old", v)
	}
	e.settle(func() bool { return s.calls.Load() == 1 && c.Stats().Overloaded == 1 }, "one of two refreshes")
	caller := serve("caller")
	v, err := c.GetWithFetch(e.Context(), key, time.Minute, caller.fetch)
	require.NoError(e, err, "the other place is a caller's")
	require.Equal(e, "caller", v)
	release()
	e.settle(func() bool { return c.Stats().Flights == 0 }, "the refresh ends")
}

func checkPlaceOfDeaf(e *env) {
	c := open[string](e, limited(1, 0, func(cfg *Config) { cfg.FetchTimeout = 50 * time.Millisecond }))
	s := serve("v")
	s.deaf = true
	release, holder := fill(e, c, s)
	require.ErrorIs(e, (<-holder).err, ErrFetchTimeout)
	e.pass(time.Millisecond) // what the end of the flight sets going has happened
	_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.ErrorIs(e, err, ErrOverloaded)
	release()
	e.settle(func() bool {
		_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
		return err == nil
	}, "the place is back")
}

func checkPlaceOfPanic(e *env) {
	c := open[string](e, limited(1, 0))
	for range 3 {
		_, err := c.GetWithFetch(e.Context(), key, time.Minute, func(context.Context, string) (string, error) { panic("x") })
		var panicked *PanicError
		require.ErrorAs(e, err, &panicked)
		_, err = c.GetManyWithFetch(e.Context(), []string{"a", "b"}, time.Minute, func(context.Context, []string) (map[string]string, error) { panic("y") })
		require.ErrorAs(e, err, &panicked)
	}
}

func checkRefresh(e *env) {
	c := open[string](e, staleIfError)
	require.NoError(e, c.Set(e.Context(), key, "old", time.Minute))
	s := serve("new")
	s.set("", errSource)
	_, err := c.Refresh(e.Context(), key, time.Minute, s.fetch)
	require.ErrorIs(e, err, errSource)
	v, err := c.Get(e.Context(), key)
	require.NoError(e, err)
	require.Equal(e, "old", v)
	e.pass(1100 * time.Millisecond) // the cooldown
	s.set("new", nil)
	release := s.hold()
	got := make(chan answer[string], 1)
	go func() {
		v, err := c.Refresh(e.Context(), key, time.Minute, s.fetch)
		got <- answer[string]{v, err}
	}()
	e.settle(func() bool { return s.calls.Load() == 2 }, "it fetches")
	v, err = c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.NoError(e, err)
	require.Equal(e, "old", v)
	release()
	require.Equal(e, answer[string]{"new", nil}, <-got)
	v, err = c.Get(e.Context(), key)
	require.NoError(e, err)
	require.Equal(e, "new", v)
	_, err = c.Refresh(e.Context(), key, time.Minute, nil)
	require.ErrorIs(e, err, ErrInvalidValue)
}

func checkRefreshAndOlderFlight(e *env) {
	c := open[string](e, nil)
	s := serve("1")
	release := s.hold()
	first := ask(e.Context(), c, key, s.fetch)
	e.settle(func() bool { return s.calls.Load() == 1 }, "the older fetch has begun")
	e.pass(2 * time.Millisecond)
	s.set("2", nil)
	got := make(chan answer[string], 1)
	go func() {
		v, err := c.Refresh(e.Context(), key, time.Minute, s.fetch)
		got <- answer[string]{v, err}
	}()
	e.settle(func() bool { return c.Stats().Joined == 1 }, "it waits for the older one")
	release()
	require.Equal(e, answer[string]{"1", nil}, <-first)
	require.Equal(e, answer[string]{"2", nil}, <-got)
	require.EqualValues(e, 2, s.calls.Load())
	v, err := c.Get(e.Context(), key)
	require.NoError(e, err)
	require.Equal(e, "2", v)
}

func checkRefreshVoid(e *env) {
	c := open[string](e, nil)
	require.NoError(e, c.Set(e.Context(), key, "old", time.Minute))
	s := serve("new")
	release := s.hold()
	got := make(chan answer[string], 1)
	go func() {
		v, err := c.Refresh(e.Context(), key, time.Minute, s.fetch)
		got <- answer[string]{v, err}
	}()
	e.settle(func() bool { return s.calls.Load() == 1 }, "it fetches")
	require.NoError(e, c.Delete(e.Context(), key))
	release()
	require.Equal(e, answer[string]{"new", nil}, <-got)
	_, err := c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss)
}

func checkMaxAge(e *env) {
	e.Cleanup(forgetAges)
	c := open[string](e, nil)
	s := serve("1")
	_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.NoError(e, err)
	e.pass(60 * time.Millisecond)
	s.set("2", nil)
	young, old := MaxAge(e.Context(), 50*time.Millisecond), MaxAge(e.Context(), time.Minute)
	v, err := c.GetWithFetch(old, key, time.Minute, s.fetch)
	require.NoError(e, err)
	require.Equal(e, "1", v)
	_, err = c.Get(young, key)
	require.ErrorIs(e, err, ErrMiss)
	v, err = c.Get(old, key)
	require.NoError(e, err)
	require.Equal(e, "1", v)
	v, err = c.Bind(time.Minute, s.fetch).Get(young, key)
	require.NoError(e, err)
	require.Equal(e, "2", v)
	v, err = c.Get(e.Context(), key)
	require.NoError(e, err)
	require.Equal(e, "2", v)

	release := s.hold()
	first := ask(e.Context(), c, "flight", s.fetch)
	e.settle(func() bool { return s.calls.Load() == 3 }, "a fetch has begun")
	e.pass(60 * time.Millisecond)
	s.set("3", nil)
	joins := ask(old, c, "flight", s.fetch)
	second := ask(young, c, "flight", s.fetch)
	e.settle(func() bool { return c.Stats().Joined == 2 }, "both wait")
	release()
	require.Equal(e, answer[string]{"2", nil}, <-first)
	require.Equal(e, answer[string]{"2", nil}, <-joins)
	require.Equal(e, answer[string]{"3", nil}, <-second)
}

func checkMaxAgeMany(e *env) {
	c := open[string](e, nil)
	require.NoError(e, c.Set(e.Context(), "a", "old", time.Minute))
	e.pass(60 * time.Millisecond)
	require.NoError(e, c.Set(e.Context(), "b", "old", time.Minute))
	e.Cleanup(forgetAges)
	ctx := MaxAge(e.Context(), 50*time.Millisecond)
	if !e.bubble {
		ctx = MaxAge(e.Context(), time.Minute)
		got, err := c.GetMany(ctx, []string{"a", "b"})
		require.NoError(e, err)
		require.Len(e, got, 2)
		return
	}
	got, err := c.GetMany(ctx, []string{"a", "b"})
	require.NoError(e, err)
	require.Equal(e, map[string]string{"b": "old"}, got)
	var asked []string
	got, err = c.GetManyWithFetch(ctx, []string{"a", "b"}, time.Minute, func(_ context.Context, keys []string) (map[string]string, error) {
		asked = append(asked, keys...)
		return valuesOf(keys...), nil
	})
	require.NoError(e, err)
	require.Len(e, got, 2)
	require.Equal(e, []string{"a"}, asked)
}

func checkMaxAgeStale(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.StaleFor, cfg.StaleIfError = time.Hour, time.Hour })
	begun := time.Now()
	require.NoError(e, c.Set(e.Context(), key, "old", short))
	e.boundary(begun, short, func() {}, func() {})
	s := serve("")
	s.set("", errSource)
	e.Cleanup(forgetAges)
	_, err := c.GetWithFetch(MaxAge(e.Context(), 0), key, time.Minute, s.fetch)
	require.ErrorIs(e, err, errSource)
	v, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.NoError(e, err)
	require.Equal(e, "old", v)
}

func checkWarm(e *env) {
	c := open[string](e, nil)
	require.NoError(e, c.Set(e.Context(), "kept", "old", time.Minute))
	var calls atomic.Int64
	l := c.Bind(time.Minute, func(_ context.Context, k string) (string, error) {
		calls.Add(1)
		switch k {
		case "bad":
			return "", errSource
		case "none":
			return "", ErrNotFound
		}
		return "of " + k, nil
	})
	before := c.Stats()
	require.NoError(e, l.Warm(e.Context(), slices.Values([]string{"kept", "a", "b", "none"})))
	require.EqualValues(e, 3, calls.Load())
	v, err := c.Get(e.Context(), "a")
	require.NoError(e, err)
	require.Equal(e, "of a", v)
	require.Equal(e, before.Misses+before.Joined, c.Stats().Misses+c.Stats().Joined)
	err = l.Warm(e.Context(), slices.Values([]string{"bad", "c"}))
	require.ErrorIs(e, err, errSource)
	require.ErrorContains(e, err, "1 of 2 keys failed")
	_, err = c.Get(e.Context(), "c")
	require.NoError(e, err)
	require.ErrorIs(e, l.Warm(e.Context(), nil), ErrInvalidValue)
	require.ErrorIs(e, c.Bind(time.Minute, nil).Warm(e.Context(), slices.Values([]string{"x"})), ErrInvalidValue)
	require.ErrorIs(e, c.Bind(0, l.fetch).Warm(e.Context(), slices.Values([]string{"x"})), ErrInvalidTTL)
	ended, cancel := context.WithCancel(e.Context())
	cancel()
	require.ErrorIs(e, l.Warm(ended, slices.Values([]string{"x"})), context.Canceled)
	require.NoError(e, Keyed(c, IntKeys[int]()).Bind(time.Minute, func(_ context.Context, k int) (string, error) {
		return fmt.Sprint(k), nil
	}).Warm(e.Context(), slices.Values([]int{1, 2})))
	v, err = c.Get(e.Context(), "2")
	require.NoError(e, err)
	require.Equal(e, "2", v)
}

func checkWarmPlaces(e *env) {
	c := open[string](e, limited(1, time.Hour))
	s := serve("v")
	s.inside = func(context.Context, string) { e.passInside(2 * time.Millisecond) }
	release, holder := fill(e, c, s)
	done := make(chan error, 1)
	go func() {
		done <- c.Bind(time.Minute, s.fetch).Warm(e.Context(), slices.Values([]string{"w1", "w2", "w3", "w4"}))
	}()
	e.pass(10 * time.Millisecond)
	require.EqualValues(e, 1, s.calls.Load(), "it waits")
	caller := ask(e.Context(), c, key, s.fetch)
	e.settle(func() bool { return c.Stats().Queued == 1 }, "a caller queues")
	release()
	require.NoError(e, (<-holder).err)
	require.NoError(e, (<-caller).err)
	require.NoError(e, <-done)
	require.EqualValues(e, 6, s.calls.Load())
	require.EqualValues(e, 4, c.Stats().Refreshes)
}

func checkWarmMany(e *env) {
	for _, most := range []int{0, 1} {
		c := open[string](e, func(cfg *Config) { cfg.Name, cfg.MaxFetches = fmt.Sprint("warm", most), most })
		var calls atomic.Int64
		l, err := c.BindMany(time.Minute, func(_ context.Context, keys []string) (map[string]string, error) {
			calls.Add(1)
			return valuesOf(keys...), nil
		}, Batching{MaxSize: 10, MaxWait: 50 * time.Millisecond})
		require.NoError(e, err)
		var keys []string
		for i := range 60 {
			keys = append(keys, fmt.Sprint(i))
		}
		require.NoError(e, l.Warm(e.Context(), slices.Values(keys)))
		got, err := c.GetMany(e.Context(), keys)
		require.NoError(e, err)
		require.Len(e, got, 60)
		require.Less(e, calls.Load(), int64(40))
	}
}

// forgetAges lets hits take the short way again, in caches that are opened from here on.
func forgetAges() { ages.used.Store(false) }
