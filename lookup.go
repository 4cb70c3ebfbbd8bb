package cacheaside

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// Source says where the value of a [Result] came from.
type Source uint8

// The sources of a [Result].
const (
	SourceHit      Source = iota + 1 // it was kept, and within its ttl
	SourceNearHit                    // the same, in this process, on rueidis-aside
	SourceStale                      // it was kept, and past its ttl
	SourceNegative                   // "the source has none" was remembered
	SourceFetched                    // this look-up started the fetch
	SourceJoined                     // another look-up had started the fetch
)

var sourceNames = [...]string{"none", "hit", "near hit", "stale", "negative", "fetched", "joined"}

// String returns s in words.
func (s Source) String() string {
	if int(s) < len(sourceNames) {
		return sourceNames[s]
	}
	return fmt.Sprintf("Source(%d)", s)
}

// Result is the answer to a look-up, and what is known about it.
type Result[T any] struct {
	Value     T
	Source    Source        // zero if the look-up failed
	Age       time.Duration // since it was stored; zero if it was fetched for this look-up
	Staleness time.Duration // how far past its ttl it is; zero while it is fresh
}

// Lookup is [Client.GetWithFetch] that also tells where the value came from and how old it is.
func (c *Client[T]) Lookup(ctx context.Context, key string, ttl time.Duration, fetch FetchFunc[T]) (Result[T], error) {
	return c.getOrFetch(ctx, request[T]{key: key, ttl: ttl, fetch: fetch})
}

// Loader is a cache together with a ttl and a way to fetch; see [Client.Bind].
type Loader[T any] struct {
	client   *Client[T]
	ttl      time.Duration
	fetch    FetchFunc[T]
	collects bool // fetch is that of a batcher, which counts the calls of the source
	width    int  // how many keys Warm fetches at once

	alone FetchFunc[T] // in the place of fetch within a change; nil: fetch
}

// Bind returns a Loader that gets keys as GetWithFetch(ctx, key, ttl, fetch) does. A hit through it
// allocates nothing, whatever fetch captures, since fetch is made once.
func (c *Client[T]) Bind(ttl time.Duration, fetch FetchFunc[T]) *Loader[T] {
	return &Loader[T]{client: c, ttl: ttl, fetch: fetch, width: warmWidth}
}

// Get is [Client.GetWithFetch] with the ttl and the fetch that l was bound to.
func (l *Loader[T]) Get(ctx context.Context, key string) (T, error) {
	c := l.client
	e := c.quick.peek(key)
	if e != nil && (c.surelyFresh(e) || c.surelyCounts(e)) && l.fetch != nil {
		c.countLocalHit()
		if c.clone != nil {
			return c.clone(e.value), nil
		}
		return e.value, nil
	}
	fetch, collects := l.fetch, l.collects
	if l.alone != nil && changeOf(ctx) != nil {
		fetch, collects = l.alone, false
	}
	r, err := c.getOrFetch(ctx, request[T]{key: key, ttl: l.ttl, fetch: fetch, collects: collects})
	return r.Value, err
}

// request is what a caller asks for, and what it has found already.
type request[T any] struct {
	key   string
	shard *flightShard[T] // of the key
	ttl   time.Duration
	fetch FetchFunc[T]

	collects bool // fetch waits for one of several keys, which counts as the call of the source
	scoped   bool // key is the key inside, and fetch gets the caller's unless it collects

	aged      bool  // nothing counts that was fetched before notBefore
	notBefore int64 // on the clock
	anew      bool  // nothing that is kept counts
	outdated  bool  // the flight that it joined began before notBefore

	late   bool     // the flight that it joined has sealed its result
	again  bool     // a flight that it joined has ended with what it may not have: it is counted already
	found  found[T] // by the caller's look-up: a stale entry, or nothing
	failed bool     // the backend did not answer that look-up, or there is no time left for it: nothing is stored
	ended  uint64   // how many flights had ended before it

	asked time.Duration // how long the backend took for it
}

