package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// batch is a fetch of several keys under way. Each key has a flight of its own, which others may join, set,
// delete and time out as any other; what they share is the context, and the call of the source.
type batch[T any] struct {
	flights    []*flight[T] // those that the batch has started
	context    flightContext
	fetch      FetchManyFunc[T]
	background bool // nobody waits for it

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
	if !b.background {
		b.context.footing.first()
	}
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
	if f, err := g.joinLocked(q); f != nil || err != nil {
		return f, err
	}
	f := &flight[T]{flights: g, request: *q, context: &b.context, under: &b.context, done: make(chan struct{})}
	b.context.flights.Add(1)
	g.addLocked(s, f)
	return f, nil
}

// fetchOrJoinMany waits for the flights of what is missing, having started those that there were none of.
func (c *Client[T]) fetchOrJoinMany(ctx context.Context, m *many[T], missing []request[T], fetch FetchManyFunc[T]) {
	if len(missing) == 0 {
		return
	}
	inside := flightOf(ctx)
	b := &batch[T]{fetch: fetch}
	all, err := c.flights.joinMany(ctx, inside, missing, b)
	if err != nil {
		for i := range missing {
			c.missedOnce(&missing[i])
			m.fail(err)
		}
		return
	}
	defer b.context.giveBack()
	defer b.context.footing.leaves()
	if inside != nil {
		defer inside.leave(&b.context)
	}
	c.start(b)
	for i, j := range all {
		if j.flight != nil && !j.started {
			defer j.flight.context.footing.leaves()
		}
		if j.flight == nil || j.started {
			c.missedOnce(&missing[i])
		} else if !missing[i].again {
			defer c.joined(ctx, j.flight)()
		}
	}
	var soft <-chan struct{}
	if c.cfg.SoftTimeout > 0 {
		var stop func() bool
		soft, stop = c.softTimeout()
		defer stop()
	}
	var again []string
	for i, j := range all {
		var r Result[T]
		err := j.err
		if err != nil {
			r, err = c.refused(err, *missing[i].fallback())
		} else {
			r, err = c.wait(ctx, inside, j.flight, missing[i].fallback(), soft)
			if !j.started && j.flight.isOver() && (j.flight.mayBeOld(&missing[i]) || c.isTooOld(&missing[i], &r) || err != nil && errors.Is(err, errMoved)) {
				again = append(again, missing[i].key)
				continue
			}
		}
		m.add(missing[i].key, r, err)
	}
	c.lookOnceMoreMany(ctx, m, again, missing[0].ttl, fetch)
}

// lookOnceMoreMany is lookOnceMore for several keys.
func (c *Client[T]) lookOnceMoreMany(ctx context.Context, m *many[T], keys []string, ttl time.Duration, fetch FetchManyFunc[T]) {
	if len(keys) == 0 {
		return
	}
	c.stats.lookedAgain.Add(uint64(len(keys)))
	var missing []request[T]
	for _, q := range c.findMany(ctx, keys) {
		q.again, q.ttl = true, ttl
		c.setAge(ctx, &q.request)
		q.anew = q.aged
		q.failed = q.err != nil && errors.Is(q.err, ErrUnavailable)
		switch {
		case q.err != nil && ctx.Err() != nil:
			m.fail(ctx.Err())
		case q.err != nil && errors.Is(q.err, ErrClosed):
			m.fail(q.err)
		case !q.refuses(&q.found) && (q.found.state == fresh || q.found.state == refreshDue):
			r, err := c.answerAgain(&q.found)
			m.add(q.key, r, err)
		default:
			missing = append(missing, q.request)
		}
	}
	c.fetchOrJoinMany(ctx, m, missing, fetch)
}

