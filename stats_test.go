package cacheaside

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestEachLookupCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCache[int](t, Config{NegativeTTL: time.Hour, StaleFor: time.Minute, StaleIfError: time.Hour})
		lookups := uint64(0)
		total := func() uint64 {
			s := c.Stats()
			return s.Hits + s.Misses + s.Joined
		}
		get := func(key string) {
			lookups++
			_, _ = c.Get(t.Context(), key)
			require.Equal(t, lookups, total())
		}
		fetch := func(key string, value int, err error) {
			lookups++
			_, _ = c.GetWithFetch(t.Context(), key, time.Minute, func(context.Context, string) (int, error) {
				time.Sleep(time.Second)
				return value, err
			})
			synctest.Wait()
			require.Equal(t, lookups, total())
		}
		get("cold")
		fetch("a", 1, nil)
		get("a")
		fetch("a", 1, nil)
		fetch("gone", 0, ErrNotFound)
		get("gone")
		fetch("gone", 0, ErrNotFound)
		fetch("failing", 0, errSource)
		require.Equal(t, Stats{
			Entries: 2, Hits: 4, Negatives: 2, Misses: 4, Fetches: 3, FetchErrors: 1,
		}, c.Stats())
		time.Sleep(time.Minute)
		get("a")           // past its ttl
		fetch("a", 2, nil) // stale, and refreshed
		time.Sleep(time.Second)
		synctest.Wait()
		get("a")
		time.Sleep(2 * time.Minute)
		fetch("a", 0, errSource) // past StaleFor: asked, failed, and covered up
		require.Equal(t, Stats{
			Entries: 2, Hits: 6, Negatives: 2, Misses: 6, StaleHits: 2, Fetches: 5, FetchErrors: 2, Refreshes: 1,
		}, c.Stats())

		var waiting sync.WaitGroup
		for range 10 {
			waiting.Go(func() {
				_, _ = c.Lookup(t.Context(), "joined", time.Minute, func(context.Context, string) (int, error) {
					time.Sleep(time.Second)
					return 1, nil
				})
			})
		}
		waiting.Wait()
		lookups += 10
		require.Equal(t, lookups, total())
		require.EqualValues(t, 9, c.Stats().Joined)

		before := c.Stats()
		require.NoError(t, c.Set(t.Context(), "s", 1, time.Minute))
		require.NoError(t, c.Delete(t.Context(), "s"))
		_, err := c.Get(t.Context(), string(make([]byte, MaxKeyBytes+1)))
		require.Error(t, err)
		require.Equal(t, before, c.Stats(), "a write, and a call that cannot be served, are no look-ups")
	})
}

func TestStatsStayAfterClose(t *testing.T) {
	c := newTestCache[int](t, Config{})
	require.NoError(t, c.Set(t.Context(), key, 1, time.Minute))
	_, err := c.Get(t.Context(), key)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	_, err = c.Get(t.Context(), key)
	require.Equal(t, ErrClosed, err)
	require.Equal(t, Stats{Hits: 1}, c.Stats())
}

func TestHitsOfManyGoroutinesAreAllCounted(t *testing.T) {
	c := newTestCache[int](t, Config{})
	const goroutines, each = 32, 1000
	for i := range 10 {
		require.NoError(t, c.Set(t.Context(), strconv.Itoa(i), i, NoExpiry))
	}
	var all sync.WaitGroup
	for range goroutines {
		all.Go(func() {
			for i := range each {
				_, _ = c.Get(t.Context(), strconv.Itoa(i%10))
			}
		})
	}
	all.Wait()
	require.EqualValues(t, goroutines*each, c.Stats().Hits)
}

func TestEventsAndSourcesHaveNames(t *testing.T) {
	seen := make(map[string]bool)
	for kind := EventHit; kind <= EventBackendUp; kind++ {
		require.NotContains(t, kind.String(), "EventKind")
		seen[kind.String()] = true
	}
	require.Len(t, seen, int(EventBackendUp))
	require.Equal(t, "hit", EventHit.String())
	require.Equal(t, "backend up", EventBackendUp.String())
	require.Equal(t, "none", EventKind(0).String())
	require.Equal(t, "EventKind(200)", EventKind(200).String())

	seen = make(map[string]bool)
	for source := SourceHit; source <= SourceJoined; source++ {
		seen[source.String()] = true
	}
	require.Len(t, seen, int(SourceJoined))
	require.Equal(t, "near hit", SourceNearHit.String())
	require.Equal(t, "joined", SourceJoined.String())
	require.Equal(t, "none", Source(0).String())
	require.Equal(t, "Source(7)", Source(7).String())
}

// TestAFailureIsCountedWhenItsCallerHearsOfIt compares at once, again and again: what was counted a moment
// later would be seen to lack sooner or later.
func TestAFailureIsCountedWhenItsCallerHearsOfIt(t *testing.T) {
	c, err := NewMemory[string](Config{})
	require.NoError(t, err)
	defer c.Close()
	fails := func(context.Context, string) (string, error) { return "", errSource }
	for i := range uint64(30_000) {
		_, err := c.GetWithFetch(t.Context(), key, time.Minute, fails)
		require.Equal(t, errSource, err)
		require.Equal(t, i+1, c.Stats().FetchErrors)
	}
}
