package cacheaside

import (
	"context"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// The benchmarks of what every user pays: a hit, a miss, a joined flight. What they are compared with is
// in the module benchmarks.

func benchmarkKeys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = "user:" + strconv.Itoa(i)
	}
	return keys
}

// benchmarkCache returns a cache that holds a record for each of keys, and a fetch that is not called.
func benchmarkCache(b *testing.B, keys []string) (*Client[*record], FetchFunc[*record]) {
	b.Helper()
	c := newTestCache[*record](b, Config{MaxEntries: -1})
	for _, k := range keys {
		if err := c.Set(b.Context(), k, &aRecord, time.Hour); err != nil {
			b.Fatal(err)
		}
	}
	return c, func(context.Context, string) (*record, error) { return nil, errSource }
}

func BenchmarkHit(b *testing.B) {
	keys := benchmarkKeys(1 << 16)
	c, fetch := benchmarkCache(b, keys)
	loader := c.Bind(time.Hour, fetch)
	var cache Cache[*record] = c
	ctx := context.Background()
	for _, way := range []struct {
		name string
		get  func(key string) error
	}{
		{"Get", func(key string) error {
			_, err := c.Get(ctx, key)
			return err
		}},
		{"GetWithFetch", func(key string) error {
			_, err := c.GetWithFetch(ctx, key, time.Hour, fetch)
			return err
		}},
		{"Loader", func(key string) error {
			_, err := loader.Get(ctx, key)
			return err
		}},
		{"Closure", func(key string) error { // what a fetch that captures the key costs a hit
			_, err := cache.GetWithFetch(ctx, key, time.Hour, func(ctx context.Context, _ string) (*record, error) { return fetch(ctx, key) })
			return err
		}},
		{"Lookup", func(key string) error {
			_, err := c.Lookup(ctx, key, time.Hour, fetch)
			return err
		}},
	} {
		b.Run(way.name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := way.get(keys[i&(len(keys)-1)]); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(way.name+"Parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if err := way.get(keys[i*7919&(len(keys)-1)]); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func BenchmarkMiss(b *testing.B) {
	keys := benchmarkKeys(1 << 16)
	ctx := context.Background()
	value := &aRecord
	fetch := func(context.Context, string) (*record, error) { return value, nil }
	miss := func(b *testing.B, get func(key string) error) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if err := get(keys[i&(len(keys)-1)]); err != nil {
				b.Fatal(err)
			}
		}
	}
	for name, ttl := range map[string]time.Duration{"Stored": time.Hour, "Unstored": 0} {
		b.Run(name, func(b *testing.B) {
			// So few entries that nearly every look-up is a miss, and what is stored evicts another.
			c := newTestCache[*record](b, Config{MaxEntries: 1 << 10})
			miss(b, func(key string) error {
				_, err := c.GetWithFetch(ctx, key, ttl, fetch)
				return err
			})
			b.ReportMetric(float64(c.Stats().Hits)/float64(b.N), "hits/op")
		})
	}
	b.Run("Get", func(b *testing.B) {
		c := newTestCache[*record](b, Config{})
		miss(b, func(key string) error {
			if _, err := c.Get(ctx, key); err != ErrMiss {
				return err
			}
			return nil
		})
	})
	// The least that a fetch apart from its caller can cost.
	b.Run("BareGoroutine", func(b *testing.B) {
		miss(b, func(key string) error {
			done := make(chan error, 1)
			go func() {
				_, err := fetch(ctx, key)
				done <- err
			}()
			select {
			case err := <-done:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
}

// BenchmarkJoined is a hundred callers who wait for one flight; the time is that of all of them.
func BenchmarkJoined(b *testing.B) {
	c := newTestCache[*record](b, Config{})
	const callers = 100
	done := make(chan error, callers)
	b.ReportAllocs()
	for b.Loop() {
		gate := make(chan struct{})
		fetch := func(context.Context, string) (*record, error) {
			<-gate
			return &aRecord, nil
		}
		waiting := c.Stats().Joined + callers - 1
		for range callers {
			go func() {
				_, err := c.GetWithFetch(context.Background(), key, 0, fetch)
				done <- err
			}()
		}
		for c.Stats().Joined < waiting {
			time.Sleep(10 * time.Microsecond)
		}
		close(gate)
		for range callers {
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkSet(b *testing.B) {
	keys := benchmarkKeys(1 << 16)
	for name, most := range map[string]int{"Bounded": 1 << 14, "Unbounded": -1} {
		b.Run(name, func(b *testing.B) {
			c := newTestCache[*record](b, Config{MaxEntries: most})
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := c.Set(context.Background(), keys[i&(len(keys)-1)], &aRecord, time.Hour); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkStoredForm(b *testing.B) {
	f := formOf(b, Config{}, JSONCodec[record]())
	e := newEntry(aRecord, 0, never, 0, 0)
	data := requireEncoded(b, f, key, e, 0)
	b.Run("Encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = f.encode(key, &e, nil, 0, nil)
		}
	})
	b.Run("Decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = f.decode(key, data)
		}
	})
}

// BenchmarkRedisBesideWork is a look-up in Redis while other goroutines have something to do on every
// processor, beside the same by the client alone.
func BenchmarkRedisBesideWork(b *testing.B) {
	cfg, err := ParseConfig(redistest.Start(b).URL(BackendRueidis))
	require.NoError(b, err)
	c, err := Open[[]byte](b.Context(), cfg, WithCodec(BytesCodec()))
	require.NoError(b, err)
	defer c.Close()
	require.NoError(b, c.Set(b.Context(), key, []byte("value"), time.Hour))
	option, err := clientOption(cfg.Redis)
	require.NoError(b, err)
	option.DisableCache = true
	client, err := rueidis.NewClient(option)
	require.NoError(b, err)
	defer client.Close()

	for name, get := range map[string]func() error{
		"Get": func() error {
			_, err := c.Get(context.Background(), key)
			return err
		},
		"Client": func() error {
			err := client.Do(context.Background(), client.B().Get().Key(key).Build()).Error()
			if rueidis.IsRedisNil(err) {
				return nil
			}
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			var others sync.WaitGroup
			var done atomic.Bool
			for range 2 * runtime.GOMAXPROCS(0) {
				others.Go(func() {
					for begun := time.Now(); !done.Load(); {
						if time.Since(begun) > 100*time.Microsecond {
							runtime.Gosched()
							begun = time.Now()
						}
					}
				})
			}
			for b.Loop() {
				if err := get(); err != nil {
					b.Fatal(err)
				}
			}
			done.Store(true)
			others.Wait()
		})
	}
}
