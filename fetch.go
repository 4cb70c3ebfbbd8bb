package cacheaside

import (
	"context"
	"errors"
	"time"
)

// run is a flight: look again, take the lease, fetch, and fill if the lease is still good. It runs on the
// flight's goroutine, detached from every caller. What it keeps is in the flight, so that its stack, a new
// one for every flight, need not grow.
func (c *Client[T]) run(f *flight[T]) {
	if f.background {
		defer func() { <-c.refreshes }()
	}
	if c.prepare(f, true) != ready {
		return
	}
	if f.context == &f.own && f.found.entry != nil {
		f.context.previous = f.found.entry
	}
	p, ok := c.placeOf(f)
	if !ok {
		return
	}
	defer c.leavePlace(p, f.context)
	if !f.begins(f.context) {
		return
	}
	f.context.settling = c.noteSettling(f)
	if !c.instant {
		c.noteMoment(f.context, f)
	}
	if !f.collects {
		c.countFetch(f.background)
	}
	ctx, call := c.fetching(f.context, f.background)
	if call != nil {
		f.call.Store(call)
	}
	var value T
	var err error
	returned := false
	defer func() { // a panic and a Goexit come by here too
		if !returned {
			err = abnormal(recover())
		}
		c.leavePlace(p, f.context)
		c.settle(f, value, err, c.fetched(call, f.context, err))
	}()
	value, err = f.fetch(ctx, f.key)
	returned = true
}

// lookAgain repeats a look-up since which another flight has ended: that one may have filled the key. If
// so, lookAgain ends f with what it finds and returns true.
func (c *Client[T]) lookAgain(ctx context.Context, f *flight[T]) bool {
	if f.failed || f.shard.ended.Load() == f.ended {
		return false
	}
	ctx, outlay := f.allowance.begin(ctx)
	found, err := c.find(ctx, f.key, c.store.peek(f.key))
	outlay.end()
	if err != nil {
		f.failed = errors.Is(f.blame(err), ErrUnavailable)
		return false
	}
	f.found = found
	return c.endWith(f)
}

// endWith ends f with the entry that was found, if that needs no fetch, and reports whether it does not.
func (c *Client[T]) endWith(f *flight[T]) bool {
	if f.found.state != fresh || f.refuses(&f.found) {
		return false
	}
	r := Result[T]{Source: SourceHit, Age: f.found.entry.age(f.found.now)}
	if f.found.entry.negative() {
		f.end(r, c.gone)
		return true
	}
	r.Value = f.found.entry.value
	f.end(r, nil)
	return true
}

// readiness is how far a flight is from its fetch.
type readiness int

const (
	ready   readiness = iota // the fetch may be called
	settled                  // the flight has ended without one
	leased                   // another process fetches the key
)

// prepare looks again, and takes the lease of the key. With wait, it waits for another process that has
// that. If the key is filled by then, prepare ends f with what it finds. Without a backend there is no
// lease, and the fetch goes ahead without.
func (c *Client[T]) prepare(f *flight[T], wait bool) readiness {
	if f.allowance.limit == 0 { // a batch has set it
		f.allowance = c.allowance(f.asked)
	}
	ctx := context.Context(f.context)
	if c.mayWait() {
		waiting, stop := context.WithCancel(f.context.values)
		defer stop()
		if ctx = waiting; !f.mayWait(stop) {
			return settled
		}
	}
	if c.lookAgain(ctx, f) {
		return settled
	}
	if c.instant || f.failed || f.ttl <= 0 {
		return ready
	}
	r := c.lease(f.renewing(ctx), f, wait)
	if r == ready && f.isVoid() {
		c.letGo(f)
	}
	return r
}

// mayWait reports whether a fetch may have to wait for another process.
func (c *Client[T]) mayWait() bool { return c.local == SourceNearHit }

// lease is the part of prepare that takes the lease. It is a chore: what it takes when f has ended, Close must
// see given up. A void flight takes none, and gives one up that Redis has granted after the write: it will store
// nothing, and who asks after the write must not be kept waiting by it.
func (c *Client[T]) lease(ctx context.Context, f *flight[T], wait bool) readiness {
	if !c.chores.begin() {
		f.end(Result[T]{}, ErrClosed)
		return settled
	}
	defer c.chores.end()
	for {
		if f.isVoid() {
			return ready
		}
		held, filled, err := c.store.acquire(ctx, f.key, f.found.entry, &f.allowance, wait)
		if err == errReplaced {
			c.giveUp(f.key, held, noOutcome)
			continue
		}
		if held.token != "" && !c.hold(f, held) {
			return settled
		}
		switch {
		case f.isOver():
			return settled
		case err == errLeased:
			return leased
		case err == errAbsent:
			f.end(Result[T]{}, c.gone)
			return settled
		case err == errFailed:
			c.flights.noteFailure(f, ErrFetchFailed)
			f.end(Result[T]{}, ErrFetchFailed)
			return settled
		case err != nil:
			_ = c.backendError(f.blame(err)) // counted and observed; the fetch does without
			f.failed = held.token == ""
			return ready
		case filled == nil:
			return ready
		}
		f.found = c.judge(filled, c.clock.now())
		if c.endWith(f) {
			return settled
		}
	}
}

