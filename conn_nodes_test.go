package cacheaside

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

func TestSlotsAreThoseOfRedis(t *testing.T) {
	for key, slot := range map[string]int{"": 0, "123456789": 12739, "foo": 12182, "{foo}bar": 12182, "a{foo}{bar}": 12182, "foo{}": slotOf("foo{}"), "{": slotOf("{")} {
		require.Equal(t, slot, slotOf(key), key)
	}
	server := redistest.StartCluster(t, 1).Nodes()[0]
	for i := range 500 {
		for _, key := range []string{strconv.Itoa(i), fmt.Sprintf("cache:{%d}:x", i), fmt.Sprintf("{}%d", i), fmt.Sprintf("%d{{x}}", i), fmt.Sprintf("{%d", i), fmt.Sprintf("}%d{\xff\x00", i)} {
			require.EqualValues(t, server.Must("CLUSTER", "KEYSLOT", key), slotOf(key), "%q", key)
		}
	}
}

// One node of three is gone. The keys of the others are looked up as ever, alone and in batches, and those of the node are
// not waited for.
func TestANodeThatIsGoneDoesNotDisturbTheOthers(t *testing.T) {
	for name, gone := range map[string]struct{ begin, end func(*redistest.Server) }{
		"frozen": {(*redistest.Server).Freeze, (*redistest.Server).Thaw},
		"killed": {(*redistest.Server).Stop, (*redistest.Server).Restart},
	} {
		t.Run(name, func(t *testing.T) {
			onBothRedisBackends(t, func(t *testing.T, backend string) {
				cluster := redistest.StartCluster(t, 3)
				cfg := config(t, cluster.URL(backend))
				cfg.OpTimeout, cfg.MaxEntries = 500*time.Millisecond, 10
				seen := newWatcher()
				c, err := Open[string](t.Context(), cfg, WithObserver(seen))
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, c.Close()) })
				dead := cluster.Nodes()[0]
				const many = 600
				keys, isDead := make([]string, many), make(map[string]bool)
				for i := range many {
					keys[i] = strconv.Itoa(i)
					isDead[keys[i]] = cluster.Owner(redisKeyOf(c, keys[i])) == dead
					require.NoError(t, c.Set(t.Context(), keys[i], "v", time.Hour))
				}

				gone.begin(dead)
				var healthy, asked, failed, batches atomic.Int64
				deadline := time.Now().Add(4 * time.Second)
				var callers sync.WaitGroup
				for g := range 8 {
					callers.Go(func() {
						for i := g * 31; time.Now().Before(deadline); i++ {
							k := keys[i%many]
							if !isDead[k] {
								healthy.Add(1)
							}
							_, _ = c.GetWithFetch(context.Background(), k, time.Hour, func(context.Context, string) (string, error) {
								if !isDead[k] {
									asked.Add(1)
								} else {
									failed.Add(1)
								}
								return "v", nil
							})
							time.Sleep(time.Millisecond)
						}
					})
				}
				callers.Go(func() {
					for time.Now().Before(deadline) {
						got, _ := c.GetMany(context.Background(), keys)
						batches.Add(1)
						for _, k := range keys {
							if _, ok := got[k]; !ok && !isDead[k] {
								asked.Add(1)
							}
						}
						healthy.Add(many * 2 / 3)
						time.Sleep(50 * time.Millisecond)
					}
				})
				callers.Wait()
				t.Logf("%d of %d look-ups of keys of healthy nodes asked the source; %d of the other node did; %d batches", asked.Load(), healthy.Load(), failed.Load(), batches.Load())
				require.Less(t, 50*asked.Load(), healthy.Load())
				require.Greater(t, failed.Load(), int64(8*4*2*2), "each would take OpTimeout")
				require.Positive(t, seen.count(EventBackendDown))
				require.True(t, c.Stats().BackendDown)
				require.NoError(t, c.DeleteMany(t.Context(), firstOf(keys, isDead, false)))
				require.ErrorIs(t, c.DeleteMany(t.Context(), firstOf(keys, isDead, true)), ErrUnavailable)

				gone.end(dead)
				require.Eventually(t, func() bool {
					_, err := c.GetWithFetch(t.Context(), "new", time.Hour, func(context.Context, string) (string, error) { return "v", nil })
					for _, k := range firstOf(keys, isDead, true) {
						_ = c.Set(t.Context(), k, "again", time.Hour)
						got, _ := c.Get(t.Context(), k)
						if got != "again" {
							return false
						}
					}
					return err == nil && !c.Stats().BackendDown
				}, 2*healing, 10*time.Millisecond)
				require.Positive(t, seen.count(EventBackendUp))
			})
		})
	}
}

// firstOf returns some of the keys that are, or are not, of the node that is gone.
func firstOf(keys []string, isDead map[string]bool, dead bool) (some []string) {
	for _, k := range keys {
		if isDead[k] == dead && len(some) < 20 {
			some = append(some, k)
		}
	}
	return some
}
