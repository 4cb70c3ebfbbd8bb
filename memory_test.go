package cacheaside

import (
	"context"
	"math"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestExpiredEntriesAreGoneWithinTwoIntervalsWithoutAccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, ttl, interval = 100_000, 50 * time.Millisecond, 2 * time.Second
		c := newTestCache[int](t, Config{MaxEntries: -1, ReapInterval: interval})
		require.NoError(t, c.Set(t.Context(), "stays", 1, time.Hour))
		require.NoError(t, c.Set(t.Context(), "for ever", 1, NoExpiry))
		for i := range n {
			require.NoError(t, c.Set(t.Context(), strconv.Itoa(i), i, ttl))
		}
		require.Equal(t, n+2, c.Stats().Entries)
		time.Sleep(2 * interval)
		synctest.Wait()
		stats := c.Stats()
		require.Equal(t, 2, stats.Entries)
		require.EqualValues(t, n, stats.Expirations)
		require.Zero(t, stats.Evictions)
		require.Zero(t, stats.Misses)
	})
}

func TestStaleEntriesStayForTheStaleWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCache[int](t, Config{StaleIfError: time.Minute, ReapInterval: time.Second})
		require.NoError(t, c.Set(t.Context(), key, 1, time.Minute))
		time.Sleep(2*time.Minute - time.Second)
		synctest.Wait()
		require.Equal(t, 1, c.Stats().Entries)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		require.Zero(t, c.Stats().Entries)
	})
}

func TestWithoutAReaperExpiryIsLazy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := goroutines(t)
		c := newTestCache[int](t, Config{ReapInterval: -1})
		for i := range 100 {
			require.NoError(t, c.Set(t.Context(), strconv.Itoa(i), i, time.Minute))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Equal(t, before, goroutines(t), "nothing runs")
		require.Equal(t, 100, c.Stats().Entries, "nobody has asked for them")
		for i := range 100 {
			_, err := c.Get(t.Context(), strconv.Itoa(i))
			require.Equal(t, ErrMiss, err)
		}
		require.NoError(t, c.Set(t.Context(), "0", 7, time.Minute))
		v, err := c.GetWithFetch(t.Context(), "1", time.Minute, func(context.Context, string) (int, error) { return 8, nil })
		require.NoError(t, err, "an expired entry is in nobody's way")
		require.Equal(t, 8, v)
		v, err = c.Get(t.Context(), "0")
		require.NoError(t, err)
		require.Equal(t, 7, v)
	})
}

func TestAForgottenCacheIsCollected(t *testing.T) {
	clock, cache, value := forget(t)
	require.Eventually(t, func() bool {
		runtime.GC()
		return cache.Value() == nil && value.Value() == nil
	}, 20*time.Second, time.Millisecond, "neither the reaper nor a timer holds it")
	clock.stop()                                                              // it holds nothing of the cache, and would run on for a while
	for deadline := time.Now().Add(20 * time.Second); goleak.Find() != nil; { // which waits a little each time
		require.True(t, time.Now().Before(deadline), "all that ran for it ends")
	}
}

// forget makes a cache that has been used, with a reaper at work, and drops it without Close.
func forget(t *testing.T) (*clock, weak.Pointer[Client[*record]], weak.Pointer[record]) {
	c, err := NewMemory[*record](Config{ReapInterval: 5 * time.Millisecond})
	require.NoError(t, err)
	value := &record{Name: "held by the cache alone"}
	require.NoError(t, c.Set(t.Context(), key, value, time.Hour))
	_, err = c.GetWithFetch(t.Context(), "fetched", time.Hour, func(context.Context, string) (*record, error) { return value, nil })
	require.NoError(t, err)
	require.Equal(t, 2, c.Stats().Entries)
	return c.clock, weak.Make(c), weak.Make(value)
}

func TestCloseLetsGoOfTheValues(t *testing.T) {
	c := newTestCache[*record](t, Config{})
	value := &record{Name: "v"}
	held := weak.Make(value)
	require.NoError(t, c.Set(t.Context(), key, value, NoExpiry))
	value = nil
	require.NoError(t, c.Close())
	require.Eventually(t, func() bool {
		runtime.GC()
		return held.Value() == nil
	}, 20*time.Second, time.Millisecond)
	require.Zero(t, c.Stats().Entries)
}

