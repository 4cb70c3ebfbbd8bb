package cacheaside

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestAContextIsDoneAsSoonAsItHasAnError polls Err as a loop that computes does.
func TestAContextIsDoneAsSoonAsItHasAnError(t *testing.T) {
	for _, timeout := range []time.Duration{200 * time.Microsecond, time.Hour} {
		var open, ended atomic.Int64
		for i := range 300 {
			c := newTestCache[int](t, Config{FetchTimeout: timeout})
			begun, returned, answered := make(chan struct{}), make(chan struct{}), make(chan struct{})
			go func() {
				defer close(answered)
				_, _ = c.GetWithFetch(context.Background(), strconv.Itoa(i), time.Minute, func(ctx context.Context, _ string) (int, error) {
					defer close(returned)
					done := ctx.Done()
					close(begun)
					for ctx.Err() == nil {
						runtime.Gosched()
					}
					ended.Add(1)
					select {
					case <-done:
					default:
						open.Add(1)
					}
					return 1, nil
				})
			}()
			select {
			case <-begun:
				if timeout == time.Hour {
					require.NoError(t, c.Close())
				}
				<-returned
			case <-answered: // the flight may have ended before its fetch began, or the fetch be about to end
			}
			require.NoError(t, c.Close())
		}
		require.Positive(t, ended.Load(), "fetches that have begun")
		require.Zero(t, open.Load(), "contexts that had an error while they were not done")
	}
}

// gather is a BindMany whose fetches a test looks at.
type gather struct {
	mu    sync.Mutex
	calls [][]string
	fetch func(ctx context.Context, keys []string) (map[string]string, error)
}

func (g *gather) get(ctx context.Context, keys []string) (map[string]string, error) {
	g.mu.Lock()
	g.calls = append(g.calls, keys)
	g.mu.Unlock()
	if g.fetch != nil {
		return g.fetch(ctx, keys)
	}
	return valuesOf(keys...), nil
}

func TestAFullBatchEndsWithTheCacheAndAtFetchTimeout(t *testing.T) {
	for name, end := range map[string]func(c *Client[string]){
		"Close":        func(c *Client[string]) { _ = c.Close() },
		"FetchTimeout": func(*Client[string]) { time.Sleep(time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newTestCache[string](t, Config{FetchTimeout: time.Minute})
				var ended atomic.Bool
				g := &gather{fetch: func(ctx context.Context, _ []string) (map[string]string, error) {
					for ctx.Err() == nil {
						time.Sleep(time.Millisecond)
					}
					ended.Store(true)
					return nil, ctx.Err()
				}}
				l, err := c.BindMany(time.Minute, g.get, Batching{MaxSize: 2})
				require.NoError(t, err)
				for i := range 2 {
					go l.Get(context.Background(), strconv.Itoa(i))
				}
				synctest.Wait()
				end(c)
				time.Sleep(10 * time.Millisecond)
				require.True(t, ended.Load(), "the fetch still runs")
			})
		})
	}
}

func TestABatchHasEachKeyOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCache[string](t, Config{})
		g := new(gather)
		l, err := c.BindMany(time.Minute, g.get, Batching{MaxWait: time.Second})
		require.NoError(t, err)
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				v, err := l.Get(t.Context(), "k")
				require.NoError(t, err)
				require.Equal(t, valuesOf("k")["k"], v)
			})
			synctest.Wait()
			require.NoError(t, c.Delete(t.Context(), "k"))
		}
		all.Wait()
		require.Equal(t, [][]string{{"k"}}, g.calls)
		require.EqualValues(t, 1, c.Stats().Fetches)
	})
}

func TestALongMaxWaitLeavesTimeForTheFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCache[string](t, Config{FetchTimeout: time.Minute})
		g := &gather{fetch: func(ctx context.Context, keys []string) (map[string]string, error) {
			return valuesOf(keys...), ctx.Err()
		}}
		l, err := c.BindMany(time.Minute, g.get, Batching{MaxWait: time.Hour})
		require.NoError(t, err)
		var all sync.WaitGroup
		for i := range 3 {
			all.Go(func() {
				_, err := l.Get(t.Context(), strconv.Itoa(i))
				require.NoError(t, err)
			})
			time.Sleep(29 * time.Second / 3)
		}
		all.Wait()
		require.Len(t, g.calls, 1)
	})
}

