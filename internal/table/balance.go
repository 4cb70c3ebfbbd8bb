package table

// A balance finds the share of the window by comparing what one more entry is worth on either side. Three
// events tell, each weighed by the number of entries that it could have come from, so that they compare as
// hits for each entry:
//
//   - A key comes back that the window dropped a short while ago. A larger window would have kept it.
//   - A key comes back that the main space dropped. A larger main space would have kept it.
//   - The entry that stood to be dropped next from the main space is hit. A smaller one would have lost it.
//     Without this a cache whose main space never drops anything, since its entries are hot for good,
//     would hear only the first kind and let the window eat it up.
//
// The window's keys count only if they come back within a few times what the window holds: those of a loop
// that is far longer come back too, but no window that there is room for would have kept them. That is
// also why hill climbing on the hit ratio, which Caffeine uses, was tried and left: it finds the way
// more slowly, and needs to know the hit ratio, which a reader would have to count.
type balance struct {
	window    float64 // the window's share of the capacity
	rejected  ghosts  // what the window dropped
	displaced ghosts  // what the main space dropped
}

const (
	firstWindow = 0.02
	minWindow   = 0.01
	maxWindow   = 0.8

	// entriesPerGhost is the number of entries for each ghost of either kind.
	entriesPerGhost = 8

	// reach is how many times the window's entries may have been dropped after a key for its return to
	// count, and minReach the number that is always allowed for.
	reach    = 3
	minReach = 8
)

func (b *balance) init(size int) {
	b.window = firstWindow
	b.resize(size)
}

// resize makes room for the ghosts of that many entries. It forgets those that there are.
func (b *balance) resize(size int) {
	b.rejected.init(max(minReach, size/entriesPerGhost))
	b.displaced.init(max(minReach, size/entriesPerGhost))
}

// missed learns from a key that was not in the cache, which holds that many entries.
func (b *balance) missed(hash uint32, entries int) {
	within := int(max(minReach, reach*float64(entries)*max(b.window, minWindow)))
	if age, ok := b.rejected.take(hash); ok && age <= within {
		b.move(+1, min(b.rejected.count+1, within), entries)
	}
	if _, ok := b.displaced.take(hash); ok {
		b.move(-1, b.displaced.count+1, entries)
	}
}

// spared learns that an entry was hit which stood to be dropped. The worth of a single entry would be a
// large step and a shaky one; a small step will do, because such events are never rare where they matter.
func (b *balance) spared(entries int) {
	b.move(-2, max(1, entries/8), entries)
}

// move changes the window by a step for an event that could have come from that many places.
func (b *balance) move(step float64, places, entries int) {
	n := float64(entries)
	step *= max(1, n/2000) // a large cache sees more misses before it has to have found its balance, but not so many more
	step /= 8 * max(float64(places), n/32)
	b.window = min(max(b.window+step, minWindow, 1/n), maxWindow)
}

// advance is what a candidate's frequency is raised by against the victim's.
func (b *balance) advance() float64 { return max(0, b.window-0.2) * 4 }

// memory is the number of hits after which the sketch halves all frequencies. It is some more than the ten
// times the entries that TinyLFU has, so that a loop ten times as long as the cache goes by in it; but less
// where recency counts, and in small caches more.
func (b *balance) memory(entries int) int {
	return int(float64(max(16*entries, 3000)) * (1 - 0.8*b.window))
}
