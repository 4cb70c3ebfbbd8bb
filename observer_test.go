package cacheaside

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// recorder remembers what it is told. It is told of everything.
type recorder struct {
	mu     sync.Mutex
	events []Event
	traces []*traceRecorder
}

func (r *recorder) Observe(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) ObserveHit(e Event) { r.Observe(e) }

// take returns the events of these kinds so far, and forgets them all.
func (r *recorder) take(kinds ...EventKind) (taken []Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		for _, k := range kinds {
			if e.Kind == k {
				taken = append(taken, e)
			}
		}
	}
	r.events = nil
	return taken
}

func (r *recorder) count(kind EventKind) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// kinds returns the kinds of all events so far, and forgets them.
func (r *recorder) kinds() (kinds []EventKind) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		kinds = append(kinds, e.Kind)
	}
	r.events = nil
	return kinds
}

// fewer is an Observer that has no more than it must.
type fewer struct{ r *recorder }

func (f fewer) Observe(e Event) { f.r.Observe(e) }

// elapse lets time pass in a bubble, and everybody act on it.
func elapse(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func observed(t *testing.T, cfg Config, opts ...Option) (*Client[string], *recorder) {
	t.Helper()
	r := new(recorder)
	cfg.Name = "users"
	c, err := NewMemory[string](cfg, append(opts, WithObserver(r))...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c, r
}

func TestObserverIsToldOfEveryKindOfLookUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c, r := observed(t, Config{NegativeTTL: time.Minute, StaleFor: time.Minute})
		fetch := func(context.Context, string) (string, error) {
			<-time.After(3 * time.Second)
			return "v", nil
		}
		_, err := c.GetWithFetch(ctx, "k", 10*time.Second, fetch)
		require.NoError(t, err)
		require.ElementsMatch(t, []Event{
			{Kind: EventMiss, Cache: "users"},
			{Kind: EventFetch, Cache: "users", Duration: 3 * time.Second},
		}, r.take(EventMiss, EventFetch, EventHit))

		_, err = c.GetWithFetch(ctx, "k", 10*time.Second, fetch)
		require.NoError(t, err)
		_, err = c.Get(ctx, "k")
		require.NoError(t, err)
		require.Equal(t, []EventKind{EventHit, EventHit}, r.kinds())

		elapse(11 * time.Second)
		_, err = c.GetWithFetch(ctx, "k", 10*time.Second, fetch)
		require.NoError(t, err)
		elapse(4 * time.Second)
		require.ElementsMatch(t, []Event{
			{Kind: EventStale, Cache: "users"},
			{Kind: EventFetch, Cache: "users", Duration: 3 * time.Second, Background: true},
		}, r.take(EventStale, EventHit, EventMiss, EventFetch))

		none := func(context.Context, string) (string, error) { return "", ErrNotFound }
		for range 2 {
			_, err = c.GetWithFetch(ctx, "none", time.Minute, none)
			require.ErrorIs(t, err, ErrNotFound)
		}
		require.ElementsMatch(t, []EventKind{EventMiss, EventFetch, EventNegative}, r.kinds())

		_, err = c.Get(ctx, "absent")
		require.ErrorIs(t, err, ErrMiss)
		require.Equal(t, []EventKind{EventMiss}, r.kinds())
	})
}

func TestObserverWithoutObserveHitHearsOfNoHit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(recorder)
		c, err := NewMemory[string](Config{}, WithObserver(fewer{r}))
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.Set(t.Context(), "k", "v", time.Hour))
		_, err = c.Get(t.Context(), "k") // the clock is asleep: the long way
		require.NoError(t, err)
		_, err = c.Get(t.Context(), "k")
		require.NoError(t, err)
		require.Empty(t, r.kinds())
		require.EqualValues(t, 2, c.Stats().Hits)
	})
}

func TestEveryObserverThatWasGivenIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second, third := new(recorder), new(recorder), new(recorder)
		b, err := Connect(t.Context(), Config{}, WithObserver(first), WithObserver(second))
		require.NoError(t, err)
		defer b.Close()
		c, err := New[string](b, "users", WithObserver(third))
		require.NoError(t, err)
		other, err := New[string](b, "others")
		require.NoError(t, err)
		_, _ = c.Get(t.Context(), "k")
		_, _ = other.Get(t.Context(), "k")
		both := []Event{{Kind: EventMiss, Cache: "users"}, {Kind: EventMiss, Cache: "others"}}
		require.Equal(t, both, first.take(EventMiss))
		require.Equal(t, both, second.take(EventMiss))
		require.Equal(t, both[:1], third.take(EventMiss))
	})
}