func TestFetchesNeverFall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCache[string](t, Config{})
		l, err := c.BindMany(time.Minute, new(gather).get, Batching{MaxSize: 50, MaxWait: time.Second})
		require.NoError(t, err)
		last := uint64(0)
		for i := range 120 {
			go l.Get(t.Context(), strconv.Itoa(i))
			synctest.Wait()
			now := c.Stats().Fetches
			require.GreaterOrEqual(t, now, last)
			last = now
		}
		time.Sleep(2 * time.Second)
		require.EqualValues(t, 3, c.Stats().Fetches, "calls of the source")
	})
}

// TestAnAnswerThatIsThereIsGiven lets the caller's deadline, or SoftTimeout, pass when a batch has been fetched and
// its caller has begun to collect the values: each of the others has two ends to choose from.
func TestAnAnswerThatIsThereIsGiven(t *testing.T) {
	for name, cfg := range map[string]Config{
		"deadline":    {},
		"SoftTimeout": {StaleIfError: time.Hour, SoftTimeout: 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fetched := false
				c := newTestCache[string](t, cfg, WithClone(func(v string) string {
					if fetched {
						time.Sleep(time.Second)
					}
					return v
				}))
				var keys []string
				for i := range 50 {
					keys = append(keys, strconv.Itoa(i))
					require.NoError(t, c.Set(t.Context(), keys[i], "stale", time.Millisecond))
				}
				time.Sleep(time.Second)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				want := valuesOf(keys...)
				got, err := c.GetManyWithFetch(ctx, keys, 0, func(context.Context, []string) (map[string]string, error) {
					time.Sleep(time.Second)
					fetched = true
					return want, nil
				})
				require.NoError(t, err)
				require.Equal(t, want, got)
			})
		})
	}
}

func TestAPanicIsNeverAnAnswerOfTheSource(t *testing.T) {
	for _, value := range []error{ErrNotFound, fmt.Errorf("wrapped: %w", ErrNotFound), sql.ErrNoRows} {
		c := newTestCache[string](t, Config{NegativeTTL: time.Hour}, WithNotFound(sql.ErrNoRows))
		calls := 0
		fetch := func(context.Context, string) (string, error) { calls++; panic(value) }
		many := func(context.Context, []string) (map[string]string, error) { calls++; panic(value) }
		nested := func(ctx context.Context, key string) (string, error) {
			return c.GetWithFetch(ctx, "inner", time.Minute, fetch)
		}
		var panicked *PanicError
		for range 2 {
			_, err := c.GetWithFetch(t.Context(), "a", time.Minute, fetch)
			require.ErrorAs(t, err, &panicked)
			_, err = c.GetWithFetch(t.Context(), "b", time.Minute, nested)
			require.ErrorAs(t, err, &panicked)
			_, err = c.GetManyWithFetch(t.Context(), []string{"c"}, time.Minute, many)
			require.ErrorAs(t, err, &panicked)
		}
		require.Equal(t, 6, calls, "it is not remembered")
		_, err := c.Get(t.Context(), "a")
		require.Equal(t, ErrMiss, err)
		require.EqualValues(t, 8, c.Stats().FetchErrors)
	}
}

func TestStaleIfErrorCoversTheErrorOfAnotherCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		other := newTestCache[string](t, Config{})
		require.NoError(t, other.Close())
		c := newTestCache[string](t, Config{StaleIfError: time.Hour})
		require.NoError(t, c.Set(t.Context(), key, "stale", time.Millisecond))
		time.Sleep(time.Second)
		v, err := c.GetWithFetch(t.Context(), key, time.Minute, func(ctx context.Context, key string) (string, error) { return other.Get(ctx, key) })
		require.NoError(t, err)
		require.Equal(t, "stale", v)
	})
}

func TestNoFetchBeginsAfterClose(t *testing.T) {
	var late atomic.Int64
	for i := range 20_000 {
		c, err := NewMemory[string](Config{})
		require.NoError(t, err)
		var closed atomic.Bool
		fetch := func(context.Context, string) (string, error) {
			if closed.Load() {
				late.Add(1)
			}
			return "", nil
		}
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() { _, _ = c.GetWithFetch(t.Context(), strconv.Itoa(i), time.Minute, fetch) })
			all.Go(func() {
				_, _ = c.GetManyWithFetch(t.Context(), []string{"many"}, time.Minute, func(ctx context.Context, _ []string) (map[string]string, error) {
					_, err := fetch(ctx, "")
					return nil, err
				})
			})
		}
		require.NoError(t, c.Close())
		closed.Store(true)
		all.Wait()
	}
	// A goroutine may be stopped between the last look and its first instruction.
	require.LessOrEqual(t, late.Load(), int64(3), "fetches that began after Close")
}

