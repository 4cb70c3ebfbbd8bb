package cacheaside

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"
)

func init() {
	promises = append(promises,
		promise{"G6", "a Delete during a fetch is not undone by it", nil, checkDeleteDuringFetch},
		promise{"G6", "nobody joins a flight from before a Delete", nil, checkNoJoinAfterDelete},
		promise{"G6", "a flight from before a Delete keeps no lease from those after it", onAside, checkVoidFlightHoldsNoLease},
		promise{"G6", "an old flight's end does not remove a newer one", nil, checkOldFlightEnds},
		promise{"G6", "what was fetched before a Delete is never seen after it, under load", nil, checkVersions},
		promise{"G6", "Clear voids running flights too", nil, checkClear},
		promise{"G7", "a Set beats a fetch that began before it", nil, checkSetBeatsFetch},
		promise{"G2", "a write that waits for a fill to end leaves at its own time", isRemote, checkWritersLeave},
		promise{"G4", "a codec that panics is an error of Set and SetMany, and no harm to a lookup", isRemote, checkCodecPanics},
		promise{"G9", "a process reads its own Set and Delete at once", nil, checkOwnWrites},
	)
}

func checkDeleteDuringFetch(e *env) {
	c := open[string](e, nil)
	s := serve("old")
	release := s.hold()
	waiting := askMany(e, 3, c, key, s)
	require.NoError(e, c.Delete(e.Context(), key))
	release()
	for _, a := range waiting {
		require.Equal(e, answer[string]{"old", nil}, <-a, "who asked before the Delete gets what was fetched")
	}
	_, err := c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss)
	e.settle(func() bool { return c.Stats().Discarded == 1 }, "the fill was discarded")
}

func checkNoJoinAfterDelete(e *env) {
	c := open[string](e, nil)
	old := serve("old")
	release := old.hold()
	defer release()
	waiting := askMany(e, 1, c, key, old)
	require.NoError(e, c.Delete(e.Context(), key))
	v, err := c.GetWithFetch(e.Context(), key, time.Minute, serve("new").fetch)
	require.NoError(e, err)
	require.Equal(e, "new", v)
	release()
	require.Equal(e, "old", (<-waiting[0]).value)
	v, err = c.Get(e.Context(), key)
	require.NoError(e, err)
	require.Equal(e, "new", v)
}

// heldAcquire does not take the first lease until it is told to.
type heldAcquire[T any] struct {
	store[T]
	once        sync.Once
	begun, goOn chan struct{}
}

func (h *heldAcquire[T]) acquire(ctx context.Context, key string, seen *entry[T], a *allowance, wait bool) (lease[T], *entry[T], error) {
	h.once.Do(func() {
		close(h.begun)
		<-h.goOn
	})
	return h.store.acquire(ctx, key, seen, a, wait)
}

func checkVoidFlightHoldsNoLease(e *env) {
	c := open[string](e, nil)
	held := &heldAcquire[string]{store: c.store, begun: make(chan struct{}), goOn: make(chan struct{})}
	c.store = held
	old := serve("old")
	release := old.hold()
	defer release()
	waiting := ask(e.Context(), c, key, old.fetch)
	<-held.begun
	require.NoError(e, c.Delete(e.Context(), key))
	close(held.goOn) // the lease is granted after the Delete
	e.settle(func() bool { return old.calls.Load() == 1 }, "the old fetch has begun")
	for _, c := range []*Client[string]{c, open[string](e, nil)} {
		ctx, cancel := context.WithTimeout(e.Context(), hang)
		defer cancel()
		v, err := c.GetWithFetch(ctx, key, time.Minute, serve("new").fetch)
		require.NoError(e, err, "who asks after the Delete does not wait for what was fetched before it")
		require.Equal(e, "new", v)
	}
	release()
	require.Equal(e, answer[string]{"old", nil}, <-waiting)
}

func checkOldFlightEnds(e *env) {
	c := open[string](e, nil)
	old, recent := serve("old"), serve("new")
	releaseOld, releaseRecent := old.hold(), recent.hold()
	defer releaseRecent()
	oldWaits := askMany(e, 1, c, key, old)
	require.NoError(e, c.Delete(e.Context(), key))
	recentWaits := askMany(e, 1, c, key, recent)
	releaseOld()
	<-oldWaits[0]
	more := askMany(e, 5, c, key, recent)
	releaseRecent()
	for _, a := range append(more, recentWaits...) {
		require.Equal(e, answer[string]{"new", nil}, <-a)
	}
	require.EqualValues(e, 1, recent.calls.Load(), "all joined the newer flight")
}

// checkVersions has a source whose version a writer raises before each Delete, and readers who must never
// get a version from before the last Delete that had returned when they asked.
func checkVersions(e *env) {
	c := open[int64](e, nil)
	var version, deleted atomic.Int64
	fetch := func(context.Context, string) (int64, error) {
		v := version.Load()
		e.yield()
		return v, nil
	}
	ctx, stop := context.WithCancel(e.Context())
	ended := make(chan int64)
	for range 4 {
		go func() {
			worst := int64(0)
			for ctx.Err() == nil {
				least := deleted.Load()
				v, err := c.GetWithFetch(e.Context(), key, time.Minute, fetch)
				if err == nil {
					worst = max(worst, least-v)
				}
				e.yield()
			}
			ended <- worst
		}()
	}
	for i := int64(1); i <= 300; i++ {
		version.Store(i)
		require.NoError(e, c.Delete(e.Context(), key))
		deleted.Store(i)
		e.yield()
	}
	stop()
	for range 4 {
		require.Zero(e, <-ended, "a version older than the last Delete was returned")
	}
}

