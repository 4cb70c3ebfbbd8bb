package cacheaside

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"
)

func init() {
	promises = append(promises,
		promise{"StaleFor", "a stale value is returned at once while one refresh runs", nil, checkStaleFor},
		promise{"StaleFor", "a value is fresh, then stale, then gone", nil, checkStaleForBoundaries},
		promise{"StaleFor", "a failing source is covered up until the stale time ends", nil, checkStaleForFailing},
		promise{"StaleFor", "a hanging source holds up nobody, and is asked again after FetchTimeout", nil, checkStaleForHanging},
		promise{"StaleFor", "a Set and a Delete during a refresh win over it", nil, checkStaleForWrites},
		promise{"StaleFor", "NoExpiry is for ever, here and for StaleIfError", nil, checkStaleForEver},
		promise{"StaleFor", "one process of a fleet refreshes", onAside, checkStaleForFleet},
		promise{"RefreshAhead", "a value is refreshed in the background after its fraction, and not before", nil, checkRefreshAhead},
		promise{"RefreshAhead", "a slow source is asked once, and callers go on with the old value", nil, checkRefreshAheadSlow},
		promise{"RefreshAhead", "a failing or hanging source is not noticed before the ttl ends", nil, checkRefreshAheadFailing},
		promise{"RefreshAhead", "one process of a fleet refreshes", onAside, checkRefreshAheadFleet},
		promise{"StaleIfError", "a stale value is returned in the place of an error, until its time ends", nil, checkStaleIfError},
		promise{"StaleIfError", "a slow source is waited for, and answers", nil, checkStaleIfErrorSlow},
		promise{"StaleIfError", "a hanging source costs FetchTimeout, and then the stale value is returned", nil, checkStaleIfErrorHanging},
		promise{"StaleIfError", "a source that fails when its time has ended is not covered up", nil, checkStaleIfErrorLate},
		promise{"StaleIfError", "all who wait for a failing fetch get the stale value", nil, checkStaleIfErrorJoined},
		promise{"SoftTimeout", "a stale value is returned after it, and the fetch goes on and is kept", nil, checkSoftTimeout},
		promise{"SoftTimeout", "a source that answers before it is waited for", nil, checkSoftTimeoutPrompt},
		promise{"SoftTimeout", "without a stale value the fetch is waited for", nil, checkSoftTimeoutCold},
		promise{"SoftTimeout", "a hanging source costs it each time, and one fetch at a time", nil, checkSoftTimeoutHanging},
		promise{"Refreshes", "are bounded, counted, and ended by Close", nil, checkRefreshLimit},
	)
}

func onAside(r rig) bool { return r.name == BackendRueidisAside }

// short is a ttl that a test can wait for.
const short = 50 * time.Millisecond

// boundary runs before a nanosecond before d has passed since begun, where time is that exact, and after
// when d has passed. Where it is not, what was begun may have taken a while, and d is counted from now.
func (e *env) boundary(begun time.Time, d time.Duration, before, after func()) {
	e.Helper()
	if e.bubble {
		e.pass(d - time.Nanosecond - time.Since(begun))
		before()
		e.pass(time.Nanosecond)
	} else {
		e.pass(d + 10*time.Millisecond)
	}
	after()
}

// openStale opens a cache that holds "old" under key, past its ttl of short.
func openStale(e *env, change func(*Config), opts ...Option) *Client[string] {
	e.Helper()
	c := open[string](e, change, opts...)
	begun := time.Now()
	require.NoError(e, c.Set(e.Context(), key, "old", short))
	e.boundary(begun, short, func() {}, func() {})
	return c
}

// requireAtOnce looks key up and returns what it got, which must have taken no time, as far as that can be
// told: the source is to be held by the test, so that who waits for it does not return.
func requireAtOnce(e *env, c *Client[string], s *source[string]) Result[string] {
	e.Helper()
	begun := time.Now()
	r, err := c.Lookup(e.Context(), key, time.Minute, s.fetch)
	require.NoError(e, err)
	if e.bubble {
		require.Zero(e, time.Since(begun))
	}
	return r
}

