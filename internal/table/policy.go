package table

// A policy decides which entries go when a shard is full. It is W-TinyLFU (Einziger, Friedman, Manes:
// "TinyLFU: A Highly Efficient Cache Admission Policy", 2017) made lazy, so that readers have nothing to do
// with it but to count hits in the entries. All of it is guarded by the shard's lock and runs only when
// something is put.
//
// New entries come into the window. Those that leave it must be asked for more often than the entry that
// the main space would give up for them; a sketch of frequencies knows. Both spaces are queues in which an
// entry that was hit since it was last looked at gets another round, instead of being moved at every hit:
// the main space is a CLOCK. At the same time its pending hits are brought into the sketch. How large the
// window is depends on what the keys that come back tell; see balance.
type policy[V any] struct {
	share   int64 // the weight that the shard holds when it is full; 0 is unbounded, without any policy
	place   func(record uint32) place[V]
	records records
	window  queue
	main    queue

	// standing is the entry that the main space would have given up last, had the newcomer been better.
	standing uint32

	sketch  sketch
	balance balance
	size    int    // the number of entries that sketch and balance are sized for
	random  uint64 // the state of a xorshift generator
}

// maxRounds bounds the entries that get another round in one eviction, so that a put never has to walk
// through a whole cache of hot entries. More do not improve the hit ratio.
const maxRounds = 16

// minSize is the least number of entries that a policy begins with, if the share allows for them.
const minSize = 1024

func (p *policy[V]) init(share int64, at func(record uint32) place[V]) {
	p.share, p.place = share, at
	if share == 0 {
		return
	}
	p.clear()
	// The share is the largest number of entries there can be, but if they are heavy there will be far
	// fewer. So the size starts low and is doubled as needed, to end exactly at the share.
	size := share
	for size/2 >= minSize {
		size = (size + 1) / 2
	}
	p.size = int(size)
	p.sketch.init(p.size)
	p.balance.init(p.size)
	p.random = 0x9e3779b97f4a7c15
}

// clear forgets the entries, but not how often their keys were asked for.
func (p *policy[V]) clear() {
	if p.share == 0 {
		return
	}
	p.records.init()
	p.window.init(&p.records, windowRoot)
	p.main.init(&p.records, mainRoot)
	p.standing = noRecord
}

// insert takes up a new entry, which no reader can see yet. If there is no room for it, something is
// evicted next.
func (p *policy[V]) insert(hash uint32, n *node[V], room bool) {
	if p.share == 0 {
		return
	}
	p.count(hash, 1)
	n.tag = p.records.take(hash)
	p.window.push(n.tag, n.weight())
	if entries := p.entries(); entries > p.size && int64(p.size) < p.share {
		p.size *= 2
		p.sketch.double()
		p.balance.resize(p.size)
	}
	p.balance.missed(hash, p.entries())
	// While there is room, whatever leaves the window is welcome.
	for room && p.window.count > 1 && p.window.weight > p.windowLimit() {
		p.toMain(p.place(p.window.oldest()).node)
	}
}

// replace puts n, which no reader can see yet, in the place of old. An update counts as a hit.
func (p *policy[V]) replace(old, n *node[V]) {
	n.inherit(old)
	if p.share > 0 {
		p.queueOf(n).weight += n.weight() - old.weight()
		p.forget(n)
	}
}

// remove takes out an entry that its owner removes.
func (p *policy[V]) remove(n *node[V]) {
	if p.share > 0 {
		p.drop(n)
	}
}

// evict takes one entry out, never the newest, if that is not nil: it is the one that makes it necessary, and
// what was just put can be read, whatever the policy thinks of it. There must be another entry.
func (p *policy[V]) evict(newest *node[V]) place[V] {
	candidate := p.candidate(newest)
	victim := p.victim(newest)
	switch {
	case candidate.node == nil:
		p.displace(victim.node)
		return victim
	case victim.node == nil:
		p.reject(candidate.node)
		return candidate
	case p.admits(candidate.node, victim.node):
		p.toMain(candidate.node)
		p.displace(victim.node)
		return victim
	}
	p.standing = victim.node.tag
	p.reject(candidate.node)
	return candidate
}

// candidate returns the entry that has to leave the window. There is none if the window is within its limit
// and the main space has something to give up.
func (p *policy[V]) candidate(newest *node[V]) place[V] {
	mine := p.window.count
	others := p.main.count
	switch {
	case newest == nil:
	case newest.inMain():
		others--
	default:
		mine--
	}
	if mine == 0 || others > 0 && p.window.weight <= p.windowLimit() {
		return place[V]{}
	}
	return p.pick(&p.window, newest)
}

// victim returns the entry that the main space would give up, if there is any.
func (p *policy[V]) victim(newest *node[V]) place[V] {
	if p.main.count == 0 || p.main.count == 1 && newest != nil && p.main.oldest() == newest.tag {
		return place[V]{}
	}
	if p.standing != noRecord && p.place(p.standing).node.pending() > 0 {
		p.balance.spared(p.entries())
		p.standing = noRecord
	}
	return p.pick(&p.main, newest)
}

