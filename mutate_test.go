package cacheaside

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// kinds collects the kinds of the events that it observes.
type kinds struct {
	mu   sync.Mutex
	seen map[EventKind]int
}

func (k *kinds) Observe(e Event) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.seen == nil {
		k.seen = make(map[EventKind]int)
	}
	k.seen[e.Kind]++
}

func (k *kinds) count(kind EventKind) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.seen[kind]
}

func TestMutateRepeatsARemovalThatFailed(t *testing.T) {
	redistest.Require(t)
	for _, backend := range []string{BackendRueidis, BackendRueidisAside} {
		t.Run(backend, func(t *testing.T) {
			server := redistest.Start(t)
			cfg, err := ParseConfig(server.URL(backend))
			require.NoError(t, err)
			var events kinds
			c, err := Open[string](t.Context(), cfg, WithObserver(&events))
			require.NoError(t, err)
			defer c.Close()
			require.NoError(t, c.Set(t.Context(), key, "old", time.Minute))

			server.ReadOnly(true)
			wrote := false
			err = c.Mutate(t.Context(), []string{key}, func(context.Context) error {
				wrote = true
				return nil
			})
			require.True(t, wrote)
			require.ErrorIs(t, err, ErrUnavailable)
			require.Equal(t, 1, events.count(EventInvalidationFailed))
			server.ReadOnly(false)
			require.Eventually(t, func() bool {
				_, err := c.Get(t.Context(), key)
				return errors.Is(err, ErrMiss)
			}, 10*time.Second, 10*time.Millisecond)
			require.Zero(t, events.count(EventInvalidationLost))
		})
	}
}

// removals stand in for a cache whose removals are repeated.
type removals struct {
	remove func(ctx context.Context, keys []string) ([]string, error)
	wipe   func() error

	mu   sync.Mutex
	held map[string]int // "" for all
	lost int
}

func (r *removals) count(key string, by int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held == nil {
		r.held = make(map[string]int)
	}
	if r.held[key] += by; r.held[key] == 0 {
		delete(r.held, key)
	}
}

func (r *removals) withhold(key string)            { r.count(key, 1) }
func (r *removals) letPass(key string)             { r.count(key, -1) }
func (r *removals) withholdAll()                   { r.count("", 1) }
func (r *removals) letAllPass()                    { r.count("", -1) }
func (r *removals) clearNow(context.Context) error { return r.wipe() }

func (r *removals) removeNow(ctx context.Context, keys []string) ([]string, error) {
	return r.remove(ctx, keys)
}

func (r *removals) lostRemoval(error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost++
}

func TestRepeatsAreGivenUpInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int64
		of := &removals{remove: func(_ context.Context, keys []string) ([]string, error) {
			tries.Add(1)
			return keys, errSource
		}}
		r := newRepeats(of)
		defer r.stop()
		r.add([]string{"a"})
		<-time.After(repeatFor - repeatEvery)
		synctest.Wait()
		require.Greater(t, tries.Load(), int64(100))
		require.Zero(t, of.lost)
		require.True(t, r.isPending("a"))
		<-time.After(4 * repeatEvery)
		synctest.Wait()
		require.Equal(t, 1, of.lost)
		require.False(t, r.isPending("a"))
		require.Empty(t, of.held)
	})
}

func TestTooManyRepeatsClearTheCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		down.Store(true)
		var cleared atomic.Int64
		of := &removals{remove: func(_ context.Context, keys []string) ([]string, error) { return nil, nil }}
		r := newRepeats(of)
		r.most = 2
		of.wipe = func() error {
			if down.Load() {
				return errSource
			}
			if cleared.Add(1) == 1 {
				r.add([]string{"e"}) // the clearing under way may have passed by it
			}
			return nil
		}
		defer r.stop()
		r.add([]string{"a", "b", "a", "c", "d"})
		require.True(t, r.isPending("a"))
		require.True(t, r.isPending("any other"))
		require.Equal(t, map[string]int{"a": 1, "b": 1, "": 1}, of.held)
		<-time.After(time.Minute)
		require.True(t, r.isPending("any other"))
		down.Store(false)
		<-time.After(4 * repeatEvery)
		synctest.Wait()
		require.EqualValues(t, 2, cleared.Load(), "once more for what was added meanwhile")
		require.False(t, r.isPending("a"))
		require.Empty(t, of.held)
		require.Zero(t, of.lost)

		r.bytes = 3
		r.add([]string{"four"})
		require.True(t, r.isPending("any other"), "the keys' bytes are bounded too")
	})
}

func TestARepeatEndsWhenItsKeyIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		of := &removals{remove: func(_ context.Context, keys []string) ([]string, error) { return keys, errSource }}
		r := newRepeats(of)
		defer r.stop()
		r.add([]string{"a", "b"})
		r.settle("a")
		r.settle("a")
		require.False(t, r.isPending("a"))
		require.True(t, r.isPending("b"))
		require.Equal(t, map[string]int{"b": 1}, of.held)
	})
}

func TestRepeatsEndWithTheCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		removing := make(chan struct{}, 1)
		r := newRepeats(&removals{remove: func(ctx context.Context, keys []string) ([]string, error) {
			removing <- struct{}{}
			<-ctx.Done()
			return keys, ctx.Err()
		}})
		r.add([]string{"a"})
		<-removing
		r.stop()
	})
}

