package cacheaside

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// BenchmarkTags shows what tags cost a hit, in memory and in the near cache: none, one and eight of them.
func BenchmarkTags(b *testing.B) {
	for _, backend := range []string{BackendMemory, BackendRueidisAside} {
		for _, tags := range []int{0, 1, 8} {
			b.Run(fmt.Sprintf("%s/%d", backend, tags), func(b *testing.B) { benchmarkTags(b, backend, tags) })
		}
	}
}

func benchmarkTags(b *testing.B, backend string, tags int) {
	cfg := Config{Backend: backend}
	if backend != BackendMemory {
		redistest.Require(b)
		var err error
		cfg, err = ParseConfig(redistest.Start(b).URL(backend))
		require.NoError(b, err)
		cfg.LocalTTL = time.Hour
	}
	c, err := Open[*record](b.Context(), cfg)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, c.Close()) })
	names := make([]string, tags)
	for i := range names {
		names[i] = fmt.Sprint("tag:", i)
	}
	fetch := func(ctx context.Context, _ string) (*record, error) {
		Tag(ctx, names...)
		return &aRecord, nil
	}
	keys := benchmarkKeys(1 << 10)
	for range 3 { // fetched, read, and read again with what is known of the tags
		for _, k := range keys {
			_, err := c.GetWithFetch(b.Context(), k, 24*time.Hour, fetch)
			require.NoError(b, err)
		}
	}
	before := c.Stats()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := c.Get(context.Background(), keys[i&(len(keys)-1)]); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	require.Equal(b, before.Misses, c.Stats().Misses)
}

// BenchmarkInvalidateTags invalidates a tag that so many entries carry.
func BenchmarkInvalidateTags(b *testing.B) {
	for _, entries := range []int{1, 1_000_000} {
		b.Run(fmt.Sprint(entries), func(b *testing.B) {
			c, err := NewMemory[int](Config{MaxEntries: -1}, WithTags(func(string, int) []string { return []string{"t"} }))
			require.NoError(b, err)
			b.Cleanup(func() { require.NoError(b, c.Close()) })
			for i := range entries {
				require.NoError(b, c.Set(b.Context(), fmt.Sprint(i), i, time.Hour))
			}
			for b.Loop() {
				require.NoError(b, c.InvalidateTags(b.Context(), "t"))
			}
		})
	}
}
