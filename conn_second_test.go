package cacheaside

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

const largeValueBytes = 12 << 20

// Values of 12 MiB come now and then, by a link that takes long for them. The look-ups of small keys that are in Redis
// do not ask their source meanwhile, and no connection is lost.
func TestLargeValuesStandInNobodysWay(t *testing.T) {
	redistest.Require(t)
	large := strings.Repeat("v", largeValueBytes)
	for name, pass := range map[string]func(t *testing.T, server *redistest.Server, c *Client[string], i int){
		"of this process": func(t *testing.T, _ *redistest.Server, c *Client[string], _ int) {
			got, err := c.GetWithFetch(t.Context(), "large", 2*time.Second, func(context.Context, string) (string, error) { return large, nil })
			require.NoError(t, err)
			require.Len(t, got, len(large))
			_ = c.Delete(t.Context(), "large") // by a link that is not as fast as it says, it may be given up
		},
		"of another": func(t *testing.T, server *redistest.Server, c *Client[string], i int) {
			k := "large " + strconv.Itoa(i)
			server.Must("SET", redisKeyOf(c, k), `"`+large+`"`)
			_, _ = c.Get(t.Context(), k) // the first may take longer than OpTimeout
		},
	} {
		for _, megabytes := range []int{20, 5} {
			for _, opTimeout := range []time.Duration{500 * time.Millisecond, 20 * time.Second} {
				t.Run(fmt.Sprintf("%s, %d MB a second, OpTimeout %v", name, megabytes, opTimeout), func(t *testing.T) {
					onBothRedisBackends(t, func(t *testing.T, backend string) {
						server := redistest.Start(t)
						proxy := redistest.NewProxy(t, server.Addr())
						seen := newWatcher()
						c := openOn(t, server, proxy.Addr(), backend, opTimeout, WithObserver(seen))
						const small = 2000
						for i := range small {
							require.NoError(t, c.Set(t.Context(), strconv.Itoa(i), "v", time.Hour))
						}
						proxy.Rate(megabytes<<20, megabytes<<20)
						lookups, asked, ended := lookUpSmall(t, c, small)
						for i, begun := 0, time.Now(); time.Since(begun) < 3*time.Second; i++ {
							pass(t, server, c, i)
							time.Sleep(200 * time.Millisecond)
						}
						ended()
						t.Logf("%d of %d look-ups asked the source", asked.Load(), lookups.Load())
						require.Less(t, 50*asked.Load(), lookups.Load())
						if opTimeout > 10*time.Second { // with less, a loaded machine alone is late at times
							require.Zero(t, seen.count(EventBackendDown))
						}
					})
				})
			}
		}
	}
}

// lookUpSmall looks small keys up, until the function is called that it returns.
func lookUpSmall(t *testing.T, c *Client[string], small int) (lookups, asked *atomic.Int64, end func()) {
	lookups, asked = new(atomic.Int64), new(atomic.Int64)
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for g := range 4 {
		readers.Go(func() {
			for i := g; ctx.Err() == nil; i++ {
				_, _ = c.GetWithFetch(context.Background(), strconv.Itoa(i%small), time.Hour, func(context.Context, string) (string, error) {
					asked.Add(1)
					return "v", nil
				})
				lookups.Add(1)
				time.Sleep(time.Millisecond)
			}
		})
	}
	return lookups, asked, func() { cancel(); readers.Wait() }
}

// What a link carries that is too slow for OpTimeout is read and written all the same, as long as it comes.
func TestALargeValueMayTakeLongerThanOpTimeout(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		server := redistest.Start(t)
		proxy := redistest.NewProxy(t, server.Addr())
		seen := newWatcher()
		c := openOn(t, server, proxy.Addr(), backend, 500*time.Millisecond, WithObserver(seen))
		proxy.Rate(6<<20, 6<<20)
		large := strings.Repeat("v", largeValueBytes)
		require.NoError(t, c.Set(t.Context(), "own", large, time.Hour))
		got, err := c.Get(t.Context(), "own")
		require.NoError(t, err)
		require.Len(t, got, len(large))

		server.Must("SET", redisKeyOf(c, "other"), `"`+large+`"`)
		require.Eventually(t, func() bool { v, err := c.Get(t.Context(), "other"); return err == nil && len(v) == len(large) }, healing, time.Millisecond)
		require.Zero(t, seen.count(EventBackendDown))
		connections := proxy.Connections()
		require.LessOrEqual(t, connections, 2)

		proxy.BlackHole(true)
		begun := time.Now()
		_, err = c.Get(t.Context(), "own")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Less(t, time.Since(begun), 5*time.Second)
	})
}

func TestLargeKeysAreForgottenWhenThereAreManyOthers(t *testing.T) {
	var s second
	require.Nil(t, s.of("0"))
	for i := range manyLarge {
		s.note(strconv.Itoa(i))
	}
	first := s.of("0")
	require.NotNil(t, first)
	s.note("a moment later")
	require.Same(t, first, s.of("0"))

	later := func() { s.turned = s.turned.Add(-2 * forgetAfter) }
	later()
	s.note("later")
	require.Same(t, first, s.of("0"), "it is in use")
	for i := range manyLarge {
		s.note("more " + strconv.Itoa(i))
	}
	later()
	s.note("later still")
	require.Same(t, first, s.of("0"))
	require.Nil(t, s.of("1"))
}

