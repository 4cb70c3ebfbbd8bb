package cacheaside

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/redis/rueidis"
)

// redisTags are the tags of a backend on Redis, which all processes with the same prefix share. The clock is one key
// there, and the mark of a tag, the moment when it was invalidated last, is another. All of them stand in one slot of a
// cluster, so that one script can move the clock and set marks.
//
// On rueidis-aside what is read of them is kept in this process, as the near copies of values are, and Redis tells when it
// has changed. On rueidis the marks of what was read are read after it.
type redisTags struct {
	conn   *conn
	clock  *clock
	hub    *nearHub // nil on rueidis
	prefix string   // of the clock and the marks, as a key of Redis
	routed string   // the same, as the hub tells it
	ttl    time.Duration

	used  atomic.Bool  // this process has met a tag: the clock is worth a read for each fetch
	tried atomic.Int64 // when the clock was asked for last without an answer, in unix nanoseconds

	pending *pendingTags

	mu      sync.Mutex
	last    stamp    // of the clock; an older one than that of Redis is safe
	absence uint64   // raised when the clock has changed, as far as this process hears of that
	copied  *tagMark // the near copy of the clock
	marks   map[string]weak.Pointer[tagMark]
	reading map[string]*markRead // by tag, and "" for the clock; those that others may join
}

var (
	_ tagBook   = (*redisTags)(nil)
	_ nearCache = (*redisTags)(nil)
)

func newRedisTags(n *conn, c *clock, hub *nearHub, cfg Config, observe func(Event)) (*redisTags, error) {
	own := ":{" + cfg.Prefix + "}:"
	b := &redisTags{conn: n, clock: c, hub: hub, prefix: cfg.Prefix + "::" + own, routed: own, ttl: cfg.LocalTTL}
	b.marks, b.reading = make(map[string]weak.Pointer[tagMark]), make(map[string]*markRead)
	b.absence = 1
	b.pending = newPendingTags(b.invalidateNow, observe)
	if hub == nil {
		return b, nil
	}
	return b, hub.add("", b)
}

const (
	clockName  = "clock"
	markPrefix = "mark:"
)

func (b *redisTags) clockKey() string          { return b.prefix + clockName }
func (b *redisTags) markKey(tag string) string { return b.prefix + markPrefix + tag }

// String is a stamp as it stands in Redis.
func (s stamp) String() string { return fmt.Sprintf("%016x:%d", s.epoch, s.sequence) }

func parseStamp(text string) stamp {
	epoch, sequence, _ := strings.Cut(text, ":")
	sequence, _, _ = strings.Cut(sequence, ":") // of a clock: the server
	e, err1 := strconv.ParseUint(epoch, 16, 64)
	n, err2 := strconv.ParseUint(sequence, 10, 64)
	if err1 != nil || err2 != nil || len(epoch) != 16 {
		return stamp{}
	}
	return stamp{e, n}
}

func newEpoch() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	b[7] |= 1              // not zero
	return fmt.Sprintf("%016x", binary.BigEndian.Uint64(b[:]))
}

// clockRetry is how long a clock that did not answer is left alone, for fetches that most likely have no tags.
const clockRetry = time.Second

// refusedRetry is how much longer that is where the user may not read the clock: Redis notes each try in a log.
const refusedRetry = 10 * time.Minute

