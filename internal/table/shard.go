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
	s.policy.init(share, s.placeLocked)
	s.table.Store(newTable[V](firstEntries))
}

// fits reports whether there can be room for n. It needs no lock.
func (s *shard[V]) fits(n *node[V]) bool {
	return s.budget == nil || n.weight() <= s.budget.capacity
}

// dropped are the entries that a write made the policy drop, mostly one, which is why that needs no slice.
type dropped[V any] struct {
	first *node[V]
	more  []*node[V]
}

func (d *dropped[V]) add(n *node[V]) {
	if d.first == nil {
		d.first = n
		return
	}
	d.more = append(d.more, n)
}

// put writes n, if allow is nil or agrees to replace the current value, and returns the entries that the
// policy dropped to make room. With allow, the policy may also decline an entry that is far heavier than
// the rest. put reports false, and changes nothing, if the room has to come from another shard. The lock
// is given up even if allow panics.
func (s *shard[V]) put(hash uint32, n *node[V], allow func(*V) bool) (_ Outcome, gone dropped[V], ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.locateLocked(hash, n.key())
	delta := n.weight()
	var current *V
	if at.node != nil {
		delta -= at.node.weight()
		current = &at.node.value
	}
	if allow != nil && !allow(current) {
		return Refused, gone, true
	}
	if s.budget == nil {
		s.writeLocked(hash, n, at, true)
		return Stored, gone, true
	}
	if allow != nil && !s.budget.hasRoom(delta) && !s.policy.admitsHeavy(hash, n) {
		s.declineLocked(at)
		gone.add(n)
		return Declined, gone, true
	}
	allowed, ok := s.budget.claim(s.weight, delta, s.share, n.weight())
	if !ok {
		return 0, gone, false
	}
	s.writeLocked(hash, n, at, s.weight+delta <= allowed)
	for s.weight > allowed {
		gone.add(s.evictLocked(n))
	}
	s.budget.release(allowed - s.weight)
	return Stored, gone, true
}

// declineLocked removes the entry at a place, if there is one, whose newer value the policy has declined:
// the older one must not be seen any more. The newer one counts as evicted.
func (s *shard[V]) declineLocked(at place[V]) {
	if at.node != nil {
		s.removeLocked(at)
		s.tidyLocked()
	}
	s.evictions++
}

// shrink drops entries until the shard holds no more than limit, for the sake of an entry of another shard
// that is heavier than that shard's share.
func (s *shard[V]) shrink(limit int64) (gone dropped[V]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.weight > limit {
		n := s.evictLocked(nil)
		s.budget.release(n.weight())
		gone.add(n)
	}
	return gone
}

// concede drops an entry if the shard holds more than its share, for the sake of one that holds less.
func (s *shard[V]) concede() (gone dropped[V]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.weight <= s.share {
		return gone
	}
	n := s.evictLocked(nil)
	s.budget.release(n.weight())
	gone.add(n)
	return gone
}

func (s *shard[V]) locateLocked(hash uint32, key string) place[V] {
	return s.tableLocked(hash).locate(hash, key)
}

// writeLocked writes n at the place where its key was looked for. There is room if nothing has to be
// dropped for it.
func (s *shard[V]) writeLocked(hash uint32, n *node[V], at place[V], room bool) {
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
	s.policy.insert(hash, n, room)
	s.tableLocked(hash).insert(hash, n)
	s.count++
}

// evictLocked drops an entry that the policy picks, but never the newest.
func (s *shard[V]) evictLocked(newest *node[V]) *node[V] {
	at := s.policy.evict(newest)
	s.count--
	s.weight -= at.node.weight()
	s.evictions++
	at.remove()
	return at.node
}

// placeLocked returns the place of the entry with the record i.
func (s *shard[V]) placeLocked(i uint32) place[V] {
	hash := s.policy.records.at(i).hash
	return s.homeLocked(hash).locateNode(hash, func(n *node[V]) bool { return n.tag == i })
}

// hashLocked returns the lower half of the hash of the key of n, which must be in the table.
func (s *shard[V]) hashLocked(n *node[V]) uint32 {
	if s.budget == nil {
		return n.tag
	}
	return s.policy.records.at(n.tag).hash
}

// takeOutLocked removes the entry of a node, which must be in the table.
func (s *shard[V]) takeOutLocked(n *node[V]) {
	hash := s.hashLocked(n)
	s.removeLocked(s.homeLocked(hash).locateNode(hash, func(other *node[V]) bool { return other == n }))
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