// Writes to a key are done in the order in which they were asked for, whichever connection they go by, also where
// their callers have given up.
func TestWritesToAKeyThatBecomesLargeKeepTheirOrder(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		server := redistest.Start(t)
		proxy := redistest.NewProxy(t, server.Addr())
		c := openOn(t, server, proxy.Addr(), backend, 10*time.Second)
		soon := func() context.Context {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			t.Cleanup(cancel)
			return ctx
		}
		large := strings.Repeat("v", 2<<20)

		t.Run("a Delete after a large Set", func(t *testing.T) {
			require.NoError(t, c.Set(t.Context(), key, "small", time.Hour))
			proxy.Rate(2<<20, 0)
			require.ErrorIs(t, c.Set(soon(), key, large, time.Hour), context.DeadlineExceeded)
			require.NoError(t, c.Delete(t.Context(), key))
			require.Zero(t, server.Must("EXISTS", redisKeyOf(c, key)))
			proxy.Rate(0, 0)
		})
		t.Run("a large Set after a small one", func(t *testing.T) {
			const k = "other"
			proxy.Rate(256<<10, 0)
			busy := strings.Repeat("b", largeBytes/2)
			require.Error(t, c.Set(soon(), "busy", busy, time.Hour)) // the small one stands behind it
			require.Error(t, c.Set(soon(), k, "small", time.Hour))
			proxy.Rate(1<<20, 0)
			require.NoError(t, c.Set(t.Context(), k, large, time.Hour))
			proxy.Rate(0, 0)
			require.NoError(t, c.Set(t.Context(), "last", "by the first connection", time.Hour))
			require.Greater(t, server.Must("STRLEN", redisKeyOf(c, k)), int64(len(large)))
		})
		t.Run("DeleteMany after a large Set", func(t *testing.T) {
			proxy.Rate(2<<20, 0)
			require.Error(t, c.Set(soon(), "a", large, time.Hour))
			require.NoError(t, c.DeleteMany(t.Context(), []string{"b", "a", "c"}))
			require.Zero(t, server.Must("EXISTS", redisKeyOf(c, "a")))
			proxy.Rate(0, 0)
			require.NoError(t, c.Set(t.Context(), "a", large, time.Hour))
			require.Greater(t, server.Must("STRLEN", redisKeyOf(c, "a")), int64(len(large)))
		})
	})
}

func TestALargeBatchOfKeysNeitherFailsNorDisturbs(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		const many = 100_000
		server := redistest.Start(t)
		for i := 0; i < many; i += 5000 { // a script that takes long would be an outage
			server.Must("EVAL", `for i = ARGV[1], ARGV[1] + 4999 do redis.call('SET', 'cache:default:' .. i, '"v"') end`, "0", strconv.Itoa(i))
		}
		proxy := redistest.NewProxy(t, server.Addr())
		seen := newWatcher()
		c := openOn(t, server, proxy.Addr(), backend, time.Second, WithObserver(seen))
		keys := make([]string, many)
		for i := range keys {
			keys[i] = strconv.Itoa(i)
		}
		proxy.Rate(0, 400<<10) // the replies take several times OpTimeout
		lookups, asked, ended := lookUpSmall(t, c, 1000)
		got, err := c.GetMany(t.Context(), keys)
		ended()
		require.NoError(t, err)
		require.Len(t, got, many)
		require.Zero(t, c.Stats().BackendErrors)
		require.Zero(t, seen.count(EventBackendDown))
		t.Logf("%d of %d look-ups asked the source", asked.Load(), lookups.Load())
		require.Less(t, 50*asked.Load(), lookups.Load())
	})
}

// A batch of values of some size takes long by a slow link. Its parts become small enough for what comes to be in time.
func TestABatchOfLargeValuesComes(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		server := redistest.Start(t)
		proxy := redistest.NewProxy(t, server.Addr())
		seen := newWatcher()
		c := openOn(t, server, proxy.Addr(), backend, time.Second, WithObserver(seen))
		keys := make([]string, 2*batchPart)
		v := `"` + strings.Repeat("v", 10<<10) + `"`
		for i := range keys {
			keys[i] = strconv.Itoa(i)
			server.Must("SET", redisKeyOf(c, keys[i]), v)
		}
		for i := range 6 {
			server.Must("SET", redisKeyOf(c, keys[i]), `"`+strings.Repeat("v", 1<<20)+`"`)
		}
		proxy.Rate(0, 6<<20)
		for range 2 { // the second time, the largest are known
			got, err := c.GetMany(t.Context(), keys)
			require.NoError(t, err)
			require.Len(t, got, len(keys))
		}
		require.Zero(t, seen.count(EventBackendDown))
	})
}
