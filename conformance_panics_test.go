package cacheaside

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"
)

// touchy is a value whose methods for JSON panic.
type touchy struct {
	Encodes, Decodes bool
}

func (v touchy) MarshalJSON() ([]byte, error) {
	if !v.Encodes {
		panic("no")
	}
	return []byte(`"touchy"`), nil
}

func (v *touchy) UnmarshalJSON([]byte) error {
	panic(errors.New("no"))
}

func init() {
	onRedis := func(r rig) bool { return r.remote }
	inMemory := func(r rig) bool { return r.name == BackendMemory }
	promises = append(promises,
		promise{"G14", "bytes at which the codec panics are a miss, and are overwritten", onRedis, checkDecodePanics},
		promise{"G14", "a value at which the codec panics is returned unstored", onRedis, checkEncodePanics},
		promise{"WithClone", "what a fetch returned is not what is stored", holdsEntries, checkFetchedIsCloned},
		promise{"observer", "one that panics harms no caller, and is switched off", nil, checkObserverPanics},
		promise{"observer", "a tracer that panics harms no lookup, wherever it does", nil, checkTracerPanics},
		promise{"observer", "a tracer that panics at the end of a fetch that hangs harms no process", nil, checkTracerPanicsAtATimeout},
		promise{"observer", "a log handler that panics at a TTL without a unit harms no lookup", nil, checkShortTTLPanics},
		promise{"WithClone", "one that panics fails the lookups that wait for the fetch", inMemory, checkClonePanics},
	)
}

func checkDecodePanics(e *env) {
	c := open[*touchy](e, nil)
	s := serve(&touchy{Encodes: true})
	for range 3 {
		v, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
		require.NoError(e, err)
		require.True(e, v.Encodes)
		_, err = c.Get(e.Context(), key)
		require.ErrorIs(e, err, ErrMiss)
		require.ErrorIs(e, err, ErrInvalidValue)
	}
	many, err := c.GetMany(e.Context(), []string{key})
	require.NoError(e, err)
	require.Empty(e, many)
}

func checkEncodePanics(e *env) {
	c := open[*touchy](e, nil)
	var panicked *PanicError
	err := c.Set(e.Context(), key, &touchy{}, time.Minute)
	require.ErrorIs(e, err, ErrInvalidValue)
	require.ErrorAs(e, err, &panicked)
	s := serve(&touchy{Decodes: true})
	for i := range 2 {
		v, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
		require.NoError(e, err)
		require.True(e, v.Decodes)
		require.EqualValues(e, i+1, c.Stats().Unstorable)
	}
	many, err := c.GetManyWithFetch(e.Context(), []string{"b"}, time.Minute, func(context.Context, []string) (map[string]*touchy, error) {
		return map[string]*touchy{"b": {Decodes: true}}, nil
	})
	require.NoError(e, err)
	require.True(e, many["b"].Decodes)
}

func checkFetchedIsCloned(e *env) {
	c := open[*[]int](e, nil, WithClone(func(v *[]int) *[]int {
		own := append([]int(nil), *v...)
		return &own
	}))
	kept := &[]int{1} // by the repository, which changes it later
	_, err := c.GetWithFetch(e.Context(), key, time.Minute, func(context.Context, string) (*[]int, error) { return kept, nil })
	require.NoError(e, err)
	_, err = c.GetManyWithFetch(e.Context(), []string{"b"}, time.Minute, func(context.Context, []string) (map[string]*[]int, error) {
		return map[string]*[]int{"b": kept}, nil
	})
	require.NoError(e, err)
	(*kept)[0] = 2
	for _, k := range []string{key, "b"} {
		v, err := c.Get(e.Context(), k)
		require.NoError(e, err)
		require.Equal(e, []int{1}, *v)
	}
}

// hysteric is an observer and a log handler that panic at everything.
type hysteric struct{ calls atomic.Int64 }

func (h *hysteric) Observe(Event)                            { h.calls.Add(1); panic("no") }
func (h *hysteric) ObserveHit(Event)                         { h.calls.Add(1); panic("no") }
func (h *hysteric) Enabled(context.Context, slog.Level) bool { return true }
func (h *hysteric) Handle(context.Context, slog.Record) error {
	h.calls.Add(1)
	panic("no")
}
func (h *hysteric) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h *hysteric) WithGroup(string) slog.Handler      { return h }

