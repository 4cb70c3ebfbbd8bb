package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	values   context.Context // the starter's, without its cancellation
	owner    fetcher         // the *flights that it belongs to
	begun    int64           // on the owner's clock
	deadline int64           // on the owner's clock; never: none
	key      string          // what is being fetched
	keys     *[]string       // the same, for a batch
	parent   *flightContext  // the fetch from within which this one was started, if any
	flights  atomic.Int32    // those that have not ended: one, or as many as a batch has keys

	previous  any          // *entry[T] of the stale value that the fetch replaces, or nil
	ttl       atomic.Int64 // set by OverrideTTL; ttlUnset otherwise
	skipStore atomic.Bool  // set by SkipStore
	failed    atomic.Bool  // its failure has been counted

	collective atomic.Pointer[flightContext] // of the fetch of several keys that this one is part of; see batcher.go

	trace  *flightTrace // nil unless somebody follows fetches
	called atomic.Int64 // of a fetch that several are part of: when the source was called; 0 before
	told   atomic.Bool  // the same: its end has been told

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
	in := new(cancellable)
	if deadline, ok := f.Deadline(); ok {
		in.Context, in.cancel = context.WithDeadline(f.values, deadline)
	} else {
		in.Context, in.cancel = context.WithCancel(f.values)
	}
	if f.err.Load() != nil {
		in.cancel()
	}
	f.inner.Store(in)
	return in.Done()
}

func (f *flightContext) Err() error {
	if err := f.err.Load(); err != nil {
		return *err
	}
	if in := f.inner.Load(); in != nil {
		return in.Err()
	}
	return nil
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

// runs reports whether f, or a fetch that it was started from, fetches key for owner.
func (f *flightContext) runs(owner fetcher, key string) bool {
	for ; f != nil; f = f.parent {
		if f.owner == owner && f.err.Load() == nil && f.fetches(key) {
			return true
		}
	}
	return false
}

func (f *flightContext) fetches(key string) bool {
	if f.keys != nil {
		return slices.Contains(*f.keys, key)
	}
	return f.key == key
}

// waits tells which fetches callers inside a fetch wait for, and how many of them. It is over all caches,
// since fetches of different caches can wait for each other. Only calls made from within a fetch use it.
var (
	waitsMu sync.Mutex
	waits   = make(map[*flightContext]map[*flightContext]int) // guarded by waitsMu
)

// awaits notes that a caller inside fetch f is about to wait for flight g, and returns ErrReentrant
// instead if g waits for f, so that the wait would never end. leave takes the note back.
func (f *flightContext) awaits(g *flightContext) error {
	waitsMu.Lock()
	defer waitsMu.Unlock()
	if g.reaches(f) {
		return ErrReentrant
	}
	if waits[f] == nil {
		waits[f] = make(map[*flightContext]int)
	}
	waits[f][g]++
	return nil
}

func (f *flightContext) leave(g *flightContext) {
	waitsMu.Lock()
	defer waitsMu.Unlock()
	if waits[f][g]--; waits[f][g] == 0 {
		delete(waits[f], g)
	}
	if len(waits[f]) == 0 {
		delete(waits, f)
	}
}

// reaches reports whether f waits for target, directly or through others. waitsMu must be held. The
// graph has no cycle, since awaits lets none arise, and holds only fetches that wait for others.
func (f *flightContext) reaches(target *flightContext) bool {
	if f == target {
		return true
	}
	for g := range waits[f] {
		if g.reaches(target) {
			return true
		}
	}
	return false
}