// refreshMany starts a batch that replaces what was found, and does not wait for it.
func (c *Client[T]) refreshMany(ctx context.Context, due []request[T], fetch FetchManyFunc[T]) {
	if len(due) == 0 || !c.mayRefresh() {
		return
	}
	b := &batch[T]{fetch: fetch, background: true}
	all, _ := c.flights.joinMany(ctx, nil, due, b) // no caller waits for its outcome
	for _, j := range all {
		if j.flight != nil && !j.started {
			j.flight.context.footing.leaves()
		}
	}
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

// runMany is run for a batch. What other processes fetch is waited for apart, so that it keeps nothing else waiting.
func (c *Client[T]) runMany(b *batch[T]) {
	if b.background {
		defer func() { <-c.refreshes }()
	}
	fetching, waiting := c.prepareMany(b)
	if len(waiting) > 0 {
		go c.runWaiting(b, waiting) // ends with the last of them
	}
	if c.mayWait() { // taking the leases is no part of FetchTimeout
		c.flights.start(&b.context)
	}
	c.callMany(b, &b.context, fetching)
}

// callMany fetches the keys of flights that are ready, under a context, and settles them.
func (c *Client[T]) callMany(b *batch[T], under *flightContext, flights []*flight[T]) {
	p, ok := c.placeOfMany(b, under, flights)
	if !ok {
		return
	}
	defer c.leavePlace(p, under)
	fetching := slices.DeleteFunc(flights, func(f *flight[T]) bool { return !f.begins(under) })
	if len(fetching) == 0 {
		return
	}
	for _, f := range fetching {
		under.settling = later(under.settling, c.noteSettling(f))
	}
	c.noteMoment(under, fetching...)
	keys := make([]string, len(fetching))
	for i, f := range fetching {
		keys[i] = f.key
	}
	c.countFetch(b.background)
	ctx, call := c.fetching(under, b.background)
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
		c.leavePlace(p, under)
		now := c.fetched(call, under, err)
		begun := c.askedAt()
		c.sealMany(fetching, values, err)
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

// sealMany is seal for what a call of the source has returned: a key that it leaves out is one that the source has not.
func (c *Client[T]) sealMany(fetching []*flight[T], values map[string]T, err error) {
	all, errs := make([]T, len(fetching)), make([]error, len(fetching))
	for i, f := range fetching {
		value, ok := values[f.key]
		all[i] = value
		switch {
		case ok:
		case err != nil:
			errs[i] = err
		default:
			errs[i] = c.gone
		}
	}
	c.seal(fetching, all, errs)
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

// prepareMany prepares the flights of b, and returns those that are to be fetched, and those whose keys another
// process fetches. To wait for these would keep the others waiting, and two processes could wait for each other.
func (c *Client[T]) prepareMany(b *batch[T]) (fetching, waiting []*flight[T]) {
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
			waiting = append(waiting, f)
		}
	}
	return fetching, waiting
}

// runWaiting waits for the flights of b whose keys another process fetches. Those that come back without a value are
// fetched together: they come back at about one time, since one batch has held their leases.
func (c *Client[T]) runWaiting(b *batch[T], waiting []*flight[T]) {
	back := make(chan *flight[T], len(waiting))
	for _, f := range waiting {
		go func() { // ends within LeaseWait, or with f
			if c.waits(f) {
				back <- f
			} else {
				back <- nil
			}
		}()
	}
	for left := len(waiting); left > 0; {
		var group []*flight[T]
		if group, left = comeBack(back, left); len(group) == 0 {
			continue
		}
		go c.runGroup(b, group) // ends when the fetch returns
	}
}

// waits waits for the lease of f, and reports whether it is to be fetched.
func (c *Client[T]) waits(f *flight[T]) (fetch bool) {
	returned := false
	defer func() {
		if !returned {
			f.end(Result[T]{}, abnormal(recover()))
		}
	}()
	fetch = c.prepare(f, true) == ready
	returned = true
	return fetch
}

// gatherFor is how long the flights of a batch that come back wait for the next one.
const gatherFor = 100 * time.Millisecond

// comeBack collects flights until none is left, or none has come back for a while. A nil one needs no fetch.
func comeBack[T any](back <-chan *flight[T], left int) (group []*flight[T], stillLeft int) {
	var quiet <-chan time.Time // nil, and so for ever, while there is none
	for ; left > 0; left-- {
		select {
		case f := <-back:
			if f != nil {
				group = append(group, f)
			}
			if len(group) > 0 {
				quiet = time.After(gatherFor)
			}
		case <-quiet:
			return group, left
		}
	}
	return group, 0
}

// runGroup fetches flights of b that have waited. Their fetch has a time of its own, and the values of the batch.
func (c *Client[T]) runGroup(b *batch[T], group []*flight[T]) {
	under := new(flightContext)
	c.flights.open(lent{values: context.WithoutCancel(&b.context), starter: b.context.starter}, under, &b.context)
	under.background, under.keys = b.background, new(keySet)
	for _, f := range group {
		under.keys.list = append(under.keys.list, f.key)
	}
	under.flights.Store(1) // this call's hold on it
	under.footing.first()
	defer under.done()
	b.context.waits.add(under)
	defer b.context.waits.remove(under)
	returned := false
	defer func() {
		if !returned {
			err := abnormal(recover())
			for _, f := range group {
				f.end(Result[T]{}, err)
			}
		}
	}()
	c.callMany(b, under, group)
	returned = true
}
