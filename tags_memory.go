package cacheaside

import (
	"context"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"weak"
)

// memoryTags are the tags of a backend in this process. What is known of a tag lives for as long as an entry refers to
// it; that it was invalidated is remembered for as long as a flight that began before is under way.
type memoryTags struct {
	clock atomic.Uint64 // how many invalidations there were

	// oldest returns the earliest moment as of which a flight may be fetching.
	oldest func() uint64

	mu    sync.Mutex
	marks map[string]weak.Pointer[tagMark]
	ended map[string]uint64 // when a tag was invalidated last
	held  map[string]int    // by how many changes
	room  int               // how many of those there may be until those are forgotten that no flight needs
}

var _ tagBook = (*memoryTags)(nil)

// memoryEpoch is the only one there is: the clock of a process does not get lost.
const memoryEpoch = 1

// endedKept is how many invalidations are remembered before any is forgotten.
const endedKept = 1 << 10

func newMemoryTags(oldest func() uint64) *memoryTags {
	return &memoryTags{oldest: oldest, marks: make(map[string]weak.Pointer[tagMark]), ended: make(map[string]uint64), held: make(map[string]int), room: endedKept}
}

func (b *memoryTags) moment() stamp { return stamp{memoryEpoch, b.clock.Load()} }

func (b *memoryTags) now(context.Context) (stamp, error)  { return b.moment(), nil }
func (b *memoryTags) near(context.Context) (stamp, error) { return b.moment(), nil }
func (b *memoryTags) asOf(context.Context) stamp          { return b.moment() }

func (b *memoryTags) tag(_ context.Context, lists [][]string, s stamp, _ time.Duration) ([]*tagging, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]*tagging, len(lists))
	for i, tags := range lists {
		t := &tagging{tags: tags, asOf: s}
		if t.judge(b.markLocked) {
			all[i] = t
		}
	}
	return all, nil
}

// markLocked returns what is known of a tag, nil if it is held.
func (b *memoryTags) markLocked(tag string) *tagMark {
	if b.held[tag] > 0 {
		return nil
	}
	if m := b.marks[tag].Value(); m != nil {
		return m
	}
	m := &tagMark{at: stamp{memoryEpoch, b.ended[tag]}}
	b.marks[tag] = weak.Make(m)
	runtime.AddCleanup(m, b.forget, tag)
	return m
}

// forget is called when no entry refers to a mark of tag any more.
func (b *memoryTags) forget(tag string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.marks[tag].Value() == nil {
		delete(b.marks, tag)
	}
}

// learn has nothing to find out: what is over here has been invalidated.
func (b *memoryTags) learn(_ context.Context, all []*tagging) ([]bool, error) {
	counts := make([]bool, len(all))
	for i, t := range all {
		counts[i] = t.holds(nil)
	}
	return counts, nil
}

func (b *memoryTags) invalidate(_ context.Context, tags []string, _ bool) error {
	b.void(tags)
	return nil
}

// void is invalidate.
func (b *memoryTags) void(tags []string) {
	b.mu.Lock()
	now := b.clock.Add(1)
	for _, tag := range tags {
		b.ended[tag] = now
		if m := b.marks[tag].Value(); m != nil {
			m.over.Store(true)
		}
		delete(b.marks, tag)
	}
	full := len(b.ended) > b.room
	b.mu.Unlock()
	if full {
		b.tidy()
	}
}

// hold voids what carries tags, for everybody: what is known of a tag is over or not, whoever looks.
func (b *memoryTags) hold(tags []string) {
	b.mu.Lock()
	for _, tag := range tags {
		b.held[tag]++
	}
	b.mu.Unlock()
	b.void(tags)
}

func (b *memoryTags) release(tags []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, tag := range tags {
		if b.held[tag]--; b.held[tag] <= 0 {
			delete(b.held, tag)
		}
	}
}

// tidy forgets the invalidations that no flight needs to know of. A flight that begins meanwhile fetches as of a later
// moment than the oldest, since it reads the clock under the lock under which oldest looks at it.
func (b *memoryTags) tidy() {
	oldest := min(b.clock.Load(), b.oldest()) // in this order: a flight that begins in between is younger than both
	b.mu.Lock()
	defer b.mu.Unlock()
	for tag, at := range b.ended {
		if at <= oldest {
			delete(b.ended, tag)
		}
	}
	b.room = max(endedKept, 2*len(b.ended))
}

func (b *memoryTags) expect() {}
func (b *memoryTags) close()  {}

// oldestFlight is the earliest moment as of which a flight may be fetching, the highest number if there is none.
func (g *flights[T]) oldestFlight() uint64 {
	oldest := uint64(math.MaxUint64)
	for i := range g.shards {
		s := &g.shards[i]
		s.mu.Lock()
		for f := s.first; f != nil; f = f.next {
			if f.asOf != (stamp{}) {
				oldest = min(oldest, f.asOf.sequence)
			}
		}
		s.mu.Unlock()
	}
	return oldest
}