// asOf asks Redis once, for as long as no tag is met. It makes no clock then, where there is none: the stamp says that, and
// is worth that moment if the clock is still missing when the first tag is met.
func (b *redisTags) asOf(ctx context.Context) stamp {
	if b.used.Load() {
		at, _ := b.near(ctx) // without it, what is fetched is given out and not kept
		return at
	}
	b.mu.Lock()
	last, absence := b.last, b.absence
	b.mu.Unlock()
	if last != (stamp{}) || time.Now().UnixNano()-b.tried.Load() < int64(clockRetry) {
		return last
	}
	at, err := b.readClock(ctx)
	if err != nil {
		next := time.Now()
		if re := (*rueidis.RedisError)(nil); errors.As(err, &re) && isRefusal(re) {
			next = next.Add(refusedRetry)
		}
		b.tried.Store(next.UnixNano())
		return stamp{}
	}
	if at == (stamp{}) {
		at.sequence = absence
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = at
	return at
}

func (b *redisTags) expect() { b.used.Store(true) }

func (b *redisTags) near(ctx context.Context) (stamp, error) {
	b.mu.Lock()
	near := b.copied
	b.mu.Unlock()
	if near != nil && near.counts() && b.clock.now() < near.until {
		return near.at, nil
	}
	return b.now(ctx)
}

// now reads the clock, and makes it if there is none.
func (b *redisTags) now(ctx context.Context) (stamp, error) {
	at, err := b.readClock(ctx)
	if err == nil && at == (stamp{}) {
		at, _, err = b.make(ctx, newEpoch(), nil, "")
	}
	return at, err
}

// readClock returns the zero stamp if there is no clock.
func (b *redisTags) readClock(ctx context.Context) (stamp, error) {
	r := b.joinRead("", true)
	if err := b.await(ctx, []*markRead{r}); err != nil {
		return stamp{}, err
	}
	if r.at != (stamp{}) {
		b.noteClock(r.at)
	}
	return r.at, nil
}

func (b *redisTags) noteClock(at stamp) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.last.epoch != at.epoch || b.last.sequence < at.sequence {
		b.last = at
	}
}

// madeMark is a mark that was looked at by the script that makes those that are missing.
type madeMark struct {
	at   stamp
	left time.Duration // until it expires
}

// make returns the clock and the marks of tags, having made what is missing, and seen to it that each lasts for as many
// milliseconds as px says; "" is for ever.
// The clock that it makes has this epoch.
func (b *redisTags) make(ctx context.Context, epoch string, tags []string, px string) (now stamp, marks []madeMark, err error) {
	var replies []string
	err = b.conn.attempt(ctx, false, b.clockKey(), func(o *op) (err error) {
		replies, err = o.call(&markScript, b.keys(tags), epoch, px).AsStrSlice()
		return err
	})
	if err != nil {
		return stamp{}, nil, err
	}
	if len(replies) != 1+2*len(tags) {
		return stamp{}, nil, unavailable(errStrangeMarks)
	}
	marks = make([]madeMark, len(tags))
	for i := range marks {
		marks[i].at, marks[i].left = parseStamp(replies[1+2*i]), time.Duration(math.MaxInt64)
		if ms, err := strconv.ParseInt(replies[2+2*i], 10, 64); err == nil && ms >= 0 {
			marks[i].left = time.Duration(ms) * time.Millisecond
		}
	}
	now = parseStamp(replies[0])
	b.noteClock(now)
	return now, marks, nil
}

var errStrangeMarks = errors.New("the marks of tags make no sense")

func (b *redisTags) keys(tags []string) []string {
	keys := make([]string, 1, 1+len(tags))
	keys[0] = b.clockKey()
	for _, tag := range tags {
		keys = append(keys, b.markKey(tag))
	}
	return keys
}

func (b *redisTags) tag(ctx context.Context, lists [][]string, s stamp, ttl time.Duration) ([]*tagging, error) {
	b.used.Store(true)
	all := make([]*tagging, len(lists))
	if s == (stamp{}) {
		return all, nil
	}
	known, s, err := b.lasting(ctx, union(lists), s, ttl)
	if err != nil {
		return all, err
	}
	for i, tags := range lists {
		t := &tagging{tags: tags, asOf: s}
		if t.judge(func(tag string) *tagMark { return known[tag] }) {
			all[i] = t
		}
	}
	return all, nil
}

