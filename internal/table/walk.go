package table

// wholeHash is one more than the largest hash: where a walk ends.
const wholeHash = 1 << 32

// bucketsPerStep is how far a walk goes under the lock at a time: 32 buckets hold about 130 entries.
const bucketsPerStep = 32

// Range calls visit for the entries with the hits that the policy knows of, an estimate that fades as time
// goes by, until visit returns false. It is for diagnostics: it sees every entry that is there all the
// while; others it may see or not. Other goroutines are not held up.
func (m *Map[V]) Range(visit func(key string, v *V, hits uint32) bool) {
	var nodes []*node[V]
	var hits []uint32
	for i := range m.shards {
		s := &m.shards[i]
		for from := uint64(0); from < wholeHash; {
			nodes, from = s.collect(from, nodes[:0])
			hits = s.hits(nodes, hits[:0])
			for j, n := range nodes {
				if !visit(n.key, &n.value, hits[j]) {
					return
				}
			}
		}
	}
}

// DeleteFunc removes the entries that drop picks, and returns their number. It holds a shard's lock for
// some dozens of entries at a time; drop runs under it and must not use the map.
func (m *Map[V]) DeleteFunc(drop func(key string, v *V) bool) int {
	removed := 0
	var nodes []*node[V]
	for i := range m.shards {
		s := &m.shards[i]
		for from := uint64(0); from < wholeHash; {
			var n int
			n, from, nodes = s.deleteStep(from, nodes, drop)
			removed += n
		}
		s.shrink()
	}
	return removed
}

func (s *shard[V]) deleteStep(from uint64, nodes []*node[V], drop func(string, *V) bool) (int, uint64, []*node[V]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	removed := 0
	nodes, from = s.collect(from, nodes[:0])
	for _, n := range nodes {
		if drop(n.key, &n.value) {
			s.removeLocked(s.locateLocked(n.hash, n.key))
			removed++
		}
	}
	return removed, from, nodes
}

// hits appends the estimated hits of nodes. One lock serves them all.
func (s *shard[V]) hits(nodes []*node[V], hits []uint32) []uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range nodes {
		hits = append(hits, n.pending()+s.policy.estimate(n))
	}
	return hits
}

// collect appends the entries of the next buckets of a walk, and returns where to go on. Walks follow the
// order of hashes, which is the order of buckets in tables of every size, so that a table which grows in
// the midst of a walk makes it neither miss an entry nor see one twice. It may be called without the lock.
func (s *shard[V]) collect(from uint64, nodes []*node[V]) ([]*node[V], uint64) {
	t := s.table.Load()
	to := t.firstHash(int(from*uint64(len(t.buckets))>>32) + bucketsPerStep)
	return t.collect(from, to, nodes), to
}

// firstHash is the lowest hash whose home bucket is the given one.
func (t *table[V]) firstHash(bucket int) uint64 {
	size := uint64(len(t.buckets))
	return (min(uint64(bucket), size)<<32 + size - 1) / size
}

// collect appends the entries whose hash is in [from, to). Where they have moved, it goes on in the newer
// table.
func (t *table[V]) collect(from, to uint64, nodes []*node[V]) []*node[V] {
	if from >= to {
		return nodes
	}
	for i := t.index(uint32(from)); i <= t.index(uint32(to-1)); i++ {
		before := len(nodes)
		var moved bool
		if nodes, moved = t.collectChain(&t.buckets[i], from, to, nodes); moved {
			nodes = t.newer.Load().collect(max(from, t.firstHash(i)), min(to, t.firstHash(i+1)), nodes[:before])
		}
	}
	return nodes
}

func (t *table[V]) collectChain(b *bucket[V], from, to uint64, nodes []*node[V]) (_ []*node[V], moved bool) {
	for ; b != nil; b = b.next.Load() {
		if b.meta.Load()&movedMark != 0 {
			return nodes, true
		}
		for i := range b.slots {
			if n := b.slots[i].Load(); n != nil && uint64(n.hash) >= from && uint64(n.hash) < to {
				nodes = append(nodes, n)
			}
		}
	}
	return nodes, false
}
