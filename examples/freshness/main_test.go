package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(redistest.Goroutine))
}

func TestEachPolicyDoesWhatItIsForInMemory(t *testing.T) {
	r := requirePolicies(t, "memory://")
	// On Redis, under load, caching the users may take as long as their ttl.
	require.Zero(t, r["Jitter"].without.early)
	require.Positive(t, r["Jitter"].with.early)
}

func TestEachPolicyDoesWhatItIsForOnRedis(t *testing.T) {
	server := redistest.Start(t)
	requirePolicies(t, server.URL(cacheaside.BackendRueidisAside, "op_timeout=5s"))
}

// requirePolicies runs everything, and compares what users saw with a policy and without. It asks for no
// figures, which depend on the machine, but for what differs whatever the machine.
func requirePolicies(t *testing.T, url string) map[string]result {
	t.Helper()
	cfg, err := cacheaside.ParseConfig(url)
	require.NoError(t, err)
	var out strings.Builder
	r, err := run(t.Context(), &out, cfg)
	t.Log("\n" + out.String())
	require.NoError(t, err)
	require.Len(t, r, len(scenarios))

	require.Positive(t, r["StaleFor"].without.waited)
	require.Zero(t, r["StaleFor"].with.waited)
	require.Positive(t, r["StaleFor"].with.stale)

	require.Positive(t, r["RefreshAhead"].without.waited)
	require.Less(t, r["RefreshAhead"].with.waited, r["RefreshAhead"].without.waited)
	require.Zero(t, r["RefreshAhead"].with.stale)

	require.Zero(t, r["SoftTimeout"].without.stale)
	require.Positive(t, r["SoftTimeout"].with.stale)

	require.Positive(t, r["StaleIfError"].without.failed)
	require.Zero(t, r["StaleIfError"].with.failed)

	require.Positive(t, r["ErrorCooldown"].with.failed)
	require.Less(t, r["ErrorCooldown"].with.queries, r["ErrorCooldown"].without.queries/2)

	require.Less(t, r["NegativeTTL"].with.queries, r["NegativeTTL"].without.queries/2)
	require.Zero(t, r["NegativeTTL"].with.failed)

	require.Contains(t, out.String(), "1 sent the user, 9 answered 304")
	require.Contains(t, out.String(), "one by one   10 queries")
	require.Contains(t, out.String(), "as a batch    1 query")
	require.Contains(t, out.String(), `writing "renamed again":   users find "renamed again"`)
	return r
}
