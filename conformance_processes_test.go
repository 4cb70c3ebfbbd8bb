package cacheaside

import (
	"fmt"
	"sync"
	"time"

	"github.com/stretchr/testify/require"
)

func init() {
	promises = append(promises,
		promise{"G5", "a cold key is fetched once for all processes", onAside, checkOneFetchInAFleet},
		promise{"G8", "a Delete or Set by another process voids a fetch", onAside, checkWritesOfOthers},
		promise{"G10", "another process's Set and Delete are seen", isRemote, checkOthersAreSeen},
		promise{"G11", "with Redis frozen a look-up fetches, and pays OpTimeout at most; then it heals", hasServer, checkFrozen},
		promise{"G15", "a filler that died is replaced when its lease ends", onAside, checkDeadFiller},
	)
}

// What several processes do to each other, with a client for each. That what they share is in Redis alone is
// tested with real processes, in lease_test.go and coherence_test.go; the other faults of Redis are in
// conformance_faults_test.go.

func hasServer(r rig) bool { return r.remote && r.start != nil }

func checkOneFetchInAFleet(e *env) {
	s := serve("v")
	release := s.hold()
	defer release()
	var waiting []<-chan answer[string]
	for range 4 {
		c := open[string](e, nil)
		for range 5 {
			waiting = append(waiting, ask(e.Context(), c, key, s.fetch))
		}
	}
	e.settle(func() bool { return s.calls.Load() == 1 }, "one fetches")
	e.pass(20 * time.Millisecond) // the others come, and have to wait
	release()
	for _, a := range waiting {
		require.Equal(e, answer[string]{"v", nil}, <-a)
	}
	require.EqualValues(e, 1, s.calls.Load())
}

func checkWritesOfOthers(e *env) {
	c, other := open[string](e, nil), open[string](e, nil)
	for name, write := range map[string]func(key string) error{
		"Delete": func(key string) error { return other.Delete(e.Context(), key) },
		"Set":    func(key string) error { return other.Set(e.Context(), key, "set", time.Minute) },
	} {
		s := serve("old")
		release := s.hold()
		got := ask(e.Context(), c, name, s.fetch)
		e.settle(func() bool { return s.calls.Load() == 1 }, "it fetches")
		require.NoError(e, write(name))
		release()
		require.Equal(e, answer[string]{"old", nil}, <-got, "who asked before the %s gets what was fetched", name)
		v, err := c.GetWithFetch(e.Context(), name, time.Minute, serve("new").fetch)
		require.NoError(e, err)
		require.Equal(e, map[string]string{"Delete": "new", "Set": "set"}[name], v)
	}
}

func checkOthersAreSeen(e *env) {
	c, other := open[int](e, nil), open[int](e, nil)
	seen := func(want int, wantErr error) {
		e.Helper()
		ok := func() bool {
			v, err := c.Get(e.Context(), key)
			return v == want && (wantErr == nil && err == nil || wantErr != nil && err != nil)
		}
		if c.local != SourceNearHit {
			require.True(e, ok(), "at once")
		}
		e.settle(ok, fmt.Sprintf("%d, %v", want, wantErr))
	}
	for i := range 20 {
		require.NoError(e, other.Set(e.Context(), key, i, time.Minute))
		seen(i, nil)
		require.NoError(e, other.Delete(e.Context(), key))
		seen(0, ErrMiss)
	}
}

func checkFrozen(e *env) {
	const opTimeout = 100 * time.Millisecond
	c := open[string](e, func(cfg *Config) { cfg.OpTimeout = opTimeout })
	require.NoError(e, c.Set(e.Context(), "before", "kept", time.Minute))
	thaw := sync.OnceFunc(e.server.Thaw)
	defer thaw()
	e.server.Freeze()
	s := serve("fetched")
	for i := range 20 {
		begun := time.Now()
		v, err := c.GetWithFetch(e.Context(), fmt.Sprint("key ", i), time.Minute, s.fetch)
		require.NoError(e, err)
		require.Equal(e, "fetched", v)
		require.Less(e, time.Since(begun), hang)
	}
	require.EqualValues(e, 20, s.calls.Load())
	require.ErrorIs(e, c.Delete(e.Context(), key), ErrUnavailable)
	thaw()
	e.settle(func() bool { return c.Set(e.Context(), key, "v", time.Minute) == nil }, "it heals by itself")
	v, err := c.Get(e.Context(), key)
	require.NoError(e, err)
	require.Equal(e, "v", v)
}

func checkDeadFiller(e *env) {
	change := func(cfg *Config) { cfg.LeaseTTL = 300 * time.Millisecond }
	c, dead := open[string](e, change), open[string](e, change)
	held, filled, err := dead.store.acquire(e.Context(), key, nil, &allowance{}, false)
	require.NoError(e, err)
	require.Nil(e, filled)
	require.NotEmpty(e, held.token)
	held.aside.held.rest() // it dies: nothing prolongs its lease any more, and nothing gives it up
	begun := time.Now()
	s := serve("v")
	v, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.NoError(e, err)
	require.Equal(e, "v", v)
	require.EqualValues(e, 1, s.calls.Load())
	require.Less(e, time.Since(begun), hang)
}
