package main

import (
	"container/heap"
	"math"
	"slices"
)

// belady returns the hits that a cache of that many entries could have at most, if it knew the future: it
// drops what will be asked for last (Belady: "A study of replacement algorithms for a virtual-storage
// computer", 1966).
func belady(t trace, capacity int) (hits int) {
	next := nextUses(t)
	cached := make([]uint32, t.keys) // when a cached key is asked for next; 0 if it is not cached
	held := 0
	var far farthest
	for i, k := range t.requests {
		if cached[k] != 0 {
			hits++
		} else {
			held++
		}
		cached[k] = next[i]
		heap.Push(&far, use{next[i], k})
		for held > capacity {
			u := heap.Pop(&far).(use)
			if cached[u.key] == u.next { // otherwise it was asked for since, and has a later use in the heap
				cached[u.key] = 0
				held--
			}
		}
	}
	return hits
}

// nextUses returns for each request when its key is asked for next; never is the largest number.
func nextUses(t trace) []uint32 {
	next := make([]uint32, len(t.requests))
	last := make([]uint32, t.keys)
	for i := range last {
		last[i] = math.MaxUint32
	}
	for i, v := range slices.Backward(t.requests) {
		k := v
		next[i] = last[k]
		last[k] = uint32(i)
	}
	return next
}

type use struct{ next, key uint32 }

// farthest is a heap of uses, the farthest first.
type farthest []use

func (f farthest) Len() int           { return len(f) }
func (f farthest) Less(i, j int) bool { return f[i].next > f[j].next }
func (f farthest) Swap(i, j int)      { f[i], f[j] = f[j], f[i] }
func (f *farthest) Push(u any)        { *f = append(*f, u.(use)) }
func (f *farthest) Pop() any {
	last := len(*f) - 1
	u := (*f)[last]
	*f = (*f)[:last]
	return u
}