func TestOutcomeOfAFetchIsTold(t *testing.T) {
	ours := errors.New("no rows")
	for name, tc := range map[string]struct {
		fetch   FetchFunc[string]
		outcome string
		failed  uint64
	}{
		"ok":              {func(context.Context, string) (string, error) { return "v", nil }, "ok", 0},
		"error":           {func(context.Context, string) (string, error) { return "", errors.New("boom") }, "error", 1},
		"not found":       {func(context.Context, string) (string, error) { return "", ErrNotFound }, "not_found", 0},
		"not found, ours": {func(context.Context, string) (string, error) { return "", ours }, "not_found", 0},
		"panic":           {func(context.Context, string) (string, error) { panic("boom") }, "panic", 1},
		"goexit":          {func(context.Context, string) (string, error) { runtime.Goexit(); return "", nil }, "panic", 1},
		"timeout":         {func(ctx context.Context, _ string) (string, error) { <-ctx.Done(); return "", ctx.Err() }, "timeout", 1},
		"timeout, deaf":   {func(context.Context, string) (string, error) { <-time.After(9 * time.Second); return "v", nil }, "timeout", 1},
		"own deadline":    {func(context.Context, string) (string, error) { return "", context.DeadlineExceeded }, "error", 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, r := observed(t, Config{FetchTimeout: 4 * time.Second}, WithNotFound(ours))
				_, err := c.GetWithFetch(t.Context(), "k", time.Minute, tc.fetch)
				elapse(10 * time.Second)
				events := r.take(EventFetch)
				require.Len(t, events, 1, "a fetch is told of once")
				require.Equal(t, tc.outcome, events[0].Outcome())
				require.Equal(t, err, events[0].Err, "as its callers get it")
				if tc.outcome == "timeout" {
					require.Equal(t, 4*time.Second, events[0].Duration)
				}
				require.Equal(t, tc.failed, c.Stats().FetchErrors)
			})
		})
	}
}

func TestObserverIsToldOfJoinedDiscardedUnstorableAndEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		weigh := func(_, v string) int { return len(v) }
		c, r := observed(t, Config{MaxEntries: 10}, WithWeigher(weigh))
		gate := make(chan struct{})
		slow := func(context.Context, string) (string, error) { <-gate; return "v", nil }
		for range 3 {
			go c.GetWithFetch(ctx, "k", time.Minute, slow)
			synctest.Wait()
		}
		require.Equal(t, 1, c.Stats().Flights)
		require.NoError(t, c.Delete(ctx, "k"))
		close(gate)
		synctest.Wait()
		require.ElementsMatch(t, []EventKind{EventMiss, EventJoined, EventJoined, EventFetch, EventDiscarded}, r.kinds())
		require.Zero(t, c.Stats().Flights)

		heavy := func(context.Context, string) (string, error) { return "much too heavy", nil }
		_, err := c.GetWithFetch(ctx, "k", time.Minute, heavy)
		require.NoError(t, err)
		unstorable := r.take(EventUnstorable)
		require.Len(t, unstorable, 1)
		require.ErrorIs(t, unstorable[0].Err, ErrInvalidValue)

		for _, k := range []string{"a", "b", "c"} {
			require.NoError(t, c.Set(ctx, k, "12345", time.Minute))
		}
		require.Len(t, r.take(EventEvicted), 1)
		require.EqualValues(t, 1, c.Stats().Evictions)
	})
}

