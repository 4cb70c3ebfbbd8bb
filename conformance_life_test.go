package cacheaside

import (
	"context"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
)

func init() {
	promises = append(promises,
		promise{"G16", "after Close every call is ErrClosed, the second Close is nil", nil, checkClosed},
		promise{"G16", "Close releases waiters at once and cancels their fetch", nil, checkCloseDuringFetch},
		promise{"G16", "nothing is stored after Close, and no goroutine stays once fetches return", nil, checkCloseDeafFetch},
		promise{"G15", "Close gives up the leases of running fetches before it returns", isLeased, checkCloseGivesUpLeases},
		promise{"G17", "memory is bounded by MaxEntries", holdsEntries, checkBound},
		promise{"G17", "memory is bounded by weight with a weigher", holdsEntries, checkWeightBound},
	)
}

func checkClosed(e *env) {
	c := open[string](e, nil)
	require.NoError(e, c.Set(e.Context(), key, "v", time.Minute))
	require.NoError(e, c.Set(e.Context(), "for ever", "v", NoExpiry))
	for range 3 { // so that the coarse clock runs
		_, err := c.Get(e.Context(), key)
		require.NoError(e, err)
	}
	require.NoError(e, c.Health(e.Context()))
	require.NoError(e, c.Close())
	require.NoError(e, c.Close())
	s := serve("v")
	for _, k := range []string{key, "for ever", "missing"} {
		_, err := c.Get(e.Context(), k)
		require.ErrorIs(e, err, ErrClosed)
		_, err = c.GetWithFetch(e.Context(), k, time.Minute, s.fetch)
		require.ErrorIs(e, err, ErrClosed)
		_, err = c.Lookup(e.Context(), k, time.Minute, s.fetch)
		require.ErrorIs(e, err, ErrClosed)
		require.ErrorIs(e, c.Set(e.Context(), k, "v", time.Minute), ErrClosed)
		require.ErrorIs(e, c.Delete(e.Context(), k), ErrClosed)
	}
	require.ErrorIs(e, c.Health(e.Context()), ErrClosed)
	require.ErrorIs(e, c.Clear(e.Context()), ErrClosed)
	require.ErrorIs(e, c.SetMany(e.Context(), nil, 0), ErrClosed)
	require.ErrorIs(e, c.DeleteMany(e.Context(), nil), ErrClosed)
	_, err := c.GetMany(e.Context(), nil)
	require.ErrorIs(e, err, ErrClosed)
	_, err = c.GetManyWithFetch(e.Context(), nil, 0, nil)
	require.ErrorIs(e, err, ErrClosed)
	require.ErrorIs(e, c.Mutate(e.Context(), nil, nil), ErrClosed)
	require.Zero(e, s.calls.Load())
}

func checkCloseDuringFetch(e *env) {
	c := open[string](e, nil)
	s := serve("v")
	release := s.hold()
	defer release()
	waiting := askMany(e, 5, c, key, s)
	begun := time.Now()
	require.NoError(e, c.Close())
	for _, a := range waiting {
		require.ErrorIs(e, (<-a).err, ErrClosed)
	}
	if e.bubble {
		require.Zero(e, time.Since(begun))
	}
}

func checkCloseDeafFetch(e *env) {
	before := runtime.NumGoroutine()
	c := open[string](e, nil)
	s := serve("v")
	s.deaf = true
	release := s.hold()
	waiting := askMany(e, 1, c, key, s)
	require.NoError(e, c.Close())
	require.ErrorIs(e, (<-waiting[0]).err, ErrClosed)
	release()
	e.settle(func() bool { return c.flights.underWay() == 0 }, "the flight is over")
	if e.bubble {
		require.LessOrEqual(e, runtime.NumGoroutine(), before+1)
		require.Zero(e, c.Stats().Entries)
	}
}

func checkCloseGivesUpLeases(e *env) {
	long := func(cfg *Config) { cfg.LeaseTTL, cfg.StaleIfError = time.Minute, time.Hour }
	c, other := open[string](e, long), open[string](e, long)
	require.NoError(e, c.Set(e.Context(), "stale", "stale", time.Millisecond))
	awaitStale(e.T, c, "stale")
	s := serve("v")
	s.deaf = true
	release := s.hold()
	defer release()
	leases := []string{redisKeyOf(c, key), storeOf(c).leaseKey("stale")}
	missing := ask(e.Context(), c, key, s.fetch)
	stale := ask(e.Context(), c, "stale", s.fetch)
	e.settle(func() bool { return s.calls.Load() == 2 }, "both are being fetched")
	for _, k := range leases {
		require.NotNil(e, e.at(k).Must("GET", k))
	}
	require.NoError(e, c.Close())
	for _, k := range leases {
		require.Nil(e, e.at(k).Must("GET", k))
	}
	require.ErrorIs(e, (<-missing).err, ErrClosed)
	require.ErrorIs(e, (<-stale).err, ErrClosed)
	v, err := other.GetWithFetch(e.Context(), key, time.Minute, serve("other").fetch)
	require.NoError(e, err)
	require.Equal(e, "other", v)
}

// holdsEntries is true of backends that hold entries in this process.
func holdsEntries(r rig) bool { return !r.remote || r.name == BackendRueidisAside }

func checkWeightBound(e *env) {
	const each, most = 10_000, 100_000
	weigh := WithWeigher(func(_, value string) int {
		if value == "" {
			panic("there is nothing to weigh")
		}
		return len(value)
	})
	c := open[string](e, func(cfg *Config) { cfg.MaxEntries, cfg.NegativeTTL = most, time.Hour }, weigh)
	get := func(key, value string) {
		for range 2 { // a near cache holds what it has read
			got, err := c.GetWithFetch(e.Context(), key, time.Hour, serve(value).fetch)
			require.NoError(e, err)
			require.Equal(e, value, got)
		}
	}
	for i := range 50 {
		get(strconv.Itoa(i), strings.Repeat("v", each))
	}
	e.settle(func() bool { return c.Stats().Entries <= most/each }, "no more is held than may be")
	require.Positive(e, c.Stats().Entries)

	get("heavy", strings.Repeat("v", 2*most))
	e.settle(func() bool { return c.store.peek("heavy") == nil }, "what is too heavy is not held")

	_, err := c.GetWithFetch(e.Context(), "nobody", time.Hour, func(context.Context, string) (string, error) { return "", ErrNotFound })
	require.ErrorIs(e, err, ErrNotFound)
	_, err = c.Get(e.Context(), "nobody")
	require.ErrorIs(e, err, ErrNotFound, "it is remembered, and weighs nothing")
}

func checkBound(e *env) {
	const most = 100
	c := open[int](e, func(cfg *Config) { cfg.MaxEntries = most })
	for i := range 20 * most {
		for range 2 { // a near cache holds what it has read
			_, err := c.GetWithFetch(e.Context(), strconv.Itoa(i), time.Minute, serve(i).fetch)
			require.NoError(e, err)
		}
		require.LessOrEqual(e, c.Stats().Entries, most)
	}
	require.GreaterOrEqual(e, c.Stats().Entries, most/2)
	require.Positive(e, c.Stats().Evictions)
}
