package cacheaside

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// traceRecorder is what a recorder makes of one fetch.
type traceRecorder struct {
	info   FetchInfo
	joined []any // what the contexts of those who joined hold under callerKey
	ended  []Event
}

type (
	callerKey struct{}
	spanKey   struct{}
)

// calledBy returns a context that says who called.
func calledBy(t *testing.T, name string) context.Context {
	return context.WithValue(t.Context(), callerKey{}, name)
}

func (r *recorder) TraceFetch(ctx context.Context, info FetchInfo) (context.Context, FetchTrace) {
	r.mu.Lock()
	defer r.mu.Unlock()
	trace := &traceRecorder{info: info}
	r.traces = append(r.traces, trace)
	return context.WithValue(ctx, spanKey{}, len(r.traces)), trace
}

func (r *traceRecorder) Joined(ctx context.Context) {
	r.joined = append(r.joined, ctx.Value(callerKey{}))
}

func (r *traceRecorder) End(e Event) { r.ended = append(r.ended, e) }

func TestTracerFollowsAFetchAndThoseWhoJoinIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := observed(t, Config{FetchTimeout: time.Minute})
		var span, caller any
		var limited bool
		boom := errors.New("boom")
		slow := func(ctx context.Context, _ string) (string, error) {
			span, caller = ctx.Value(spanKey{}), ctx.Value(callerKey{})
			_, limited = ctx.Deadline()
			OverrideTTL(ctx, time.Hour) // must find its flight
			<-time.After(time.Second)
			return "", boom
		}
		for _, name := range []string{"first", "second", "third"} {
			go c.GetWithFetch(calledBy(t, name), "k", time.Minute, slow)
			synctest.Wait()
		}
		elapse(2 * time.Second)
		require.Equal(t, 1, span)
		require.Equal(t, "first", caller)
		require.True(t, limited)
		require.Len(t, r.traces, 1)
		trace := r.traces[0]
		require.Equal(t, "users", trace.info.Cache)
		require.False(t, trace.info.Background)
		require.Equal(t, "first", trace.info.Starter.Value(callerKey{}))
		require.Equal(t, []any{"second", "third"}, trace.joined)
		require.Equal(t, []Event{{Kind: EventFetch, Cache: "users", Duration: time.Second, Err: boom}}, trace.ended)
	})
}

func TestTracerLearnsWhoJoinedBeforeTheFetchBegan(t *testing.T) {
	r := new(recorder)
	trace := &flightTrace{starter: calledBy(t, "first")}
	trace.join(calledBy(t, "second"))
	w := newWatchers("users", "string", options{observers: []Observer{r}})
	_, _ = trace.begin(calledBy(t, "first"), &w, false)
	require.Len(t, r.traces, 1)
	require.Equal(t, []any{"second"}, r.traces[0].joined)
	require.Equal(t, "first", r.traces[0].info.Starter.Value(callerKey{}))
}

func TestTracerIsToldOfTheEndOfAFetchOnceAndOfNobodyAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := observed(t, Config{FetchTimeout: time.Second, StaleFor: time.Hour})
		deaf := func(context.Context, string) (string, error) {
			<-time.After(time.Minute)
			return "v", nil
		}
		_, err := c.GetWithFetch(t.Context(), "k", time.Minute, deaf)
		require.ErrorIs(t, err, ErrFetchTimeout)
		synctest.Wait()
		require.Len(t, r.traces, 1)
		require.Len(t, r.traces[0].ended, 1)
		elapse(2 * time.Minute)
		require.Len(t, r.traces[0].ended, 1)
		require.Equal(t, "timeout", r.traces[0].ended[0].Outcome())

		require.NoError(t, c.Set(t.Context(), "k", "old", time.Second))
		elapse(2 * time.Second)
		_, err = c.GetWithFetch(t.Context(), "k", time.Minute, func(context.Context, string) (string, error) { return "new", nil })
		require.NoError(t, err)
		synctest.Wait()
		require.Len(t, r.traces, 2)
		require.True(t, r.traces[1].info.Background)
		require.Len(t, r.traces[1].ended, 1)
	})
}

func TestTraceTakesNobodyAfterItsEnd(t *testing.T) {
	r := new(recorder)
	trace := &flightTrace{starter: t.Context()}
	w := newWatchers("users", "string", options{observers: []Observer{r}})
	trace.begin(t.Context(), &w, false)
	trace.join(calledBy(t, "in time"))
	trace.end(Event{})
	trace.join(calledBy(t, "too late"))
	require.Equal(t, []any{"in time"}, r.traces[0].joined)
}
