package cacheaside

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A hit in a cache with scopes writes its key to the stack.
func TestAHitInAScopeAllocatesNothing(t *testing.T) {
	c, err := Open[int](t.Context(), Config{Backend: BackendMemory}, WithScope(tenantOf))
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	ctx := context.WithValue(t.Context(), scopeKey{}, "tenant")
	fetch := func(context.Context, string) (int, error) { return 1, nil }
	loader := c.Bind(time.Hour, fetch)
	require.NoError(t, c.Set(ctx, key, 1, time.Hour))
	for name, hit := range map[string]func() (int, error){
		"Get":          func() (int, error) { return c.Get(ctx, key) },
		"GetWithFetch": func() (int, error) { return c.GetWithFetch(ctx, key, time.Hour, fetch) },
		"Loader.Get":   func() (int, error) { return loader.Get(ctx, key) },
	} {
		before := c.Stats().Hits
		require.Zero(t, testing.AllocsPerRun(100, func() {
			if v, err := hit(); v != 1 || err != nil {
				t.Error(v, err)
			}
		}), name)
		require.Equal(t, before+101, c.Stats().Hits, name)
	}
	const tags = 1
	require.Len(t, c.store.peek(JoinKey("tenant", key)).tagging().tags, tags)
}

// BenchmarkScopedHit compares a hit with and without scopes.
func BenchmarkScopedHit(b *testing.B) {
	ctx := context.WithValue(b.Context(), scopeKey{}, "tenant")
	for name, opts := range map[string][]Option{"plain": nil, "scoped": {WithScope(tenantOf)}} {
		c, err := Open[int](b.Context(), Config{Backend: BackendMemory}, opts...)
		require.NoError(b, err)
		require.NoError(b, c.Set(ctx, key, 1, time.Hour))
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_, _ = c.Get(ctx, key)
			}
		})
		require.NoError(b, c.Close())
	}
}