// hold notes the lease with the flight, which gives it up if it ends early. It returns false if the flight
// has ended already.
func (c *Client[T]) hold(f *flight[T], held lease[T]) bool {
	f.lease = &held
	if f.holds(func() { c.giveUp(f.key, held, outcomeAtEnd(f.err)) }) {
		held.aside.held.follow(f)
		return true
	}
	c.giveUp(f.key, held, noOutcome)
	return false
}

// outcomeAtEnd is how a lease has ended whose flight has, with this error and without settling it. Close says
// nothing about the source, and a fetch that took too long little: another process may be luckier.
func outcomeAtEnd(err error) outcome {
	switch {
	case err == nil || errors.Is(err, ErrClosed) && !isPanic(err):
		return noOutcome
	case errors.Is(err, ErrFetchTimeout), errors.Is(err, ErrOverloaded):
		return notStored
	}
	return failed
}

// letGo gives up the lease of f, if it has one and has not ended.
func (c *Client[T]) letGo(f *flight[T]) {
	if f.lease != nil && f.holds(nil) {
		c.giveUp(f.key, *f.lease, noOutcome)
		f.lease = nil
	}
}

// giveUp abandons a lease that has ended so, and does not wait for that: the callers of the flight have nothing
// from it. What fails here heals by itself when the lease expires.
func (c *Client[T]) giveUp(key string, held lease[T], why outcome) {
	c.chores.run(func(ctx context.Context) {
		_ = c.backendError(c.store.abandon(ctx, key, held, why, false)) // counted and observed
	})
}

// settle ends the flight with the outcome of its fetch, which returned at now, having kept what is to be
// kept, so that the next look-up of those who wait finds it.
func (c *Client[T]) settle(f *flight[T], value T, err error, now int64) {
	took := time.Duration(now - f.under.begun)
	err = c.explain(f.under, err)
	if !f.looked && (err == nil || c.isNotFound(err)) {
		c.seal([]*flight[T]{f}, []T{value}, []error{err})
	}
	ttl := c.lifetime(f)
	store := ttl > 0 && !f.under.skipStore.Load() && !f.failed
	if s := f.found.settling; s != nil {
		store = store && now < s.until
	}
	switch {
	case err != nil && errors.Is(err, errMoved):
		c.drop(f, noOutcome)
		f.end(Result[T]{}, err)
		return
	case err != nil && !c.isNotFound(err):
		c.flights.fail(f, err)
		return
	case store && f.badTags != nil:
		c.unstorable(f.badTags)
		c.drop(f, notStored)
	case store && f.doubtful:
		c.discarded()
		c.drop(f, noOutcome)
	case err == nil && store:
		if refused := c.checkAliases(f.key, value); refused != nil {
			c.unstorable(refused)
			c.drop(f, notStored)
			break
		}
		c.checkRoundTrip(f.key, value)
		if c.keep(f, c.entryOf(f, c.own(value), ttl, now, took), took) && c.aliases.Load() != nil {
			c.indexFetched(f, value, ttl)
		}
	case err == nil:
		c.drop(f, notStored)
	default:
		c.notFound(f, now, store)
	}
	f.end(Result[T]{Value: value, Source: SourceFetched}, err)
}

// entryOf is the entry of what f has fetched.
func (c *Client[T]) entryOf(f *flight[T], value T, ttl time.Duration, now int64, took time.Duration) entry[T] {
	if s := f.found.settling; s != nil {
		return c.settlingEntry(value, ttl, now, s)
	}
	return c.entry(value, ttl, now, took)
}

// lifetime is the ttl of what f has fetched.
func (c *Client[T]) lifetime(f *flight[T]) time.Duration {
	ttl := c.ttlOf(f)
	if override := f.under.ttl.Load(); override != ttlUnset && ttl > 0 { // without a ttl there is no lease
		ttl = time.Duration(override)
	}
	return ttl
}

// discarded counts a fetched value that is not stored because of a write meanwhile.
func (c *Client[T]) discarded() {
	c.stats.discarded.Add(1)
	c.observe(Event{Kind: EventDiscarded})
}

// unstorable counts a fetched value that cannot be stored.
func (c *Client[T]) unstorable(err error) {
	c.stats.unstorable.Add(1)
	c.observe(Event{Kind: EventUnstorable, Err: err})
}