func TestSetsDuringCloseLeaveNothing(t *testing.T) {
	for range 50 {
		c := newTestCache[int](t, Config{})
		var writers sync.WaitGroup
		for g := range 4 {
			writers.Go(func() {
				for i := range 50 {
					if c.Set(t.Context(), strconv.Itoa(g*50+i), i, time.Hour) == ErrClosed {
						return
					}
				}
			})
		}
		runtime.Gosched()
		require.NoError(t, c.Close())
		writers.Wait()
		require.Zero(t, c.Stats().Entries)
	}

	c := newTestCache[int](t, Config{})
	require.NoError(t, c.Close())
	require.NoError(t, c.store.set(t.Context(), key, c.entry(1, time.Hour, c.clock.now(), 0), nil), "by one who found the cache open just before")
	require.Zero(t, c.Stats().Entries)
}

func TestMaxEntriesBoundsAtEveryMoment(t *testing.T) {
	for _, most := range []int{1, 2, 10, 1000} {
		c := newTestCache[int](t, Config{MaxEntries: most})
		for i := range 10 * most {
			require.NoError(t, c.Set(t.Context(), strconv.Itoa(i), i, NoExpiry))
			require.LessOrEqual(t, c.Stats().Entries, most)
		}
		stats := c.Stats()
		require.Positive(t, stats.Entries)
		require.EqualValues(t, 10*most-stats.Entries, stats.Evictions, "each one that is not there was evicted")
	}
}

func TestNegativeMaxEntriesIsNoBound(t *testing.T) {
	c := newTestCache[int](t, Config{MaxEntries: -1})
	const n = 150_000 // more than the default bound
	for i := range n {
		require.NoError(t, c.Set(t.Context(), strconv.Itoa(i), i, NoExpiry))
	}
	require.Equal(t, n, c.Stats().Entries)
	require.Zero(t, c.Stats().Evictions)
}

func TestWeightsAreBounded(t *testing.T) {
	const most = 1000
	evicted := new(recorder)
	c := newTestCache[string](t, Config{MaxEntries: most}, WithObserver(evicted),
		WithWeigher(func(key, value string) int { return len(value) }))
	weight := func() (total int) {
		for i := range 500 {
			if v, err := c.Get(t.Context(), strconv.Itoa(i)); err == nil {
				total += max(len(v), 1)
			}
		}
		return total
	}
	for i := range 500 {
		require.NoError(t, c.Set(t.Context(), strconv.Itoa(i), string(make([]byte, i%40)), NoExpiry))
	}
	require.LessOrEqual(t, weight(), most)
	require.Greater(t, weight(), most/2)
	stats := c.Stats()
	require.EqualValues(t, 500-stats.Entries, stats.Evictions)
	require.EqualValues(t, stats.Evictions, evicted.count(EventEvicted))
}

func TestAnEntryThatIsTooHeavyIsRefusedVisibly(t *testing.T) {
	observer := new(recorder)
	c := newTestCache[string](t, Config{MaxEntries: 100, StaleIfError: time.Hour}, WithObserver(observer),
		WithWeigher(func(key, value string) int { return len(value) }))
	heavy := string(make([]byte, 101))
	require.NoError(t, c.Set(t.Context(), key, "light", NoExpiry))
	err := c.Set(t.Context(), key, heavy, NoExpiry)
	require.ErrorIs(t, err, ErrInvalidValue)
	require.ErrorContains(t, err, "101")
	_, err = c.Get(t.Context(), key)
	require.Equal(t, ErrMiss, err, "an older value does not outlive the newer one")

	calls := 0
	fetch := func(context.Context, string) (string, error) {
		calls++
		return heavy, nil
	}
	for range 2 {
		v, err := c.GetWithFetch(t.Context(), "heavy", NoExpiry, fetch)
		require.NoError(t, err)
		require.Equal(t, heavy, v, "it comes back unharmed and unstored")
	}
	require.Equal(t, 2, calls)
	_, err = c.Get(t.Context(), "heavy")
	require.Equal(t, ErrMiss, err)
	require.EqualValues(t, 2, c.Stats().Unstorable)
	require.EqualValues(t, 2, observer.count(EventUnstorable))
	require.Zero(t, c.Stats().Entries)
}

