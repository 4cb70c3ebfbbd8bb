package cacheaside

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// together calls do from n goroutines at once, and returns when all have returned.
func together(n int, do func(i int)) {
	var all sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		all.Go(func() {
			<-start
			do(i)
		})
	}
	close(start)
	all.Wait()
}

// readers are the ways to look one key up.
func readers[T any](fetch FetchFunc[T]) map[string]func(ctx context.Context, c *Client[T], key string) (T, error) {
	return map[string]func(ctx context.Context, c *Client[T], key string) (T, error){
		"Get": func(ctx context.Context, c *Client[T], key string) (T, error) { return c.Get(ctx, key) },
		"GetWithFetch": func(ctx context.Context, c *Client[T], key string) (T, error) {
			return c.GetWithFetch(ctx, key, time.Hour, fetch)
		},
		"GetMany": func(ctx context.Context, c *Client[T], key string) (T, error) {
			got, err := c.GetMany(ctx, []string{key})
			return got[key], err
		},
	}
}

// noFetch fails a look-up that should have been a hit.
func noFetch[T any](context.Context, string) (value T, err error) { return value, errSource }

func TestAFreshValueIsDecodedOnceForAllCallers(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	large := strings.Repeat("v", 800<<10)
	for name, get := range readers(noFetch[string]) {
		t.Run(name, func(t *testing.T) {
			cfg := asideConfig(t, s, BackendRueidisAside)
			cfg.Name = name
			writer := openAside[string](t, cfg)
			require.NoError(t, writer.Set(t.Context(), key, large, time.Hour))
			var decoded atomic.Int64
			c := openAside[string](t, cfg, WithCodec[string](counting{JSONCodec[string](), &decoded}))
			for round := range 3 {
				decoded.Store(0)
				together(200, func(int) {
					v, err := get(t.Context(), c, key)
					if err != nil || len(v) != len(large) {
						t.Errorf("%d bytes, %v", len(v), err)
					}
				})
				require.EqualValues(t, 1, decoded.Load(), "round %d", round)
				require.NoError(t, writer.Set(t.Context(), key, large, time.Hour))
				require.Eventually(t, func() bool { return storeOf(c).near.Peek(key) == nil }, 10*time.Second, time.Millisecond)
			}
		})
	}
}

// Where nothing is kept here, each read is decoded once.
func TestAReadIsDecodedOnceThoughNoNearCopyIsKept(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	cfg := asideConfig(t, s, BackendRueidisAside)
	writer := openAside[string](t, cfg)
	require.NoError(t, writer.Set(t.Context(), key, strings.Repeat("v", 800<<10), time.Hour))
	cfg.LocalTTL = time.Nanosecond
	var decoded atomic.Int64
	c := openAside[string](t, cfg, WithCodec[string](counting{JSONCodec[string](), &decoded}))
	before := s.CommandStats()["get"]
	together(200, func(int) {
		if _, err := c.Get(t.Context(), key); err != nil {
			t.Error(err)
		}
	})
	require.LessOrEqual(t, decoded.Load(), s.CommandStats()["get"]-before)
}

// What cannot be decoded is not tried by each caller either, and all are told.
func TestAValueThatCannotBeDecodedIsTriedOnceForAllCallers(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	cfg := asideConfig(t, s, BackendRueidisAside)
	writer := openAside[[]byte](t, cfg, WithCodec(BytesCodec()))
	require.NoError(t, writer.Set(t.Context(), key, make([]byte, 800<<10), time.Hour))
	s.Must("SET", "cache:default:"+key, strings.Repeat("no JSON", 100<<10))
	var decoded atomic.Int64
	c := openAside[string](t, cfg, WithCodec[string](counting{JSONCodec[string](), &decoded}))
	before := s.CommandStats()["get"]
	together(200, func(int) {
		if _, err := c.Get(t.Context(), key); err == nil {
			t.Error("it was decoded")
		}
	})
	require.LessOrEqual(t, decoded.Load(), 2*(s.CommandStats()["get"]-before))
}
