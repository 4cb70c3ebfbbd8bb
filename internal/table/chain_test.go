package table

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The keys of a real map hardly ever share a bucket, let alone a fingerprint. Here they all do.
func TestChainsOfOneBucketFindEveryEntryAndNoOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hashOf := func(i int) uint32 { return []uint32{0, 1, 0x80, 0x8000_0000, 0xffff_ffff}[i%5] }
		old := newTable[int](rapid.SampledFrom([]int{1, 8, 20}).Draw(t, "entries of the old table"))
		newer := newTable[int](rapid.SampledFrom([]int{1, 8, 40}).Draw(t, "entries of the newer table"))
		s := new(shard[int])
		s.table.Store(old)
		want := make(map[string]*node[int])
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				first := s.table.Load()
				for i := range 40 {
					key := fmt.Sprint(i)
					n := first.find(hashOf(i), key)
					if n == nil {
						n = first.follow(hashOf(i), key)
					}
					require.Same(t, want[key], n)
				}
				var nodes []*node[int]
				for from := uint64(0); from < wholeHash; {
					nodes, from = s.collectLocked(from, nodes)
				}
				require.Len(t, nodes, len(want))
				for _, n := range nodes {
					require.Same(t, want[n.key()], n)
				}
			},
			"put or remove": func(t *rapid.T) {
				i := rapid.IntRange(0, 39).Draw(t, "key")
				key := fmt.Sprint(i)
				at := s.locateLocked(hashOf(i), key)
				require.Same(t, want[key], at.node)
				if at.node != nil {
					at.remove()
					delete(want, key)
					return
				}
				want[key] = newNode(key, 0, 1, hashOf(i))
				s.tableLocked(hashOf(i)).insert(hashOf(i), want[key])
			},
			"begin to move": func(t *rapid.T) {
				if s.table.Load() == old {
					old.newer.Store(newer)
				}
			},
			"move": func(t *rapid.T) { s.moveLocked(1) },
		})
	})
}

func TestEmptyOverflowBucketsAreGivenBack(t *testing.T) {
	s := new(shard[int])
	s.table.Store(newTable[int](1))
	var nodes []*node[int]
	for i := range 5 * slotsPerBucket {
		nodes = append(nodes, newNode(fmt.Sprint(i), 0, 1, 0))
		s.tableLocked(0).insert(0, nodes[i])
	}
	for _, n := range nodes {
		s.locateLocked(0, n.key()).remove()
	}
	require.Nil(t, s.table.Load().buckets[0].next.Load())
}

func TestWeightsAreRoundedUpByLittle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := rapid.Uint32().Draw(t, "weight")
		n := node[int]{state: packWeight(w)}
		exact := int64(max(w, 1))
		require.GreaterOrEqual(t, n.weight(), exact)
		if w <= 1<<mantissaBits {
			require.Equal(t, exact, n.weight())
		}
		require.LessOrEqual(t, n.weight()-exact, exact>>(mantissaBits-1))
		require.Zero(t, n.pending())
		require.False(t, n.inMain())
	})
}

func TestSketchNeverCountsTooLittleAndDoublesWithoutForgetting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s sketch
		s.init(64)
		want := make(map[uint32]uint32)
		for _, h := range rapid.SliceOfN(rapid.Uint32(), 0, 300).Draw(t, "hits") {
			s.add(h, 1+h%3, 1<<30)
			want[h] = min(want[h]+1+h%3, maxCount)
		}
		before := make(map[uint32]uint32)
		for h, hits := range want {
			before[h] = s.estimate(h)
			require.GreaterOrEqual(t, before[h], hits)
		}
		s.double()
		for h := range want {
			require.Equal(t, before[h], s.estimate(h))
		}
	})
}

func TestATableThatIsNearlyEmptyIsGivenBack(t *testing.T) {
	const many = 30_000
	for name, empty := range map[string]func(m *Map[int64]){
		"sweep": func(m *Map[int64]) { m.Sweep(many-101, nil) },
		"delete": func(m *Map[int64]) {
			for i := range many - 100 {
				m.Delete(fmt.Sprint(i))
			}
		},
		"delete by function": func(m *Map[int64]) {
			m.DeleteFunc(func(_ string, i *int64) bool { return *i < many-100 })
		},
		"clear": (*Map[int64]).Clear,
	} {
		m := newMap(Options[int64]{Deadline: func(i *int64) int64 { return *i }}, 1)
		for i := range int64(many) {
			m.Put(fmt.Sprint(i), i, 1)
		}
		require.Greater(t, m.shards[0].table.Load().limit(), many-1)
		empty(m)
		require.LessOrEqual(t, m.Len(), 100, name)
		require.Less(t, m.shards[0].table.Load().limit(), 1000, name)
		require.Nil(t, m.shards[0].table.Load().newer.Load(), name)
	}
}

func TestASweepBringsAMoveToItsEnd(t *testing.T) {
	m := newMap(Options[int64]{Deadline: func(i *int64) int64 { return *i }}, 1)
	s := &m.shards[0]
	for i := int64(1); i < 10_000 || s.table.Load().newer.Load() == nil; i++ {
		m.Put(fmt.Sprint(i), i, 1)
	}
	require.Zero(t, m.Sweep(0, nil))
	require.Nil(t, s.table.Load().newer.Load())
}
