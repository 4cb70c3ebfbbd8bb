package cacheaside

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// trackedKeys returns how many keys Redis remembers on behalf of connections that track what they read.
func trackedKeys(t *testing.T, server *redistest.Server) int {
	t.Helper()
	info, err := server.Command("INFO", "stats")
	require.NoError(t, err)
	_, rest, ok := strings.Cut(info.(string), "tracking_total_keys:")
	require.True(t, ok)
	n, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0]))
	require.NoError(t, err)
	return n
}

// Redis remembers each key that a tracking connection reads until the key changes. Nothing ever changes the
// keys that Health asks for.
func TestHealthLeavesFewTrackedKeys(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		server := redistest.Start(t)
		c := openAside[string](t, config(t, server.URL(backend)))
		for range 500 {
			require.NoError(t, c.Health(t.Context()))
		}
		require.LessOrEqual(t, trackedKeys(t, server), healthKeys)
		size, err := server.Command("DBSIZE")
		require.NoError(t, err)
		require.Zero(t, size, "asking changes nothing")
	})
}

// A cluster has its keys on several nodes, and Health must be able to meet each of them.
func TestTheKeysOfHealthAreSpread(t *testing.T) {
	var n conn
	seen := make(map[string]bool)
	for range 10 * healthKeys {
		seen[n.unusedKey("p:n:")] = true
	}
	require.Len(t, seen, healthKeys)
	var other conn
	for range healthKeys {
		require.NotContains(t, seen, other.unusedKey("p:n:"), "another connection's keys are its own")
	}
}

// SWAPDB tells no connection that what it has read has changed. LocalTTL bounds how long a near cache
// serves the other database's values.
func TestSwappedDatabasesAreSeenByLocalTTL(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		server := redistest.Start(t)
		cfg := config(t, server.URL(backend))
		cfg.LocalTTL = 100 * time.Millisecond
		c := openAside[string](t, cfg)
		other := cfg
		other.Redis.DB = 1
		require.NoError(t, c.Set(t.Context(), key, "old", time.Minute))
		require.NoError(t, openAside[string](t, other).Set(t.Context(), key, "new", time.Minute))
		v, err := c.Get(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, "old", v)

		_, err = server.Command("SWAPDB", "0", "1")
		require.NoError(t, err)
		isNew := func() bool {
			v, err := c.Get(t.Context(), key)
			return err == nil && v == "new"
		}
		if backend == BackendRueidis {
			require.True(t, isNew(), "there is no near cache")
			return
		}
		require.Eventually(t, isNew, 10*time.Second, time.Millisecond)
	})
}
