package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// flightKey is the key under which the context of a fetch holds its *flightContext.
type flightKey struct{}

// flightContext is the context that a fetch runs under: the values of the caller who started it, but
// none of its cancellation; a deadline of its own; and an end when nobody can use the result any more.
// It also carries what the fetch may ask and tell (see [Previous], [OverrideTTL], [SkipStore]).
//
// It makes a cancellable context only when the fetch asks for Done. Most of the cost of a context is in
// its timer, and the flights already have one that ends them at FetchTimeout. Value hands keys on to that
// inner context, so that contexts derived from this one attach to it without a goroutine each.
type flightContext struct {
	lent                      // the values of the starter
	owner      fetcher        // the *flights that it belongs to
	begun      int64          // on the owner's clock
	deadline   int64          // on the owner's clock; never: none
	key        string         // what is being fetched
	keys       *keySet        // the same, for a batch
	background bool           // no caller waits for it
	parent     *flightContext // the fetch from within which this one was started, if any
	flights    atomic.Int32   // those that have not ended: one, or as many as a batch has keys

	settling  *settling    // of a key that was removed a moment ago; nil if none was. Set before the fetch is called
	previous  any          // *entry[T] of the stale value that the fetch replaces, or nil
	ttl       atomic.Int64 // set by OverrideTTL; ttlUnset otherwise
	skipStore atomic.Bool  // set by SkipStore
	tags      []string     // given by Tag; guarded by mu
	asOf      stamp        // before the fetch began; the zero stamp if that is not known
	vouch     *vouching    // for a result that another fetch has brought; guarded by mu
	failed    atomic.Bool  // its failure has been counted

	collective atomic.Pointer[flightContext] // of the fetch of several keys that this one is part of; see batcher.go

	trace  *flightTrace // nil unless somebody follows fetches
	called atomic.Int64 // of a fetch that several are part of: when the source was called; 0 before
	told   atomic.Bool  // the same: its end has been told

	footing *footing // under Config.MaxFetches; nil where no backend has a limit

	waits waits // for the fetches that callers inside this one wait for

	mu    sync.Mutex
	inner atomic.Pointer[cancellable] // written under mu
	err   atomic.Pointer[error]       // why it has ended, or is about to
}

// fetcher is what contexts know of the flights that they belong to, whatever their type of values.
type fetcher interface{ time() *clock }

type cancellable struct {
	context.Context
	cancel context.CancelFunc
}

// ttlUnset is the value of flightContext.ttl before OverrideTTL.
const ttlUnset = int64(-1) << 63

func (f *flightContext) Deadline() (time.Time, bool) {
	if f.deadline == never {
		return time.Time{}, false
	}
	return f.owner.time().base.Add(time.Duration(f.deadline)), true
}

// late reports whether the deadline has passed.
func (f *flightContext) late() bool { return f.deadline != never && f.owner.time().now() >= f.deadline }

func (f *flightContext) Done() <-chan struct{} {
	if in := f.inner.Load(); in != nil {
		return in.Done()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if in := f.inner.Load(); in != nil {
		return in.Done()
	}
	in := f.newInner()
	f.inner.Store(in)
	return in.Done()
}

// newInner makes the inner context, which has ended for the same reason as f if that has.
func (f *flightContext) newInner() *cancellable {
	in := new(cancellable)
	deadline, ok := f.Deadline()
	err := f.err.Load()
	switch {
	case err != nil && *err == deadlineExceeded:
		in.Context, in.cancel = context.WithDeadline(f.values, time.Time{}) // long ago
	case ok:
		in.Context, in.cancel = context.WithDeadline(f.values, deadline)
	default:
		in.Context, in.cancel = context.WithCancel(f.values)
	}
	if err != nil {
		in.cancel()
	}
	return in
}

// Err is what the inner context says as soon as there is one, even if it is known already why f is about to
// end: an error while Done is still open would break the rules of a context.
func (f *flightContext) Err() error {
	if in := f.inner.Load(); in != nil {
		return in.Err()
	}
	err := f.err.Load()
	if err == nil {
		return nil
	}
	if in := f.inner.Load(); in != nil { // made since, possibly before err was set
		return in.Err()
	}
	return *err
}

func (f *flightContext) Value(key any) any {
	if key == (flightKey{}) {
		return f
	}
	if in := f.inner.Load(); in != nil {
		return in.Value(key)
	}
	return f.values.Value(key)
}

var canceled, deadlineExceeded = context.Canceled, context.DeadlineExceeded

// expire makes deadlineExceeded the reason of the end that is about to come.
func (f *flightContext) expire() { f.err.CompareAndSwap(nil, &deadlineExceeded) }

// explain tells a fetch that gave up because its time was over from one that met another deadline.
func (f *flightContext) explain(err error) error {
	if errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, ErrFetchTimeout) && f.late() {
		return fmt.Errorf("%w: %w", ErrFetchTimeout, err)
	}
	return err
}

// done takes note that one of its flights has ended, and ends the context with the last.
func (f *flightContext) done() {
	if f.flights.Add(-1) == 0 {
		f.end()
	}
}

// countsFailure reports whether the failure of a flight is the first of the one call of the source that it
// shares with others.
func (f *flightContext) countsFailure() bool {
	if all := f.collective.Load(); all != nil {
		f = all
	}
	return f.failed.CompareAndSwap(false, true)
}

// end ends the context. One whose time is over is left to its own timer, which is due: cancelling it would
// give what is derived from it another reason than its own.
func (f *flightContext) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.err.CompareAndSwap(nil, &canceled) && *f.err.Load() == deadlineExceeded {
		return
	}
	if in := f.inner.Load(); in != nil {
		in.cancel()
	}
}

// flightOf returns the fetch that ctx belongs to, or nil.
func flightOf(ctx context.Context) *flightContext {
	f, _ := ctx.Value(flightKey{}).(*flightContext)
	return f
}
