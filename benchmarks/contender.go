package main

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"time"
)

// A contender is a cache, or a limit, and what a reader should know of it when comparing.
type contender[V any] struct {
	name string
	less string // what it does less of than the others
	rank rank
	open func(o setup[V]) handle[V]
}

// rank says what a contender counts as.
type rank int

const (
	ours  rank = iota
	peer       // has a ttl and a bound: counts when a target says "the fastest"
	loose      // lacks the ttl or the bound
	limit      // no cache, but what one could at best come near to
)

// A setup says what a contender is opened for.
type setup[V any] struct {
	capacity int // entries
	ttl      time.Duration
	fetch    func(key string) V // the source, for those that have a get-or-fetch

	// exact asks a contender that works off reads and writes in the background to do it at once, where it
	// can: for hit ratios, which should not depend on how fast a trace is played.
	exact bool
}

// A handle is an open contender. Functions that a contender has nothing for are nil.
type handle[V any] struct {
	get    func(key string) (V, bool)
	load   func(key string) (V, error) // get-or-fetch
	set    func(key string, value V)
	settle func()     // returns when what was set can be read
	size   func() int // entries held, expired ones included
	close  func()
}

// fill stores each key, and once more those that were not taken.
func (h *handle[V]) fill(keys []string, value func(i int) V) {
	for range 5 {
		missing := 0
		for i, k := range keys {
			if _, ok := h.get(k); !ok {
				h.set(k, value(i))
				missing++
			}
			if i%1024 == 0 && h.settle != nil {
				h.settle()
			}
		}
		if h.settle != nil {
			h.settle()
		}
		if missing == 0 {
			return
		}
	}
}

// An entrant is a contender that has been opened for a measure.
type entrant[V any] struct {
	contender[V]
	handle[V]
}

// openAll opens the contenders and fills them with keys, in any order, so that it is not always the same
// one whose memory lies as the collector left it.
func openAll[V any](all []contender[V], o setup[V], keys []string, value func(i int) V) []entrant[V] {
	all = slices.DeleteFunc(slices.Clone(all), func(c contender[V]) bool { return !chosen(c.name, c.rank) })
	opened := make([]entrant[V], len(all))
	runtime.GC()
	for _, i := range rand.Perm(len(all)) {
		opened[i] = entrant[V]{all[i], all[i].open(o)}
		opened[i].fill(keys, value)
	}
	return opened
}

func closeAll[V any](all []entrant[V]) {
	for _, e := range all {
		e.close()
	}
}

// only names the contenders to measure beside ours; none is all of them. For work on the engine.
var only []string

func chosen(name string, r rank) bool {
	return len(only) == 0 || r == ours || slices.Contains(only, name)
}

// hour is the ttl of measures in which nothing should expire.
const hour = time.Hour
