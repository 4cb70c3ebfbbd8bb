package answers_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
)

// That a connection was lost, or a command refused, is told first. What keeps the connection from coming back must not be
// hidden by that.
func TestARefusalOfTrackingIsNamedInTheLogThoughOtherLinesWereBefore(t *testing.T) {
	redistest.Require(t)
	server := redistest.Start(t, redistest.User("app", ">"+secret, "~*", "&*", "+@all"))
	logged, seen := new(journal), newWatcher()
	c := open(t, config(t, server.URL(cacheaside.BackendRueidisAside)), cacheaside.WithObserver(seen),
		cacheaside.WithLogger(slog.New(slog.NewTextHandler(logged, nil))))
	look := func() {
		_, err := c.GetWithFetch(context.Background(), key, time.Minute, give("v"))
		require.NoError(t, err)
	}
	server.KillClients()
	require.Eventually(t, func() bool {
		look()
		return seen.count(cacheaside.EventBackendUp) > 0 && c.Health(context.Background()) == nil
	}, healing, time.Millisecond)
	server.Must("ACL", "SETUSER", "app", "-get")
	require.NoError(t, c.Delete(t.Context(), key))
	look()
	require.Positive(t, seen.count(cacheaside.EventBackendError))
	server.Must("ACL", "SETUSER", "app", "+get")

	server.Must("ACL", "SETUSER", "app", "-client|tracking")
	server.KillClients()
	named := func() (lines int) {
		for _, line := range logged.lines() {
			if strings.Contains(line, "Redis replied NOPERM to CLIENT TRACKING") {
				lines++
			}
		}
		return lines
	}
	require.Eventually(t, func() bool {
		look()
		return named() > 0
	}, 8*time.Second, time.Millisecond, "the lines before could hide it for ten")
	for range 100 {
		look()
	}
	require.LessOrEqual(t, named(), 2, "that Redis refuses this client, and that a look-up did without it")

	server.Must("ACL", "SETUSER", "app", "+client|tracking")
	require.Eventually(t, func() bool { return c.Health(context.Background()) == nil }, healing, 10*time.Millisecond)
}