func TestAnEntryMayWeighAsMuchAsTheWholeBound(t *testing.T) {
	const most = 64 << 20
	c := newTestCache[[]byte](t, Config{MaxEntries: most}, WithWeigher(func(_ string, v []byte) int { return len(v) }))
	for _, size := range []int{1 << 20, most / 4, most} {
		require.NoError(t, c.Set(t.Context(), key, make([]byte, size), NoExpiry))
		v, err := c.Get(t.Context(), key)
		require.NoError(t, err)
		require.Len(t, v, size)
		require.NoError(t, c.Delete(t.Context(), key))
		v, err = c.GetWithFetch(t.Context(), key, NoExpiry, func(context.Context, string) ([]byte, error) { return make([]byte, size), nil })
		require.NoError(t, err)
		require.Len(t, v, size)
		_, err = c.Get(t.Context(), key)
		require.NoError(t, err)
	}
	require.Zero(t, c.Stats().Evictions)
	require.ErrorIs(t, c.Set(t.Context(), key, make([]byte, most+1<<10), NoExpiry), ErrInvalidValue)
}

// TestTheWeigherRunsUnderNoLock lets weighers wait, and use the cache, for keys that share the one with the
// other callers' keys. Were a lock held, those callers would wait, and Close for ever.
func TestTheWeigherRunsUnderNoLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c *Client[string]
		gate := make(chan struct{})
		c = newTestCache[string](t, Config{MaxEntries: 1000}, WithWeigher(func(key, v string) int {
			if v == "slow" {
				require.NoError(t, c.Delete(t.Context(), key))
				<-gate
			}
			return 1
		}))
		slow := func(context.Context, string) (string, error) { return "slow", nil }
		quick := func(context.Context, string) (string, error) { return "quick", nil }
		go c.GetWithFetch(t.Context(), "slow", NoExpiry, slow)
		go c.Set(t.Context(), "slow too", "slow", NoExpiry)
		synctest.Wait()
		for i := range 2000 { // every lock is taken
			k := strconv.Itoa(i)
			v, err := c.GetWithFetch(t.Context(), k, NoExpiry, quick)
			require.NoError(t, err)
			require.Equal(t, "quick", v)
			require.NoError(t, c.Delete(t.Context(), k))
		}
		require.NoError(t, c.Delete(t.Context(), "slow"))
		require.NoError(t, c.Close())
		close(gate)
		synctest.Wait()
	})
}

// onEviction is an observer that is called for each eviction.
type onEviction func()

func (f onEviction) Observe(e Event) {
	if e.Kind == EventEvicted {
		f()
	}
}

// TestAnObserverOfEvictionsRunsUnderNoLock lets the observer use the cache when it is told of an eviction.
func TestAnObserverOfEvictionsRunsUnderNoLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c *Client[string]
		told := 0
		c = newTestCache[string](t, Config{MaxEntries: 10}, WithObserver(onEviction(func() {
			told++
			for i := range 100 {
				require.NoError(t, c.Delete(t.Context(), "other"+strconv.Itoa(i)))
			}
		})))
		for i := range 50 {
			_, err := c.GetWithFetch(t.Context(), strconv.Itoa(i), NoExpiry, func(context.Context, string) (string, error) { return "v", nil })
			require.NoError(t, err)
		}
		require.Equal(t, 40, told)
	})
}

func TestAWeigherThatPanicsMakesAValueUnstorable(t *testing.T) {
	observer := new(recorder)
	c := newTestCache[string](t, Config{}, WithObserver(observer), WithWeigher(func(string, string) int { panic("no scales") }))
	v, err := c.GetWithFetch(t.Context(), key, NoExpiry, func(context.Context, string) (string, error) { return "v", nil })
	require.NoError(t, err)
	require.Equal(t, "v", v)
	require.EqualValues(t, 1, c.Stats().Unstorable)
	require.Equal(t, 1, observer.count(EventUnstorable))
	err = c.Set(t.Context(), key, "v", NoExpiry)
	require.ErrorIs(t, err, ErrInvalidValue)
	var panicked *PanicError
	require.ErrorAs(t, err, &panicked)
	require.Zero(t, c.Stats().Flights)
}