func TestAClosedCacheOfABackendReturnsNothing(t *testing.T) {
	b, err := Connect(t.Context(), Config{})
	require.NoError(t, err)
	defer b.Close()
	var seen atomic.Int64
	for i := range 2000 {
		c, err := New[string](b, strconv.Itoa(i))
		require.NoError(t, err)
		l := c.Bind(time.Minute, func(context.Context, string) (string, error) { return "", errors.New("no source") })
		var closed atomic.Bool
		var all sync.WaitGroup
		var began atomic.Bool
		all.Go(func() {
			for range 20 {
				began.Store(true)
				_ = c.Set(t.Context(), key, "v", time.Minute)
			}
		})
		for !began.Load() {
			runtime.Gosched()
		}
		all.Go(func() {
			for !closed.Load() {
				runtime.Gosched()
			}
			for range 50 {
				_, err1 := c.Get(t.Context(), key)
				_, err2 := l.Get(t.Context(), key)
				if err1 != ErrClosed || err2 != ErrClosed {
					seen.Add(1)
				}
			}
		})
		require.NoError(t, c.Close())
		closed.Store(true)
		all.Wait()
	}
	require.Zero(t, seen.Load())
}

func TestNewMayRaceWithCloseOfItsBackend(t *testing.T) {
	for range 200 {
		b, err := Connect(t.Context(), Config{})
		require.NoError(t, err)
		var all sync.WaitGroup
		for i := range 4 {
			all.Go(func() {
				if c, err := New[string](b, strconv.Itoa(i)); err == nil {
					_, _ = c.Get(t.Context(), key)
					_ = c.Close()
				}
			})
		}
		require.NoError(t, b.Close())
		all.Wait()
	}
}

func TestNestedFetchesDoNotStopOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCache[int](t, Config{})
		const depth = 41
		var fetch FetchFunc[int]
		// Each fetch waits for the next two, so that there are 2^41 ways from the first to the last.
		fetch = func(ctx context.Context, key string) (int, error) {
			n, err := strconv.Atoi(key)
			if err != nil || n >= depth {
				time.Sleep(time.Second)
				return 1, err
			}
			var all sync.WaitGroup
			var failed atomic.Pointer[error]
			for _, next := range []int{n + 1, n + 2} {
				all.Go(func() {
					if _, err := c.GetWithFetch(ctx, strconv.Itoa(next), time.Minute, fetch); err != nil {
						failed.Store(&err)
					}
				})
			}
			all.Wait()
			if err := failed.Load(); err != nil {
				return 0, *err
			}
			return 1, nil
		}
		_, err := c.GetWithFetch(t.Context(), "0", time.Minute, fetch)
		require.NoError(t, err)
	})
}

// TestAFetchThatDoesNotWaitMayBeAskedFor has a fetch that starts another one and does not wait for it. That one
// asks for the key of the first, which is no circle.
func TestAFetchThatDoesNotWaitMayBeAskedFor(t *testing.T) {
	for name, start := range map[string]func(ctx context.Context, get func(context.Context) (string, error)){
		"a prefetch that waits a moment": func(ctx context.Context, get func(context.Context) (string, error)) {
			go func() {
				ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
				defer cancel()
				_, _ = get(ctx)
			}()
		},
		"given up": func(ctx context.Context, get func(context.Context) (string, error)) {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_, _ = get(ctx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newTestCache[string](t, Config{})
				second := func(ctx context.Context, _ string) (string, error) {
					time.Sleep(2 * time.Second)
					return c.GetWithFetch(ctx, "first", time.Minute, func(context.Context, string) (string, error) { return "not this one", nil })
				}
				first := func(ctx context.Context, _ string) (string, error) {
					start(ctx, func(ctx context.Context) (string, error) { return c.GetWithFetch(ctx, "second", time.Minute, second) })
					time.Sleep(3 * time.Second)
					return "first", nil
				}
				go c.GetWithFetch(t.Context(), "first", time.Minute, first)
				synctest.Wait()
				v, err := c.GetWithFetch(t.Context(), "second", time.Minute, second) // a caller from outside joins it
				require.NoError(t, err)
				require.Equal(t, "first", v)
			})
		})
	}
}