// lasting returns the marks of tags, those that are missing or of another epoch having been made anew. All of them last
// for ttl. Tags that are to be invalidated are left out. It returns s, or if that says that there was no clock, the moment at
// which the clock was made for these marks; then nothing can have been invalidated in between.
func (b *redisTags) lasting(ctx context.Context, tags []string, s stamp, ttl time.Duration) (map[string]*tagMark, stamp, error) {
	known := make(map[string]*tagMark, len(tags))
	for _, tag := range tags {
		if m := b.nearMark(tag); m != nil {
			known[tag] = m
		}
	}
	until := int64(math.MaxInt64)
	if ttl < NoExpiry {
		until = b.clock.deadline(b.clock.now(), ttl)
	}
	var unsure []string
	for _, tag := range tags {
		switch m := known[tag]; {
		case b.pending.has(tag):
			delete(known, tag)
		case m == nil || m.at.epoch != s.epoch || m.lasts.Load() < until:
			unsure = append(unsure, tag)
		}
	}
	if len(unsure) == 0 {
		return known, s, nil
	}
	px := ""
	if ttl < NoExpiry {
		px = strconv.FormatInt(max(1, int64(math.Ceil(float64(ttl)/float64(time.Millisecond)))), 10)
	}
	absent := s.epoch == 0 && b.isAbsent(s.sequence) // looked at before this process hears of the clock that it makes
	epoch := newEpoch()
	now, made, err := b.make(ctx, epoch, unsure, px)
	if err != nil {
		return nil, s, err
	}
	if first := parseStamp(epoch + ":0"); absent && now == first {
		s = first
	}
	for i, tag := range unsure {
		known[tag] = b.noteMade(known[tag], made[i])
	}
	return known, s, nil
}

// isAbsent reports whether this process has not heard of the clock since it found that there is none.
func (b *redisTags) isAbsent(absence uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.absence == absence
}

// noteMade notes how long a mark lasts, and returns what is known of it now: the near copy, if that is still right.
func (b *redisTags) noteMade(near *tagMark, made madeMark) *tagMark {
	if near == nil || near.at != made.at {
		near = &tagMark{at: made.at}
		near.over.Store(true) // Redis does not tell when it changes
		return near
	}
	near.lasts.Store(b.clock.deadline(b.clock.now(), made.left))
	return near
}

func (b *redisTags) learn(ctx context.Context, all []*tagging) ([]bool, error) {
	b.used.Store(true)
	counts := make([]bool, len(all))
	var lists [][]string
	for i, t := range all {
		if counts[i] = !t.void.Load() && t.holds(b.clock); !counts[i] && !t.void.Load() {
			lists = append(lists, t.tags)
		}
	}
	if len(lists) == 0 {
		return counts, nil
	}
	known := make(map[string]*tagMark)
	if err := b.read(ctx, union(lists), known); err != nil {
		return counts, err
	}
	for i, t := range all {
		if !counts[i] && !t.void.Load() && !b.pending.hasAny(t.tags) {
			counts[i] = t.judge(func(tag string) *tagMark { return known[tag] })
		}
	}
	return counts, nil
}

// union returns all tags of lists, each once.
func union(lists [][]string) (all []string) {
	if len(lists) == 1 {
		return lists[0]
	}
	seen := make(map[string]struct{})
	for _, tags := range lists {
		for _, tag := range tags {
			if _, ok := seen[tag]; !ok {
				seen[tag] = struct{}{}
				all = append(all, tag)
			}
		}
	}
	return all
}

func (b *redisTags) invalidate(ctx context.Context, tags []string, again bool) error {
	b.used.Store(true)
	if again {
		ctx = context.WithoutCancel(ctx)
	}
	err := b.invalidateNow(ctx, tags)
	switch {
	case err == nil:
		b.pending.settle(tags)
	case again && !errors.Is(err, ErrClosed):
		b.pending.add(tags, err)
		b.drop(tags)
	}
	return err
}

// invalidateNow moves the clock on and sets the marks of tags. Then it drops what this process holds of them, whether it
// knows that this has happened or not, and what is on its way to it.
func (b *redisTags) invalidateNow(ctx context.Context, tags []string) error {
	defer b.drop(tags)
	return b.conn.attempt(ctx, true, b.clockKey(), func(o *op) error {
		text, err := o.call(&invalidateScript, b.keys(tags), newEpoch()).ToString()
		if at := parseStamp(text); err == nil && at != (stamp{}) {
			b.noteClock(at)
		}
		return err
	})
}

func (b *redisTags) hold(tags []string) {
	b.pending.hold(tags)
	b.drop(tags)
}

func (b *redisTags) release(tags []string) { b.pending.release(tags) }

func (b *redisTags) close() { b.pending.stop() }
