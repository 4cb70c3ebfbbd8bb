package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"
)

// Observer is told what a cache does. Fresh hits, by far the most frequent, are left out so that an
// observer costs them nothing: [Stats] counts them, and a [HitObserver] is told of them too.
//
// Observe is called on the goroutine on which the event happens, sometimes with a lock held, so it must
// return soon, be safe for concurrent use, and call no method of the cache but Stats. While one blocks,
// rueidis-aside may hear of no change, and give out near copies that are outdated: what may take long (a network, a full
// pipe) belongs behind a channel that is never waited for. A panic is contained and counted in
// Stats.ObserverPanics; after ten of them the observer is not called any more.
type Observer interface {
	Observe(Event)
}

// HitObserver is an Observer that is told of fresh hits as well. It makes every hit take the long way, which
// reads the clock and costs some five times as much; none of it is paid for an Observer without the method.
type HitObserver interface {
	Observer
	ObserveHit(Event) // EventHit or EventNearHit
}

// Event is one thing that a cache did. It never holds a key or a value, but Err is what the source, the
// codec or Redis said, and its text may quote either.
type Event struct {
	Kind       EventKind
	Cache      string        // the cache's name; "" for EventBackendDown and EventBackendUp, which concern all of a backend
	Duration   time.Duration // of a fetch
	Background bool          // of a fetch: it refreshes a value, and nobody waits for it
	Err        error         // of a fetch or a backend; nil if it went well
}

// EventKind says what happened.
type EventKind uint8

// The kinds of an [Event].
const (
	EventHit                EventKind = iota + 1 // a fresh value was returned; for a HitObserver only
	EventNearHit                                 // the same, by rueidis-aside without asking Redis
	EventNegative                                // a remembered "not found" was returned
	EventStale                                   // a value past its ttl was returned
	EventMiss                                    // a look-up found nothing usable, and did not join a running fetch
	EventJoined                                  // a look-up waits for a fetch that another had started
	EventFetch                                   // a fetch returned, or its time was over; Duration, Background, and Err if it failed
	EventDiscarded                               // a fetched value was not stored: the key was set or deleted, or one of its tags invalidated, meanwhile
	EventUnreadable                              // a look-up found bytes that cannot be read as a value of the cache: a miss; Err
	EventUnstorable                              // a fetched value could not be encoded, was too large, or had bad tags, or a near copy was not weighed; Err
	EventEvicted                                 // an entry was dropped for want of room
	EventVoided                                  // a look-up found an entry that a tag has voided: a miss
	EventInvalidated                             // a key that this process kept was changed by another, or expired in Redis
	EventBackendError                            // the backend did not answer, or refused; Err
	EventWriteFailed                             // the same, of a Set, Delete or Clear: what was there before may still be there; Err
	EventInvalidationFailed                      // what Mutate wrote is not removed from the backend yet, and tried again; Err
	EventInvalidationLost                        // the same, and not tried any more: an old value may be kept until its ttl; Err
	EventBackendDown                             // the backend, or a node of it, is not asked until it answers a probe; once more if it refuses connections; Err
	EventBackendUp                               // the backend answers again, and each of its nodes
	EventFeedLost                                // a feed of the backend may have missed changes: nothing is kept until it is alive; Err
	EventFeedAlive                               // a feed of the backend that was lost is alive again
	EventQueued                                  // a fetch has waited for a place under MaxFetches, and has one or not; Duration
	EventOverloaded                              // a fetch found no place under MaxFetches; Background, Err
)

var eventNames = [...]string{
	"none", "hit", "near hit", "negative", "stale", "miss", "joined", "fetch", "discarded", "unreadable", "unstorable",
	"evicted", "voided", "invalidated", "backend error", "write failed", "invalidation failed", "invalidation lost",
	"backend down", "backend up", "feed lost", "feed alive", "queued", "overloaded",
}

// String returns the event's name in words.
func (k EventKind) String() string {
	if int(k) < len(eventNames) {
		return eventNames[k]
	}
	return fmt.Sprintf("EventKind(%d)", k)
}

// Outcome says how the fetch of an EventFetch ended: "ok", "not_found" (the source has none, which is no
// failure), "timeout" (of [Config.FetchTimeout]), "panic" (a Goexit too), or "error". It is made to be the
// label of a metric.
func (e Event) Outcome() string {
	var panicked *PanicError
	switch {
	case e.Err == nil:
		return "ok"
	case errors.As(e.Err, &panicked), errors.Is(e.Err, ErrGoexit):
		return "panic"
	case errors.Is(e.Err, ErrNotFound):
		return "not_found"
	case errors.Is(e.Err, ErrFetchTimeout):
		return "timeout"
	default:
		return "error"
	}
}

// watchers are the observers of a cache, sorted by what they want to be told.
type watchers struct {
	cache   string
	all     []Observer
	hits    []HitObserver
	numbers []int           // the places of hits in all
	panics  []atomic.Uint32 // of each of all
	tracers []FetchTracer
	traced  []int // the places of tracers in all
}

// newWatchers returns those that o names, the log among them, of a cache with values of this type.
func newWatchers(cache, values string, o options) watchers {
	w := watchers{cache: cache, all: slices.Clip(o.observers)}
	if o.logger != nil {
		w.all = append(w.all, newLog(o.logger, values))
	}
	w.panics = make([]atomic.Uint32, len(w.all))
	for i, observer := range w.all {
		if h, ok := observer.(HitObserver); ok {
			w.hits, w.numbers = append(w.hits, h), append(w.numbers, i)
		}
		if t, ok := observer.(FetchTracer); ok {
			w.tracers, w.traced = append(w.tracers, t), append(w.traced, i)
		}
	}
	return w
}

