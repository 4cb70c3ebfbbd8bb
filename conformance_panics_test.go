package cacheaside

import (
	"context"
	"errors"
	"log/slog"
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
	promises = append(promises,
		promise{"G14", "bytes at which the codec panics are a miss, and are overwritten", onRedis, checkDecodePanics},
		promise{"G14", "a value at which the codec panics is returned unstored", onRedis, checkEncodePanics},
		promise{"WithClone", "what a fetch returned is not what is stored", holdsEntries, checkFetchedIsCloned},
		promise{"observer", "one that panics harms no caller, and is switched off", nil, checkObserverPanics},
	)
}

func checkDecodePanics(e *env) {
	c := open[touchy](e, nil)
	s := serve(touchy{Encodes: true})
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
	c := open[touchy](e, nil)
	var panicked *PanicError
	err := c.Set(e.Context(), key, touchy{}, time.Minute)
	require.ErrorIs(e, err, ErrInvalidValue)
	require.ErrorAs(e, err, &panicked)
	s := serve(touchy{Decodes: true})
	for i := range 2 {
		v, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
		require.NoError(e, err)
		require.True(e, v.Decodes)
		require.EqualValues(e, i+1, c.Stats().Unstorable)
	}
	many, err := c.GetManyWithFetch(e.Context(), []string{"b"}, time.Minute, func(context.Context, []string) (map[string]touchy, error) {
		return map[string]touchy{"b": {Decodes: true}}, nil
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
type hysteric struct{ calls int }

func (h *hysteric) Observe(Event)                            { h.calls++; panic("no") }
func (h *hysteric) ObserveHit(Event)                         { h.calls++; panic("no") }
func (h *hysteric) Enabled(context.Context, slog.Level) bool { return true }
func (h *hysteric) Handle(context.Context, slog.Record) error {
	h.calls++
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
	require.Equal(e, mostPanics, o.calls, "it is switched off")
	require.LessOrEqual(e, handler.calls, mostPanics)
	require.EqualValues(e, o.calls+handler.calls, c.Stats().ObserverPanics)
	require.Equal(e, 30, calm.count(EventFetch), "others are told all the same")
}
