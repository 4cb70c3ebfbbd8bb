package soak

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
)

var soakFor = flag.Duration("soak.for", 4*time.Second, "for how long TestSoak calls and breaks things")

const (
	ttl          = 1500 * time.Millisecond
	negativeTTL  = 200 * time.Millisecond
	staleIfError = time.Second
	fetchTimeout = 300 * time.Millisecond
	opTimeout    = 100 * time.Millisecond
	maxEntries   = 60
	keys         = 200
	callers      = 12 // of each member

	longestFault = 2500 * time.Millisecond // longer than it takes to find a silent connection dead

	// late is how long what was sent to a cache may be on its way, and the second that a loaded machine adds.
	late = opTimeout + longestFault + time.Second

	// oldestAllowed is for how long a returned value may have been outdated: one that came late, or whose
	// removal failed, is there for its ttl, and longer as a stale value.
	oldestAllowed = fetchTimeout + late + ttl + staleIfError

	// oldestNone is the same for "there is nothing", which is never given out as stale.
	oldestNone = fetchTimeout + late + negativeTTL

	// longestAllowed is what counts as being kept waiting.
	longestAllowed = 10 * time.Second

	// healing is how long everything may take to work again after the last fault.
	healing = 20 * time.Second
)

// settings has every policy at work.
func settings(cfg cacheaside.Config) cacheaside.Config {
	cfg.MaxEntries = maxEntries
	cfg.FetchTimeout, cfg.OpTimeout, cfg.LeaseTTL = fetchTimeout, opTimeout, 500*time.Millisecond
	cfg.StaleFor, cfg.StaleIfError, cfg.SoftTimeout = 300*time.Millisecond, staleIfError, 20*time.Millisecond
	cfg.NegativeTTL, cfg.ErrorCooldown = negativeTTL, 5*time.Millisecond
	cfg.RefreshAhead, cfg.Jitter = 0.7, 0.2
	cfg.ReapInterval = 200 * time.Millisecond
	return cfg
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSoak(t *testing.T) {
	redistest.Require(t)
	s := newSource(keys)
	t.Cleanup(func() { // after the members were closed
		require.Eventually(t, func() bool { return s.running.Load() == 0 }, healing, 10*time.Millisecond, "a fetch that ignores its context does not return")
	})
	where := &site{server: redistest.Start(t), counts: make(map[string]int)}
	members := []*member{openMember(t, where, s, cacheaside.BackendMemory, 0)}
	for i := range 2 {
		members = append(members, openMember(t, where, s, cacheaside.BackendRueidis, i), openMember(t, where, s, cacheaside.BackendRueidisAside, i))
	}

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var calling sync.WaitGroup
	for _, m := range members {
		for range callers {
			calling.Go(func() { m.call(ctx) })
		}
	}
	for end := time.Now().Add(*soakFor); time.Now().Before(end); {
		where.strike()
		<-time.After(rand.N(time.Second))
		for _, m := range members {
			require.LessOrEqual(t, m.cache.Stats().Entries, maxEntries, m.name)
		}
	}
	heal(t, where, members)
	stop()
	calling.Wait()
	report(t, where, members)
}

// openMember opens a cache behind a network of its own.
func openMember(t *testing.T, where *site, s *source, backend string, number int) *member {
	t.Helper()
	cfg := cacheaside.Config{Backend: backend}
	if backend != cacheaside.BackendMemory {
		p := redistest.NewProxy(t, where.server.Addr())
		where.network = append(where.network, p)
		var err error
		cfg, err = cacheaside.ParseConfig(where.server.URL(backend))
		require.NoError(t, err)
		cfg.Redis.Addrs, cfg.Name = []string{p.Addr()}, backend
	}
	c, err := cacheaside.Open[record](t.Context(), settings(cfg))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	// Plain Redis has no leases: another process may store what it had fetched before the write.
	return newMember(fmt.Sprintf("%s %d", backend, number+1), c, s, backend != cacheaside.BackendRueidis)
}

// heal waits until every member answers again and has got over what was broken: until what it returns for
// each key is the newest there is.
func heal(t *testing.T, where *site, members []*member) {
	t.Helper()
	for _, p := range where.network {
		p.CutAfter(-1)
	}
	for _, m := range members {
		require.Eventually(t, func() bool { return m.cache.Health(t.Context()) == nil }, healing, 10*time.Millisecond, "%s does not answer", m.name)
		for _, key := range m.source.keys {
			require.Eventuallyf(t, func() bool { return m.hasNewest(t.Context(), key) }, healing, time.Millisecond, "%s stays outdated in %s", key, m.name)
		}
	}
}

// hasNewest reports whether a look-up of key returns what was the newest version when it began, or a newer one.
// That there is nothing is what a version says, too.
func (m *member) hasNewest(ctx context.Context, key string) bool {
	row := m.source.rows[key]
	version := row.newest()
	r, err := m.cache.GetWithFetch(ctx, key, ttl, m.source.fetch)
	if errors.Is(err, cacheaside.ErrNotFound) {
		return row.wasGone(version, time.Time{})
	}
	return err == nil && r.Version >= version
}

// report prints what happened, and the verdict.
func report(t *testing.T, where *site, members []*member) {
	t.Helper()
	t.Logf("faults: %v", where)
	var breaches []string
	for _, m := range members {
		t.Log(m)
		breaches = append(breaches, m.broken()...)
	}
	var heap runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&heap)
	t.Logf("heap in use at the end: %d MiB, goroutines: %d", heap.HeapAlloc>>20, runtime.NumGoroutine())
	for _, b := range breaches {
		t.Error(b)
	}
	if len(breaches) == 0 {
		t.Log("verdict: every promise was kept")
	} else {
		t.Log("verdict: promises were broken")
	}
}
