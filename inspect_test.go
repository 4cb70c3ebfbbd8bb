package cacheaside

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// askFor asks for key so many times.
func askFor(c *Client[int], key string, times int) {
	for range times {
		_, _ = c.Get(context.Background(), key)
	}
}

func TestSampleTellsWhatIsAskedForMostKeptOrNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := NewMemory[int](Config{})
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.Set(t.Context(), "kept", 1, time.Hour))
		askFor(c, "before", 1000)
		go func() {
			<-time.After(time.Second)
			askFor(c, "kept", 30)
			askFor(c, "absent", 20)
			_, _ = c.GetMany(t.Context(), []string{"a", "b", "kept"})
			_, _ = c.GetWithFetch(t.Context(), "b", time.Hour, func(context.Context, string) (int, error) { return 1, nil })
			<-time.After(2 * time.Second)
			askFor(c, "after", 1000)
		}()
		require.Equal(t, KeySample{Lookups: 54, Took: 2 * time.Second, Keys: []HotKey{
			{"kept", 31}, {"absent", 20}, {"b", 2},
		}}, c.SampleKeys(t.Context(), 2*time.Second, 3))
		elapse(2 * time.Second)
		require.Nil(t, c.sampler.Load())
		require.Equal(t, c.window, c.sure.Load(), "hits take the short way again")
		require.Empty(t, c.SampleKeys(t.Context(), time.Second, -1).Keys)
	})
}

func TestSampleEndsEarly(t *testing.T) {
	for name, end := range map[string]func(*Client[int], context.CancelFunc){
		"when it has seen enough":  func(c *Client[int], _ context.CancelFunc) { askFor(c, "k", 2*maxSampled) },
		"when its caller has gone": func(_ *Client[int], cancel context.CancelFunc) { cancel() },
		"when the cache is closed": func(c *Client[int], _ context.CancelFunc) { _ = c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, err := NewMemory[int](Config{})
				require.NoError(t, err)
				defer c.Close()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go func() {
					<-time.After(time.Second)
					end(c, cancel)
				}()
				sample := c.SampleKeys(ctx, time.Hour, 5)
				require.Equal(t, time.Second, sample.Took)
				require.LessOrEqual(t, sample.Lookups, maxSampled)
				synctest.Wait()
			})
		})
	}
}

func TestSampleLeavesHitsObserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := observed(t, Config{})
		require.NoError(t, c.Set(t.Context(), "k", "v", time.Hour))
		c.SampleKeys(t.Context(), time.Second, 5)
		_, err := c.Get(t.Context(), "k")
		require.NoError(t, err)
		require.Equal(t, []EventKind{EventHit}, r.kinds())
	})
}

func TestConfigOfAClientIsWhatIsInForceWithoutItsPasswords(t *testing.T) {
	cfg := Config{Name: "users", Backend: BackendRueidis, Redis: RedisConfig{
		URL: "redis://me:secret@127.0.0.1:1/0", Password: "secret", Addrs: []string{"127.0.0.1:1"},
	}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	c, err := Open[string](ctx, cfg)
	require.NoError(t, err)
	defer c.Close()
	got := c.Config()
	require.Equal(t, "users", got.Name)
	require.Equal(t, 100_000, got.MaxEntries)
	require.Equal(t, []string{"127.0.0.1:1"}, got.Redis.Addrs)
	require.Empty(t, got.Redis.Password)
	require.NotContains(t, fmt.Sprintf("%+v", got.Redis.URL), "secret")
}
