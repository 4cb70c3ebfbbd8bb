// Package table is a bounded, concurrent hash table. It holds the entries of the memory backend and of
// the near cache.
//
// It is cut into shards by the upper bits of a key's hash. A shard has a mutex for writes only; a read
// takes no lock, allocates nothing, and writes nothing but the few bits in the entry that count its hits.
// What is dropped when a shard is full is decided by a policy that works on the write path alone; see
// policy.go.
//
// The package knows no clock: deadlines are numbers that its caller compares with a time of its own, and
// [Map.Get] does not look at them.
package table

import (
	"hash/maphash"
	"math"
	"math/bits"
	"runtime"
	"sync/atomic"
	"unsafe"
)

// Outcome says what became of [Map.PutIf].
type Outcome uint8

const (
	// Stored means that the entry was written.
	Stored Outcome = iota
	// Refused means that allow said no, and nothing was changed.
	Refused
	// TooHeavy means that the entry is heavier than the whole capacity, and nothing was changed.
	TooHeavy
	// Declined means that the policy found the entry not worth what would have to be dropped for it. It
	// counts as evicted, and nothing is left under the key.
	Declined
)

// Options configures a [Map].
type Options[V any] struct {
	// Capacity is the total weight that the map may hold. At no moment does it hold more.
	// Defaults to 0: unbounded, and no policy.
	Capacity int64

	// Weighted says that entries weigh more than 1. Then there are few shards, so that each has room for
	// many entries. Defaults to false.
	Weighted bool

	// Deadline returns when a value expires, on the caller's clock; math.MaxInt64 means never. It is
	// called on the write and sweep paths only, under a shard's lock. Defaults to nil: nothing expires.
	Deadline func(*V) int64

	// OnEvict is called for every entry that the policy dropped, after the shard's lock was given up, by
	// the goroutine whose write made it necessary. Defaults to nil: nobody is told.
	OnEvict func(key string, v *V)
}

// A Map holds values by key. Its methods are safe for concurrent use.
//
// The pointers that its methods hand out stay valid for as long as they are held, also after the entry
// was replaced or removed. What they point to must not be changed, but for atomics inside it.
type Map[V any] struct {
	seed    maphash.Seed
	mask    uint64
	shards  []shard[V]
	onEvict func(key string, v *V)
	yielded atomic.Uint32 // the shard that was asked last to make room for another one
}

const (
	// shardsPerProc is the number of shards for each processor. Four make it unlikely enough that two
	// writers meet on one lock.
	shardsPerProc = 4

	// minShare is the least capacity worth a shard of its own. Below it, the policy of each shard sees so
	// few entries that the hit ratio suffers.
	minShare = 4096

	// maxShare is the capacity from which on there are more shards than the processors need, up to
	// maxShards. When a table grows, its shard's writers wait for the memory.
	maxShare  = 1 << 16
	maxShards = 256

	// maxWeightedShards bounds the shards of a map whose entries have weights, on any machine. How many
	// entries there will be is not known then: there may be few, and the policy of a shard must see many.
	maxWeightedShards = 16
)

// New returns an empty map.
func New[V any](o Options[V]) *Map[V] {
	wanted := max(int64(shardsPerProc*runtime.GOMAXPROCS(0)), min(o.Capacity/maxShare, maxShards))
	if o.Weighted && o.Capacity > 0 {
		wanted = min(int64(shardsPerProc*runtime.GOMAXPROCS(0)), maxWeightedShards)
	}
	n := int64(1)
	for n < wanted && (o.Capacity <= 0 || o.Capacity/(2*n) >= minShare) {
		n *= 2
	}
	return newMap(o, n)
}

// newMap is [New] with a given number of shards, a power of two.
func newMap[V any](o Options[V], shards int64) *Map[V] {
	m := &Map[V]{seed: maphash.MakeSeed(), mask: uint64(shards - 1), shards: make([]shard[V], shards), onEvict: o.OnEvict}
	var b *budget
	if o.Capacity > 0 {
		b = &budget{capacity: o.Capacity}
	}
	for i := range m.shards {
		share := max(0, o.Capacity) / shards
		if int64(i) < o.Capacity%shards {
			share++
		}
		m.shards[i].init(b, share, o.Deadline)
	}
	return m
}

// Get returns the value of key, or nil, and marks a hit for the policy. It takes no lock and does not
// look at the deadline.
func (m *Map[V]) Get(key string) *V {
	n := m.find(key)
	if n == nil {
		return nil
	}
	n.touch()
	return &n.value
}

// Peek is [Map.Get] without marking a hit.
func (m *Map[V]) Peek(key string) *V {
	n := m.find(key)
	if n == nil {
		return nil
	}
	return &n.value
}

// Put writes the value of key. It returns false, and leaves the old entry of the key if there is one, when
// the entry is heavier than the capacity. Weights above a quarter of a million are rounded up to 18
// significant bits, and a weight of 0 counts as 1. The key is copied.
func (m *Map[V]) Put(key string, v V, weight uint32) (ok bool) {
	return m.PutIf(key, v, weight, nil) == Stored
}

// PutIf is [Map.Put] under a condition: allow is called with the current value of key, or nil, under the
// shard's lock, so that nothing can happen to the entry between the check and the write. It must not use
// the map, and may be called more than once. It is not called for an entry that is too heavy. A nil allow
// agrees to everything, and makes it Put. Otherwise an entry that is far heavier than the rest, and for
// which others would have to go, may be Declined: one large value that is asked for once must not cost all
// the small ones that are asked for often.
func (m *Map[V]) PutIf(key string, v V, weight uint32, allow func(current *V) bool) Outcome {
	// The node is made before the lock is taken, so that nobody waits for the allocation.
	h := maphash.String(m.seed, key)
	return m.put(h, newNode(key, v, weight, uint32(h)), allow)
}