func checkClear(e *env) {
	c := open[string](e, nil)
	s := serve("old")
	release := s.hold()
	waiting := askMany(e, 1, c, key, s)
	require.NoError(e, c.Set(e.Context(), "kept", "v", time.Minute))
	require.NoError(e, c.Clear(e.Context()))
	release()
	require.Equal(e, "old", (<-waiting[0]).value)
	for _, k := range []string{key, "kept"} {
		_, err := c.Get(e.Context(), k)
		require.ErrorIs(e, err, ErrMiss)
	}
}

func checkSetBeatsFetch(e *env) {
	c := open[string](e, nil)
	s := serve("fetched")
	release := s.hold()
	waiting := askMany(e, 2, c, key, s)
	require.NoError(e, c.Set(e.Context(), key, "set", time.Minute))
	v, err := c.Get(e.Context(), key)
	require.NoError(e, err)
	require.Equal(e, "set", v)
	release()
	for _, a := range waiting {
		require.Equal(e, answer[string]{"fetched", nil}, <-a)
	}
	e.settle(func() bool { return c.Stats().Discarded == 1 }, "the fill was discarded")
	v, err = c.Get(e.Context(), key)
	require.NoError(e, err)
	require.Equal(e, "set", v)
}

func checkOwnWrites(e *env) {
	c := open[int](e, nil)
	for i := range 200 {
		require.NoError(e, c.Set(e.Context(), key, i, time.Minute))
		v, err := c.Get(e.Context(), key)
		require.NoError(e, err)
		require.Equal(e, i, v)
		if i%3 == 0 {
			require.NoError(e, c.Delete(e.Context(), key))
			_, err = c.Get(e.Context(), key)
			require.ErrorIs(e, err, ErrMiss)
		}
	}
}

// heldFill does not end a fill until it is told to.
type heldFill[T any] struct {
	store[T]
	begun, goOn chan struct{}
}

func (h heldFill[T]) fill(ctx context.Context, key string, l lease[T], e entry[T], took time.Duration) (bool, error) {
	close(h.begun)
	<-h.goOn
	return h.store.fill(ctx, key, l, e, took)
}

func checkWritersLeave(e *env) {
	c := open[string](e, nil)
	held := heldFill[string]{c.store, make(chan struct{}), make(chan struct{})}
	c.store = held
	waiting := ask(e.Context(), c, key, serve("v").fetch)
	<-held.begun
	ctx, cancel := context.WithTimeout(e.Context(), short)
	defer cancel()
	wrote := false
	for what, write := range map[string]func() error{
		"Set":        func() error { return c.Set(ctx, key, "new", time.Minute) },
		"SetMany":    func() error { return c.SetMany(ctx, map[string]string{key: "new", "other": "new"}, time.Minute) },
		"Delete":     func() error { return c.Delete(ctx, key) },
		"DeleteMany": func() error { return c.DeleteMany(ctx, []string{key, "other"}) },
		"Clear":      func() error { return c.Clear(ctx) },
		"Mutate": func() error {
			return c.Mutate(ctx, []string{key}, func(context.Context) error {
				wrote = true
				return nil
			})
		},
	} {
		require.ErrorIs(e, write(), context.DeadlineExceeded, what)
	}
	require.False(e, wrote, "nothing is written whose key is not fenced")
	close(held.goOn)
	require.Equal(e, answer[string]{"v", nil}, <-waiting)
	require.NoError(e, c.Set(e.Context(), key, "new", time.Minute))
	v, err := c.Get(e.Context(), key)
	require.NoError(e, err)
	require.Equal(e, "new", v)
}

// explosive panics when it encodes.
type explosive struct{ Codec[string] }

func (explosive) Append([]byte, string) ([]byte, error) { panic("boom") }

func checkCodecPanics(e *env) {
	c := open[string](e, nil, WithCodec(explosive{StringCodec()}))
	for _, err := range []error{
		c.Set(e.Context(), "a", "v", time.Minute),
		c.SetMany(e.Context(), valuesOf("a", "b"), time.Minute),
	} {
		var p *PanicError
		require.ErrorIs(e, err, ErrInvalidValue)
		require.ErrorAs(e, err, &p)
		require.Equal(e, "boom", p.Value)
		require.NotEmpty(e, p.Stack)
	}
	v, err := c.GetWithFetch(e.Context(), key, time.Minute, serve("v").fetch)
	require.NoError(e, err)
	require.Equal(e, "v", v)
	e.settle(func() bool { return e.at(redisKeyOf(c, key)).Must("EXISTS", redisKeyOf(c, key)) == int64(0) }, "no lease is left behind")
}