func checkStaleFor(e *env) {
	c := openStale(e, func(cfg *Config) { cfg.StaleFor = time.Hour })
	_, err := c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss, "Get returns nothing past its ttl")
	s := serve("new")
	release := s.hold()
	defer release()
	for range 20 {
		r := requireAtOnce(e, c, s)
		require.Equal(e, "old", r.Value)
		require.Equal(e, SourceStale, r.Source)
		require.GreaterOrEqual(e, r.Age, short)
		require.Less(e, r.Staleness, r.Age)
		if e.bubble {
			require.Equal(e, short, r.Age)
			require.Zero(e, r.Staleness)
		}
	}
	e.settle(func() bool { return s.calls.Load() == 1 }, "one refresh runs")
	stats := c.Stats()
	require.EqualValues(e, 1, stats.Refreshes)
	require.EqualValues(e, 20, stats.StaleHits)
	require.EqualValues(e, 20, stats.Hits)
	release()
	e.settle(func() bool {
		v, err := c.Get(e.Context(), key)
		return err == nil && v == "new"
	}, "the refresh is kept")
	require.EqualValues(e, 1, s.calls.Load())
}

func checkStaleForBoundaries(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.StaleFor, cfg.ErrorCooldown = short, -1 })
	s := serve("")
	s.set("", errSource)
	lookup := func() (Result[string], error) { return c.Lookup(e.Context(), key, time.Minute, s.fetch) }
	begun := time.Now()
	require.NoError(e, c.Set(e.Context(), key, "old", short))
	e.boundary(begun, short, func() {
		r, err := lookup()
		require.NoError(e, err)
		require.Equal(e, SourceHit, r.Source)
		e.settle(func() bool { return s.calls.Load() == 0 }, "nothing is fetched while the value is fresh")
	}, func() {
		if !e.bubble {
			return // how long it is stale cannot be relied on
		}
		r, err := lookup()
		require.NoError(e, err)
		require.Equal(e, SourceStale, r.Source)
	})
	e.boundary(begun, 2*short, func() {
		r, err := lookup()
		require.NoError(e, err)
		require.Equal(e, SourceStale, r.Source)
		require.Equal(e, short-time.Nanosecond, r.Staleness)
		e.settle(func() bool { return s.calls.Load() == 2 }, "a failed refresh is tried again")
	}, func() {
		_, err := lookup()
		require.Same(e, errSource, err)
	})
	if !e.bubble {
		return
	}

	// With a longer StaleIfError the value is still there when StaleFor ends, and the source is asked first.
	longer := open[string](e, func(cfg *Config) { cfg.Name, cfg.StaleFor, cfg.StaleIfError = "longer", short, time.Hour })
	s.inside = func(context.Context, string) { e.passInside(time.Second) }
	waited := func() time.Duration {
		begun := time.Now()
		r, err := longer.Lookup(e.Context(), key, time.Minute, s.fetch)
		require.NoError(e, err)
		require.Equal(e, SourceStale, r.Source)
		return time.Since(begun)
	}
	require.NoError(e, longer.Set(e.Context(), key, "old", short))
	e.pass(2*short - time.Nanosecond)
	require.Zero(e, waited())
	require.NoError(e, longer.Set(e.Context(), key, "old", short)) // the refresh that has begun is void
	e.pass(2 * short)
	require.Equal(e, time.Second, waited())
}

