package main

import (
	"math/rand"
	"testing"
)

// TestBeladyIsTheBestOfAllChoices compares with trying every way to choose what to drop.
func TestBeladyIsTheBestOfAllChoices(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	for range 300 {
		requests := make([]int, 9)
		for i := range requests {
			requests[i] = r.Intn(5)
		}
		trace := newTrace("", requests)
		capacity := 1 + r.Intn(3)
		if got, want := belady(trace, capacity), bestOf(trace.requests, 0, capacity); got != want {
			t.Fatalf("%v with room for %d: %d hits, the best is %d", trace.requests, capacity, got, want)
		}
	}
}

// bestOf tries every choice. held has a bit set for each key that is cached.
func bestOf(requests []uint32, held uint, capacity int) int {
	if len(requests) == 0 {
		return 0
	}
	k := uint(1) << requests[0]
	if held&k != 0 {
		return 1 + bestOf(requests[1:], held, capacity)
	}
	size := 0
	for b := held; b != 0; b &= b - 1 {
		size++
	}
	best := bestOf(requests[1:], held, capacity) // not to keep it is a choice too
	if size < capacity {
		return max(best, bestOf(requests[1:], held|k, capacity))
	}
	for b := held; b != 0; b &= b - 1 {
		best = max(best, bestOf(requests[1:], held&^(b&-b)|k, capacity))
	}
	return best
}

func TestLatenciesQuantiles(t *testing.T) {
	var l latencies
	for i := range 100_000 {
		l.add(1000 * 100) // 100 µs
		if i%1000 == 0 {
			l.add(1000 * 1000 * 3)
		}
	}
	if p := l.quantile(0.5); p < 0.1 || p > 0.1*9/8 {
		t.Errorf("median %v ms, want 0.1", p)
	}
	if p := l.quantile(0.9999); p < 3 || p > 3*9.0/8 {
		t.Errorf("p99.99 %v ms, want 3", p)
	}
	if l.worst() != 3 {
		t.Errorf("worst %v ms, want 3", l.worst())
	}
}