// away has a cache whose Redis can be taken away, and another one of the same keys that it stays with.
func away(t *testing.T, backend string, opts ...Option) (c, other *Client[string], gone func(bool)) {
	t.Helper()
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr())
	cfg := asideConfig(t, server, backend)
	other = openAside[string](t, cfg)
	cfg.Redis = RedisConfig{Addrs: []string{proxy.Addr()}}
	cfg.OpTimeout = 500 * time.Millisecond
	return openAside[string](t, cfg, opts...), other, func(gone bool) {
		proxy.Refuse(gone)
		if gone {
			proxy.CutAll()
		}
	}
}

// mutateWhileAway changes the source of keys while Redis is away.
func mutateWhileAway(t *testing.T, c *Client[string], keys []string, gone func(bool)) {
	t.Helper()
	err := c.Mutate(t.Context(), keys, func(context.Context) error {
		gone(true)
		return nil
	})
	require.ErrorIs(t, err, ErrUnavailable)
	gone(false)
}

func TestMutateLosesNoRemoval(t *testing.T) {
	t.Parallel()
	redistest.Require(t)
	for _, backend := range []string{BackendRueidis, BackendRueidisAside} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			var events kinds
			c, other, gone := away(t, backend, WithObserver(&events))
			old := make(map[string]string)
			for i := range 6000 {
				old[strconv.Itoa(i)] = "old"
			}
			keys := slices.Collect(maps.Keys(old))
			require.NoError(t, other.SetMany(t.Context(), old, time.Hour))
			for from := 0; from < len(keys); from += 500 {
				require.Eventually(t, func() bool { // a busy machine may take longer than OpTimeout
					got, err := c.GetMany(t.Context(), keys[from:from+500]) // near copies, where there are any
					return err == nil && len(got) == 500
				}, 60*time.Second, 10*time.Millisecond)
			}
			mutateWhileAway(t, c, keys, gone)

			fetch := serve("new").fetch
			for i, k := range keys {
				if v, _ := c.Get(t.Context(), k); v != "" {
					require.Equal(t, "new", v, "Get after Mutate") // fetched since
				}
				v, err := c.GetWithFetch(t.Context(), k, time.Hour, fetch)
				require.NoError(t, err)
				require.Equal(t, "new", v, "GetWithFetch after Mutate")
				if i%100 == 0 {
					got, _ := c.GetMany(t.Context(), keys)
					for _, v := range got {
						require.Equal(t, "new", v, "GetMany after Mutate")
					}
				}
			}
			require.Eventually(t, func() bool {
				for from := 0; from < len(keys); from += 500 {
					got, err := other.GetMany(t.Context(), keys[from:from+500])
					if err != nil || slices.Contains(slices.Collect(maps.Values(got)), "old") {
						return false
					}
				}
				return true
			}, 60*time.Second, 50*time.Millisecond, "all are removed")
			require.Zero(t, events.count(EventInvalidationLost))
			require.Eventually(t, func() bool {
				_, err := c.GetWithFetch(t.Context(), "0", time.Hour, fetch)
				v, err2 := other.Get(t.Context(), "0")
				return err == nil && err2 == nil && v == "new"
			}, 60*time.Second, 10*time.Millisecond, "from then on it is kept")
		})
	}
}

func TestWhatCannotBeRememberedIsCleared(t *testing.T) {
	t.Parallel()
	redistest.Require(t)
	for _, backend := range []string{BackendRueidis, BackendRueidisAside} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			var events kinds
			c, other, gone := away(t, backend, WithObserver(&events))
			c.repeats.most = 3
			keys := []string{"a", "b", "c", "d", "e", "f"}
			for _, k := range keys {
				require.NoError(t, other.Set(t.Context(), k, "old", time.Hour))
				_, err := c.Get(t.Context(), k)
				require.NoError(t, err)
			}
			mutateWhileAway(t, c, keys, gone)
			require.Eventually(t, func() bool {
				all := true
				for _, k := range keys {
					v, _ := c.Get(t.Context(), k)
					require.NotEqual(t, "old", v)
					v, err := other.Get(t.Context(), k)
					all = all && v == "" && errors.Is(err, ErrMiss)
				}
				return all
			}, 60*time.Second, time.Millisecond)
			require.Zero(t, events.count(EventInvalidationLost))
			require.Eventually(t, func() bool {
				err := c.Set(t.Context(), "a", "new", time.Hour)
				v, _ := c.Get(t.Context(), "a")
				return err == nil && v == "new"
			}, 60*time.Second, 10*time.Millisecond, "from then on values are kept")
		})
	}
}

// A process reads its own Set, though a removal of the key waits.
func TestASetEndsTheWaitForARemoval(t *testing.T) {
	t.Parallel()
	redistest.Require(t)
	for _, backend := range []string{BackendRueidis, BackendRueidisAside} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			c := openAside[string](t, asideConfig(t, server, backend))
			require.NoError(t, c.Set(t.Context(), key, "old", time.Hour))
			server.ReadOnly(true)
			require.ErrorIs(t, c.Mutate(t.Context(), []string{key}, func(context.Context) error { return nil }), ErrUnavailable)
			_, err := c.Get(t.Context(), key)
			require.ErrorIs(t, err, ErrMiss, "it counts as absent")
			got, err := c.GetMany(t.Context(), []string{key})
			require.NoError(t, err)
			require.Empty(t, got)
			c.repeats.stop() // so that only the Set can end it
			server.ReadOnly(false)
			require.NoError(t, c.Set(t.Context(), key, "new", time.Hour))
			v, err := c.Get(t.Context(), key)
			require.NoError(t, err)
			require.Equal(t, "new", v)
		})
	}
}
