package cacheaside

import (
	"context"
	"sync"
)

// FetchTracer is an [Observer] that follows single fetches from their beginning to their end, as tracing
// does. A panic of it, or of a [FetchTrace] that it has returned, harms no lookup: it is contained as one of
// Observe is, and the fetch goes on without that trace.
type FetchTracer interface {
	Observer

	// TraceFetch is called when a fetch is about to begin, on the goroutine that it will run on, and returns
	// the context that is given to the fetch, which must be derived from ctx. ctx has what the fetch gets:
	// the values of the look-up that started it, unless [WithFetchContext] changed them, and none of its
	// cancellation. It is not called for a flight that needs no fetch in the end, because another process
	// had fetched the key.
	TraceFetch(ctx context.Context, info FetchInfo) (context.Context, FetchTrace)
}

// FetchInfo is what is known about a fetch that is about to begin.
type FetchInfo struct {
	Cache      string          // the cache's name
	Background bool            // nobody waits for it: it refreshes a value
	Starter    context.Context // the values of the look-up that started it, before WithFetchContext
}

// FetchTrace is told what becomes of one fetch. Its methods are called one at a time, and none after End.
type FetchTrace interface {
	// Joined is called for each further look-up that waits for the fetch, with its context.
	Joined(ctx context.Context)

	// End is called with the EventFetch of the fetch. A fetch that ignores its end at
	// [Config.FetchTimeout] may go on.
	End(Event)
}

// flightTrace is the traces of one fetch, one a tracer. A nil one does nothing.
type flightTrace struct {
	starter context.Context

	mu     sync.Mutex
	w      *watchers // set when it begins
	traces []numberedTrace
	early  []context.Context // of those who joined before the fetch began
	begun  bool
	ended  bool
}

// numberedTrace is a trace with the number of its tracer among the watchers. Its panics count as those of the
// tracer.
type numberedTrace struct {
	FetchTrace
	number int
}

// begin starts the traces, and returns the context to fetch under, and t. It does so once: of the calls of
// the source that a batch may need, further ones are not followed, and get no trace to end.
func (t *flightTrace) begin(ctx context.Context, w *watchers, background bool) (context.Context, *flightTrace) {
	if t == nil {
		return ctx, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.begun {
		return ctx, nil
	}
	t.w = w
	info := FetchInfo{Cache: w.cache, Background: background, Starter: t.starter}
	for i, tracer := range w.tracers {
		number := w.traced[i]
		w.contain(number, func() {
			traced, trace := tracer.TraceFetch(ctx, info)
			if trace != nil {
				t.traces = append(t.traces, numberedTrace{trace, number})
			}
			if traced == nil {
				panic("TraceFetch returned a nil context")
			}
			ctx = traced //nolint:fatcontext // each tracer's is derived from the one before it
		})
	}
	for _, joined := range t.early {
		t.joinLocked(joined)
	}
	t.early, t.begun = nil, true
	return ctx, t
}

func (t *flightTrace) join(ctx context.Context) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.ended:
	case !t.begun:
		t.early = append(t.early, ctx)
	default:
		t.joinLocked(ctx)
	}
}

func (t *flightTrace) joinLocked(ctx context.Context) {
	for _, trace := range t.traces {
		t.w.contain(trace.number, func() { trace.Joined(ctx) })
	}
}

func (t *flightTrace) end(e Event) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	for _, trace := range t.traces {
		t.w.contain(trace.number, func() { trace.End(e) })
	}
}