// PutBeside is PutIf of a value with a pointer beside it, which [Beside] returns. Map holds the pointer for as long as
// the value, and a value without one takes no byte more.
func (m *Map[V]) PutBeside(key string, v V, beside unsafe.Pointer, weight uint32, allow func(current *V) bool) Outcome {
	h := maphash.String(m.seed, key)
	return m.put(h, newNodeBeside(key, v, beside, weight, uint32(h)), allow)
}

func (m *Map[V]) put(h uint64, n *node[V], allow func(current *V) bool) Outcome {
	s := &m.shards[h>>32&m.mask]
	if !s.fits(n) {
		return TooHeavy
	}
	for {
		outcome, gone, ok := s.put(uint32(h), n, allow)
		m.tell(gone)
		if ok {
			return outcome
		}
		m.makeRoom(n.weight())
	}
}

// Delete removes the entry of key, and reports whether there was one.
func (m *Map[V]) Delete(key string) bool {
	h := maphash.String(m.seed, key)
	s := &m.shards[h>>32&m.mask]
	s.mu.Lock()
	at := s.locateLocked(uint32(h), key)
	if at.node != nil {
		s.removeLocked(at)
		s.tidyLocked()
	}
	s.mu.Unlock()
	return at.node != nil
}

// DeleteIf removes the entry of key if there is one and allow agrees. It reports whether it did. As with
// [Map.PutIf], allow runs under the shard's lock; it is not called when there is no entry.
func (m *Map[V]) DeleteIf(key string, allow func(current *V) bool) bool {
	h := maphash.String(m.seed, key)
	s := &m.shards[h>>32&m.mask]
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.locateLocked(uint32(h), key)
	if at.node == nil || !allow(&at.node.value) {
		return false
	}
	s.removeLocked(at)
	s.tidyLocked()
	return true
}

// Clear removes every entry. It is not atomic over the whole map: what is written while it runs may stay.
func (m *Map[V]) Clear() {
	for i := range m.shards {
		m.shards[i].clear()
	}
}

// Len returns the number of entries, those whose deadline has passed included.
func (m *Map[V]) Len() int {
	m.lockAll()
	defer m.unlockAll()
	total := 0
	for i := range m.shards {
		total += m.shards[i].count
	}
	return total
}

// Weight returns the total weight of the entries.
func (m *Map[V]) Weight() int64 {
	m.lockAll()
	defer m.unlockAll()
	total := int64(0)
	for i := range m.shards {
		total += m.shards[i].weight
	}
	return total
}

// Evictions returns how many entries the policy has dropped.
func (m *Map[V]) Evictions() uint64 {
	total := uint64(0)
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		total += s.evictions
		s.mu.Unlock()
	}
	return total
}

// Due returns a time before which nothing in the map expires: a lower bound of the earliest deadline, or
// math.MaxInt64 if nothing will ever expire.
func (m *Map[V]) Due() int64 {
	due := int64(math.MaxInt64)
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		due = min(due, s.low)
		s.mu.Unlock()
	}
	return due
}

// find returns the entry of key, or nil. It is one function, but for the rare rest in [table.follow], and its
// callers are small enough to vanish in theirs: a call is a noticeable part of a hit.
func (m *Map[V]) find(key string) *node[V] {
	h := maphash.String(m.seed, key)
	hash, wanted := uint32(h), fingerprint(uint32(h))*eachByte
	t := m.shards[h>>32&m.mask].table.Load()
	for b := &t.buckets[t.index(hash)]; b != nil; b = b.next.Load() {
		for found := matches(b.meta.Load(), wanted); found != 0; found &= found - 1 {
			if n := b.slots[bits.TrailingZeros64(found)/8].Load(); n != nil && n.key() == key {
				return n
			}
		}
	}
	return t.follow(hash, key)
}

// lockAll takes the locks of all shards, in their order. Nobody else takes a second one. Without it, a sum over
// the shards could count what one has given up for another twice.
func (m *Map[V]) lockAll() {
	for i := range m.shards {
		m.shards[i].mu.Lock()
	}
}

func (m *Map[V]) unlockAll() {
	for i := range m.shards {
		m.shards[i].mu.Unlock()
	}
}

// makeRoom drops an entry of a shard that holds more than its share. If none does, it is for an entry of
// this weight, which is heavier than a share: then each shard gives up its part. That another writer is
// faster is no reason to give up: the caller tries again.
func (m *Map[V]) makeRoom(weight int64) {
	first := m.yielded.Add(1) // not always the same one
	for i := range uint32(len(m.shards)) {
		if gone := m.shards[uint64(first+i)&m.mask].concede(); gone.first != nil {
			m.tell(gone)
			return
		}
	}
	if weight <= m.shards[0].share {
		return
	}
	rest := (m.shards[0].budget.capacity - weight) / int64(len(m.shards))
	for i := range m.shards {
		m.tell(m.shards[i].shrink(rest))
	}
}

// tell reports dropped entries to the owner of the map.
func (m *Map[V]) tell(gone dropped[V]) {
	if m.onEvict == nil || gone.first == nil {
		return
	}
	m.onEvict(gone.first.key(), &gone.first.value)
	for _, n := range gone.more {
		m.onEvict(n.key(), &n.value)
	}
}
