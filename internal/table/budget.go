package table

import "sync/atomic"

// A budget is the weight that the shards of a map may hold together. Each has a share of it, which is what
// it comes down to when all want more; but while others need less than theirs, it may take what they leave,
// so that nothing is dropped for bad luck in how keys fall on shards as long as there is room anywhere.
type budget struct {
	capacity int64
	_        [56]byte // what changes has a cache line of its own

	// held is at least what all shards hold, and never more than capacity: a shard claims before it adds,
	// and gives back after it has dropped. When all are at their shares, nobody writes it any more.
	held atomic.Int64
	_    [56]byte
}

// claim asks for a shard that holds weight, and is about to hold delta more, or less if that is negative.
// The shard may then hold allowed, and has to drop what it has beyond that. It need never go below its
// share for that, nor below the weight of the entry that it is about to write: if it would have to, the
// room must come from the other shards, and claim reports false.
func (b *budget) claim(weight, delta, share, entry int64) (allowed int64, ok bool) {
	for {
		held := b.held.Load()
		if held+delta <= b.capacity {
			if delta == 0 || b.held.CompareAndSwap(held, held+delta) {
				return weight + delta, true
			}
			continue
		}
		allowed = weight + b.capacity - held
		if allowed < max(min(share, weight+delta), entry) {
			return 0, false
		}
		if held == b.capacity || b.held.CompareAndSwap(held, b.capacity) {
			return allowed, true
		}
	}
}

// hasRoom reports whether delta more fits without dropping anything.
func (b *budget) hasRoom(delta int64) bool { return b.held.Load()+delta <= b.capacity }

// release gives back what a shard has claimed and does not hold any more.
func (b *budget) release(weight int64) {
	if weight != 0 {
		b.held.Add(-weight)
	}
}
