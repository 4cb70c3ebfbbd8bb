package cacheaside

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// hits are the ways to get what is cached, with the fetch made beforehand.
func hits[T any](c *Client[T], fetch FetchFunc[T]) map[string]func() error {
	ctx := context.Background()
	loader := c.Bind(time.Hour, fetch)
	var cache Cache[T] = c
	return map[string]func() error{
		"Get": func() error {
			_, err := c.Get(ctx, key)
			return err
		},
		"GetWithFetch": func() error {
			_, err := c.GetWithFetch(ctx, key, time.Hour, fetch)
			return err
		},
		"Loader.Get": func() error {
			_, err := loader.Get(ctx, key)
			return err
		},
		"Get through the interface": func() error {
			_, err := cache.Get(ctx, key)
			return err
		},
		"GetWithFetch through the interface": func() error {
			_, err := cache.GetWithFetch(ctx, key, time.Hour, fetch)
			return err
		},
	}
}

// requireNoAllocations warms a cache of this configuration up, and shows that hits in it allocate nothing.
func requireNoAllocations[T any](t *testing.T, cfg Config, value T, source Source) {
	t.Helper()
	c, err := Open[T](t.Context(), cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	fetch := func(context.Context, string) (T, error) { return value, nil }
	require.Eventually(t, func() bool {
		r, err := c.Lookup(t.Context(), key, time.Hour, fetch)
		return err == nil && r.Source == source
	}, 10*time.Second, time.Millisecond, "it is warm")
	for name, hit := range hits(c, fetch) {
		before := c.Stats()
		var failed error
		allocations := testing.AllocsPerRun(1000, func() {
			if err := hit(); err != nil {
				failed = err
			}
		})
		require.NoError(t, failed)
		require.Zero(t, allocations, "%s of a %T", name, value)
		after := c.Stats()
		require.EqualValues(t, 1001, after.Hits-before.Hits, "each was a hit")
		if source == SourceNearHit {
			require.EqualValues(t, 1001, after.NearHits-before.NearHits, "that asked nobody")
		}
	}
}

func requireNoAllocationsOfAnyType(t *testing.T, cfg Config, source Source) {
	t.Helper()
	requireNoAllocations(t, cfg, 7, source)
	requireNoAllocations(t, cfg, "text", source)
	requireNoAllocations(t, cfg, aRecord, source)
	requireNoAllocations(t, cfg, &aRecord, source)
	requireNoAllocations(t, cfg, []byte("bytes"), source)
	requireNoAllocations(t, cfg, map[string]int{"a": 1}, source)
	requireNoAllocations[any](t, cfg, "anything", source)
}

func TestAMemoryHitAllocatesNothing(t *testing.T) {
	requireNoAllocationsOfAnyType(t, Config{}, SourceHit)
	requireNoAllocationsOfAnyType(t, Config{StaleFor: time.Hour, RefreshAhead: 0.5, NegativeTTL: time.Minute, ErrorCooldown: time.Second}, SourceHit)
}

func TestANearHitAllocatesNothing(t *testing.T) {
	redistest.Require(t)
	server := redistest.Start(t)
	cfg, err := ParseConfig(server.URL(BackendRueidisAside))
	require.NoError(t, err)
	requireNoAllocations(t, cfg, aRecord, SourceNearHit)
	for name, check := range map[string]func(Config){
		"pointer": func(cfg Config) { requireNoAllocations(t, cfg, &aRecord, SourceNearHit) },
		"slice":   func(cfg Config) { requireNoAllocations(t, cfg, []byte("bytes"), SourceNearHit) },
		"string":  func(cfg Config) { requireNoAllocations(t, cfg, "text", SourceNearHit) },
	} {
		cfg.Name = name
		check(cfg)
	}
}

func TestAHitNearItsDeadlineAllocatesNothingEither(t *testing.T) {
	c := newTestCache[*record](t, Config{})
	fetch := func(context.Context, string) (*record, error) { return &aRecord, nil }
	require.NoError(t, c.Set(t.Context(), key, &aRecord, 900*time.Millisecond))
	r, err := c.Lookup(t.Context(), key, time.Hour, fetch)
	require.NoError(t, err)
	require.Equal(t, SourceHit, r.Source)
	require.Zero(t, testing.AllocsPerRun(100, func() { _, _ = c.Get(context.Background(), key) }))
	require.Zero(t, testing.AllocsPerRun(100, func() { _, _ = c.GetWithFetch(context.Background(), key, time.Hour, fetch) }))
}