func checkStaleForFailing(e *env) {
	c := openStale(e, func(cfg *Config) { cfg.StaleFor, cfg.ErrorCooldown = time.Hour, -1 })
	s := serve("")
	s.set("", errSource)
	for i := range int64(3) {
		r := requireAtOnce(e, c, s)
		require.Equal(e, "old", r.Value)
		e.settle(func() bool { return c.Stats().FetchErrors == uint64(i+1) }, "the refresh fails")
	}
	require.EqualValues(e, 3, s.calls.Load())

	cooled := openStale(e, func(cfg *Config) { cfg.Name, cfg.StaleFor, cfg.ErrorCooldown = "cooled", time.Hour, time.Hour })
	s = serve("")
	s.set("", errSource)
	for range 3 {
		r := requireAtOnce(e, cooled, s)
		require.Equal(e, "old", r.Value)
		e.settle(func() bool { return cooled.Stats().FetchErrors == 1 }, "the refresh fails")
	}
	require.EqualValues(e, 1, s.calls.Load(), "a source that failed is not asked again during ErrorCooldown")
}

func checkStaleForHanging(e *env) {
	c := openStale(e, func(cfg *Config) { cfg.StaleFor, cfg.FetchTimeout, cfg.ErrorCooldown = time.Hour, short, -1 })
	s := serve("never")
	s.deaf = true
	release := s.hold()
	defer release()
	require.Equal(e, "old", requireAtOnce(e, c, s).Value)
	e.settle(func() bool { return s.calls.Load() == 1 }, "the refresh runs")
	e.pass(short + 10*time.Millisecond)
	e.settle(func() bool { return c.Stats().FetchErrors == 1 }, "the refresh has timed out")
	require.Equal(e, "old", requireAtOnce(e, c, s).Value)
	e.settle(func() bool { return s.calls.Load() == 2 }, "and is tried again, though its fetch still hangs")
}

func checkStaleForWrites(e *env) {
	for _, write := range []struct {
		name string
		do   func(*Client[string]) error
		want error
	}{
		{"set", func(c *Client[string]) error { return c.Set(e.Context(), key, "set", time.Minute) }, nil},
		{"delete", func(c *Client[string]) error { return c.Delete(e.Context(), key) }, ErrMiss},
	} {
		c := openStale(e, func(cfg *Config) { cfg.Name, cfg.StaleFor = write.name, time.Hour })
		s := serve("refreshed")
		release := s.hold()
		requireAtOnce(e, c, s)
		e.settle(func() bool { return s.calls.Load() == 1 }, "the refresh runs")
		require.NoError(e, write.do(c))
		release()
		e.settle(func() bool { return c.Stats().Discarded == 1 }, "what the refresh has fetched is discarded")
		v, err := c.Get(e.Context(), key)
		if write.want != nil {
			require.ErrorIs(e, err, write.want)
			continue
		}
		require.NoError(e, err)
		require.Equal(e, "set", v)
	}
}

func checkStaleForEver(e *env) {
	s := serve("")
	s.set("", errSource)
	for name, change := range map[string]func(*Config){
		"for":      func(cfg *Config) { cfg.StaleFor = NoExpiry },
		"if error": func(cfg *Config) { cfg.StaleIfError = NoExpiry },
		"both":     func(cfg *Config) { cfg.StaleFor, cfg.StaleIfError = NoExpiry, NoExpiry },
	} {
		c := openStale(e, func(cfg *Config) {
			cfg.Name = name
			change(cfg)
		})
		if e.bubble {
			e.pass(time.Hour)
		}
		v, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
		require.NoError(e, err, name)
		require.Equal(e, "old", v)
	}
}

// requireOneRefresher has several processes find key due, and shows that one of them refreshes it.
func requireOneRefresher(e *env, fleet []*Client[string]) {
	e.Helper()
	s := serve("new")
	release := s.hold()
	for _, c := range fleet {
		require.Equal(e, "old", requireAtOnce(e, c, s).Value)
	}
	e.settle(func() bool { return s.calls.Load() >= 1 }, "a refresh runs")
	release()
	for _, c := range fleet {
		e.settle(func() bool {
			v, err := c.Get(e.Context(), key)
			return err == nil && v == "new" && c.flights.underWay() == 0
		}, "every process sees the new value")
	}
	require.EqualValues(e, 1, s.calls.Load())
	refreshes := uint64(0)
	for _, c := range fleet {
		refreshes += c.Stats().Refreshes
	}
	require.EqualValues(e, 1, refreshes, "only what was fetched counts")
}

