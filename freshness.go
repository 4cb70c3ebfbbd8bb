package cacheaside

import (
	"context"
	"log/slog"
	"math"
	"math/rand/v2"
	"time"
)

// What stands here knows how old an entry may be: it makes the entry of a ttl, and tells what a lookup may do with the
// entry that it has found.

// surelyFresh reports whether e is fresh by the coarse clock, and needs no refresh. False means: look
// closer. It is all that stands between a look-up in memory and its answer, and is false after Close, and
// while somebody wants to know of every hit: those are told on the long way.
func (c *Client[T]) surelyFresh(e *entry[T]) bool {
	return e.untagged() && c.clock.before(e.deadline-c.sure.Load()-e.early())
}

// surelyCounts is surelyFresh for an entry with tags. It is a function of its own so that the other is small enough to be
// inlined.
func (c *Client[T]) surelyCounts(e *entry[T]) bool {
	return e.meta&(negativeBit|taggedBit) == taggedBit && e.beside().holds(c.clock) &&
		c.clock.before(e.deadline-c.sure.Load()-e.early())
}

// countLocalHit counts once: a near hit is added to the hits when they are told.
func (c *Client[T]) countLocalHit() {
	if c.local == SourceNearHit {
		c.stats.near.add()
		return
	}
	c.stats.hits.add()
}

// served counts a hit on e, which is surely fresh, and returns what its caller gets.
func (c *Client[T]) served(e *entry[T]) T {
	c.countLocalHit()
	if c.clone != nil {
		return c.clone(e.value)
	}
	return e.value
}

// state is how old an entry is, in the order in which it goes through them.
type state int

const (
	fresh      state = iota
	refreshDue       // fresh, and due for a refresh ahead of its end
	stale            // past its ttl
	absent           // not there, or past the stale window
)

// found is what a look-up found.
type found[T any] struct {
	entry *entry[T] // nil if absent
	state state
	now   int64
	near  bool // without asking anybody outside this process

	settling *settling // of the marker that stands under the key; nil if none does
}

// find looks key up, of which peek has returned kept. An error matches ErrUnavailable, ErrInvalidValue, or
// is the context's.
func (c *Client[T]) find(ctx context.Context, key string, kept *entry[T]) (found[T], error) {
	if c.changing.any.Load() > 0 && c.isChangedIn(ctx, key) {
		return found[T]{state: absent}, ctx.Err()
	}
	if kept != nil {
		if f := c.judge(kept, c.clock.now()); f.state != absent {
			f.near = true
			return c.unlessVoid(ctx, f)
		}
	}
	if err := ctx.Err(); err != nil || c.instant || c.repeats.isPending(key) {
		return found[T]{state: absent}, err
	}
	e, err := c.store.lookup(ctx, key)
	c.tellEvictions()
	if err != nil {
		return found[T]{state: absent}, c.backendError(err)
	}
	return c.unlessVoid(ctx, c.judge(e, c.clock.now()))
}

// unlessVoid is f, unless a tag has voided it, or may have: then there is nothing.
func (c *Client[T]) unlessVoid(ctx context.Context, f found[T]) (found[T], error) {
	if f.entry == nil || f.entry.tagging() == nil {
		return f, nil
	}
	if valid, err := c.valid(ctx, f.entry); !valid {
		return found[T]{state: absent, now: f.now}, c.backendError(err)
	}
	return f, nil
}

// judge tells the state of e at now.
func (c *Client[T]) judge(e *entry[T], now int64) found[T] {
	f := found[T]{entry: e, now: now, settling: e.settling()}
	switch {
	case e == nil || now >= e.deadline:
		f.entry, f.state = nil, absent
	case now >= e.freshUntil(c.window):
		f.state = stale
	case e.early() > 0 && now >= e.freshUntil(c.window)-e.early():
		f.state = refreshDue
	default:
		f.state = fresh
	}
	return f
}

// hit returns the result of a look-up that is answered by what was found, and counts it.
func (c *Client[T]) hit(f found[T]) (r Result[T], err error) {
	if r.Source = SourceHit; f.near {
		r.Source = c.local
	}
	if r.Source == SourceNearHit {
		c.stats.near.add()
	} else {
		c.stats.hits.add()
	}
	r.Age = f.entry.age(f.now)
	if f.entry.negative() {
		c.stats.negative.Add(1)
		c.observe(Event{Kind: EventNegative})
		r.Source = SourceNegative
		return r, c.gone
	}
	switch {
	case f.state == stale:
		c.stats.stale.Add(1)
		c.observe(Event{Kind: EventStale})
		r.Source = SourceStale
		r.Staleness = time.Duration(f.now - f.entry.freshUntil(c.window))
	case r.Source == SourceNearHit:
		c.watchers.hit(EventNearHit)
	default:
		c.watchers.hit(EventHit)
	}
	r.Value = c.copied(f.entry.value)
	return r, nil
}

// own is what is kept of a value that its caller may go on to change. Redis is sent an encoded copy anyway.
func (c *Client[T]) own(value T) T {
	if c.instant {
		return c.copied(value)
	}
	return value
}

// copied is what a caller gets of a value that others get too.
func (c *Client[T]) copied(value T) T {
	if c.clone != nil {
		return c.clone(value)
	}
	return value
}

// entry makes the entry of a value that is kept from now on for ttl. took is what fetching it cost.
func (c *Client[T]) entry(value T, ttl time.Duration, now int64, took time.Duration) entry[T] {
	if ttl == NoExpiry {
		return newEntry(value, now, never, c.window, 0)
	}
	if c.cfg.Jitter > 0 {
		ttl -= time.Duration(float64(ttl) * c.cfg.Jitter * rand.Float64())
	}
	if ttl < shortestMeant && c.opts.logger != nil {
		c.shortTTL.Do(func() {
			c.watchers.log(func(l *slog.Logger) { logShortTTL(l, c.cfg.Name, ttl) })
		})
	}
	ttl = roundUp(ttl)
	return newEntry(value, now, c.clock.deadline(now, ttl), c.window, c.early(ttl, took))
}

// early says how long before the end of its ttl a value should be refreshed. Where several processes keep
// the same value, each adds a random part in proportion to what the fetch costs, so that one of them
// refreshes it and the others find it refreshed: "Optimal Probabilistic Cache Stampede Prevention"
// (Vattani, Chierichetti, Lowenstein, 2015), around RefreshAhead in place of the end. Being early is
// what makes it work: few processes draw much, while they all draw little. No draw is taken to lie before
// half of RefreshAhead, or a fetch that takes as long as its ttl would be repeated without a pause.
func (c *Client[T]) early(ttl, took time.Duration) time.Duration {
	if c.cfg.RefreshAhead == 0 {
		return 0
	}
	early := float64(ttl) * (1 - c.cfg.RefreshAhead)
	if c.spread {
		early = min(early+float64(took)*rand.ExpFloat64(), float64(ttl)*(1-c.cfg.RefreshAhead/2))
	}
	return time.Duration(max(math.Round(early), float64(time.Millisecond)))
}

// roundUp rounds a ttl up to whole milliseconds, which is what every backend can keep.
func roundUp(ttl time.Duration) time.Duration {
	if over := ttl % time.Millisecond; over > 0 && ttl < NoExpiry-time.Millisecond {
		ttl += time.Millisecond - over
	}
	return max(ttl, time.Millisecond)
}
