package cacheaside

import (
	"context"
	"runtime"
	"strings"
	"weak"

	"github.com/redis/rueidis"
)

// What stands here reads the clock and the marks of tags, and keeps near copies of them on rueidis-aside. docs/coherence.md
// argues why these are as good as those of values.

// markRead is a read of a mark, or of the clock.
type markRead struct {
	done  chan struct{}
	near  *tagMark // nil if it is not kept
	at    stamp    // zero if there is nothing that makes sense
	err   error
	tag   string
	clock bool
}

// read adds the marks of tags to known: near copies where there are any, and the others are read.
func (b *redisTags) read(ctx context.Context, tags []string, known map[string]*tagMark) error {
	if b.hub == nil {
		return b.readPlainly(ctx, tags, known)
	}
	reads := make([]*markRead, 0, len(tags))
	for _, tag := range tags {
		if m := b.nearMark(tag); m != nil {
			known[tag] = m
			continue
		}
		reads = append(reads, b.joinRead(tag, false))
	}
	if len(reads) == 0 {
		return nil
	}
	if err := b.await(ctx, reads); err != nil {
		return err
	}
	for _, r := range reads {
		switch {
		case r.near != nil:
			known[r.tag] = r.near
		case r.at != stamp{}:
			known[r.tag] = &tagMark{at: r.at}
			known[r.tag].over.Store(true) // Redis does not tell when it changes
		}
	}
	return nil
}

// nearMark returns the near copy of the mark of a tag, nil if there is none that counts.
func (b *redisTags) nearMark(tag string) *tagMark {
	b.mu.Lock()
	m := b.marks[tag].Value()
	b.mu.Unlock()
	if m == nil || !m.counts() || b.clock.now() >= m.until {
		return nil
	}
	return m
}

func (b *redisTags) readPlainly(ctx context.Context, tags []string, known map[string]*tagMark) error {
	keys := b.keys(tags)[1:]
	o, err := b.conn.begin(ctx, false, b.clockKey())
	if err != nil {
		return err
	}
	replies, err := o.mget(keys)
	if b.conn.again(&o, err, false) {
		replies, err = o.mget(keys)
	}
	if err := b.conn.end(&o, err); err != nil {
		return err
	}
	for i, key := range keys {
		reply := replies[key]
		text, err := reply.ToString()
		if at := parseStamp(text); err == nil && at != (stamp{}) {
			known[tags[i]] = &tagMark{at: at}
			known[tags[i]].over.Store(true) // nothing is known of it any more when this look-up has ended
		}
	}
	return nil
}

// joinRead returns the read of a mark, or of the clock, that is under way, or the record of one that await begins.
func (b *redisTags) joinRead(tag string, clock bool) *markRead {
	b.mu.Lock()
	defer b.mu.Unlock()
	id := readID(tag, clock)
	if r := b.reading[id]; r != nil && b.hub != nil {
		return r
	}
	r := &markRead{tag: tag, clock: clock}
	b.reading[id] = r
	return r
}

func readID(tag string, clock bool) string {
	if clock {
		return ""
	}
	return tag // none is empty
}

// await begins those of reads that have not begun, and waits for all.
func (b *redisTags) await(ctx context.Context, reads []*markRead) error {
	o, err := b.conn.begin(ctx, false, b.clockKey())
	if err != nil {
		b.forgetReads(reads)
		return err
	}
	var mine []*markRead
	b.mu.Lock()
	for _, r := range reads {
		if r.done == nil {
			r.done = make(chan struct{})
			mine = append(mine, r)
		}
	}
	b.mu.Unlock()
	if len(mine) > 0 {
		go b.run(o.Client, mine) // ends when the connection does, at the latest
	}
	for _, r := range reads {
		if err = await(o.ctx, r.done); err == nil {
			err = r.err
		}
		if err != nil {
			break
		}
	}
	return b.conn.end(&o, err)
}

// forgetReads lets nobody else join reads that will not be made.
func (b *redisTags) forgetReads(reads []*markRead) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range reads {
		if id := readID(r.tag, r.clock); r.done == nil && b.reading[id] == r {
			delete(b.reading, id)
		}
	}
}

