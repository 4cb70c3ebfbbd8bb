package cacheaside

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
)

// batch is a fetch of several keys under way. Each key has a flight of its own, which others may join, set,
// delete and time out as any other; what they share is the context, and the call of the source.
type batch[T any] struct {
	flights    []*flight[T] // those that the batch has started
	context    flightContext
	fetch      FetchManyFunc[T]
	gone       error // what a key that the source leaves out gets
	background bool  // nobody waits for it

	late atomic.Bool // for some of its keys there is no time to store them
}

// joinMany is join for several keys. Those that have no flight are started, as one batch, and the second
// result tells which.
func (g *flights[T]) joinMany(ctx context.Context, inside *flightContext, qs []request[T], b *batch[T]) (all []*flight[T], started []bool, err error) {
	g.open(ctx, &b.context, inside)
	all, started = make([]*flight[T], len(qs)), make([]bool, len(qs))
	b.context.flights.Store(1) // this call's hold on it, so that it does not end before it has begun
	defer b.context.done()
	b.context.keys = new([]string)
	for i := range qs {
		if all[i], err = g.joinBatch(&qs[i], b); err != nil {
			break
		}
		if started[i] = all[i].context == &b.context; started[i] {
			b.flights = append(b.flights, all[i])
		}
	}
	return all, started, err
}

// joinBatch returns the flight of q.key, which is a new one of b if there was none.
func (g *flights[T]) joinBatch(q *request[T], b *batch[T]) (*flight[T], error) {
	s := q.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	if f := s.joinable[q.key]; f != nil {
		return f, nil
	}
	f := &flight[T]{flights: g, request: *q, context: &b.context, done: make(chan struct{})}
	f.fetch = b.fetchOne
	b.context.flights.Add(1)
	g.addLocked(s, f)
	return f, nil
}

// fetchOne fetches a key that another process was fetching, and has not.
func (b *batch[T]) fetchOne(ctx context.Context, key string) (T, error) {
	values, err := b.fetch(ctx, []string{key})
	value, ok := values[key]
	switch {
	case ok:
		return value, nil
	case err == nil:
		err = b.gone
	}
	return value, err
}

// fetchOrJoinMany waits for the flights of what is missing, having started those that there were none of.
func (c *Client[T]) fetchOrJoinMany(ctx context.Context, m *many[T], missing []request[T], fetch FetchManyFunc[T]) {
	inside := flightOf(ctx)
	missing = c.leaveOutReentrant(m, inside, c.leaveOutCooling(m, missing))
	if len(missing) == 0 {
		return
	}
	b := &batch[T]{fetch: fetch, gone: c.gone}
	all, started, err := c.flights.joinMany(ctx, inside, missing, b)
	c.start(b)
	if err != nil {
		for range missing {
			m.fail(err)
		}
		return
	}
	for i, own := range started {
		if own {
			c.missed()
		} else {
			c.joined(ctx, all[i])
		}
	}
	var soft <-chan struct{}
	if c.cfg.SoftTimeout > 0 {
		var stop func() bool
		soft, stop = c.softTimeout()
		defer stop()
	}
	for i, f := range all {
		r, err := c.wait(ctx, inside, f, &missing[i].found, soft)
		m.add(missing[i].key, r, err)
	}
}

// leaveOutCooling returns the requests that ErrorCooldown does not answer.
func (c *Client[T]) leaveOutCooling(m *many[T], missing []request[T]) []request[T] {
	rest := missing[:0]
	for _, q := range missing {
		err := q.shard.cooling(q.key)
		if err == nil {
			rest = append(rest, q)
			continue
		}
		c.missed()
		r, err := c.insteadOf(err, q.found)
		m.add(q.key, r, err)
	}
	return rest
}

// leaveOutReentrant returns the requests of keys that no fetch is waiting for which this call is part of.
func (c *Client[T]) leaveOutReentrant(m *many[T], inside *flightContext, missing []request[T]) []request[T] {
	return slices.DeleteFunc(missing, func(q request[T]) bool {
		reentrant := inside.runs(c.flights, q.key)
		if reentrant {
			m.fail(ErrReentrant)
		}
		return reentrant
	})
}

