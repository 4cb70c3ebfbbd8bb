package cacheaside

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
)

// A flight has a footing if any backend of the process has a limit when it begins. The methods of a nil one do nothing.

// footing is what a fetch stands on under [Config.MaxFetches]: the limits under which it has a place, or another fetch
// lends it its own. A fetch lends its places to those that it waits for: it does nothing while it waits, and they would
// otherwise wait for a place which only its own end can free.
type footing struct {
	mu     sync.Mutex
	limits []*limit
	wake   context.CancelFunc // ends the wait for a place; nil while there is none
	some   atomic.Bool        // limits is not empty

	// callers are those that wait for the flight; abandoned means that it has been given up, since there are none.
	callers atomic.Int64
	stale   bool // each of its callers has a stale value that may cover up an error
}

// abandoned is a number of callers so low that none who come make it positive.
const abandoned = int64(-1) << 40

// attend counts a caller, and reports false if the flight has been given up.
func (f *footing) attend() bool { return f == nil || f.callers.Add(1) > 0 }

// first is attend of the caller that starts the flight.
func (f *footing) first() {
	if f != nil {
		f.callers.Store(1)
	}
}

func (f *footing) isAlone() bool { return f != nil && f.callers.Load() == 0 }

func (f *footing) isStale() bool { return f != nil && f.stale }

func (f *footing) setStale(stale bool) {
	if f != nil {
		f.stale = stale
	}
}

// leaves takes back attend. The last caller that leaves ends the wait for a place.
func (f *footing) leaves() {
	if f != nil && f.callers.Add(-1) == 0 {
		f.rouse()
	}
}

// abandon gives the flight up if no caller waits for it.
func (f *footing) abandon() bool { return f != nil && f.callers.CompareAndSwap(0, abandoned) }

func (f *footing) rouse() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wake != nil {
		f.wake()
	}
}

// queues notes what ends the wait for a place under l, and ends it if one has been lent by now.
func (f *footing) queues(l *limit, wake context.CancelFunc) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wake = wake; wake != nil && slices.Contains(f.limits, l) {
		wake()
	}
}

func (f *footing) stands(l *limit) bool {
	if f == nil || !f.some.Load() {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.limits, l)
}

func (f *footing) all() []*limit {
	if f == nil || !f.some.Load() {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.limits)
}

// add puts f on further limits.
func (f *footing) add(limits []*limit) {
	if f == nil {
		return
	}
	more := false
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range limits {
		if !slices.Contains(f.limits, l) {
			f.limits, more = append(f.limits, l), true
		}
	}
	f.some.Store(len(f.limits) > 0)
	if more && f.wake != nil {
		f.wake()
	}
}

// ends says that the fetch has returned: it lends nothing any more.
func (f *footing) ends() {
	if f != nil && f.some.Load() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.limits = nil
		f.some.Store(false)
	}
}

// lend lends the places of f, which waits for g, to g and to those that g waits for.
func (f *flightContext) lend(g *flightContext) {
	limits := f.footing.all()
	if len(limits) == 0 {
		return
	}
	seen := map[*flightContext]struct{}{}
	for next := []*flightContext{g}; len(next) > 0; {
		g := next[len(next)-1]
		next = next[:len(next)-1]
		if _, ok := seen[g]; !ok && g != f {
			seen[g] = struct{}{}
			g.footing.add(limits)
			next = g.waits.appendTo(next)
		}
	}
}
