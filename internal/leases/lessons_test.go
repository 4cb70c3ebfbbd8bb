package leases_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
)

// With a round trip of more than a quarter of OpTimeout there is no time left to send the text of
// the script that replaces a stale entry, once that is read and leased: the reply that the server
// does not know it comes too late. No other operation needs that script, so the server must be
// taught it apart, or no stale entry is ever replaced.
func TestAServerFarAwayIsTaughtTheScripts(t *testing.T) {
	redistest.Require(t)
	t.Parallel()
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr())
	c := open(t, config(t, cacheaside.BackendRueidisAside+"://"+proxy.Addr(), func(cfg *cacheaside.Config) {
		cfg.OpTimeout, cfg.StaleIfError = time.Second, time.Hour
	}))
	server.Must("SCRIPT", "FLUSH")
	proxy.Delay(300 * time.Millisecond)
	n := 0
	require.Eventually(t, func() bool {
		n++
		k := strconv.Itoa(n)
		if c.Set(t.Context(), k, "stale", time.Millisecond) != nil {
			return false
		}
		v, err := c.GetWithFetch(t.Context(), k, time.Hour, (&source{value: "fresh"}).fetch)
		require.NoError(t, err)
		require.Equal(t, "fresh", v)
		return knownScripts(t, server) >= 7
	}, 2*patience, time.Millisecond)
}

// knownScripts returns how many scripts the server knows.
func knownScripts(t *testing.T, server *redistest.Server) int {
	t.Helper()
	text, _ := server.Must("INFO", "memory").(string)
	_, count, ok := strings.Cut(text, "number_of_cached_scripts:")
	require.True(t, ok)
	count, _, _ = strings.Cut(count, "\r\n")
	n, err := strconv.Atoi(count)
	require.NoError(t, err)
	return n
}