func checkStaleForFleet(e *env) {
	change := func(cfg *Config) { cfg.StaleFor = time.Hour }
	fleet := []*Client[string]{open[string](e, change), open[string](e, change), open[string](e, change)}
	require.NoError(e, fleet[0].Set(e.Context(), key, "old", short))
	e.pass(short + 10*time.Millisecond)
	requireOneRefresher(e, fleet)
}

func checkRefreshAheadFleet(e *env) {
	change := func(cfg *Config) { cfg.RefreshAhead = 0.001 }
	fleet := []*Client[string]{open[string](e, change), open[string](e, change), open[string](e, change)}
	require.NoError(e, fleet[0].Set(e.Context(), key, "old", time.Minute))
	e.pass(70 * time.Millisecond)
	requireOneRefresher(e, fleet)
}

func checkRefreshAhead(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.RefreshAhead = 0.01 })
	const ttl, due = 10 * time.Second, 100 * time.Millisecond
	s := serve("new")
	begun := time.Now()
	require.NoError(e, c.Set(e.Context(), key, "old", ttl))
	e.boundary(begun, due, func() {
		require.Equal(e, "old", requireAtOnce(e, c, s).Value)
		e.settle(func() bool { return s.calls.Load() == 0 }, "it is not due yet")
	}, func() {
		r := requireAtOnce(e, c, s)
		require.Equal(e, "old", r.Value)
		require.Equal(e, SourceHit, r.Source, "it is fresh")
		require.Zero(e, r.Staleness)
	})
	e.settle(func() bool { return s.calls.Load() == 1 }, "it is refreshed")
	e.settle(func() bool {
		v, err := c.Get(e.Context(), key)
		return err == nil && v == "new"
	}, "the refresh is kept")

	later := open[string](e, func(cfg *Config) { cfg.Name, cfg.RefreshAhead = "later", 0.5 })
	require.NoError(e, later.Set(e.Context(), key, "old", time.Hour))
	for range 5 {
		requireAtOnce(e, later, s)
	}
	require.Zero(e, later.Stats().Refreshes, "long before the fraction nothing is refreshed")
}

// openDue opens a cache that holds "old" under key, fresh for a minute and due for a refresh.
func openDue(e *env, change func(*Config)) *Client[string] {
	e.Helper()
	c := open[string](e, func(cfg *Config) {
		cfg.RefreshAhead = 0.001
		change(cfg)
	})
	begun := time.Now()
	require.NoError(e, c.Set(e.Context(), key, "old", time.Minute))
	e.boundary(begun, 60*time.Millisecond, func() {}, func() {})
	return c
}

func checkRefreshAheadSlow(e *env) {
	c := openDue(e, func(*Config) {})
	s := serve("new")
	release := s.hold()
	defer release()
	for range 20 {
		r := requireAtOnce(e, c, s)
		require.Equal(e, "old", r.Value)
		require.Contains(e, []Source{SourceHit, SourceNearHit}, r.Source)
		v, err := c.Get(e.Context(), key)
		require.NoError(e, err, "it is fresh for Get too")
		require.Equal(e, "old", v)
	}
	e.settle(func() bool { return s.calls.Load() == 1 }, "one refresh runs")
	release()
	e.settle(func() bool {
		v, err := c.Get(e.Context(), key)
		return err == nil && v == "new"
	}, "the refresh is kept")
	stats := c.Stats()
	require.EqualValues(e, 1, stats.Refreshes)
	require.Zero(e, stats.StaleHits)
	require.Zero(e, stats.Misses)
}

