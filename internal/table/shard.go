package table

import (
	"math"
	"sync"
	"sync/atomic"
)

// A shard is a part of the map with a table, a policy and a lock of its own.
type shard[V any] struct {
	// table is what readers look at. When its entries are moving to a table of another size, it stays the
	// older one until the last has moved. It and what never changes have a cache line of their own, away
	// from what every write changes.
	table    atomic.Pointer[table[V]]
	share    int64   // the shard's part of the budget
	budget   *budget // nil: the map is unbounded, and there is no policy
	deadline func(*V) int64
	_        [32]byte

	// mu guards all below, and every write to a table. It is a leaf: under it nothing else is locked but, by
	// those who sum over all shards, the next shard's.
	mu        sync.Mutex
	count     int
	weight    int64
	evictions uint64
	policy    policy[V]

	low      int64 // no entry expires before it
	nextLow  int64 // the same, of what a running sweep has seen and what was written since it began
	sweeping bool

	_ [64]byte // keeps the next shard's table off the line of this one's writers
}

// init makes an empty shard. An unbounded map has no budget.
func (s *shard[V]) init(b *budget, share int64, deadline func(*V) int64) {
	s.budget, s.share, s.deadline = b, share, deadline
	s.low, s.nextLow = math.MaxInt64, math.MaxInt64
	s.policy.init(share)
	s.table.Store(newTable[V](firstEntries))
}

// fits reports whether there can be room for n. It needs no lock.
func (s *shard[V]) fits(n *node[V]) bool {
	return s.budget == nil || n.weight() <= s.share
}

// put writes n, if allow is nil or agrees to replace the current value, and returns the entries that the
// policy dropped to make room, linked by next. It reports false, and changes nothing, if the room has to
// come from another shard. The lock is given up even if allow panics.
func (s *shard[V]) put(n *node[V], allow func(*V) bool) (_ Outcome, dropped *node[V], ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.locateLocked(n.hash, n.key)
	delta := n.weight()
	var current *V
	if at.node != nil {
		delta -= at.node.weight()
		current = &at.node.value
	}
	if allow != nil && !allow(current) {
		return Refused, nil, true
	}
	if s.budget == nil {
		s.writeLocked(n, at, true)
		return Stored, nil, true
	}
	allowed, ok := s.budget.claim(s.weight, delta, s.share)
	if !ok {
		return 0, nil, false
	}
	s.writeLocked(n, at, s.weight+delta <= allowed)
	for s.weight > allowed {
		v := s.evictLocked(n)
		v.next, dropped = dropped, v
	}
	s.budget.release(allowed - s.weight)
	return Stored, dropped, true
}

// concede drops an entry if the shard holds more than its share, for the sake of one that holds less.
func (s *shard[V]) concede() (dropped *node[V]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.weight <= s.share {
		return nil
	}
	dropped = s.evictLocked(nil)
	s.budget.release(dropped.weight())
	return dropped
}

func (s *shard[V]) locateLocked(hash uint32, key string) place[V] {
	return s.tableLocked(hash).locate(hash, key)
}

// writeLocked writes n at the place where its key was looked for. There is room if nothing has to be
// dropped for it.
func (s *shard[V]) writeLocked(n *node[V], at place[V], room bool) {
	if s.deadline != nil {
		d := s.deadline(&n.value)
		s.low, s.nextLow = min(s.low, d), min(s.nextLow, d)
	}
	s.weight += n.weight()
	if at.node != nil {
		s.weight -= at.node.weight()
		s.policy.replace(at.node, n)
		at.bucket.slots[at.slot].Store(n)
		return
	}
	s.growLocked()
	s.policy.insert(n, room)
	s.tableLocked(n.hash).insert(n)
	s.count++
}

// evictLocked drops an entry that the policy picks, but never the newest.
func (s *shard[V]) evictLocked(newest *node[V]) *node[V] {
	n := s.policy.evict(newest)
	s.count--
	s.weight -= n.weight()
	s.evictions++
	s.locateLocked(n.hash, n.key).remove()
	return n
}

// removeLocked removes the entry at a place.
func (s *shard[V]) removeLocked(at place[V]) {
	s.policy.remove(at.node)
	s.count--
	s.weight -= at.node.weight()
	at.remove()
	if s.budget != nil {
		s.budget.release(at.node.weight())
	}
}

// clear empties the shard. Readers who still hold the old table began before.
func (s *shard[V]) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.budget != nil {
		s.budget.release(s.weight)
		s.policy.clear()
	}
	s.table.Store(newTable[V](firstEntries))
	s.count, s.weight = 0, 0
	s.low, s.nextLow = math.MaxInt64, math.MaxInt64
}
