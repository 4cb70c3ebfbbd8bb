package cacheaside

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/rueidis"
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
			var decoded atomic.Int64
			codec := WithCodec[string](counting{JSONCodec[string](), &decoded})
			writer := openAside[string](t, cfg, codec)
			require.NoError(t, writer.Set(t.Context(), key, large, time.Hour))
			c := openAside[string](t, cfg, codec)
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
	var decoded atomic.Int64
	codec := WithCodec[string](counting{JSONCodec[string](), &decoded})
	writer := openAside[string](t, cfg, codec)
	require.NoError(t, writer.Set(t.Context(), key, strings.Repeat("v", 800<<10), time.Hour))
	cfg.LocalTTL = time.Nanosecond
	c := openAside[string](t, cfg, codec)
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

// getsOf counts the reads that Redis has been sent.
func getsOf(s *redistest.Server) int64 { return s.CommandStats()["get"] + s.CommandStats()["mget"] }

func TestLookUpsOfAKeyShareReads(t *testing.T) {
	t.Parallel()
	for name, get := range readers(noFetch[string]) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t)
			proxy := redistest.NewProxy(t, s.Addr())
			cfg := asideConfig(t, s, BackendRueidis)
			cfg.Redis = RedisConfig{Addrs: []string{proxy.Addr()}}
			c := openAside[string](t, cfg)
			require.NoError(t, c.Set(t.Context(), key, "v", time.Hour))
			proxy.Delay(200 * time.Millisecond)
			before := getsOf(s)
			together(200, func(int) {
				if v, err := get(t.Context(), c, key); err != nil || v != "v" {
					t.Error(v, err)
				}
			})
			require.LessOrEqual(t, getsOf(s)-before, int64(5), "two that are on the wire, and one for all others")
		})
	}
}

// slowLink is a connection on which so many bytes a second come.
type slowLink struct {
	net.Conn
	rate int
	free time.Time // when what has come until now has passed the link; of the goroutine that reads
}

func (l *slowLink) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b[:min(len(b), 16<<10)])
	if now := time.Now(); l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(n) * time.Second / time.Duration(l.rate))
	time.Sleep(time.Until(l.free))
	return n, err
}

// throttle makes a link of so many bytes a second of each connection.
func throttle(rate int) Option {
	return WithRueidisOption(func(o *rueidis.ClientOption) {
		o.DialCtxFn = func(ctx context.Context, address string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
			c, err := d.DialContext(ctx, "tcp", address)
			if err != nil {
				return nil, err
			}
			return &slowLink{Conn: c, rate: rate}, nil
		}
	})
}

// 200 callers of 300 KB would need 60 MB at a time, and so more than OpTimeout.
func TestManyCallersOfALargeValueAreServedByASlowLink(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	for name, get := range readers(noFetch[[]byte]) {
		t.Run(name, func(t *testing.T) {
			cfg := asideConfig(t, s, BackendRueidis)
			cfg.OpTimeout = 5 * time.Second // far more than a machine under load needs for what is shared
			codec := WithCodec(BytesCodec())
			require.NoError(t, openAside[[]byte](t, cfg, codec).Set(t.Context(), key, make([]byte, 300<<10), time.Hour))
			c := openAside[[]byte](t, cfg, codec, throttle(8e6))
			var served, all atomic.Int64
			together(200, func(int) {
				for range 5 {
					all.Add(1)
					if v, err := get(t.Context(), c, key); err == nil && len(v) == 300<<10 {
						served.Add(1)
					}
				}
			})
			require.Greater(t, float64(served.Load()), 0.98*float64(all.Load()))
		})
	}
}

// A caller who has been given a value may change it, though others have waited for the same read.
func TestCallersWhoShareAReadOwnTheirValues(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	c := openAside[[]byte](t, asideConfig(t, s, BackendRueidis), WithCodec(BytesCodec()))
	want := strings.Repeat("v", 1000)
	require.NoError(t, c.Set(t.Context(), key, []byte(want), time.Hour))
	together(100, func(int) {
		for range 20 {
			v, err := c.Get(t.Context(), key)
			if err != nil || string(v) != want {
				t.Error(err, string(v))
				return
			}
			clear(v)
		}
	})
}

