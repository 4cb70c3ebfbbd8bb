package table

import (
	"math/bits"
	"sync/atomic"
)

// A table is a hash table of buckets. Reads take no lock; writes are made under the lock of the shard that
// owns it.
//
// A reader never misses an entry that is in the shard all the while it looks:
//
//   - An entry stays in its slot until it is removed, and its fingerprint in meta as long. Nothing is ever
//     moved within a table, so a reader that walks the chain in order can't be overtaken by an entry.
//   - Replacing stores a new node into the same slot. A reader sees one or the other.
//   - insert stores the slot first and the fingerprint after it. Who sees the fingerprint sees the node.
//   - remove takes the fingerprint away first and the node after it. A reader that read meta before that
//     finds nil, or the node of another key if the slot was used again: it compares the key, and goes on.
//     Other slots' fingerprints are not touched, since meta is rewritten only under the lock.
//   - An overflow bucket is taken out of its chain when it is empty, and is never used again. A reader that
//     stands on it still finds the rest of the chain behind it.
//   - Growth copies a chain to the newer table first. After that it takes the fingerprints away, first
//     those of the home bucket, which gets a mark with the same store. It leaves the slots as they are. A
//     reader that read meta before that finds the node in the slot; one that finds nothing looks at the
//     mark, and goes on in the newer table, which has the entry by then.
//
// A reader that finds nothing was, at some moment, right: the entry was then not yet put, or removed.
type table[V any] struct {
	buckets []bucket[V]

	// newer is set when the entries begin to move to a table of another size, and stays set, for those
	// readers who still hold this one.
	newer atomic.Pointer[table[V]]

	// moved counts the buckets, from the first, that have been moved. Guarded by the shard's lock.
	moved int
}

const slotsPerBucket = 6

// A bucket is one cache line of 64 bytes.
type bucket[V any] struct {
	// meta holds in byte i the fingerprint of slot i, 0 if it is empty, and in its highest bit that the
	// entries have moved to the newer table.
	meta  atomic.Uint64
	slots [slotsPerBucket]atomic.Pointer[node[V]]
	next  atomic.Pointer[bucket[V]] // the overflow bucket
}

const (
	movedMark = 1 << 63
	eachByte  = 0x0000_0101_0101_0101
	eachTop   = 0x0000_8080_8080_8080
)

// newTable returns a table that is about 70 % full with that many entries.
func newTable[V any](entries int) *table[V] {
	return &table[V]{buckets: make([]bucket[V], max(1, (entries*10+slotsPerBucket*7-1)/(slotsPerBucket*7)))}
}

// limit is the number of entries from which on the table should grow, at 80 %.
func (t *table[V]) limit() int { return len(t.buckets) * slotsPerBucket * 8 / 10 }

// index returns the number of the home bucket of a hash. It depends on the upper bits, the fingerprint on
// the lower ones. Buckets are in the order of hashes, whatever the size of the table.
func (t *table[V]) index(hash uint32) int {
	return int(uint64(hash) * uint64(len(t.buckets)) >> 32)
}

// fingerprint is never 0, which means an empty slot.
func fingerprint(hash uint32) uint64 { return uint64(hash)&0xff | 0x80 }

// matches has the top bit set in each byte of meta that equals the fingerprint wanted, which is given in
// every byte. It may also set that of a byte above such a one, so the key decides.
func matches(meta, wanted uint64) uint64 {
	x := meta ^ wanted
	return (x - eachByte) &^ x & eachTop
}

// find returns the entry of key if it is in this table, and otherwise nil: then it is in the newer one, or
// nowhere.
func (t *table[V]) find(hash uint32, key string) *node[V] {
	wanted := fingerprint(hash) * eachByte
	for b := &t.buckets[t.index(hash)]; b != nil; b = b.next.Load() {
		for m := matches(b.meta.Load(), wanted); m != 0; m &= m - 1 {
			n := b.slots[bits.TrailingZeros64(m)/8].Load()
			if n != nil && n.key() == key {
				return n
			}
		}
	}
	return nil
}

// follow goes on where a reader has not found the entry, in the newer table if the chain has moved. It looks
// at the mark of the first bucket only: that is set before the others, so if the reader saw any of the chain
// without its fingerprints, the mark is there by now.
func (t *table[V]) follow(hash uint32, key string) *node[V] {
	for t.buckets[t.index(hash)].meta.Load()&movedMark != 0 {
		t = t.newer.Load()
		if n := t.find(hash, key); n != nil {
			return n
		}
	}
	return nil
}

// A place is where a writer found an entry, or that there is none.
type place[V any] struct {
	before *bucket[V] // the bucket ahead in the chain; nil for the home bucket
	bucket *bucket[V]
	slot   int
	node   *node[V] // nil: there is no such entry, and of the rest nothing is set
}

// locate is find for writers. The lock is held, and the chain of the hash has not moved.
func (t *table[V]) locate(hash uint32, key string) place[V] {
	wanted := fingerprint(hash) * eachByte
	var before *bucket[V]
	for b := &t.buckets[t.index(hash)]; b != nil; before, b = b, b.next.Load() {
		for m := matches(b.meta.Load(), wanted); m != 0; m &= m - 1 {
			slot := bits.TrailingZeros64(m) / 8
			if n := b.slots[slot].Load(); n != nil && n.key() == key {
				return place[V]{before, b, slot, n}
			}
		}
	}
	return place[V]{}
}

// locateNode is locate for a node that is known to the caller, or by its tag to the policy. It spares
// looking at the key, which is mostly not in the processor's cache.
func (t *table[V]) locateNode(hash uint32, wantedNode func(*node[V]) bool) place[V] {
	wanted := fingerprint(hash) * eachByte
	var before *bucket[V]
	for b := &t.buckets[t.index(hash)]; b != nil; before, b = b, b.next.Load() {
		for m := matches(b.meta.Load(), wanted); m != 0; m &= m - 1 {
			slot := bits.TrailingZeros64(m) / 8
			if n := b.slots[slot].Load(); n != nil && wantedNode(n) {
				return place[V]{before, b, slot, n}
			}
		}
	}
	return place[V]{}
}

// insert adds a node whose key has no entry. The lock is held.
func (t *table[V]) insert(hash uint32, n *node[V]) {
	for b := &t.buckets[t.index(hash)]; ; {
		meta := b.meta.Load()
		if free := ^meta & eachTop; free != 0 {
			slot := bits.TrailingZeros64(free) / 8
			b.slots[slot].Store(n)
			b.meta.Store(meta | fingerprint(hash)<<(slot*8))
			return
		}
		next := b.next.Load()
		if next == nil {
			next = new(bucket[V])
			next.slots[0].Store(n)
			next.meta.Store(fingerprint(hash))
			b.next.Store(next)
			return
		}
		b = next
	}
}

// remove takes the entry at a place out. The lock is held.
func (p place[V]) remove() {
	meta := p.bucket.meta.Load() &^ (0xff << (p.slot * 8))
	p.bucket.meta.Store(meta)
	p.bucket.slots[p.slot].Store(nil)
	if meta == 0 && p.before != nil {
		p.before.next.Store(p.bucket.next.Load())
	}
}
