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

// joining is what became of one key of a batch.
type joining[T any] struct {
	flight  *flight[T]
	started bool // by this batch
	err     error
}

// joinMany is join for several keys. Those that have no flight are started, as one batch.
func (g *flights[T]) joinMany(ctx context.Context, inside *flightContext, qs []request[T], b *batch[T]) ([]joining[T], error) {
	values, err := lend(ctx, !b.background, g.derive)
	if err != nil {
		return nil, err
	}
	g.open(values, &b.context, inside)
	all := make([]joining[T], len(qs))
	b.context.flights.Store(1) // this call's hold on it, so that it does not end before it has begun
	defer b.context.done()
	b.context.keys = new(keySet)
	if inside != nil {
		inside.waits.add(&b.context) // before it begins; the caller takes it back
	}
	for i := range qs {
		j := &all[i]
		if j.flight, j.err = g.joinBatch(inside, &qs[i], b); j.err != nil {
			continue
		}
		if j.started = j.flight.context == &b.context; j.started {
			b.flights = append(b.flights, j.flight)
		}
	}
	return all, nil
}

// joinBatch returns the flight of q.key, which is a new one of b if there was none.
func (g *flights[T]) joinBatch(inside *flightContext, q *request[T], b *batch[T]) (*flight[T], error) {
	if inside.runs(g, q.key) {
		return nil, ErrReentrant
	}
	s := q.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, err := s.joinLocked(q); f != nil || err != nil {
		return f, err
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
	if len(missing) == 0 {
		return
	}
	inside := flightOf(ctx)
	b := &batch[T]{fetch: fetch, gone: c.gone}
	all, err := c.flights.joinMany(ctx, inside, missing, b)
	if err != nil {
		for range missing {
			c.missed()
			m.fail(err)
		}
		return
	}
	defer b.context.giveBack()
	if inside != nil {
		defer inside.leave(&b.context)
	}
	c.start(b)
	for _, j := range all {
		if j.flight == nil || j.started {
			c.missed()
		} else {
			defer c.joined(ctx, j.flight)()
		}
	}
	var soft <-chan struct{}
	if c.cfg.SoftTimeout > 0 {
		var stop func() bool
		soft, stop = c.softTimeout()
		defer stop()
	}
	for i, j := range all {
		var r Result[T]
		err := j.err
		if err != nil {
			r, err = c.refused(err, missing[i].found)
		} else {
			r, err = c.wait(ctx, inside, j.flight, &missing[i].found, soft)
		}
		m.add(missing[i].key, r, err)
	}
}

// refreshMany starts a batch that replaces what was found, and does not wait for it.
func (c *Client[T]) refreshMany(ctx context.Context, due []request[T], fetch FetchManyFunc[T]) {
	if len(due) == 0 || !c.mayRefresh() {
		return
	}
	b := &batch[T]{fetch: fetch, gone: c.gone, background: true}
	_, _ = c.flights.joinMany(ctx, nil, due, b) // no caller waits for its outcome
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
		b.context.keys.list = append(b.context.keys.list, f.key)
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
	fetching := slices.DeleteFunc(c.prepareMany(b), func(f *flight[T]) bool { return !f.begins() })
	if len(fetching) == 0 {
		return
	}
	keys := make([]string, len(fetching))
	for i, f := range fetching {
		keys[i] = f.key
	}
	c.countFetch(b.background)
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
		c.concurrently(len(fetching), func(i int) {
			f := fetching[i]
			f.allowance.used += c.askedAt().Sub(begun)
			if i >= maxConcurrent && f.allowance.isSpent() { // the first are sent in any case
				c.leaveUnstored(b, f)
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

// leaveUnstored makes f one whose result is given out, and not stored for want of time. The first of a batch
// is told of, before its caller has the result.
func (c *Client[T]) leaveUnstored(b *batch[T], f *flight[T]) {
	f.failed = true
	if b.late.CompareAndSwap(false, true) {
		_ = c.backendError(errNoTimeForAll) // counted and observed
	}
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
			c.leaveUnstored(b, f)
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
