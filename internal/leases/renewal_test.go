package leases_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
)

// fetchHeld starts a fetch of many keys that lasts until the source is released, and returns its
// outcome.
func fetchHeld(t *testing.T, c *cacheaside.Client[string], s *source, n int) (keys []string, got <-chan map[string]string) {
	t.Helper()
	for i := range n {
		keys = append(keys, strconv.Itoa(i))
	}
	all := make(chan map[string]string, 1)
	go func() {
		values, _ := c.GetManyWithFetch(t.Context(), keys, time.Hour, s.fetchMany)
		all <- values
	}()
	s.awaitCalls(t, 1)
	return keys, all
}

// The leases of a batch are renewed together, and not by a script each.
func TestTheLeasesOfABatchAreRenewedByFewScripts(t *testing.T) {
	const n = 3000
	server, p, q := start(t, func(cfg *cacheaside.Config) { cfg.LeaseTTL, cfg.OpTimeout = 3*time.Second, 10*time.Second })
	s := held("v")
	keys, got := fetchHeld(t, p, s, n)
	server.ResetStats()
	require.Eventually(t, func() bool { return server.CommandStats()["pexpire"] >= 3*n }, patience, time.Millisecond)
	stats := server.CommandStats()
	t.Logf("for %d renewals: %d scripts, all commands %v", stats["pexpire"], stats["evalsha"], stats)
	require.LessOrEqual(t, stats["evalsha"]+stats["eval"], stats["pexpire"]/100)
	require.LessOrEqual(t, stats["getrange"], int64(n/10), "renewals are not taken for writes of others")
	close(s.release)
	require.Len(t, <-got, n)
	require.Zero(t, p.Stats().Discarded)
	require.Equal(t, "v", q.do("get", keys[n-1]))
}

// Wherever Redis is, leases outlive LeaseTTL while their fetch runs: in a cluster no script can
// have keys of several slots, and a server may have forgotten the script.
func TestLeasesAreRenewed(t *testing.T) {
	redistest.Require(t)
	const n = 40
	cluster := redistest.StartCluster(t, 3)
	server := redistest.Start(t)
	for name, place := range map[string]struct {
		line  string
		nodes []*redistest.Server
	}{
		"a server":  {server.URL(cacheaside.BackendRueidisAside), []*redistest.Server{server}},
		"a cluster": {cluster.URL(cacheaside.BackendRueidisAside), cluster.Nodes()},
	} {
		for _, stale := range []bool{false, true} {
			t.Run(name+", stale entries: "+strconv.FormatBool(stale), func(t *testing.T) {
				const leaseTTL = time.Second
				p := open(t, config(t, place.line, func(cfg *cacheaside.Config) {
					cfg.LeaseTTL = leaseTTL
					if stale {
						cfg.Prefix, cfg.StaleIfError = "stale", time.Hour
					}
				}))
				s := held("v")
				if stale {
					for i := range n {
						require.NoError(t, p.Set(t.Context(), strconv.Itoa(i), "stale", time.Millisecond))
					}
					time.Sleep(5 * time.Millisecond)
				}
				keys, got := fetchHeld(t, p, s, n)
				for range 4 {
					time.Sleep(leaseTTL / 2)
					for _, node := range place.nodes {
						node.Must("SCRIPT", "FLUSH")
					}
				}
				leased := 0
				for _, node := range place.nodes {
					all, _ := node.Must("KEYS", "*").([]any)
					for _, k := range all {
						if v, _ := node.Must("GET", k.(string)).(string); isToken(v) {
							leased++
						}
					}
				}
				require.Equal(t, n, leased)
				close(s.release)
				require.Len(t, <-got, n)
				require.Zero(t, p.Stats().Discarded)
				v, err := p.Get(t.Context(), keys[0])
				require.NoError(t, err)
				require.Equal(t, "v", v)
			})
		}
	}
}

// The read behind the SET that takes a lease is all that it costs to hear of its loss.
func TestALeaseIsReadOnce(t *testing.T) {
	server, p, _ := start(t, nil)
	v, err := p.GetWithFetch(t.Context(), "another", time.Hour, (&source{value: "v"}).fetch) // the scripts are known
	require.NoError(t, err)
	require.Equal(t, "v", v)
	server.ResetStats()
	s := held("v")
	got := ask(t, p, s)
	s.awaitCalls(t, 1)
	time.Sleep(100 * time.Millisecond) // what else is sent counts
	close(s.release)
	require.Equal(t, answer{"v", nil}, <-got)
	stats := server.CommandStats()
	require.EqualValues(t, 1, stats["getrange"], "%v", stats)
	require.EqualValues(t, 2, stats["set"], "the lease and the value: %v", stats)
	require.EqualValues(t, 1, stats["evalsha"], "%v", stats)
}