func (w *watchers) observe(e Event) {
	if len(w.all) == 0 {
		return
	}
	e.Cache = w.cache
	for i, o := range w.all {
		w.contain(i, func() { o.Observe(e) })
	}
}

// mostPanics is how many panics an observer may have until it is not called any more.
const mostPanics = 10

// contain calls an observer, the one with this number. An event may be told on a goroutine of the cache or of the
// client, where a panic would end the process; and no lookup fails because its observer does.
func (w *watchers) contain(number int, tell func()) {
	panics := &w.panics[number]
	if panics.Load() >= mostPanics {
		return
	}
	returned := false
	defer func() {
		if !returned {
			_ = recover() // counted
			panics.Add(1)
		}
	}()
	tell()
	returned = true
}

// log has write log a line, if there is a log that still works.
func (w *watchers) log(write func(*slog.Logger)) {
	for i, o := range w.all {
		if l, ok := o.(*log); ok {
			w.contain(i, func() { write(l.logger) })
		}
	}
}

// panicked is how often observers have panicked.
func (w *watchers) panicked() (n uint64) {
	for i := range w.panics {
		n += uint64(w.panics[i].Load())
	}
	return n
}

// hit tells of a hit that is neither stale nor negative.
func (w *watchers) hit(kind EventKind) {
	for i, o := range w.hits {
		w.contain(w.numbers[i], func() { o.ObserveHit(Event{Kind: kind, Cache: w.cache}) })
	}
}

func (c *Client[T]) observe(e Event) { c.watchers.observe(e) }

// tellEvictions tells the observers of entries that were dropped for want of room since it was last called.
// They are dropped under locks, where no code of a user may run; the call that caused it tells of it when it
// holds none.
func (c *Client[T]) tellEvictions() {
	if c.evictions.Load() == 0 {
		return
	}
	for range c.evictions.Swap(0) {
		c.observe(Event{Kind: EventEvicted})
	}
}

// missed counts a look-up that found nothing usable.
func (c *Client[T]) missed() {
	c.stats.misses.Add(1)
	c.observe(Event{Kind: EventMiss})
}

// unreadable counts a look-up that ended with err, if that says that the stored bytes cannot be read.
func (c *Client[T]) unreadable(err error) {
	if err != nil && errors.Is(err, ErrInvalidValue) {
		c.stats.unreadable.Add(1)
		c.observe(Event{Kind: EventUnreadable, Err: err})
	}
}

// joined counts a look-up that waits for a fetch which another one has started.
// What it returns must be called when the look-up returns.
func (c *Client[T]) joined(ctx context.Context, f *flight[T]) (left func()) {
	c.stats.joined.Add(1)
	c.observe(Event{Kind: EventJoined})
	if f.context.trace == nil {
		return func() {}
	}
	ctx, loan := rootOf(ctx).guard(ctx, true)
	f.context.trace.join(ctx)
	return loan.giveBack
}

// invalidated counts an entry that was dropped because it has changed in Redis.
func (c *Client[T]) invalidated() {
	c.stats.invalidations.Add(1)
	c.observe(Event{Kind: EventInvalidated})
}

// backendError counts an error of the backend, and lets every error through.
func (c *Client[T]) backendError(err error) error {
	if err != nil && errors.Is(err, ErrUnavailable) {
		c.stats.backendErrors.Add(1)
		c.observe(Event{Kind: EventBackendError, Err: err})
	}
	return err
}

// writeError is backendError for a Set, Delete or Clear, whose failure may leave wrong values behind.
func (c *Client[T]) writeError(err error) error {
	if err != nil && errors.Is(err, ErrUnavailable) {
		c.stats.backendErrors.Add(1)
		c.stats.writeErrors.Add(1)
		c.observe(Event{Kind: EventWriteFailed, Err: err})
	}
	return err
}

// fetchCall is a call of the source that somebody observes.
type fetchCall struct {
	begun      int64
	background bool
	trace      *flightTrace
	told       atomic.Bool // its end has been told
}

// countFetch counts a call of the source that is about to be made.
func (c *Client[T]) countFetch(background bool) {
	c.stats.fetches.Add(1)
	if background {
		c.stats.refreshes.Add(1)
	}
}

// fetching returns the context for a fetch that is about to begin; and a record of it for fetched, if the
// cache has observers.
func (c *Client[T]) fetching(f *flightContext, background bool) (context.Context, *fetchCall) {
	if len(c.watchers.all) == 0 {
		return f, nil
	}
	ctx, trace := f.trace.begin(f, &c.watchers, background)
	return ctx, &fetchCall{begun: c.clock.now(), background: background, trace: trace}
}

// fetched takes note that a fetch under f has returned, and returns the time.
func (c *Client[T]) fetched(call *fetchCall, f *flightContext, err error) (now int64) {
	now = c.clock.now()
	c.tell(call, f, err, now)
	return now
}

// tell tells of the end of a fetch under f, if it has begun and nobody has told yet: that it returned, or
// that its time was over. A fetch that several flights are part of is told of once.
func (c *Client[T]) tell(call *fetchCall, f *flightContext, err error, now int64) {
	if call == nil || !call.told.CompareAndSwap(false, true) {
		return
	}
	begun := call.begun
	all := f.collective.Load()
	if all != nil && all.called.Load() > 0 {
		begun = all.called.Load()
	}
	err = c.explain(f, err)
	e := Event{Kind: EventFetch, Cache: c.cfg.Name, Duration: time.Duration(now - begun), Background: call.background, Err: err}
	call.trace.end(e)
	if all == nil || all.told.CompareAndSwap(false, true) {
		c.observe(e)
	}
}