// ttlOf returns the ttl of what f fetches: its starter's, or that of the first caller with one
// that has joined. On rueidis-aside a flight without a ttl has taken no lease, and may keep
// nothing, whoever joins it.
func (c *Client[T]) ttlOf(f *flight[T]) time.Duration {
	if f.ttl > 0 || c.mayWait() {
		return f.ttl
	}
	f.shard.mu.Lock()
	defer f.shard.mu.Unlock()
	return f.joinedTTL
}

// explain returns the error of a fetch under f as its callers get it.
func (c *Client[T]) explain(f *flightContext, err error) error {
	switch {
	case err == nil || errors.Is(err, ErrNotFound) && !isPanic(err):
		return err
	case c.isNotFound(err):
		return &notFoundError{cause: err}
	}
	return f.explain(err)
}

// failed is called when f ends by the failure of its fetch, or by its time.
func (c *Client[T]) failed(f *flight[T]) {
	if f.under.countsFailure() {
		c.stats.fetchErrors.Add(1)
	}
}

// lost is called after that.
func (c *Client[T]) lost(f *flight[T], err error) {
	c.tell(f.call.Load(), f.under, err, c.clock.now())
}

// notFound keeps the answer that the source has none for NegativeTTL. If that is off, it at least removes
// the stale entry that the answer proves wrong.
func (c *Client[T]) notFound(f *flight[T], now int64, store bool) {
	ttl := c.cfg.NegativeTTL
	if override := f.under.ttl.Load(); override != ttlUnset {
		ttl = min(ttl, time.Duration(override))
	}
	switch {
	case store && ttl > 0:
		deadline := c.clock.deadline(now, roundUp(ttl))
		if s := f.found.settling; s != nil {
			deadline = min(deadline, s.until)
		}
		c.keep(f, negativeEntry[T](now, deadline), 0)
	case f.failed:
	default:
		c.drop(f, notFound)
	}
}

// drop gives up the lease without storing anything. If the source has none, it also removes the entry that was to
// be replaced, unless the flight is void.
func (c *Client[T]) drop(f *flight[T], why outcome) {
	remove := why == notFound && f.found.entry != nil
	if f.lease != nil && c.chores.begin() { // as in keep
		defer c.chores.end()
	}
	if f.lease == nil && !remove || !f.holds(nil) {
		return
	}
	if !remove {
		c.giveUp(f.key, *f.lease, why)
		return
	}
	ctx, outlay := f.allowance.begin(context.Background())
	defer outlay.end()
	done, err := c.flights.fill(ctx, f, func(ctx context.Context) error {
		return c.store.abandon(ctx, f.key, f.held(), why, true)
	})
	_ = c.backendError(f.blame(err)) // counted and observed
	if (!done || err != nil) && f.lease != nil {
		c.giveUp(f.key, *f.lease, why)
	}
}

// keep stores e unless the flight is void. That it cannot be stored is not the caller's problem, but it is
// counted and observed.
func (c *Client[T]) keep(f *flight[T], e entry[T], took time.Duration) (stored bool) {
	if f.lease != nil {
		if c.chores.begin() { // Close waits for what is being stored, or its lease would be left behind
			defer c.chores.end()
		}
		if !f.holds(nil) {
			return false // f has ended, and its lease is being given up
		}
	}
	defer func() { // a codec's panic comes by here too
		if !stored && f.lease != nil {
			why := notStored
			if f.isOver() { // by Close, most likely
				why = outcomeAtEnd(f.err)
			}
			c.giveUp(f.key, *f.lease, why)
		}
	}()
	ctx, outlay := f.allowance.begin(context.Background()) // the flight's end does not cut it short
	defer outlay.end()
	held := f.held()
	held.tags = f.tags
	var err error
	if c.weigh != nil {
		held.weight, err = c.weigh(f.key, &e)
	}
	if err == nil {
		_, err = c.flights.fill(ctx, f, func(ctx context.Context) (err error) {
			stored, err = c.store.fill(ctx, f.key, held, e, took)
			return err
		})
	}
	c.tellEvictions()
	switch {
	case stored:
	case err == nil && f.isTimedOut():
	case err == nil:
		c.discarded()
	case errors.Is(err, ErrInvalidValue):
		c.unstorable(err)
	default:
		_ = c.backendError(f.blame(err)) // counted and observed; the value is good without it
	}
	return stored
}

// isNotFound reports whether err is the source's answer that it has none. A panic never is, whatever error
// it was given.
func (c *Client[T]) isNotFound(err error) bool {
	return (errors.Is(err, ErrNotFound) || isAny(err, c.opts.notFound)) && !isPanic(err)
}
