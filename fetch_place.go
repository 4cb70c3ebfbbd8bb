package cacheaside

import (
	"context"
	"errors"
	"slices"
	"time"
)

// The place of a fetch under Config.MaxFetches is taken at the last moment: after the lease, so that no place is held
// while another process is waited for, and before FetchTimeout begins.

// seat is what a place is taken for.
type seat[T any] struct {
	under *flightContext // what the fetch will run under
	outer *flightContext // the fetch from within which it was started, if any
	of    []*flight[T]   // its flights; nil for a collection of BindMany
}

// errAbandoned ends flights whose callers have all left while they queued.
var errAbandoned = errors.New("cacheaside: no caller waits for the fetch any more")

// placeOf takes the place of the fetch of f, nil if it needs none of its own. If there is none, f has ended and ok is
// false.
func (c *Client[T]) placeOf(f *flight[T]) (p *ticket, ok bool) {
	if c.backend.limit == nil {
		return nil, true
	}
	return c.sit(seat[T]{f.context, f.context.parent, []*flight[T]{f}})
}

// placeOfMany is placeOf for the fetch of a batch, or of a part of it.
func (c *Client[T]) placeOfMany(b *batch[T], under *flightContext, flights []*flight[T]) (p *ticket, ok bool) {
	if c.backend.limit == nil || len(flights) == 0 {
		return nil, true
	}
	outer := b.context.parent
	if outer != nil && under != &b.context && outer.waits.has(&b.context) {
		outer.lend(under)
	}
	if p, ok = c.sit(seat[T]{under, outer, flights}); ok {
		c.flights.start(under)
	}
	return p, ok
}

// placeOfCollection is placeOf for what BindMany has collected. The members need no place of their own.
func (c *Client[T]) placeOfCollection(col *flightContext, members []*flightContext) (p *ticket, ok bool) {
	if c.backend.limit == nil {
		return nil, true
	}
	for _, m := range members {
		col.footing.add(m.footing.all())
	}
	col.footing.setStale(!slices.ContainsFunc(members, func(m *flightContext) bool { return !m.footing.isStale() }))
	if p, ok = c.sit(seat[T]{under: col}); !ok {
		col.failed.Store(true) // the source was not called, so nothing is counted or told
		col.told.Store(true)
	}
	return p, ok
}

// leavePlace gives a place back. A second call does nothing.
func (c *Client[T]) leavePlace(p *ticket, under *flightContext) {
	if c.backend.limit != nil {
		under.footing.ends()
		p.giveBack()
	}
}

// sit takes a place, or ends the flights.
func (c *Client[T]) sit(s seat[T]) (p *ticket, ok bool) {
	l := c.backend.limit
	if s.outer != nil && s.outer.waits.has(s.under) {
		s.outer.lend(s.under)
	}
	switch {
	case len(s.of) == 1 && s.of[0].collects:
		s.under.footing.setStale(c.mayCoverUp(s.of[0]))
		return nil, true
	case s.under.footing.stands(l):
		return nil, true
	}
	var err error
	if p = l.try(s.under.background); p == nil {
		p, err = c.queue(l, s)
	}
	if p != nil {
		s.under.footing.add([]*limit{l})
	}
	if err != nil {
		c.unseated(s, err)
	}
	return p, err == nil
}

// queue waits for a place. Without one it returns no error only if another fetch lends its own by then.
func (c *Client[T]) queue(l *limit, s seat[T]) (*ticket, error) {
	foot := s.under.footing
	single := s.of == nil // a collection, whose callers wait for its members
	if s.under.background && (single || foot.abandon()) || l.queue <= 0 || c.allStale(s) {
		return nil, ErrOverloaded
	}
	c.stats.queued.Add(1)
	begun := time.Now()
	defer func() { c.observe(Event{Kind: EventQueued, Duration: time.Since(begun)}) }()
	for {
		p := c.queueOnce(l, s, begun.Add(l.queue))
		switch {
		case p != nil || foot.stands(l):
			return p, nil
		case c.isClosed():
			return nil, ErrClosed
		case !single && foot.abandon():
			return nil, errAbandoned
		case time.Since(begun) >= l.queue:
			return nil, ErrOverloaded
		}
	}
}

// queueOnce waits for a place until then, or until something else has happened that ends the wait.
func (c *Client[T]) queueOnce(l *limit, s seat[T], until time.Time) *ticket {
	ctx, cancel := context.WithDeadline(context.Background(), until)
	defer cancel()
	foot := s.under.footing
	foot.queues(l, cancel)
	defer foot.queues(l, nil)
	for _, f := range s.of {
		if !f.mayWait(cancel) {
			cancel()
		}
	}
	if s.of != nil && foot.isAlone() {
		cancel()
	}
	return l.wait(ctx)
}

// allStale reports whether each caller has a stale value to go on with: then none need wait.
func (c *Client[T]) allStale(s seat[T]) bool {
	for _, f := range s.of {
		if !c.mayCoverUp(f) {
			return false
		}
	}
	return s.of != nil || s.under.footing.isStale()
}

// mayCoverUp reports whether what the starter of f has found may be given out in place of an error.
func (c *Client[T]) mayCoverUp(f *flight[T]) bool {
	e := f.found.entry
	return e != nil && !e.negative() && !f.refuses(&f.found) &&
		c.clock.now() < e.freshUntil(c.window)+int64(c.cfg.StaleIfError)
}

// unseated ends flights that have no place.
func (c *Client[T]) unseated(s seat[T], err error) {
	if err == ErrOverloaded {
		c.tellOverloaded(s.under.background)
	}
	for _, f := range s.of {
		f.end(Result[T]{}, err)
	}
}

func (c *Client[T]) tellOverloaded(background bool) {
	c.stats.overloaded.Add(1)
	c.observe(Event{Kind: EventOverloaded, Background: background, Err: ErrOverloaded})
}

// refusedPlace returns ErrOverloaded for a caller whose fetch would have to queue for longer than the caller's deadline
// allows, and which has no flight to join.
func (c *Client[T]) refusedPlace(ctx context.Context, inside *flightContext, q *request[T]) error {
	l := c.backend.limit
	if l == nil || !l.isFull() || inside != nil && inside.footing.stands(l) || !l.isTooLate(ctx) {
		return nil
	}
	q.shard.mu.Lock()
	joins := q.shard.joinable[q.key] != nil
	q.shard.mu.Unlock()
	if joins {
		return nil
	}
	c.tellOverloaded(false)
	return ErrOverloaded
}

// insteadOfPlace counts a stale value that is given out because the fetch found no place.
func (c *Client[T]) insteadOfPlace(err error) {
	if errors.Is(err, ErrOverloaded) {
		c.stats.staleInstead.Add(1)
	}
}