func TestABatchInsideABatchIsNotQuadratic(t *testing.T) {
	const many = 20_000
	c := newTestCache[string](t, Config{MaxEntries: -1})
	keys := func(prefix string) (all []string) {
		for i := range many {
			all = append(all, prefix+strconv.Itoa(i))
		}
		return all
	}
	var compared time.Duration
	_, err := c.GetManyWithFetch(t.Context(), keys("outer"), time.Minute, func(ctx context.Context, outer []string) (map[string]string, error) {
		begun := time.Now()
		_, err := c.GetManyWithFetch(ctx, keys("inner"), time.Minute, func(_ context.Context, inner []string) (map[string]string, error) { return valuesOf(inner...), nil })
		compared = time.Since(begun)
		return valuesOf(outer...), err
	})
	require.NoError(t, err)
	t.Log("the inner batch took", compared)
	_, err = c.GetManyWithFetch(t.Context(), []string{"a", "b"}, time.Minute, func(ctx context.Context, keys []string) (map[string]string, error) {
		_, err := c.GetManyWithFetch(ctx, []string{"c", "b"}, time.Minute, func(_ context.Context, keys []string) (map[string]string, error) { return valuesOf(keys...), nil })
		require.ErrorIs(t, err, ErrReentrant)
		return valuesOf(keys...), nil
	})
	require.NoError(t, err)
}

// TestABurstOnAFailingSourceCostsOneFetch lets callers come at the very moment at which a fetch fails.
func TestABurstOnAFailingSourceCostsOneFetch(t *testing.T) {
	boom := errors.New("boom")
	for range 300 {
		c := newTestCache[string](t, Config{ErrorCooldown: time.Hour})
		var calls atomic.Int64
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 20 {
					_, err := c.GetWithFetch(t.Context(), key, time.Minute, func(context.Context, string) (string, error) {
						calls.Add(1)
						return "", boom
					})
					if !errors.Is(err, boom) {
						t.Error(err)
					}
					if _, err = c.GetManyWithFetch(t.Context(), []string{key}, time.Minute, func(context.Context, []string) (map[string]string, error) {
						calls.Add(1)
						return nil, boom
					}); !errors.Is(err, boom) {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		require.EqualValues(t, 1, calls.Load())
		require.NoError(t, c.Close())
	}
}

func TestALookupThatKeepsNothingRefreshesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCache[string](t, Config{StaleFor: time.Hour})
		require.NoError(t, c.SetMany(t.Context(), valuesOf("a", "b"), time.Second))
		time.Sleep(time.Minute)
		_, err := c.GetWithFetch(t.Context(), "a", 0, func(context.Context, string) (string, error) { return "new", nil })
		require.NoError(t, err)
		_, err = c.GetManyWithFetch(t.Context(), []string{"b"}, -1, func(context.Context, []string) (map[string]string, error) { return nil, nil })
		require.NoError(t, err)
		synctest.Wait()
		require.Zero(t, c.Stats().Fetches)
	})
}

func TestLongKeysOfFailuresAreLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCache[string](t, Config{ErrorCooldown: time.Second})
		boom := errors.New("boom")
		for i := range 100 {
			_, err := c.GetWithFetch(t.Context(), strconv.Itoa(i)+strings.Repeat("x", 1000), time.Minute, func(context.Context, string) (string, error) { return "", boom })
			require.ErrorIs(t, err, boom)
		}
		time.Sleep(2 * time.Second)
		for i := range c.flights.shards {
			s := &c.flights.shards[i]
			s.mu.Lock()
			empty := s.failures.isEmpty()
			s.mu.Unlock()
			require.True(t, empty)
			require.False(t, s.failing.Load(), "writers pass by again")
		}
	})
}

func TestADiscardedValueIsOneThatAWriteHasOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCache[string](t, Config{FetchTimeout: time.Second})
		deaf := func(context.Context, string) (string, error) { time.Sleep(2 * time.Second); return "late", nil }
		_, err := c.GetWithFetch(t.Context(), key, time.Minute, deaf)
		require.ErrorIs(t, err, ErrFetchTimeout)
		time.Sleep(2 * time.Second)
		require.Zero(t, c.Stats().Discarded)
		go c.GetWithFetch(t.Context(), key, time.Minute, func(context.Context, string) (string, error) { time.Sleep(time.Second / 2); return "old", nil })
		synctest.Wait()
		require.NoError(t, c.Delete(t.Context(), key))
		time.Sleep(time.Second)
		require.EqualValues(t, 1, c.Stats().Discarded)
	})
}

func TestAnEndedContextGetsWhatThisProcessHolds(t *testing.T) {
	c := newTestCache[string](t, Config{})
	require.NoError(t, c.Set(t.Context(), "a", "v", time.Minute))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	want := map[string]string{"a": "v"}
	v, err := c.Get(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, "v", v)
	got, err := c.GetMany(ctx, []string{"a", "b"})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, want, got)
	fetch := func(context.Context, []string) (map[string]string, error) { return nil, errors.New("not called") }
	got, err = c.GetManyWithFetch(ctx, []string{"a", "b"}, time.Minute, fetch)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, want, got)
	_, err = c.Get(ctx, "b")
	require.ErrorIs(t, err, context.Canceled)
	s := c.Stats()
	require.EqualValues(t, []uint64{3, 3, 0, 0}, []uint64{s.Hits, s.Misses, s.Joined, s.Fetches}, "each lookup counts as one")
	require.ErrorIs(t, c.SetMany(ctx, want, time.Minute), context.Canceled)
	require.ErrorIs(t, c.DeleteMany(ctx, []string{"a"}), context.Canceled)
}