// TestLargeOneOffsDoNotCostTheHotEntries is the same as the test of the table, by lookups.
func TestLargeOneOffsDoNotCostTheHotEntries(t *testing.T) {
	const most, hot = 1 << 20, 1000
	c := newTestCache[[]byte](t, Config{MaxEntries: most}, WithWeigher(func(_ string, v []byte) int { return len(v) }))
	small, large := make([]byte, 1000), make([]byte, most/4)
	get := func(k string, v []byte) {
		_, err := c.GetWithFetch(t.Context(), k, NoExpiry, func(context.Context, string) ([]byte, error) { return v, nil })
		require.NoError(t, err)
	}
	const lookups = 100_000
	for i := range lookups {
		if i%2000 == 1999 {
			get("once"+strconv.Itoa(i), large)
		}
		get(strconv.Itoa(i*7919%hot), small)
	}
	require.Greater(t, float64(c.Stats().Hits)/lookups, 0.97)
}

func TestWeightsOutOfRangeAreClamped(t *testing.T) {
	weights := map[string]int{"zero": 0, "negative": -5, "lowest": math.MinInt, "one": 1}
	c := newTestCache[int](t, Config{MaxEntries: 4}, WithWeigher(func(key string, _ int) int { return weights[key] }))
	for k := range weights {
		require.NoError(t, c.Set(t.Context(), k, 1, NoExpiry))
	}
	require.Equal(t, 4, c.Stats().Entries, "each counts as 1")
	weights["huge"] = math.MaxInt
	require.ErrorIs(t, c.Set(t.Context(), "huge", 1, NoExpiry), ErrInvalidValue)
	unbounded := newTestCache[int](t, Config{MaxEntries: -1}, WithWeigher(func(string, int) int { return math.MaxInt }))
	require.NoError(t, unbounded.Set(t.Context(), "huge", 1, NoExpiry), "without a bound nothing is too heavy")
}

func TestARefreshIsDueAtItsFractionOfTheTTL(t *testing.T) {
	for _, fraction := range []float64{0.1, 0.5, 0.7, 0.8, 0.9} {
		for _, ttl := range []time.Duration{10 * time.Second, 7 * time.Minute, 10 * 24 * time.Hour} {
			synctest.Test(t, func(t *testing.T) {
				c := newTestCache[int](t, Config{RefreshAhead: fraction, ReapInterval: -1})
				require.NoError(t, c.Set(t.Context(), key, 1, ttl))
				fetch := func(context.Context, string) (int, error) { return 2, nil }
				get := func() uint64 {
					_, err := c.GetWithFetch(t.Context(), key, ttl, fetch)
					require.NoError(t, err)
					synctest.Wait()
					return c.Stats().Refreshes
				}
				due := time.Duration(math.Round(float64(ttl) * fraction))
				slack := time.Millisecond
				if ttl > 24*time.Hour {
					slack = 5 * time.Second
				}
				time.Sleep(due - slack)
				require.Zero(t, get(), "%v of %v", fraction, ttl)
				time.Sleep(slack)
				if ttl > 24*time.Hour {
					time.Sleep(slack)
				}
				require.EqualValues(t, 1, get(), "%v of %v", fraction, ttl)
			})
		}
	}
}

func TestWhatThisProcessHoldsIsReturnedThoughTheContextHasEnded(t *testing.T) {
	for _, left := range []time.Duration{time.Hour, time.Millisecond} { // far from the deadline, and near
		synctest.Test(t, func(t *testing.T) {
			c := newTestCache[int](t, Config{})
			require.NoError(t, c.Set(t.Context(), key, 1, left))
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			never := func(context.Context, string) (int, error) { return 0, errSource }
			for range 2 {
				v, err := c.Get(ctx, key)
				require.NoError(t, err)
				require.Equal(t, 1, v)
				_, err = c.GetWithFetch(ctx, key, time.Hour, never)
				require.NoError(t, err)
				_, err = c.Lookup(ctx, key, time.Hour, never)
				require.NoError(t, err)
			}
			_, err := c.Get(ctx, "missing")
			require.ErrorIs(t, err, context.Canceled)
			_, err = c.GetWithFetch(ctx, "missing", time.Hour, never)
			require.ErrorIs(t, err, context.Canceled)
			require.Zero(t, c.Stats().Fetches)
		})
	}
}