func checkRefreshAheadFailing(e *env) {
	c := openDue(e, func(cfg *Config) { cfg.FetchTimeout, cfg.ErrorCooldown = short, -1 })
	s := serve("")
	s.set("", errSource)
	require.Equal(e, "old", requireAtOnce(e, c, s).Value)
	e.settle(func() bool { return c.Stats().FetchErrors == 1 }, "the refresh fails")
	s.deaf = true
	release := s.hold()
	defer release()
	require.Equal(e, "old", requireAtOnce(e, c, s).Value)
	e.settle(func() bool { return s.calls.Load() == 2 }, "the next refresh hangs")
	e.pass(short)
	e.settle(func() bool { return c.Stats().FetchErrors == 2 }, "until FetchTimeout")
	v, err := c.Get(e.Context(), key)
	require.NoError(e, err)
	require.Equal(e, "old", v)
}

func checkStaleIfError(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.StaleIfError, cfg.ErrorCooldown = short, -1 })
	lasting := openStale(e, func(cfg *Config) { cfg.Name, cfg.StaleIfError, cfg.ErrorCooldown = "lasting", time.Hour, -1 })
	s := serve("")
	s.set("", errSource)
	for i := range int64(3) {
		r, err := lasting.Lookup(e.Context(), key, time.Minute, s.fetch)
		require.NoError(e, err)
		require.Equal(e, "old", r.Value)
		require.Equal(e, SourceStale, r.Source)
		require.GreaterOrEqual(e, r.Age, short)
		require.Less(e, r.Staleness, r.Age)
		require.Equal(e, i+1, s.calls.Load(), "the source is asked first, each time")
	}
	require.EqualValues(e, 3, lasting.Stats().StaleHits)
	require.EqualValues(e, 3, lasting.Stats().Misses)
	_, err := lasting.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss, "Get asks no source that could fail")

	begun := time.Now()
	require.NoError(e, c.Set(e.Context(), key, "old", short))
	if e.bubble {
		e.boundary(begun, short, func() {
			r, err := c.Lookup(e.Context(), key, time.Minute, s.fetch)
			require.NoError(e, err)
			require.Equal(e, SourceHit, r.Source)
		}, func() {
			r, err := c.Lookup(e.Context(), key, time.Minute, s.fetch)
			require.NoError(e, err)
			require.Equal(e, SourceStale, r.Source)
			require.Zero(e, r.Staleness)
		})
	}
	e.boundary(begun, 2*short, func() {
		r, err := c.Lookup(e.Context(), key, time.Minute, s.fetch)
		require.NoError(e, err)
		require.Equal(e, short-time.Nanosecond, r.Staleness)
	}, func() {
		_, err := c.Lookup(e.Context(), key, time.Minute, s.fetch)
		require.Same(e, errSource, err)
	})
}

func checkStaleIfErrorSlow(e *env) {
	c := openStale(e, func(cfg *Config) { cfg.StaleIfError = time.Hour })
	s := serve("new")
	release := s.hold()
	waiting := askMany(e, 3, c, key, s)
	e.pass(short)
	for _, a := range waiting {
		require.Empty(e, a, "a source that is only slow is waited for")
	}
	release()
	for _, a := range waiting {
		require.Equal(e, answer[string]{"new", nil}, <-a)
	}
}

func checkStaleIfErrorHanging(e *env) {
	c := openStale(e, func(cfg *Config) { cfg.StaleIfError, cfg.FetchTimeout, cfg.ErrorCooldown = time.Hour, short, -1 })
	s := serve("never")
	s.deaf = true
	release := s.hold()
	defer release()
	begun := time.Now()
	r, err := c.Lookup(e.Context(), key, time.Minute, s.fetch)
	require.NoError(e, err)
	require.Equal(e, "old", r.Value)
	require.Equal(e, SourceStale, r.Source)
	if e.bubble {
		require.Equal(e, short, time.Since(begun))
		require.Equal(e, 2*short, r.Age)
		require.Equal(e, short, r.Staleness, "as it is when it is returned")
	}
	ctx, cancel := context.WithTimeout(e.Context(), short/5)
	defer cancel()
	_, err = c.Lookup(ctx, key, time.Minute, s.fetch)
	require.ErrorIs(e, err, context.DeadlineExceeded, "the caller's own end is no failure of the source")
	require.NotErrorIs(e, err, ErrFetchTimeout)
}