func checkObserverPanics(e *env) {
	o, handler, calm := new(hysteric), new(hysteric), newWatcher()
	c := open[string](e, nil, WithObserver(o), WithObserver(calm), WithLogger(slog.New(handler)))
	boom := errors.New("boom")
	for range 30 {
		_, err := c.GetWithFetch(e.Context(), key, time.Minute, func(context.Context, string) (string, error) { return "", boom })
		require.Equal(e, boom, err)
	}
	require.EqualValues(e, mostPanics, o.calls.Load(), "it is switched off")
	require.LessOrEqual(e, handler.calls.Load(), int64(mostPanics))
	require.EqualValues(e, o.calls.Load()+handler.calls.Load(), c.Stats().ObserverPanics)
	require.Equal(e, 30, calm.count(EventFetch), "others are told all the same")
}

// faultyTracer panics at one of its methods.
type faultyTracer struct {
	at    string
	calls atomic.Int32
}

func (f *faultyTracer) Observe(Event) {}

func (f *faultyTracer) TraceFetch(ctx context.Context, _ FetchInfo) (context.Context, FetchTrace) {
	f.panicAt("TraceFetch")
	if f.at == "nil" {
		f.calls.Add(1)
		return nil, f // that is the fault
	}
	return ctx, f
}

func (f *faultyTracer) Joined(context.Context) { f.panicAt("Joined") }
func (f *faultyTracer) End(Event)              { f.panicAt("End") }

func (f *faultyTracer) panicAt(place string) {
	if f.at == place {
		f.calls.Add(1)
		panic("no")
	}
}

func checkTracerPanics(e *env) {
	for _, at := range []string{"TraceFetch", "nil", "Joined", "End"} {
		tracer, calm := &faultyTracer{at: at}, new(recorder)
		c := open[string](e, func(cfg *Config) { cfg.Name = "at" + at }, WithObserver(tracer), WithObserver(calm))
		s := serve("v")
		release := s.hold()
		results := make(chan error, 2)
		lookup := func() {
			_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
			results <- err
		}
		go lookup()
		e.settle(func() bool { return s.calls.Load() == 1 }, "the fetch begins")
		go lookup()
		e.settle(func() bool { return c.Stats().Joined == 1 }, "the other look-up joins it")
		release()
		require.NoError(e, <-results, at)
		require.NoError(e, <-results, at)
		_, err := c.GetManyWithFetch(e.Context(), []string{"b"}, time.Minute, func(context.Context, []string) (map[string]string, error) {
			return map[string]string{"b": "v"}, nil
		})
		require.NoError(e, err, at)
		e.settle(func() bool { return calm.count(EventFetch) == 2 }, "observers are told of both fetches")
		require.Positive(e, tracer.calls.Load(), at)
		require.EqualValues(e, tracer.calls.Load(), c.Stats().ObserverPanics, at)
		require.Len(e, calm.traces, 2, "other tracers are told all the same")
	}
}

// checkTracerPanicsAtATimeout: the end of a fetch that hangs is told on a goroutine of the cache, where a
// panic would end the process.
func checkTracerPanicsAtATimeout(e *env) {
	tracer := &faultyTracer{at: "End"}
	c := open[string](e, func(cfg *Config) { cfg.FetchTimeout = short }, WithObserver(tracer))
	s := serve("v")
	defer s.hold()()
	_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.ErrorIs(e, err, ErrFetchTimeout)
	e.settle(func() bool { return c.Stats().ObserverPanics == 1 }, "the panic is counted")
	require.EqualValues(e, 1, tracer.calls.Load())
}

func checkShortTTLPanics(e *env) {
	handler := new(hysteric)
	c := open[string](e, nil, WithLogger(slog.New(handler)))
	require.NoError(e, c.Set(e.Context(), key, "v", 30))
	require.EqualValues(e, 1, handler.calls.Load())
	_, err := c.GetWithFetch(e.Context(), "b", 30, serve("v").fetch)
	require.NoError(e, err)
	require.EqualValues(e, handler.calls.Load(), c.Stats().ObserverPanics)
}

func checkClonePanics(e *env) {
	c := open[string](e, nil, WithClone(func(string) string { panic("no") }))
	var panicked *PanicError
	_, err := c.GetWithFetch(e.Context(), key, time.Minute, serve("v").fetch)
	require.ErrorAs(e, err, &panicked)
	_, err = c.GetManyWithFetch(e.Context(), []string{"b"}, time.Minute, func(context.Context, []string) (map[string]string, error) {
		return map[string]string{"b": "v"}, nil
	})
	require.ErrorAs(e, err, &panicked)
}