func TestAValueIsClonedBeforeItIsKept(t *testing.T) {
	c := newTestCache[[]string](t, Config{}, WithClone(slices.Clone[[]string]))
	v := []string{"1"}
	require.NoError(t, c.Set(t.Context(), key, v, time.Minute))
	require.NoError(t, c.SetMany(t.Context(), map[string][]string{"another": v}, time.Minute))
	v[0] = "2"
	for _, k := range []string{key, "another"} {
		got, err := c.Get(t.Context(), k)
		require.NoError(t, err)
		require.Equal(t, []string{"1"}, got)
	}
}

func TestClonesAreHandedOutEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cloned atomic.Int64
		c := newTestCache[[]string](t, Config{StaleFor: time.Hour}, WithClone(func(v []string) []string {
			cloned.Add(1)
			return slices.Clone(v)
		}))
		fetch := func(context.Context, string) ([]string, error) {
			time.Sleep(time.Second)
			return []string{"1", "2", "3"}, nil
		}
		spoil := func(v []string, err error) {
			t.Helper()
			require.NoError(t, err)
			require.Equal(t, []string{"1", "2", "3"}, v)
			clear(v)
		}
		get := func() ([]string, error) { return c.GetWithFetch(t.Context(), key, time.Minute, fetch) }
		var joined sync.WaitGroup
		for range 5 {
			joined.Go(func() { spoil(get()) })
		}
		joined.Wait()
		require.EqualValues(t, 6, cloned.Load(), "for the callers that fetch and join, and what is kept")
		spoil(c.Get(t.Context(), key))
		spoil(get())
		spoil(c.Bind(time.Minute, fetch).Get(t.Context(), key))
		r, err := c.Lookup(t.Context(), key, time.Minute, fetch)
		spoil(r.Value, err)
		require.EqualValues(t, 10, cloned.Load(), "hits")
		time.Sleep(time.Minute)
		spoil(get())
		require.EqualValues(t, 11, cloned.Load(), "stale values")
		time.Sleep(time.Minute)
		require.NoError(t, c.Set(t.Context(), "set", []string{"1", "2", "3"}, time.Minute))
		spoil(c.Get(t.Context(), "set"))
		spoil(c.Get(t.Context(), "set"))
	})
}

func TestWithoutAWeigherOrCloneValuesAreShared(t *testing.T) {
	c := newTestCache[*record](t, Config{})
	value := &record{Name: "v"}
	require.NoError(t, c.Set(t.Context(), key, value, NoExpiry))
	v, err := c.Get(t.Context(), key)
	require.NoError(t, err)
	require.Same(t, value, v)
}

func TestNoopKeepsNothingAndSharesFetches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := Open[int](t.Context(), Config{Backend: BackendNoop, NegativeTTL: time.Hour, StaleFor: time.Hour})
		require.NoError(t, err)
		defer func() { require.NoError(t, c.Close()) }()
		require.NoError(t, c.Set(t.Context(), key, 1, time.Minute))
		_, err = c.Get(t.Context(), key)
		require.Equal(t, ErrMiss, err)
		require.NoError(t, c.Delete(t.Context(), key))
		require.NoError(t, c.Clear(t.Context()))
		require.NoError(t, c.Health(t.Context()))
		var calls atomic.Int64
		fetch := func(context.Context, string) (int, error) {
			time.Sleep(time.Second)
			return int(calls.Add(1)), nil
		}
		for round := range 2 {
			var all sync.WaitGroup
			for range 10 {
				all.Go(func() {
					v, err := c.GetWithFetch(t.Context(), key, time.Minute, fetch)
					require.NoError(t, err)
					require.Equal(t, round+1, v)
				})
			}
			all.Wait()
		}
		require.EqualValues(t, 2, calls.Load())
		_, err = c.GetWithFetch(t.Context(), key, time.Minute, func(context.Context, string) (int, error) { return 0, ErrNotFound })
		require.ErrorIs(t, err, ErrNotFound)
		require.Equal(t, Stats{Misses: 4, Joined: 18, Fetches: 3}, c.Stats())
	})
}
