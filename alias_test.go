package cacheaside

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// aliased opens a cache of users by address, with one of them that is known to have its alias.
func aliased(t testing.TB, cfg Config) (c *Client[*person], by *AliasClient[*person], fetch FetchFunc[*person]) {
	c, err := Open[*person](t.Context(), cfg)
	require.NoError(t, err)
	by = Alias(c, "email", func(p *person) (string, []string) { return p.ID, []string{p.Email} })
	p := &person{"1", "a@x", 1}
	fetch = func(context.Context, string) (*person, error) { return p, nil }
	require.Eventually(t, func() bool {
		_, err := by.GetWithFetch(t.Context(), "a@x", time.Hour, fetch)
		return err == nil && by.peek("a@x") != nil
	}, 10*time.Second, time.Millisecond)
	return c, by, fetch
}

// A hit by alias neither allocates nor asks which aliases the value has, in memory and in the near cache.
func TestAHitByAliasAllocatesNothing(t *testing.T) {
	near, err := ParseConfig(redistest.Start(t).URL(BackendRueidisAside))
	require.NoError(t, err)
	for _, cfg := range []Config{{Backend: BackendMemory}, near} {
		c, by, fetch := aliased(t, cfg)
		loader := by.Bind(time.Hour, fetch)
		ctx := context.Background()
		for name, hit := range map[string]func() (*person, error){
			"Get":          func() (*person, error) { return by.Get(ctx, "a@x") },
			"GetWithFetch": func() (*person, error) { return by.GetWithFetch(ctx, "a@x", time.Hour, fetch) },
			"Loader.Get":   func() (*person, error) { return loader.Get(ctx, "a@x") },
		} {
			before := c.Stats()
			require.Zero(t, testing.AllocsPerRun(100, func() {
				if p, err := hit(); err != nil || p.ID != "1" {
					t.Error(p, err)
				}
			}), cfg.Backend+" "+name)
			require.Equal(t, before.Hits+101, c.Stats().Hits)
			require.Equal(t, before.Fetches, c.Stats().Fetches)
		}
		require.NoError(t, c.Close())
	}
}

// BenchmarkAliasHit compares a hit by alias with one by key.
func BenchmarkAliasHit(b *testing.B) {
	c, by, fetch := aliased(b, Config{Backend: BackendMemory})
	defer func() { require.NoError(b, c.Close()) }()
	ctx := context.Background()
	b.Run("key", func(b *testing.B) {
		for b.Loop() {
			_, _ = c.GetWithFetch(ctx, "1", time.Hour, fetch)
		}
	})
	b.Run("alias", func(b *testing.B) {
		for b.Loop() {
			_, _ = by.GetWithFetch(ctx, "a@x", time.Hour, fetch)
		}
	})
}