func TestObserverIsToldOfTheBackendsTroubles(t *testing.T) {
	redistest.Require(t)
	s := redistest.Start(t)
	cfg, err := ParseConfig(s.URL(BackendRueidis))
	require.NoError(t, err)
	cfg.Name = "users"
	r := new(recorder)
	c, err := Open[string](t.Context(), cfg, WithObserver(r))
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.Set(t.Context(), "k", "v", time.Minute))
	_, err = c.Get(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, []EventKind{EventHit}, r.kinds())

	s.Kill()
	require.ErrorIs(t, c.Delete(t.Context(), "k"), ErrUnavailable)
	_, err = c.GetWithFetch(t.Context(), "k", time.Minute, func(context.Context, string) (string, error) { return "v", nil })
	require.NoError(t, err)
	require.True(t, c.Stats().BackendDown)
	require.EqualValues(t, 1, c.Stats().WriteErrors)
	require.Greater(t, c.Stats().BackendErrors, uint64(1))
	require.Equal(t, 1, r.count(EventWriteFailed))
	require.Positive(t, r.count(EventBackendError))
	require.Eventually(t, func() bool { return r.count(EventBackendDown) > 0 }, 10*time.Second, time.Millisecond)
	down := r.take(EventBackendDown)
	require.Len(t, down, 1)
	require.Error(t, down[0].Err)
	require.Empty(t, down[0].Cache, "it concerns every cache of the backend")

	s.Restart()
	require.Eventually(t, func() bool { return r.count(EventBackendUp) == 1 }, 10*time.Second, time.Millisecond)
	require.False(t, c.Stats().BackendDown)
}

func TestInvalidationsOfOthersAreToldAndOnesOwnAreNot(t *testing.T) {
	redistest.Require(t)
	s := redistest.Start(t)
	cfg, err := ParseConfig(s.URL(BackendRueidisAside))
	require.NoError(t, err)
	r := new(recorder)
	c, err := Open[string](t.Context(), cfg, WithObserver(r))
	require.NoError(t, err)
	defer c.Close()
	other, err := Open[string](t.Context(), cfg)
	require.NoError(t, err)
	defer other.Close()
	fetch := func(context.Context, string) (string, error) { return "v", nil }
	near := func() bool {
		res, err := c.Lookup(t.Context(), "k", time.Minute, fetch)
		require.NoError(t, err)
		return res.Source == SourceNearHit
	}
	require.Eventually(t, near, 10*time.Second, time.Millisecond)
	require.Positive(t, r.count(EventNearHit))

	require.NoError(t, c.Delete(t.Context(), "k"))
	require.Eventually(t, near, 10*time.Second, time.Millisecond)
	require.NoError(t, c.Set(t.Context(), "k", "w", time.Minute))
	require.Eventually(t, near, 10*time.Second, time.Millisecond)
	require.NoError(t, c.Clear(t.Context()))
	require.Eventually(t, near, 10*time.Second, time.Millisecond)
	require.NoError(t, c.Health(t.Context())) // what Redis said of all that has arrived by now
	require.Zero(t, r.count(EventInvalidated))
	require.Zero(t, c.Stats().Invalidations)

	require.NoError(t, other.Delete(t.Context(), "k"))
	require.Eventually(t, func() bool { return r.count(EventInvalidated) == 1 }, 10*time.Second, time.Millisecond)
	require.EqualValues(t, 1, c.Stats().Invalidations)
}

func TestBatchIsToldOfAsOneFetchWhateverTheKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := observed(t, Config{})
		fetch := func(_ context.Context, keys []string) (map[string]string, error) {
			<-time.After(time.Second)
			return map[string]string{"a": "v"}, nil
		}
		go c.GetManyWithFetch(t.Context(), []string{"a", "b"}, time.Minute, fetch)
		synctest.Wait()
		_, err := c.GetWithFetch(calledBy(t, "second"), "a", time.Minute, func(context.Context, string) (string, error) { panic("joins") })
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, []any{"second"}, r.traces[0].joined)
		require.Len(t, r.traces, 1)
		require.Len(t, r.traces[0].ended, 1)
		require.Equal(t, []Event{{Kind: EventFetch, Cache: "users", Duration: time.Second}}, r.take(EventFetch))
		require.EqualValues(t, 1, c.Stats().Fetches)
	})
}

func TestBatchOfALoaderIsToldOfAsOneFetchWithoutTheTimeOfCollecting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := observed(t, Config{})
		l, err := c.BindMany(time.Minute, func(context.Context, []string) (map[string]string, error) {
			<-time.After(time.Second)
			return nil, errors.New("boom")
		}, Batching{MaxWait: 10 * time.Second})
		require.NoError(t, err)
		for _, key := range []string{"a", "b", "c"} {
			go l.Get(t.Context(), key)
		}
		elapse(2 * time.Minute)
		events := r.take(EventFetch)
		require.Len(t, events, 1)
		require.Equal(t, time.Second, events[0].Duration)
		require.Equal(t, "error", events[0].Outcome())
		require.EqualValues(t, 1, c.Stats().FetchErrors)
		require.Len(t, r.traces, 3, "a flight each, which others may join")
	})
}