// getOrFetch answers a look-up in the order that the documentation gives: what is fresh, what is stale
// while it is being refreshed, and else the flight of the key.
func (c *Client[T]) getOrFetch(ctx context.Context, q request[T]) (Result[T], error) {
	if q.fetch == nil {
		return Result[T]{}, cmp.Or(c.checkLookup(q.key), nilArgument("fetch", "a function"))
	}
	if c.opts.scope != nil && !q.scoped {
		if r, hit, err := c.hitInScope(ctx, &q); hit || err != nil {
			return r, err
		}
	}
	if err := c.checkLookup(q.key); err != nil {
		return Result[T]{}, err
	}
	c.sampled(q.key)
	if changeOf(ctx) != nil {
		return c.fetchInside(ctx, &q)
	}
	q.shard = c.flights.shard(q.key)
	q.ended = q.shard.ended.Load()
	c.setAge(ctx, &q)
	begun := c.askedAt()
	var err error
	q.found, err = c.find(ctx, q.key, c.store.peek(q.key)) // again, since what a fast path saw is from before ended
	q.asked = c.askedAt().Sub(begun)
	c.unreadable(err)
	switch f := &q.found; {
	case err != nil && ctx.Err() != nil:
		c.missed()
		return Result[T]{}, ctx.Err()
	case err != nil && errors.Is(err, ErrClosed):
		return Result[T]{}, err
	case q.refuses(f):
	case c.wantsRefresh(f):
		if q.ttl > 0 { // otherwise nothing would be kept of it, and no caller waits for it
			c.refresh(ctx, &q)
		}
		return c.hit(*f)
	case f.state == fresh:
		return c.hit(*f)
	}
	q.failed = err != nil && errors.Is(err, ErrUnavailable)
	return c.fetchOrJoin(ctx, &q)
}

// wantsRefresh reports whether what was found may be returned while it is refreshed in the background.
func (c *Client[T]) wantsRefresh(f *found[T]) bool {
	return f.state == refreshDue ||
		f.state == stale && f.now < f.entry.freshUntil(c.window)+int64(c.cfg.StaleFor)
}

// askedAt is the time, for a backend where asking takes some.
func (c *Client[T]) askedAt() (t time.Time) {
	if !c.instant {
		t = time.Now()
	}
	return t
}

// fetchOrJoin waits for the flight of the key, having started it if there was none.
func (c *Client[T]) fetchOrJoin(ctx context.Context, q *request[T]) (Result[T], error) {
	inside, was := flightOf(ctx), q.fallback()
	if err := c.refusedPlace(ctx, inside, q); err != nil {
		c.missedOnce(q)
		return c.insteadOf(err, *was)
	}
	f, started, err := c.flights.join(ctx, inside, q, false)
	if err != nil {
		c.missedOnce(q)
		return c.refused(err, *was)
	}
	defer f.context.footing.leaves()
	if started {
		defer f.context.giveBack()
		if inside != nil {
			defer inside.leave(f.context)
		}
		c.missedOnce(q)
	} else if !q.again {
		defer c.joined(ctx, f)()
	}
	var soft <-chan struct{}
	if c.mayOutlive(was) {
		var stop func() bool
		soft, stop = c.softTimeout()
		defer stop()
	}
	r, err := c.wait(ctx, inside, f, was, soft)
	if !started && f.isOver() && (f.mayBeOld(q) || c.isTooOld(q, &r) || err != nil && errors.Is(err, errMoved)) {
		return c.lookOnceMore(ctx, q)
	}
	if err == nil && !started && r.Source == SourceFetched {
		r.Source = SourceJoined
	}
	return r, err
}

// missedOnce counts a miss, unless the look-up is counted already.
func (c *Client[T]) missedOnce(q *request[T]) {
	if !q.again {
		c.missed()
	}
}

// lookOnceMore answers a look-up that has joined a flight whose result may be from before an invalidation that had ended
// when it came. It does so once: what is found from here on has been fetched since.
func (c *Client[T]) lookOnceMore(ctx context.Context, q *request[T]) (Result[T], error) {
	q.anew = q.anew || q.outdated // what the older flight has stored is no younger than that
	q.again, q.late, q.outdated = true, false, false
	c.stats.lookedAgain.Add(1)
	q.ended = q.shard.ended.Load()
	kept := c.store.peek(q.key)
	now, err := c.find(ctx, q.key, kept)
	if err != nil {
		if ended := ctx.Err(); ended != nil || errors.Is(err, ErrClosed) {
			return Result[T]{}, cmp.Or(ended, err)
		}
		q.failed = errors.Is(err, ErrUnavailable)
	}
	if q.found = now; !q.refuses(&now) && (now.state == fresh || now.state == refreshDue) {
		return c.answerAgain(&now)
	}
	return c.fetchOrJoin(ctx, q)
}

// answerAgain is the answer of what was found, to a look-up that is counted already.
func (c *Client[T]) answerAgain(f *found[T]) (Result[T], error) {
	r := Result[T]{Source: SourceJoined, Age: f.entry.age(f.now)}
	if f.entry.negative() {
		return r, c.gone
	}
	r.Value = c.copied(f.entry.value)
	return r, nil
}

