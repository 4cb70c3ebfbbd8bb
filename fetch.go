package cacheaside

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"time"
)

// OverrideTTL makes the value that the fetch of ctx returns be kept for ttl in the place of the ttl that
// its caller gave; zero or less: not at all. Outside of a fetch it does nothing.
func OverrideTTL(ctx context.Context, ttl time.Duration) {
	if f := flightOf(ctx); f != nil {
		f.ttl.Store(max(int64(ttl), 0))
	}
}

// SkipStore makes the value that the fetch of ctx returns go to those who wait for it, and not be kept.
// Outside of a fetch it does nothing.
func SkipStore(ctx context.Context) {
	if f := flightOf(ctx); f != nil {
		f.skipStore.Store(true)
	}
}

// Previous returns the stale value that the fetch of ctx is to replace, for a conditional request: a fetch
// that learns that nothing has changed returns it again. There is one when the cache keeps values past
// their ttl (StaleFor, StaleIfError) or refreshes them ahead. It is shared, and must not be changed.
func Previous[T any](ctx context.Context) (value T, ok bool) {
	f := flightOf(ctx)
	if f == nil {
		return value, false
	}
	e, ok := f.previous.(*entry[T])
	if !ok || e == nil || e.negative() {
		return value, false
	}
	return e.value, true
}

// run is a flight: look again, take the lease, fetch, and fill if the lease is still good. It runs on the
// flight's goroutine, detached from every caller.
func (c *Client[T]) run(f *flight[T], q request[T], l lookedUp[T]) {
	if c.opts.fetchContext != nil {
		f.context.values = context.WithoutCancel(c.opts.fetchContext(f.context.values))
	}
	if !l.failed && c.flights.endedSoFar(q.key) != l.ended && c.lookAgain(f, q, &l) {
		return
	}
	lease, done := c.acquire(f, q, &l)
	if done {
		return
	}
	f.context.previous = l.found.entry
	c.stats.fetches.Add(1)
	var value T
	var err error
	returned := false
	begun := time.Now()
	defer func() { // a panic and a Goexit come by here too
		if !returned {
			err = abnormal(recover())
		}
		took := time.Since(begun)
		c.observe(Event{Kind: EventFetch, Err: err, Duration: took})
		if err != nil {
			c.failed(f, q, l, lease, err)
		} else {
			c.fetched(f, q, l, lease, value, took)
		}
	}()
	value, err = q.fetch(f.context, q.key)
	returned = true
}

// lookAgain repeats a look-up since which another flight has ended: that one may have filled the key. If
// so, lookAgain ends f with what it finds and returns true.
func (c *Client[T]) lookAgain(f *flight[T], q request[T], l *lookedUp[T]) bool {
	found, err := c.find(f.context, q.key)
	if err != nil {
		l.failed = errors.Is(err, ErrUnavailable)
		return false
	}
	l.found = found
	return c.endWith(f, found)
}

// endWith ends f with an entry that needs no fetch, and reports whether it is one.
func (c *Client[T]) endWith(f *flight[T], found found[T]) bool {
	if found.state != fresh {
		return false
	}
	r := Result[T]{Source: SourceHit, Age: found.entry.age(found.now)}
	if found.entry.negative() {
		f.end(r, c.gone)
		return true
	}
	r.Value = found.entry.value
	f.end(r, nil)
	return true
}

// acquire takes the lease of the key, waiting for another process that has it. If that fills the key,
// acquire ends f with what it filled, and returns true. Without a backend there is no lease, and the fetch
// goes ahead without.
func (c *Client[T]) acquire(f *flight[T], q request[T], l *lookedUp[T]) (lease[T], bool) {
	if l.failed || q.ttl <= 0 {
		return lease[T]{seen: l.found.entry}, false
	}
	for {
		held, filled, err := c.store.acquire(f.context, q.key, l.found.entry)
		if err != nil {
			l.failed = c.backendError(err) != nil
			return lease[T]{seen: l.found.entry}, false
		}
		if filled == nil {
			if held.token != "" && !f.holds(func() { c.giveUp(q.key, held, false) }) {
				c.giveUp(q.key, held, false)
				return held, true
			}
			return held, false
		}
		l.found = c.judge(filled, c.clock.now())
		if c.endWith(f, l.found) {
			return lease[T]{}, true
		}
	}
}

// giveUp abandons a lease. What fails here heals by itself when the lease expires.
func (c *Client[T]) giveUp(key string, held lease[T], remove bool) {
	_ = c.backendError(c.store.abandon(context.Background(), key, held, remove)) // counted and observed
}