func TestAReentrantLookupIsAMiss(t *testing.T) {
	c := newTestCache[string](t, Config{})
	var fetch FetchFunc[string]
	fetch = func(ctx context.Context, key string) (string, error) {
		return c.GetWithFetch(ctx, key, time.Minute, fetch)
	}
	_, err := c.GetWithFetch(t.Context(), key, time.Minute, fetch)
	require.ErrorIs(t, err, ErrReentrant)
	require.EqualValues(t, 2, c.Stats().Misses)
}

func TestTheErrorOfABatchMatchesEveryCause(t *testing.T) {
	c := newTestCache[string](t, Config{})
	var causes []error
	var keys []string
	for i := range 20 {
		keys, causes = append(keys, strconv.Itoa(i)), append(causes, fmt.Errorf("cause %d", i))
	}
	for i, key := range keys { // each has a flight of its own, which the batch joins
		begun := make(chan struct{})
		go c.GetWithFetch(t.Context(), key, time.Minute, func(context.Context, string) (string, error) {
			close(begun)
			time.Sleep(50 * time.Millisecond)
			return "", causes[i]
		})
		<-begun
	}
	_, err := c.GetManyWithFetch(t.Context(), keys, time.Minute, func(context.Context, []string) (map[string]string, error) { return nil, nil })
	for _, cause := range causes {
		require.ErrorIs(t, err, cause)
	}
	require.ErrorContains(t, err, "20 of 20")
	require.ErrorContains(t, err, "12 other causes")
}

func TestAFetchHasTheProfilerLabelsOfItsCaller(t *testing.T) {
	c := newTestCache[string](t, Config{})
	labels := func(ctx context.Context, key string) (text string) {
		_, err := c.GetWithFetch(ctx, key, time.Minute, func(context.Context, string) (string, error) {
			var all strings.Builder
			err := pprof.Lookup("goroutine").WriteTo(&all, 1)
			for stack := range strings.SplitSeq(all.String(), "\n\n") {
				if strings.Contains(stack, "TestAFetchHasTheProfilerLabels") && strings.Contains(stack, ".serve") {
					text = stack
				}
			}
			return "v", err
		})
		require.NoError(t, err)
		return text
	}
	pprof.Do(t.Context(), pprof.Labels("tenant", "A"), func(ctx context.Context) { require.Contains(t, labels(ctx, "1"), `"tenant":"A"`) })
	require.Eventually(t, func() bool {
		c.flights.crew.mu.Lock()
		defer c.flights.crew.mu.Unlock()
		return len(c.flights.crew.idle) > 0
	}, time.Second, time.Millisecond)
	require.NotContains(t, labels(t.Context(), "2"), "tenant")
	pprof.Do(t.Context(), pprof.Labels("tenant", "B"), func(ctx context.Context) { require.Contains(t, labels(ctx, "3"), `"tenant":"B"`) })
}

func TestALargeBatchLeavesNoRoomBehind(t *testing.T) {
	c := newTestCache[int](t, Config{MaxEntries: 10, FetchTimeout: -1})
	heap := func() uint64 {
		var m runtime.MemStats
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	func() {
		keys := make([]string, 300_000)
		for i := range keys {
			keys[i] = strconv.Itoa(i)
		}
		_, err := c.GetManyWithFetch(t.Context(), keys, time.Minute, func(_ context.Context, keys []string) (map[string]int, error) {
			all := make(map[string]int, len(keys))
			for i, key := range keys {
				all[key] = i
			}
			return all, nil
		})
		require.NoError(t, err)
	}()
	require.Less(t, int64(heap())-int64(before), int64(4<<20))
	require.Equal(t, 10, c.Stats().Entries)
}

func TestMapsThatShareMapsAreCheckedInTime(t *testing.T) {
	type tree map[string]any
	root := tree{"leaf": 1}
	for range 40 {
		root = tree{"left": root, "right": root}
	}
	reports := 0
	c := newTestCache[*tree](t, Config{}, WithMutationCheck(func(string) { reports++ }))
	require.NoError(t, c.Set(t.Context(), key, &root, time.Minute))
	for range 3 {
		_, err := c.Get(t.Context(), key)
		require.NoError(t, err)
	}
	require.Zero(t, reports)
}