func checkStaleIfErrorLate(e *env) {
	c := openStale(e, func(cfg *Config) { cfg.StaleIfError = short })
	s := serve("")
	s.set("", errSource)
	release := s.hold()
	waiting := askMany(e, 1, c, key, s)
	e.pass(2 * short)
	release()
	require.Same(e, errSource, (<-waiting[0]).err, "a value past its stale time when the source fails is not returned")
	if !e.bubble {
		return
	}
	for name, early := range map[string]time.Duration{"early": time.Nanosecond, "late": 0} {
		c := openStale(e, func(cfg *Config) { cfg.Name, cfg.StaleIfError = name, short })
		v, err := c.GetWithFetch(e.Context(), key, time.Minute, func(context.Context, string) (string, error) {
			e.passInside(short - early)
			return "", errSource
		})
		if early > 0 {
			require.NoError(e, err)
			require.Equal(e, "old", v)
		} else {
			require.Same(e, errSource, err)
		}
	}
}

func checkStaleIfErrorJoined(e *env) {
	c := openStale(e, func(cfg *Config) { cfg.StaleIfError = time.Hour })
	s := serve("")
	s.set("", errSource)
	release := s.hold()
	waiting := askMany(e, 20, c, key, s)
	release()
	for _, a := range waiting {
		require.Equal(e, answer[string]{"old", nil}, <-a)
	}
	require.EqualValues(e, 1, s.calls.Load())
	require.EqualValues(e, 20, c.Stats().StaleHits)
	require.EqualValues(e, 1, c.Stats().FetchErrors)
	_, err := c.GetWithFetch(e.Context(), key, time.Minute, func(context.Context, string) (string, error) { panic("boom") })
	require.NoError(e, err, "a panic is a failure too")
}

func checkSoftTimeout(e *env) {
	c := openStale(e, func(cfg *Config) { cfg.StaleIfError, cfg.SoftTimeout = time.Hour, short })
	s := serve("new")
	release := s.hold()
	defer release()
	begun := time.Now()
	r, err := c.Lookup(e.Context(), key, time.Minute, s.fetch)
	require.NoError(e, err)
	require.Equal(e, "old", r.Value)
	require.Equal(e, SourceStale, r.Source)
	require.GreaterOrEqual(e, time.Since(begun), short)
	if e.bubble {
		require.Equal(e, short, time.Since(begun))
		require.Equal(e, 2*short, r.Age)
		require.Equal(e, short, r.Staleness)
	}
	require.EqualValues(e, 1, c.Stats().StaleHits)
	release()
	e.settle(func() bool {
		v, err := c.Get(e.Context(), key)
		return err == nil && v == "new"
	}, "the fetch goes on and is kept")
	require.EqualValues(e, 1, s.calls.Load())
}

func checkSoftTimeoutPrompt(e *env) {
	c := openStale(e, func(cfg *Config) { cfg.StaleIfError, cfg.SoftTimeout = time.Hour, 20*time.Second })
	s := serve("new")
	if e.bubble {
		s.inside = func(context.Context, string) { e.passInside(20*time.Second - time.Nanosecond) }
	}
	r, err := c.Lookup(e.Context(), key, time.Minute, s.fetch)
	require.NoError(e, err)
	require.Equal(e, "new", r.Value)
	require.Equal(e, SourceFetched, r.Source)

	failing := openStale(e, func(cfg *Config) { cfg.Name, cfg.StaleFor, cfg.SoftTimeout = "failing", time.Millisecond, time.Minute })
	s = serve("")
	s.set("", errSource)
	e.pass(5 * time.Millisecond)
	_, err = failing.Lookup(e.Context(), key, time.Minute, s.fetch)
	require.Same(e, errSource, err, "SoftTimeout covers up no failure by itself")
}

