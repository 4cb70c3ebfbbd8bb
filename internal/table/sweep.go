package table

import (
	"math"
	"runtime"
)

// Sweep removes the entries whose deadline is at or before now, and returns their number. A shard in which
// nothing can be due costs a look at its lower bound. The others are walked in short steps with the lock
// given up and the processor offered in between, a table that is nearly empty is given back, and a move to
// another table that is under way is brought to its end. It ends early when stop returns true; stop may be
// nil. A shard that another Sweep is walking is left to that.
func (m *Map[V]) Sweep(now int64, stop func() bool) (expired int) {
	if stop == nil {
		stop = func() bool { return false }
	}
	for i := range m.shards {
		if stop() {
			break
		}
		expired += m.shards[i].sweep(now, stop)
	}
	return expired
}

func (s *shard[V]) sweep(now int64, stop func() bool) (expired int) {
	due, moving := s.beginSweep(now)
	if moving {
		s.settle()
	}
	if !due {
		return 0
	}
	complete := false
	defer func() { s.endSweep(complete) }()
	var nodes []*node[V]
	for from := uint64(0); from < wholeHash; {
		if stop() {
			return expired
		}
		var n int
		n, from, nodes = s.sweepStep(from, now, nodes)
		expired += n
		runtime.Gosched()
	}
	complete = true
	return expired
}

// beginSweep reports whether the shard is worth a walk that nobody else is on, and whether its entries are on
// the move to another table.
func (s *shard[V]) beginSweep(now int64) (due, moving bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	moving = s.table.Load().newer.Load() != nil
	if s.low > now || s.sweeping {
		return false, moving
	}
	s.sweeping = true
	s.nextLow = math.MaxInt64
	return true, moving
}

// sweepStep removes what is due in the next buckets, and returns where to go on.
func (s *shard[V]) sweepStep(from uint64, now int64, nodes []*node[V]) (int, uint64, []*node[V]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	expired := 0
	nodes, from = s.collectLocked(from, nodes[:0])
	for _, n := range nodes {
		if d := s.deadline(&n.value); d > now {
			s.nextLow = min(s.nextLow, d)
			continue
		}
		s.takeOutLocked(n)
		expired++
	}
	return expired, from, nodes
}

// endSweep makes the bound that a complete walk has found the shard's, and gives back a table that has
// become too large. After an incomplete one the old bound still holds.
func (s *shard[V]) endSweep(complete bool) {
	s.mu.Lock()
	s.sweeping = false
	if complete {
		s.low = s.nextLow
	}
	s.mu.Unlock()
	if complete {
		s.settle()
	}
}
