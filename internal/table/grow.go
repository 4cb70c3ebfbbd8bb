package table

import "runtime"

// A shard changes the size of its table little by little: every write moves a few buckets along, so that
// none has to wait until all entries of a large shard are moved. Readers find the old table, which sends
// them on to the newer one for what has moved already.

// movesPerWrite is the number of buckets that a write moves. One would do for the newer table never to fill
// up before the older is empty. But while a move is under way most look-ups take two tables, so it is better
// over soon, and a write of some thirty entries more is still a short one.
const movesPerWrite = 8

// firstEntries is the number of entries that the first table of a shard is made for.
const firstEntries = 64

// tableLocked returns the table in which a writer finds and leaves the entries of a hash, and moves some.
func (s *shard[V]) tableLocked(hash uint32) *table[V] {
	t := s.table.Load()
	newer := t.newer.Load()
	if newer == nil {
		return t
	}
	s.moveChainLocked(t, t.index(hash))
	s.moveLocked(movesPerWrite)
	return newer
}

// homeLocked returns the table in which the entries of a hash are now.
func (s *shard[V]) homeLocked(hash uint32) *table[V] {
	t := s.table.Load()
	if t.buckets[t.index(hash)].meta.Load()&movedMark != 0 {
		return t.newer.Load()
	}
	return t
}

// growLocked begins to move to a larger table when one more entry would be too many for the present one.
func (s *shard[V]) growLocked() {
	t := s.table.Load()
	if s.count < t.limit() || t.newer.Load() != nil {
		return
	}
	entries := 2 * s.count
	if share := s.share; share > 0 && share < int64(entries) {
		// No more than that will ever come. A sixteenth more keeps the overflow buckets few.
		entries = int(share + share/16 + 1)
	}
	s.resizeLocked(entries)
}

// shrinkLocked begins to move to a smaller table when the present one is nearly empty, and reports whether
// it did. The smaller one has at least a fifth of the room, so that it can't fill up before the move is over,
// even if every write until then adds an entry.
func (s *shard[V]) shrinkLocked() bool {
	t := s.table.Load()
	if s.count >= t.limit()/8 || t.limit() <= 4*firstEntries || t.newer.Load() != nil {
		return false
	}
	s.resizeLocked(max(firstEntries, 2*s.count, t.limit()/6))
	return true
}

// tidyLocked is for after a deletion: it lets the table shrink along with its entries.
func (s *shard[V]) tidyLocked() {
	if !s.shrinkLocked() {
		s.moveLocked(movesPerWrite)
	}
}

// settle brings a move to its end and gives back what the table is too large by, in steps between which the
// lock is free.
func (s *shard[V]) settle() {
	for more := true; more; runtime.Gosched() {
		s.mu.Lock()
		more = s.moveLocked(bucketsPerStep) || s.shrinkLocked()
		if !more && s.count == 0 {
			s.policy.clear()
		}
		s.mu.Unlock()
	}
}

// resizeLocked begins to move to a table for that many entries. No move may be under way.
func (s *shard[V]) resizeLocked(entries int) {
	newer := newTable[V](entries)
	if newer.limit() <= s.count {
		newer = newTable[V](2 * s.count)
	}
	s.table.Load().newer.Store(newer)
	s.moveLocked(movesPerWrite)
}

// moveLocked moves that many more buckets, if a move is under way, and reports whether it still is.
func (s *shard[V]) moveLocked(buckets int) (more bool) {
	t := s.table.Load()
	newer := t.newer.Load()
	if newer == nil {
		return false
	}
	for end := min(t.moved+buckets, len(t.buckets)); t.moved < end; t.moved++ {
		s.moveChainLocked(t, t.moved)
	}
	if t.moved < len(t.buckets) {
		return true
	}
	s.table.Store(newer)
	return false
}

// moveChainLocked copies the entries of a chain to the newer table, unless that was done before, and marks
// it as moved. The slots keep their nodes, for the sake of readers who read meta before the mark.
func (s *shard[V]) moveChainLocked(t *table[V], index int) {
	home := &t.buckets[index]
	if home.meta.Load()&movedMark != 0 {
		return
	}
	newer := t.newer.Load()
	for b := home; b != nil; b = b.next.Load() {
		for i := range b.slots {
			if n := b.slots[i].Load(); n != nil {
				newer.insert(s.hashLocked(n), n)
			}
		}
	}
	for b := home; b != nil; b = b.next.Load() {
		b.meta.Store(movedMark)
	}
}
