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
	share    int64 // the weight that the shard may hold; 0: any
	deadline func(*V) int64
	_        [40]byte

	// mu guards all below, and every write to a table. It is a leaf: nothing else is locked under it.
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

// init makes an empty shard that may hold the weight share, or any weight if that is 0.
func (s *shard[V]) init(share int64, deadline func(*V) int64) {
	s.share, s.deadline = share, deadline
	s.low, s.nextLow = math.MaxInt64, math.MaxInt64
	s.policy.init(share)
	s.table.Store(newTable[V](firstEntries))
}

// fits reports whether there can be room for n. It needs no lock.
func (s *shard[V]) fits(n *node[V]) bool {
	return s.share == 0 || n.weight() <= s.share
}

// putIf puts n if allow agrees to replace the current value. The lock is given up even if allow panics.
func (s *shard[V]) putIf(n *node[V], allow func(*V) bool) (dropped *node[V], ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.locateLocked(n.hash, n.key)
	var current *V
	if at.node != nil {
		current = &at.node.value
	}
	if !allow(current) {
		return nil, false
	}
	return s.putLocked(n, at), true
}

func (s *shard[V]) locateLocked(hash uint32, key string) place[V] {
	return s.tableLocked(hash).locate(hash, key)
}

// putLocked writes n at the place where its key was looked for, and returns the entries that the policy
// dropped to make room, linked by next.
func (s *shard[V]) putLocked(n *node[V], at place[V]) (dropped *node[V]) {
	if s.deadline != nil {
		d := s.deadline(&n.value)
		s.low, s.nextLow = min(s.low, d), min(s.nextLow, d)
	}
	s.weight += n.weight()
	if at.node != nil {
		s.weight -= at.node.weight()
		s.policy.replace(at.node, n)
		at.bucket.slots[at.slot].Store(n)
	} else {
		s.growLocked()
		s.policy.insert(n)
		s.tableLocked(n.hash).insert(n)
		s.count++
	}
	for s.policy.over() {
		v := s.policy.evict(n)
		s.unlinkLocked(v)
		s.evictions++
		v.next, dropped = dropped, v
	}
	return dropped
}

// removeLocked removes the entry at a place.
func (s *shard[V]) removeLocked(at place[V]) {
	s.policy.remove(at.node)
	s.count--
	s.weight -= at.node.weight()
	at.remove()
}

// unlinkLocked takes an entry that the policy has let go out of the table.
func (s *shard[V]) unlinkLocked(n *node[V]) {
	s.count--
	s.weight -= n.weight()
	s.locateLocked(n.hash, n.key).remove()
}

// clear empties the shard. Readers who still hold the old table began before.
func (s *shard[V]) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table.Store(newTable[V](firstEntries))
	s.count, s.weight = 0, 0
	if s.share > 0 {
		s.policy.clear()
	}
	s.low, s.nextLow = math.MaxInt64, math.MaxInt64
}