// run makes reads. They have no context: what is abandoned would still be answered, and the count of replies would be
// off.
func (b *redisTags) run(c rueidis.Client, reads []*markRead) {
	replies := make([]rueidis.RedisResult, 0, len(reads))
	if b.hub == nil {
		for _, r := range reads {
			replies = append(replies, c.Do(context.Background(), c.B().Get().Key(b.keyOf(r)).Build()))
		}
	} else {
		gets := make([]rueidis.CacheableTTL, len(reads))
		for i, r := range reads {
			gets[i] = rueidis.CT(c.B().Get().Key(b.keyOf(r)).Cache().ToStaticTTL().Pin(), b.ttl)
		}
		replies = c.DoMultiCache(context.Background(), gets...)
	}
	for i, r := range reads {
		b.endRead(r, replies[i])
	}
}

func (b *redisTags) keyOf(r *markRead) string {
	if r.clock {
		return b.clockKey()
	}
	return b.markKey(r.tag)
}

func (b *redisTags) endRead(r *markRead, reply rueidis.RedisResult) {
	text, err := reply.ToString()
	b.mu.Lock()
	if id := readID(r.tag, r.clock); b.reading[id] == r {
		delete(b.reading, id)
	}
	if r.at = parseStamp(text); err != nil && !rueidis.IsRedisNil(err) && !isWrongType(err) {
		r.err = err
	}
	if r.near != nil && r.near.at != r.at {
		r.near = nil
	}
	b.mu.Unlock()
	close(r.done)
}

// arrived keeps what a read has brought, for those who wait for it, on the goroutine that reads the connection.
func (b *redisTags) arrived(w *watch, key, data string) {
	tag, clock, ok := b.ours(key)
	at := parseStamp(data)
	if !ok || at == (stamp{}) {
		return
	}
	m := &tagMark{watch: w, at: at, until: b.clock.deadline(b.clock.now(), b.ttl)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if clock {
		b.copied = m
		return
	}
	r := b.reading[tag]
	if r == nil {
		return
	}
	if old := b.marks[tag].Value(); old != nil {
		old.over.Store(true)
	}
	r.near = m
	b.marks[tag] = weak.Make(m)
	runtime.AddCleanup(m, b.forget, tag)
}

// ours reports what a key is that belongs to no cache.
func (b *redisTags) ours(key string) (tag string, clock, ok bool) {
	rest, ok := strings.CutPrefix(key, b.routed)
	if !ok || rest == clockName {
		return "", ok, ok
	}
	tag, ok = strings.CutPrefix(rest, markPrefix)
	return tag, false, ok
}

// forget is called when nothing refers to the near copy of a mark any more.
func (b *redisTags) forget(tag string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.marks[tag].Value() == nil {
		delete(b.marks, tag)
	}
}

func (b *redisTags) invalidated(_ *watch, key string) {
	if tag, clock, ok := b.ours(key); ok {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.dropLocked(tag, clock)
	}
}

func (b *redisTags) dropLocked(tag string, clock bool) {
	delete(b.reading, readID(tag, clock))
	if clock {
		b.copied = nil
		b.absence++
		return
	}
	if m := b.marks[tag].Value(); m != nil {
		m.over.Store(true)
	}
	delete(b.marks, tag)
}

func (b *redisTags) invalidatedAll(ended *watch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.reading)
	b.absence++
	if b.copied != nil && b.copied.watch == ended {
		b.copied = nil
	}
	for tag, w := range b.marks {
		if m := w.Value(); m == nil || m.watch == ended {
			delete(b.marks, tag)
		}
	}
}

func (b *redisTags) drop(tags []string) {
	b.mu.Lock()
	b.dropLocked("", true)
	for _, tag := range tags {
		b.dropLocked(tag, false)
	}
	b.mu.Unlock()
	if b.hub == nil {
		return
	}
	for _, key := range b.keys(tags) {
		b.hub.poison(key)
	}
	b.mu.Lock() // what has come in between
	defer b.mu.Unlock()
	b.dropLocked("", true)
	for _, tag := range tags {
		b.dropLocked(tag, false)
	}
}