func checkSoftTimeoutCold(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.StaleIfError, cfg.SoftTimeout = time.Hour, short })
	s := serve("new")
	release := s.hold()
	waiting := askMany(e, 3, c, key, s)
	e.pass(3 * short)
	for _, a := range waiting {
		require.Empty(e, a, "there is nothing else to return")
	}
	release()
	for _, a := range waiting {
		require.Equal(e, answer[string]{"new", nil}, <-a)
	}

	ending := openStale(e, func(cfg *Config) { cfg.Name, cfg.StaleIfError, cfg.SoftTimeout = "ending", short, 4*short })
	s = serve("new")
	release = s.hold()
	waiting = askMany(e, 1, ending, key, s)
	e.pass(6 * short)
	require.Empty(e, waiting[0], "a value that is past its stale time when SoftTimeout comes is not returned")
	release()
	require.Equal(e, answer[string]{"new", nil}, <-waiting[0])
}

func checkSoftTimeoutHanging(e *env) {
	c := openStale(e, func(cfg *Config) { cfg.StaleIfError, cfg.SoftTimeout = time.Hour, short/5 })
	s := serve("never")
	s.deaf = true
	release := s.hold()
	defer release()
	for range 3 {
		begun := time.Now()
		v, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
		require.NoError(e, err)
		require.Equal(e, "old", v)
		if e.bubble {
			require.Equal(e, short/5, time.Since(begun))
		}
	}
	require.EqualValues(e, 1, s.calls.Load())
	stats := c.Stats()
	require.EqualValues(e, 3, stats.StaleHits)
	require.EqualValues(e, 1, stats.Misses)
	require.EqualValues(e, 2, stats.Joined)
}

func checkRefreshLimit(e *env) {
	const over = 30
	c := open[string](e, func(cfg *Config) { cfg.StaleFor = time.Hour })
	var begun, ended atomic.Int64
	fetch := func(ctx context.Context, _ string) (string, error) {
		begun.Add(1)
		defer ended.Add(1)
		<-ctx.Done()
		return "", ctx.Err()
	}
	for i := range maxRefreshes + over {
		require.NoError(e, c.Set(e.Context(), strconv.Itoa(i), "old", time.Millisecond))
	}
	e.pass(20 * time.Millisecond)
	for i := range maxRefreshes + over {
		v, err := c.GetWithFetch(e.Context(), strconv.Itoa(i), time.Minute, fetch)
		require.NoError(e, err)
		require.Equal(e, "old", v)
	}
	e.settle(func() bool { return begun.Load() == maxRefreshes }, "as many refreshes run as may")
	stats := c.Stats()
	require.EqualValues(e, maxRefreshes, stats.Refreshes)
	require.EqualValues(e, over, stats.RefreshesRefused)
	require.EqualValues(e, maxRefreshes+over, stats.StaleHits)
	require.NoError(e, c.Close())
	e.settle(func() bool { return ended.Load() == maxRefreshes }, "Close ends them")

	again := open[string](e, func(cfg *Config) { cfg.Name, cfg.StaleFor, cfg.ErrorCooldown = "again", time.Hour, -1 })
	require.NoError(e, again.Set(e.Context(), key, "old", time.Millisecond))
	e.pass(10 * time.Millisecond)
	failing := serve("")
	failing.set("", errSource)
	for i := range uint64(maxRefreshes + over) {
		require.Equal(e, "old", requireAtOnce(e, again, failing).Value)
		e.settle(func() bool { return again.Stats().FetchErrors == i+1 && again.flights.underWay() == 0 }, "the refresh has ended")
	}
	require.Zero(e, again.Stats().RefreshesRefused, "what has ended makes room")
	require.EqualValues(e, maxRefreshes, begun.Load())
}
