package cacheaside

import (
	"context"
	"slices"
	"sync/atomic"
	"time"
)

// A value with tags counts for as long as none of them has been invalidated since it was fetched. docs/invalidation.md
// describes the protocol.

// stamp is a moment on the clock of the tags, which each invalidation moves on. The clock of a backend on Redis may get
// lost, and begins a new epoch then. Stamps of two epochs cannot be compared. The zero stamp is no moment.
type stamp struct{ epoch, sequence uint64 }

// covers reports whether a tag that was invalidated last at mark leaves alone what was fetched as of s.
func (s stamp) covers(mark stamp) bool {
	return s.epoch != 0 && s.epoch == mark.epoch && mark.sequence <= s.sequence
}

// tagging is what an entry knows of its tags.
type tagging struct {
	tags []string
	asOf stamp // before the value was fetched

	// first and more are what this process knows of each tag, in their order: the value counts until one of them is over.
	// first is nil while that is not known, and is set last. It stands apart since most values have one tag, and a hit
	// need not look where the others are.
	first atomic.Pointer[tagMark]
	more  atomic.Pointer[[]*tagMark]
	void  atomic.Bool // a tag has been invalidated since: the value counts for nothing, for good

	// hides is on a record that stands in the place of the one under it, which may be nil, and of which nothing is ever known: so a hit is
	// not found on the short way.
	hides bool
	under *tagging
}

// tagMark is what this process knows of a tag, from one invalidation to the next. In memory it is over when the tag is
// invalidated. On rueidis-aside it is a near copy of the mark in Redis, and is over when that has changed.
type tagMark struct {
	over  atomic.Bool
	watch *watch // that the copy came under; nil in memory
	until int64  // on the clock, LocalTTL of the copy
	at    stamp  // when the tag was invalidated last

	lasts atomic.Int64 // on the clock, until when there is surely a mark in Redis; 0: not known
}

// counts reports whether m is still what is known of its tag, apart from LocalTTL.
func (m *tagMark) counts() bool { return !m.over.Load() && (m.watch == nil || !m.watch.over.Load()) }

// holds is counts, within LocalTTL.
func (m *tagMark) holds(c *clock) bool {
	return !m.over.Load() && (m.watch == nil || !m.watch.over.Load() && c.before(m.until))
}

// holds reports whether it is known that no tag was invalidated.
func (t *tagging) holds(c *clock) bool {
	first := t.first.Load()
	return first != nil && first.holds(c) && (len(t.tags) == 1 || t.restHolds(c))
}

func (t *tagging) restHolds(c *clock) bool {
	for _, m := range *t.more.Load() {
		if !m.holds(c) {
			return false
		}
	}
	return true
}

// judge decides what t is worth, given the marks of its tags. A missing mark means that nothing is known of its tag, and
// never that it was not invalidated.
func (t *tagging) judge(mark func(tag string) *tagMark) bool {
	marks := make([]*tagMark, len(t.tags))
	for i, tag := range t.tags {
		m := mark(tag)
		if m == nil || !t.asOf.covers(m.at) {
			t.void.Store(true)
			return false
		}
		marks[i] = m
	}
	more := marks[1:]
	t.more.Store(&more)
	t.first.Store(marks[0])
	return true
}

// tagBook is what the caches of one backend know of tags. Its implementations are in tags_memory.go and tags_redis.go.
// Methods are safe for concurrent use. Errors match [ErrUnavailable], or are the context's.
type tagBook interface {
	// now returns the moment that it is, near the moment that it is or was a moment ago. asOf does for a fetch, which may have no
	// tags: it returns the zero stamp if the moment is not known, and the result cannot be kept with tags then.
	now(ctx context.Context) (stamp, error)
	near(ctx context.Context) (stamp, error)
	asOf(ctx context.Context) stamp

	// tag returns the tagging of values that were fetched as of s, to be kept for ttl: one for each list of tags. It is
	// nil where a tag has been invalidated since, or may have.
	tag(ctx context.Context, lists [][]string, s stamp, ttl time.Duration) ([]*tagging, error)

	// learn finds out for each tagging whether it counts, where that is not known. Those that it cannot find out about
	// do not count for now.
	learn(ctx context.Context, all []*tagging) ([]bool, error)

	// invalidate voids whatever carries one of tags and was fetched before. After an error that may not have happened yet;
	// with again, it is tried again then, and until that has succeeded the tags count as invalidated in this process.
	invalidate(ctx context.Context, tags []string, again bool) error

	// hold makes sure that nothing that carries one of tags counts or is stored in this process, until release. A tag may be held
	// several times.
	hold(tags []string)
	release(tags []string)

	// expect says that a cache gives tags to whatever it keeps.
	expect()

	close()
}

// distinctTags returns tags sorted, each once.
func distinctTags(tags []string) []string {
	if len(tags) < 2 {
		return tags
	}
	tags = slices.Clone(tags)
	slices.Sort(tags)
	return slices.Compact(tags)
}
