package cacheaside

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
	"weak"
)

// What stands here is for a source that is read from a replica. A removal leaves a marker for Config.Settle: in Redis in the
// place of the value (see stored_settling.go), and in the process that has removed the key, on every backend, beside its
// flights. A fetch of a key whose marker stands can ask for that, and what it returns is kept until the marker's end only.

// maxSettle is the longest Config.Settle: it is what a stored value can tell.
const maxSettle = time.Minute

// Settling tells a fetch whether its key was removed a moment ago, and how long ago: it is called with the context of the fetch. ok is
// true for [Config.Settle] after a removal. A replica of the source may be behind the write then, so read the primary. What
// the fetch returns is kept until that time is over, and not for its whole ttl.
//
// Removals are [Client.Delete], DeleteMany, [Client.Mutate], [Backend.Invalidate], what ends a [Change], and what a feed or a bus
// tells, by any process; not Set, Clear and InvalidateTags. In a fetch of several keys ok is true if one of them was removed,
// and since is that of the last. In a fetch within a change that has declared the key ok is true, and since is zero. Outside of a
// fetch, and without Config.Settle, ok is false.
func Settling(ctx context.Context) (since time.Duration, ok bool) {
	f := flightOf(ctx)
	if in, _ := ctx.Value(insideContext{}).(*inside); in != nil && in.outer == f {
		return in.settling.age(in.clock)
	}
	if f == nil {
		return 0, false
	}
	return f.settling.age(f.owner.time())
}

// settling is the time after a removal, on the clock of this process.
type settling struct{ since, until int64 }

// age is how long ago the removal was; false if there was none.
func (s *settling) age(c *clock) (time.Duration, bool) {
	if s == nil {
		return 0, false
	}
	return time.Duration(max(0, c.now()-s.since)), true
}

// later returns the one that ends later. Either may be nil.
func later(a, b *settling) *settling {
	if a == nil || b != nil && b.until > a.until {
		return b
	}
	return a
}

// markers are the removals of this process. There are two generations of them, so that neither a lookup nor the end of a marker has
// to go through them: when the younger one is as old as a marker lasts, the older one holds none that stands.
type markers struct {
	lasts time.Duration
	clock *clock
	beat  *reaper

	any atomic.Bool // there may be some

	mu         sync.Mutex
	young, old map[string]int64 // by key: when it was removed, on the clock
	turned     int64            // when young began
}

// newMarkers returns nil, which marks nothing, if markers last for no time.
func newMarkers(lasts time.Duration, c *clock) *markers {
	if lasts == 0 {
		return nil
	}
	m := &markers{lasts: lasts, clock: c}
	w := weak.Make(m)
	m.beat = newReaper(lasts, func(time.Time) bool {
		m := w.Value()
		return m != nil && m.turn()
	})
	return m
}

// lay lays markers for keys that are about to be removed.
func (m *markers) lay(keys ...string) {
	if m == nil {
		return
	}
	now := m.clock.now()
	m.mu.Lock()
	if m.young == nil {
		m.young = make(map[string]int64)
	}
	for _, key := range keys {
		m.young[key] = now
	}
	m.any.Store(true)
	m.mu.Unlock()
	m.beat.wake()
}

// of returns the marker of key that stands, or nil.
func (m *markers) of(key string) *settling {
	if m == nil || !m.any.Load() {
		return nil
	}
	m.mu.Lock()
	since, ok := m.young[key]
	if !ok {
		since, ok = m.old[key]
	}
	m.mu.Unlock()
	s := settling{since, since + int64(m.lasts)}
	if !ok || m.clock.now() >= s.until {
		return nil
	}
	return &s
}

// turn begins a new generation, and reports whether there is anything left in the one before.
func (m *markers) turn() (more bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.clock.now()
	if now-m.turned < int64(m.lasts) { // the tick before came late
		return true
	}
	m.turned, m.old, m.young = now, m.young, nil
	m.any.Store(m.old != nil)
	return m.old != nil
}

func (m *markers) close() {
	if m != nil {
		m.beat.stop()
	}
}

// noteSettling notes with f, whose fetch begins, what is known of a removal of its key, and returns that.
func (c *Client[T]) noteSettling(f *flight[T]) *settling {
	s := later(f.found.settling, c.markers.of(f.key))
	if f.lease != nil {
		s = later(s, f.lease.settling)
	}
	f.found.settling = s
	return s
}

// settlingInside is what a fetch within the change of ctx is told of keys.
func (c *Client[T]) settlingInside(ctx context.Context, missing []request[T]) (s *settling) {
	change := changeOf(ctx)
	for i := range missing {
		q := &missing[i]
		if c.cfg.Settle > 0 && change != nil && change.has(c.backend, c.cfg.Name, q.key) {
			return &settling{since: never} // it is still to come
		}
		s = later(s, later(q.found.settling, c.markers.of(q.key)))
	}
	return s
}

// settlingEntry is entry for what was fetched while a marker stood: it is kept until the marker's end at most, and is of no
// use after it.
func (c *Client[T]) settlingEntry(value T, ttl time.Duration, now int64, s *settling) entry[T] {
	return entry[T]{value: value, deadline: min(c.clock.deadline(now, roundUp(ttl)), s.until), meta: stored(now) | shortMeta}
}
