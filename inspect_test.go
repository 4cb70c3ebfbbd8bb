package cacheaside

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

func TestHotKeysAreThoseAskedForMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c, err := NewMemory[int](Config{MaxEntries: 1000})
		require.NoError(t, err)
		defer c.Close()
		for i := range 20 { // few, since the policy counts in a sketch, where many would meet
			require.NoError(t, c.Set(ctx, fmt.Sprint("cold", i), i, time.Minute))
		}
		require.NoError(t, c.Set(ctx, "expired", 0, time.Millisecond))
		for _, key := range []string{"expired", "b", "a", "warm"} {
			if key != "expired" {
				require.NoError(t, c.Set(ctx, key, 0, time.Minute))
			}
			for range 3 {
				_, err := c.Get(ctx, key)
				require.NoError(t, err)
				if key == "warm" {
					break
				}
			}
		}
		elapse(10 * time.Millisecond)
		hot := c.HotKeys(3)
		require.Len(t, hot, 3)
		require.Equal(t, []string{"a", "b", "warm"}, []string{hot[0].Key, hot[1].Key, hot[2].Key})
		require.Equal(t, hot[0].Heat, hot[1].Heat)
		require.Greater(t, hot[1].Heat, hot[2].Heat)
		require.Positive(t, hot[2].Heat)
		require.Len(t, c.HotKeys(10_000), 23)
		require.Empty(t, c.HotKeys(0))
		require.Empty(t, c.HotKeys(-1))
		require.NoError(t, c.Close())
		require.Empty(t, c.HotKeys(3))
	})
}

func TestHotKeysOfRueidisAsideAreTheCallersKeys(t *testing.T) {
	redistest.Require(t)
	s := redistest.Start(t)
	for backend, want := range map[string]int{BackendRueidis: 0, BackendRueidisAside: 1} {
		cfg, err := ParseConfig(s.URL(backend))
		require.NoError(t, err)
		c, err := Open[string](t.Context(), cfg)
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.Set(t.Context(), "a:key", "v", time.Minute))
		require.Eventually(t, func() bool {
			_, err := c.Get(t.Context(), "a:key")
			require.NoError(t, err)
			return len(c.HotKeys(5)) == want
		}, 10*time.Second, time.Millisecond)
		for _, hot := range c.HotKeys(5) {
			require.Equal(t, "a:key", hot.Key)
		}
	}
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