// refused returns what a caller gets for whom no fetch begins: during ErrorCooldown a stale entry, if there is
// one to cover the error up.
func (c *Client[T]) refused(err error, was found[T]) (Result[T], error) {
	if cooling := (*cooldownError)(nil); errors.As(err, &cooling) {
		return c.insteadOf(err, was)
	}
	return Result[T]{}, err
}

// insteadOf returns the stale entry that a look-up found instead of a fetch's error, if it is within
// StaleIfError. That the source has none is an answer, and no error to cover up.
func (c *Client[T]) insteadOf(err error, was found[T]) (Result[T], error) {
	if was.entry == nil || was.entry.negative() || c.isNotFound(err) || errors.Is(err, errMoved) || c.isClosed() {
		return Result[T]{}, err
	}
	was.now = c.clock.now()
	if was.now >= was.entry.freshUntil(c.window)+int64(c.cfg.StaleIfError) {
		return Result[T]{}, err
	}
	c.insteadOfPlace(err)
	return c.outlived(was)
}

// outlived returns an entry that is given out only because there is nothing better. The look-up has been
// counted as a miss, or as one that joined.
func (c *Client[T]) outlived(f found[T]) (Result[T], error) {
	c.stats.stale.Add(1)
	c.observe(Event{Kind: EventStale})
	return Result[T]{
		Value:     c.copied(f.entry.value),
		Source:    SourceStale,
		Age:       f.entry.age(f.now),
		Staleness: max(0, time.Duration(f.now-f.entry.freshUntil(c.window))),
	}, nil
}

// wait returns the outcome of f, or the error of ctx if that ends first, or once soft is closed the stale
// entry that the look-up found. inside is the fetch that ctx belongs to, if any.
func (c *Client[T]) wait(ctx context.Context, inside *flightContext, f *flight[T], was *found[T], soft <-chan struct{}) (Result[T], error) {
	if inside != nil {
		if err := inside.awaits(f.context); err != nil {
			return Result[T]{}, err
		}
		defer inside.leave(f.context)
	}
	if !c.mayOutlive(was) {
		soft = nil
	}
	gone := ctx.Done()
	if gone == nil && soft == nil {
		<-f.done
		return c.outcome(f, was)
	}
	select {
	case <-f.done:
		return c.outcome(f, was)
	case <-soft:
		if f.isOver() {
			return c.outcome(f, was)
		}
		if was.now = c.clock.now(); was.now < was.entry.deadline {
			return c.outlived(*was)
		}
		return c.wait(ctx, inside, f, was, nil)
	case <-gone:
		if f.isOver() { // both were ready, and the caller gets the value that is there
			return c.outcome(f, was)
		}
		return Result[T]{}, ctx.Err()
	}
}

// outcome is what somebody who has waited for f gets.
func (c *Client[T]) outcome(f *flight[T], was *found[T]) (Result[T], error) {
	if f.err != nil {
		return c.insteadOf(f.err, *was)
	}
	r := f.result
	r.Value = c.copied(r.Value)
	return r, nil
}

// mayOutlive reports whether what a look-up found may be given out after SoftTimeout.
func (c *Client[T]) mayOutlive(was *found[T]) bool {
	return c.cfg.SoftTimeout > 0 && was.entry != nil && !was.entry.negative()
}

// softTimeout returns a channel that is closed after SoftTimeout, until stop is called.
func (c *Client[T]) softTimeout() (over <-chan struct{}, stop func() bool) {
	done := make(chan struct{})
	return done, time.AfterFunc(c.cfg.SoftTimeout, func() { close(done) }).Stop
}

// maxRefreshes bounds the refreshes that a cache has running in the background. One that is over it is
// left out: the next caller of its key tries again.
const maxRefreshes = 256

// refresh starts a flight that replaces what was found, and does not wait for it.
func (c *Client[T]) refresh(ctx context.Context, q *request[T]) {
	if !c.mayRefresh() {
		return
	}
	// The refresh is nobody's wait: it does not count as part of a fetch that its caller may be.
	f, started, _ := c.flights.join(ctx, nil, q, true)
	if started {
		return
	}
	<-c.refreshes
	if f != nil {
		f.context.footing.leaves()
	}
}

// mayRefresh reports whether another refresh may begin, and counts it as running until one element is
// taken from refreshes.
func (c *Client[T]) mayRefresh() bool {
	select {
	case c.refreshes <- struct{}{}:
		return true
	default:
		c.stats.refreshesRefused.Add(1)
		return false
	}
}
