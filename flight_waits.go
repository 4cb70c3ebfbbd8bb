package cacheaside

import (
	"slices"
	"sync"
)

// Fetches ask for other keys, and wait for those flights. Two rules keep them from waiting for each other
// for ever:
//
//   - A fetch must not ask for a key that it is fetching itself, nor for one that a fetch which waits for it
//     is fetching: runs.
//   - A caller inside a fetch must not wait for a flight that waits, through others, for that fetch: awaits.
//
// Both look at who waits for whom at that moment. A fetch that was started from within another one, which
// does not wait for it (to fill the cache ahead, say), may ask for the key of that one.

// waits are the fetches that callers inside one fetch wait for. Each fetch has its own, with its own lock,
// so that fetches that have nothing to do with each other do not meet. No two of the locks are held at a
// time.
type waits struct {
	mu      sync.Mutex
	fetches map[*flightContext]int // how many callers wait for each
}

// add notes that a caller inside the fetch is about to wait for g.
func (w *waits) add(g *flightContext) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fetches == nil {
		w.fetches = make(map[*flightContext]int)
	}
	w.fetches[g]++
}

func (w *waits) remove(g *flightContext) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fetches[g]--; w.fetches[g] == 0 {
		delete(w.fetches, g)
	}
}

func (w *waits) has(g *flightContext) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fetches[g] > 0
}

// appendTo appends the fetches that are waited for to all.
func (w *waits) appendTo(all []*flightContext) []*flightContext {
	w.mu.Lock()
	defer w.mu.Unlock()
	for g := range w.fetches {
		all = append(all, g)
	}
	return all
}

// awaits notes that a caller inside fetch f is about to wait for flight g, and returns ErrReentrant
// instead if g waits for f, so that the wait would never end. leave takes the note back.
//
// The note comes first and the look after it: of two callers that are about to close a circle at the same
// moment, at least one sees the other's note. Both may, and then both are refused.
func (f *flightContext) awaits(g *flightContext) error {
	f.waits.add(g)
	if g.reaches(f) {
		f.leave(g)
		return ErrReentrant
	}
	f.lend(g)
	return nil
}

func (f *flightContext) leave(g *flightContext) { f.waits.remove(g) }

// reaches reports whether f is target, or waits for it, directly or through others. It visits each fetch
// once.
func (f *flightContext) reaches(target *flightContext) bool {
	seen := map[*flightContext]struct{}{}
	for next := []*flightContext{f}; len(next) > 0; {
		g := next[len(next)-1]
		next = next[:len(next)-1]
		if g == target {
			return true
		}
		if _, ok := seen[g]; !ok {
			seen[g] = struct{}{}
			next = g.waits.appendTo(next)
		}
	}
	return false
}

// runs reports whether f fetches key for owner, or a fetch does that has started f and waits for it.
func (f *flightContext) runs(owner fetcher, key string) bool {
	for f != nil {
		if f.owner == owner && f.err.Load() == nil && f.fetches(key) {
			return true
		}
		if f.parent == nil || !f.parent.waits.has(f) {
			return false
		}
		f = f.parent
	}
	return false
}

func (f *flightContext) fetches(key string) bool {
	if f.keys != nil {
		return f.keys.has(key)
	}
	return f.key == key
}

// keySet is the keys of a batch. A lookup from within its fetch looks for its own key here, so there is a
// map of them, which the first such lookup makes.
type keySet struct {
	list []string // not changed after the fetch has begun

	once sync.Once
	set  map[string]struct{}
}

// smallSet is how many keys are compared one by one.
const smallSet = 16

func (s *keySet) has(key string) bool {
	if len(s.list) <= smallSet {
		return slices.Contains(s.list, key)
	}
	s.once.Do(func() {
		s.set = make(map[string]struct{}, len(s.list))
		for _, k := range s.list {
			s.set[k] = struct{}{}
		}
	})
	_, ok := s.set[key]
	return ok
}