// fetched keeps what the fetch returned, if it may, and then tells those who wait, so that their next
// look-up finds it.
func (c *Client[T]) fetched(f *flight[T], q request[T], l lookedUp[T], held lease[T], value T, took time.Duration) {
	ttl := q.ttl
	if override := f.context.ttl.Load(); override != ttlUnset {
		ttl = time.Duration(override)
	}
	if ttl > 0 && !f.context.skipStore.Load() && !l.failed {
		c.keep(f, q.key, held, c.entry(value, ttl, took))
	} else if held.token != "" && f.holds(nil) {
		c.giveUp(q.key, held, false)
	}
	f.end(Result[T]{Value: value, Source: SourceFetched}, nil)
}

// failed tells those who wait that the fetch has failed. That the source has none is an answer: it is
// remembered for NegativeTTL, or at least removes the stale entry that it proves wrong.
func (c *Client[T]) failed(f *flight[T], q request[T], l lookedUp[T], held lease[T], err error) {
	if !c.isNotFound(err) {
		c.flights.fail(f, err)
		return
	}
	ttl := c.cfg.NegativeTTL
	if override := f.context.ttl.Load(); override != ttlUnset {
		ttl = time.Duration(override)
	}
	switch now := c.clock.now(); {
	case l.failed || q.ttl <= 0 || f.context.skipStore.Load():
	case ttl > 0 && c.cfg.NegativeTTL > 0:
		c.keep(f, q.key, held, negativeEntry[T](now, c.clock.deadline(now, roundUp(ttl))))
	default:
		f.holds(nil)
		_, _ = c.flights.fill(f.context, f, func(context.Context) error {
			c.giveUp(q.key, held, true)
			return nil
		})
	}
	if !errors.Is(err, ErrNotFound) {
		err = &notFoundError{cause: err}
	}
	f.end(Result[T]{}, err)
}

// keep stores e unless the flight is void. That it cannot be stored is not the caller's problem, but it is
// counted and observed.
func (c *Client[T]) keep(f *flight[T], key string, held lease[T], e entry[T]) {
	if !f.holds(nil) {
		return // f has ended, and its lease is being given up
	}
	stored := false
	_, err := c.flights.fill(f.context, f, func(ctx context.Context) (err error) {
		stored, err = c.store.fill(ctx, key, held, e)
		return err
	})
	switch {
	case stored:
	case err == nil:
		c.stats.discarded.Add(1)
		c.observe(Event{Kind: EventDiscarded})
	case errors.Is(err, ErrInvalidValue):
		c.stats.unstorable.Add(1)
		c.observe(Event{Kind: EventUnstorable, Err: err})
	default:
		_ = c.backendError(err) // counted and observed; the value is good without it
	}
	if !stored && held.token != "" {
		c.giveUp(key, held, false)
	}
}

func (c *Client[T]) isNotFound(err error) bool {
	return errors.Is(err, ErrNotFound) || isAny(err, c.opts.notFound)
}

// entry makes the entry of a value that is kept from now on for ttl. took is what fetching it cost.
func (c *Client[T]) entry(value T, ttl, took time.Duration) entry[T] {
	now := c.clock.now()
	if ttl == NoExpiry {
		return newEntry(value, now, never, c.window, 0)
	}
	if c.cfg.Jitter > 0 {
		ttl -= time.Duration(float64(ttl) * c.cfg.Jitter * rand.Float64())
	}
	ttl = roundUp(ttl)
	return newEntry(value, now, c.clock.deadline(now, ttl), c.window, c.early(ttl, took))
}

// early says how long before the end of its ttl a value should be refreshed. Where several processes keep
// the same value, each adds a random part in proportion to what the fetch costs, so that one of them
// refreshes it and the others find it refreshed: "Optimal Probabilistic Cache Stampede Prevention"
// (Vattani, Chierichetti, Lowenstein, 2015), around RefreshAhead in the place of the end.
func (c *Client[T]) early(ttl, took time.Duration) time.Duration {
	if c.cfg.RefreshAhead == 0 {
		return 0
	}
	early := float64(ttl) * (1 - c.cfg.RefreshAhead)
	if c.spread {
		early -= float64(took) * -math.Log(1-rand.Float64())
	}
	return time.Duration(max(early, float64(time.Millisecond)))
}

// roundUp rounds a ttl up to whole milliseconds, which is what every backend can keep.
func roundUp(ttl time.Duration) time.Duration {
	if over := ttl % time.Millisecond; over > 0 && ttl < NoExpiry-time.Millisecond {
		ttl += time.Millisecond - over
	}
	return max(ttl, time.Millisecond)
}
