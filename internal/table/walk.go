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
			nodes, hits, from = s.rangeStep(from, nodes[:0], hits[:0])
			for j, n := range nodes {
				if !visit(n.key(), &n.value, hits[j]) {
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
		s.settle()
	}
	return removed
}

func (s *shard[V]) deleteStep(from uint64, nodes []*node[V], drop func(string, *V) bool) (int, uint64, []*node[V]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	removed := 0
	nodes, from = s.collectLocked(from, nodes[:0])
	for _, n := range nodes {
		if drop(n.key(), &n.value) {
			s.takeOutLocked(n)
			removed++
		}
	}
	return removed, from, nodes
}

// rangeStep collects the entries of the next buckets and their estimated hits.
func (s *shard[V]) rangeStep(from uint64, nodes []*node[V], hits []uint32) ([]*node[V], []uint32, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	nodes, from = s.collectLocked(from, nodes)
	for _, n := range nodes {
		hits = append(hits, n.pending()+s.policy.estimate(n))
	}
	return nodes, hits, from
}

// collectLocked appends the entries of the next buckets of a walk, and returns where to go on. Walks follow
// the order of hashes, which is the order of buckets in tables of every size, so that a table which grows in
// the midst of a walk makes it neither miss an entry nor see one twice.
func (s *shard[V]) collectLocked(from uint64, nodes []*node[V]) ([]*node[V], uint64) {
	t := s.table.Load()
	to := t.firstHash(int(from*uint64(len(t.buckets))>>32) + bucketsPerStep)
	return s.collectFromLocked(t, from, to, nodes), to
}

// firstHash is the lowest hash whose home bucket is the given one.
func (t *table[V]) firstHash(bucket int) uint64 {
	size := uint64(len(t.buckets))
	return (min(uint64(bucket), size)<<32 + size - 1) / size
}

// collectFromLocked appends the entries of t whose hash is in [from, to). Where they have moved, it goes on
// in the newer table.
func (s *shard[V]) collectFromLocked(t *table[V], from, to uint64, nodes []*node[V]) []*node[V] {
	if from >= to {
		return nodes
	}
	for i := t.index(uint32(from)); i <= t.index(uint32(to-1)); i++ {
		first, end := max(from, t.firstHash(i)), min(to, t.firstHash(i+1))
		if t.buckets[i].meta.Load()&movedMark != 0 {
			nodes = s.collectFromLocked(t.newer.Load(), first, end, nodes)
			continue
		}
		whole := first == t.firstHash(i) && end == t.firstHash(i+1)
		for b := &t.buckets[i]; b != nil; b = b.next.Load() {
			for j := range b.slots {
				if n := b.slots[j].Load(); n != nil && (whole || s.hashIn(n, first, end)) {
					nodes = append(nodes, n)
				}
			}
		}
	}
	return nodes
}

func (s *shard[V]) hashIn(n *node[V], from, to uint64) bool {
	hash := uint64(s.hashLocked(n))
	return from <= hash && hash < to
}