// pick returns the oldest entry of a queue that was not hit since it was last looked at, giving those that
// were another round. There must be an entry other than the newest.
func (p *policy[V]) pick(q *queue, newest *node[V]) place[V] {
	for rounds := 0; ; rounds++ {
		i := q.oldest()
		if newest == nil || i != newest.tag {
			at := p.place(i)
			if rounds >= maxRounds {
				return at
			}
			hits := at.node.takeHits(1)
			if hits == 0 {
				return at
			}
			p.count(p.hash(at.node), hits)
		}
		q.renew(i)
	}
}

// admits reports whether a candidate from the window is worth more than a victim of the main space. A tie
// goes to the victim: in a loop that is longer than the cache, all else would leave nothing to hit. But
// where a large window has proved that recency counts for more, the candidate is given an advance. Without
// one, a key that was asked for once is never worth more than any victim: what it has is the request that
// brought it, and the victim may have been halved to nothing since its last.
func (p *policy[V]) admits(candidate, victim *node[V]) bool {
	advance := p.balance.advance()
	whole := uint32(advance)
	if p.chance(advance - float64(whole)) {
		whole++
	}
	return p.sketch.estimate(p.hash(candidate))+whole > max(1, p.sketch.estimate(p.hash(victim))+victim.pending())
}

const (
	// heavyTimes is how many times the mean of its shard an entry must weigh to have to be worth its room
	// before it gets it. What weighs less is let in as usual: it cannot drop many others.
	heavyTimes = 8

	// heavySample is the number of entries that it is compared with.
	heavySample = 8
)

// admitsHeavy reports whether a newcomer, for which others have to go, may have their room. One that is far
// heavier than the rest must be asked for more often than those that are next to go, on the average. It is
// one decision, made before anything is dropped: comparing with each in turn would drop some, and then
// decline the newcomer all the same ("Lightweight Robust Size Aware Cache Management", Einziger, Eytan,
// Friedman, Manes, 2021, compares such ways).
func (p *policy[V]) admitsHeavy(hash uint32, n *node[V]) bool {
	entries := int64(p.entries())
	if n.weight()*entries <= heavyTimes*(p.window.weight+p.main.weight) {
		return true
	}
	sum, seen := uint32(0), uint32(0)
	for i := p.main.oldest(); i != mainRoot && seen < heavySample; i = p.records.at(i).prev {
		sum += max(1, p.sketch.estimate(p.records.at(i).hash)+p.place(i).node.pending())
		seen++
	}
	if seen == 0 || (p.sketch.estimate(hash)+1)*seen > sum {
		return true
	}
	p.count(hash, 1)
	return false
}

func (p *policy[V]) toMain(n *node[V]) {
	if hits := n.takeHits(hitMask); hits > 0 {
		p.count(p.hash(n), hits)
	}
	p.window.remove(n.tag, n.weight())
	n.moveToMain()
	p.main.push(n.tag, n.weight())
}

// reject drops an entry of the window.
func (p *policy[V]) reject(n *node[V]) {
	p.balance.rejected.put(p.hash(n))
	p.drop(n)
}

// displace drops an entry of the main space.
func (p *policy[V]) displace(n *node[V]) {
	p.balance.displaced.put(p.hash(n))
	p.drop(n)
}

func (p *policy[V]) drop(n *node[V]) {
	p.queueOf(n).remove(n.tag, n.weight())
	p.forget(n)
	p.records.give(n.tag)
}

func (p *policy[V]) forget(n *node[V]) {
	if p.standing == n.tag {
		p.standing = noRecord
	}
}

// hash returns the lower half of the hash of the key of n.
func (p *policy[V]) hash(n *node[V]) uint32 { return p.records.at(n.tag).hash }

// count brings hits into the sketch.
func (p *policy[V]) count(hash, hits uint32) {
	p.sketch.add(hash, hits, p.balance.memory(p.entries()))
}

// estimate returns how often the key of n was asked for lately, its pending hits apart.
func (p *policy[V]) estimate(n *node[V]) uint32 {
	if p.share == 0 {
		return 0
	}
	return p.sketch.estimate(p.hash(n))
}

func (p *policy[V]) entries() int { return p.window.count + p.main.count }

func (p *policy[V]) windowLimit() int64 {
	return max(1, int64(p.balance.window*float64(p.share)))
}

func (p *policy[V]) queueOf(n *node[V]) *queue {
	if n.inMain() {
		return &p.main
	}
	return &p.window
}

// chance is true with the given probability.
func (p *policy[V]) chance(probability float64) bool {
	if probability <= 0 {
		return false
	}
	p.random ^= p.random << 13
	p.random ^= p.random >> 7
	p.random ^= p.random << 17
	return float64(p.random>>11) < probability*(1<<53)
}