// refreshMany starts a batch that replaces what was found, and does not wait for it.
func (c *Client[T]) refreshMany(ctx context.Context, due []request[T], fetch FetchManyFunc[T]) {
	rest := due[:0]
	for _, q := range due {
		if q.shard.cooling(q.key) == nil {
			rest = append(rest, q)
		}
	}
	if len(rest) == 0 || !c.mayRefresh() {
		return
	}
	b := &batch[T]{fetch: fetch, gone: c.gone, background: true}
	_, _, _ = c.flights.joinMany(ctx, nil, rest, b) // nobody waits for its outcome, closed or not
	if c.start(b); len(b.flights) == 0 {
		<-c.refreshes
	}
}

// start runs b on a goroutine of its own, if it has anything to do. It ends when the fetch returns.
func (c *Client[T]) start(b *batch[T]) {
	if len(b.flights) == 0 {
		return
	}
	for _, f := range b.flights {
		*b.context.keys = append(*b.context.keys, f.key)
	}
	go func() {
		returned := false
		defer func() {
			if !returned {
				err := abnormal(recover())
				for _, f := range b.flights {
					f.end(Result[T]{}, err)
				}
			}
		}()
		c.runMany(b)
		returned = true
	}()
}

// runMany is run for a batch.
func (c *Client[T]) runMany(b *batch[T]) {
	if b.background {
		defer func() { <-c.refreshes }()
	}
	c.deriveContext(&b.context)
	fetching := c.prepareMany(b)
	if len(fetching) == 0 {
		return
	}
	keys := make([]string, len(fetching))
	for i, f := range fetching {
		keys[i] = f.key
	}
	ctx, call := c.fetching(&b.context, b.background)
	for _, f := range fetching {
		f.call.Store(call)
	}
	var values map[string]T
	var err error
	returned := false
	defer func() { // a panic and a Goexit come by here too
		if !returned {
			values, err = nil, abnormal(recover())
		}
		now := c.fetched(call, &b.context, err)
		begun := c.askedAt()
		defer func() {
			if b.late.Load() {
				_ = c.backendError(errNoTimeForAll) // counted and observed
			}
		}()
		c.concurrently(len(fetching), func(i int) {
			f := fetching[i]
			f.allowance.used += c.askedAt().Sub(begun)
			if i >= maxConcurrent && f.allowance.isSpent() { // the first are sent in any case
				b.leaveUnstored(f)
			}
			value, ok := values[f.key]
			switch {
			case ok:
				c.settle(f, value, nil, now)
			case err != nil:
				c.settle(f, value, err, now)
			default:
				c.settle(f, value, c.gone, now)
			}
		})
	}()
	values, err = b.fetch(ctx, keys)
	returned = true
}

// errNoTimeForAll is told once for a batch of which OpTimeout leaves time to store a part only. The next look-up
// of the same keys finds that part, and has time for more.
var errNoTimeForAll = unavailable(fmt.Errorf("a batch is larger than OpTimeout leaves time to store: %w", context.DeadlineExceeded))

// leaveUnstored makes f one whose result is given out, and not stored for want of time.
func (b *batch[T]) leaveUnstored(f *flight[T]) {
	f.failed = true
	b.late.Store(true)
}

// prepareMany prepares the flights of b, and returns those that are to be fetched. To wait for a key that
// another process fetches would keep the others waiting, and two processes could wait for each other; so
// such flights go on by themselves.
func (c *Client[T]) prepareMany(b *batch[T]) (fetching []*flight[T]) {
	states := make([]readiness, len(b.flights))
	begun := c.askedAt()
	c.concurrently(len(b.flights), func(i int) {
		f := b.flights[i]
		f.allowance = c.allowance(f.asked + c.askedAt().Sub(begun)) // it has waited for its turn
		if !f.failed && !f.allowance.mayLease(f.asked) {
			b.leaveUnstored(f)
		}
		states[i] = c.prepare(f, false)
	})
	for i, f := range b.flights {
		f.allowance = c.allowance(f.asked + c.askedAt().Sub(begun)) // it has waited for the others too
		switch states[i] {
		case ready:
			fetching = append(fetching, f)
		case leased:
			c.flights.crew.run(f)
		}
	}
	return fetching
}