// No look-up gets what was there before a write that had returned when it began, whoever has read it for whom.
func TestASharedReadIsNoOlderThanItsLookUps(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	cfg := asideConfig(t, s, BackendRueidis)
	writer, c := openAside[int64](t, cfg), openAside[int64](t, cfg)
	for name, get := range readers(noFetch[int64]) {
		var written atomic.Int64
		require.NoError(t, writer.Set(t.Context(), name, 0, time.Hour))
		together(33, func(i int) {
			if i == 0 {
				for v := range int64(500) {
					by := []*Client[int64]{writer, c}[v%2] // another process' write, and one's own
					if err := by.Set(t.Context(), name, v, time.Hour); err != nil {
						t.Error(err)
					}
					written.Store(v)
				}
				return
			}
			for written.Load() < 499 {
				atLeast := written.Load()
				if v, err := get(t.Context(), c, name); err != nil || v < atLeast {
					t.Errorf("%s: %d after %d, %v", name, v, atLeast, err)
					return
				}
			}
		})
	}
}

// A caller that leaves, and one whose read is cut off, keep no other from being answered.
func TestASharedReadOutlivesItsCallers(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	proxy := redistest.NewProxy(t, s.Addr())
	cfg := asideConfig(t, s, BackendRueidis)
	cfg.Redis = RedisConfig{Addrs: []string{proxy.Addr()}}
	cfg.OpTimeout = 30 * time.Second // a caller waits for an eighth of it for the connection that replaces a lost one
	c := openAside[string](t, cfg)
	require.NoError(t, c.Set(t.Context(), key, "v", time.Hour))
	proxy.Delay(100 * time.Millisecond)
	together(100, func(i int) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if i%2 == 0 {
			time.AfterFunc(time.Duration(i)*time.Millisecond, cancel)
		}
		v, err := c.Get(ctx, key)
		if i%2 != 0 && (err != nil || v != "v") || i%2 == 0 && err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("caller %d: %q, %v", i, v, err)
		}
	})
	proxy.Delay(40 * time.Millisecond)
	together(101, func(i int) {
		if i == 0 {
			time.Sleep(20 * time.Millisecond)
			proxy.CutAll()
			return
		}
		if v, err := c.Get(t.Context(), key); err != nil || v != "v" {
			t.Errorf("caller %d, cut off: %q, %v", i, v, err)
		}
	})
	proxy.Delay(0)
	require.Eventually(t, func() bool { _, err := c.Get(t.Context(), key); return err == nil }, 10*time.Second, time.Millisecond)
}

// A Clear that walks a large keyspace keeps no other caller from the cache.
func TestWhatIsFetchedDuringAClearIsKept(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{BackendRueidis, BackendRueidisAside} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t)
			s.Must("EVAL", "for i = 1, 100000 do redis.call('SET', 'foreign:' .. i, '') end", "0")
			proxy := redistest.NewProxy(t, s.Addr())
			cfg := asideConfig(t, s, backend)
			cfg.Redis = RedisConfig{Addrs: []string{proxy.Addr()}}
			c := openAside[string](t, cfg)
			require.NoError(t, c.Set(t.Context(), "before", "old", time.Hour))
			proxy.Delay(5 * time.Millisecond)
			cleared := make(chan error, 1)
			go func() { cleared <- c.Clear(t.Context()) }()
			require.Eventually(t, func() bool { return s.CommandStats()["scan"] > 0 }, 10*time.Second, time.Millisecond)
			var fetches, lookups int64
			for len(cleared) == 0 {
				v, err := c.GetWithFetch(t.Context(), key, time.Hour, func(context.Context, string) (string, error) {
					fetches++
					return "new", nil
				})
				require.NoError(t, err)
				require.Equal(t, "new", v)
				lookups++
			}
			require.NoError(t, <-cleared)
			require.Greater(t, lookups, int64(10))
			require.LessOrEqual(t, fetches, int64(4), "of %d look-ups: one, and one for each time that the walk comes by", lookups)
			_, err := c.Get(t.Context(), "before")
			require.ErrorIs(t, err, ErrMiss)
		})
	}
}

func TestAClearVoidsWhatMayKnowAnOlderValue(t *testing.T) {
	for name, test := range map[string]struct {
		set  bool   // an older value is there, and stale
		want string // what is kept
	}{
		"nothing was found":      {want: "fetched"},
		"an old value was found": {set: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newTestCache[string](t, Config{StaleIfError: time.Hour})
			if test.set {
				require.NoError(t, c.Set(t.Context(), key, "old", time.Millisecond))
				time.Sleep(time.Second)
			}
			require.NoError(t, c.flights.fenceAll(t.Context()))
			source := serve("fetched")
			release := source.hold()
			done := make(chan error, 1)
			go func() {
				_, err := c.GetWithFetch(t.Context(), key, time.Hour, source.fetch)
				done <- err
			}()
			synctest.Wait()
			require.NoError(t, c.store.clear(t.Context()))
			c.flights.unfenceAll()
			release()
			require.NoError(t, <-done)
			v, err := c.Get(t.Context(), key)
			require.Equal(t, test.want, v, "%s: %v", name, err)
		})
	}
}
