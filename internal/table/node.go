package table

import (
	"math/bits"
	"sync/atomic"
)

// A node is one entry. The key, which stands right before it (see node_key.go), and the value never change once
// a reader can see the node: a new value is a new node. It is small, since there may be millions: with a key of
// up to 16 bytes and a value of 40, it takes one cache line of 64.
type node[V any] struct {
	// state packs, from the lowest bit: the hits since the policy last looked (readers add to them, all
	// the rest is written under the shard's lock), whether the node is in the main space, the length of
	// its key, and its weight. It is not an atomic.Uint32 so that a node which no reader can see yet is
	// written without the cost.
	state uint32

	// tag is the number of the node's record, where the lower half of the key's hash is; in a map without
	// a policy it is that hash itself. Guarded by the shard's lock.
	tag uint32

	value V
}

const (
	hitMask = 0x3 // at most 3 pending hits, then readers stop counting: a hot entry costs them no write
	mainBit = 0x4 // the policy keeps the node in the main space, not in the window

	placeMask = hitMask | mainBit // what a node inherits from the one that it replaces

	lengthShift = 3
	lengthMask  = 0x7f // of the length of the key

	weightBits   = 22
	mantissaBits = 18 // of the weight's; the other 4 are its exponent
)

// touch counts a hit. It gives up when it meets another reader or the policy, since one hit more or less
// does not matter, and costs only a load when the counter is full.
func (n *node[V]) touch() {
	if s := atomic.LoadUint32(&n.state); s&hitMask < hitMask {
		atomic.CompareAndSwapUint32(&n.state, s, s+1)
	}
}

// pending returns the hits that the policy has not seen yet.
func (n *node[V]) pending() uint32 { return atomic.LoadUint32(&n.state) & hitMask }

// takeHits takes up to most of the pending hits from the counter, and returns how many.
func (n *node[V]) takeHits(most uint32) uint32 {
	for {
		s := atomic.LoadUint32(&n.state)
		taken := min(s&hitMask, most)
		if taken == 0 || atomic.CompareAndSwapUint32(&n.state, s, s-taken) {
			return taken
		}
	}
}

// inherit takes over the place in the policy and the pending hits of the node that n replaces, and counts
// one hit more. No reader can see n yet.
func (n *node[V]) inherit(old *node[V]) {
	n.tag = old.tag
	n.state = n.state&^placeMask | atomic.LoadUint32(&old.state)&placeMask
	if n.state&hitMask < hitMask {
		n.state++
	}
}

func (n *node[V]) inMain() bool { return atomic.LoadUint32(&n.state)&mainBit != 0 }

func (n *node[V]) moveToMain() { atomic.OrUint32(&n.state, mainBit) }

// weight returns the weight that is accounted for the node.
func (n *node[V]) weight() int64 {
	w := atomic.LoadUint32(&n.state) >> (32 - weightBits)
	return int64(w&(1<<mantissaBits-1)) << (w >> mantissaBits)
}

// packWeight puts a weight into the upper bits of a state word as a floating point number. It rounds up,
// never down, so that a bound on the rounded weights is a bound on the true ones.
func packWeight(w uint32) uint32 {
	mantissa := max(1, uint64(w))
	exponent := max(0, bits.Len64(mantissa)-mantissaBits)
	mantissa = (mantissa + 1<<exponent - 1) >> exponent
	if mantissa == 1<<mantissaBits {
		mantissa >>= 1
		exponent++
	}
	return uint32(mantissa|uint64(exponent)<<mantissaBits) << (32 - weightBits)
}
