package cacheaside

import (
	"context"
	"errors"
	"slices"
	"time"
)

// What stands here answers lookups within a change: they fetch alone, under the context of their caller, and keep nothing.

// inside is a fetch within a change, in the context that it runs under.
type inside struct {
	cache  any // the *Client
	keys   []string
	parent *inside
	place  *ticket // under Config.MaxFetches; nil if it needs none

	outer    *flightContext // the fetch of a flight that it is called from; nil if none
	clock    *clock
	settling *settling // what Settling tells
}

type insideContext struct{}

// enter returns the context for a fetch of what is missing, or [ErrReentrant] if it is called from a fetch of one of its keys.
func (c *Client[T]) enter(ctx context.Context, missing ...request[T]) (context.Context, *inside, error) {
	keys := make([]string, len(missing))
	for i := range missing {
		keys[i] = missing[i].key
	}
	parent, _ := ctx.Value(insideContext{}).(*inside)
	for in := parent; in != nil; in = in.parent {
		if in.cache == any(c) && slices.ContainsFunc(keys, func(key string) bool { return slices.Contains(in.keys, key) }) {
			return nil, nil, ErrReentrant
		}
	}
	in := &inside{cache: c, keys: keys, parent: parent, outer: flightOf(ctx), clock: c.clock}
	in.settling = c.settlingInside(ctx, missing)
	var err error
	if in.place, err = c.placeInside(ctx, parent); err != nil {
		return nil, nil, err
	}
	return context.WithValue(ctx, insideContext{}, in), in, nil
}

// placeInside takes the place of a fetch within a change. One that is asked for by another needs none of its own.
func (c *Client[T]) placeInside(ctx context.Context, parent *inside) (*ticket, error) {
	l := c.backend.limit
	if l == nil {
		return nil, nil //nolint:nilnil // without a limit there are no places
	}
	if outer := flightOf(ctx); outer != nil && outer.footing.stands(l) {
		return nil, nil //nolint:nilnil // the fetch that it is part of has one
	}
	for ; parent != nil; parent = parent.parent {
		if parent.place != nil && parent.place.of == l {
			return nil, nil //nolint:nilnil // the same
		}
	}
	if p := l.try(false); p != nil {
		return p, nil
	}
	if l.queue > 0 && !l.isTooLate(ctx) {
		queued, cancel := context.WithTimeout(ctx, l.queue)
		defer cancel()
		begun := time.Now()
		c.stats.queued.Add(1)
		p := l.wait(queued)
		c.observe(Event{Kind: EventQueued, Duration: time.Since(begun)})
		if p != nil {
			return p, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	c.tellOverloaded(false)
	return nil, ErrOverloaded
}

// fetchInside answers a lookup whose context carries a change.
func (c *Client[T]) fetchInside(ctx context.Context, q *request[T]) (Result[T], error) {
	var err error
	c.setAge(ctx, q)
	q.found, err = c.find(ctx, q.key, c.store.peek(q.key))
	c.unreadable(err)
	switch {
	case err != nil && ctx.Err() != nil:
		c.missed()
		return Result[T]{}, ctx.Err()
	case err != nil && errors.Is(err, ErrClosed):
		return Result[T]{}, err
	case q.refuses(&q.found):
	case q.found.state == fresh || c.wantsRefresh(&q.found): // what is due for a refresh is refreshed by others
		return c.hit(q.found)
	}
	c.missed()
	within, in, err := c.enter(ctx, *q)
	switch {
	case errors.Is(err, ErrOverloaded):
		return c.insteadOf(err, *q.fallback())
	case err != nil:
		return Result[T]{}, err
	}
	defer in.place.giveBack()
	var value T
	err = c.callInside(func() (err error) {
		value, err = q.fetch(within, q.key)
		return err
	})
	if err != nil {
		return c.insteadOf(err, *q.fallback())
	}
	return Result[T]{Value: value, Source: SourceFetched}, nil
}

// fetchManyInside is fetchInside for the keys of a batch that were not found.
func (c *Client[T]) fetchManyInside(ctx context.Context, m *many[T], missing []request[T], fetch FetchManyFunc[T]) {
	if len(missing) == 0 {
		return
	}
	keys := make([]string, len(missing))
	for i := range missing {
		keys[i] = missing[i].key
		c.missed()
	}
	var values map[string]T
	within, in, err := c.enter(ctx, missing...)
	if err == nil {
		defer in.place.giveBack()
		err = c.callInside(func() (err error) {
			values, err = fetch(within, keys)
			return err
		})
	}
	for i := range missing {
		value, ok := values[keys[i]]
		switch {
		case ok:
			m.add(keys[i], Result[T]{Value: value}, nil)
		case err != nil:
			r, err := c.insteadOf(err, *missing[i].fallback())
			m.add(keys[i], r, err)
		default:
			m.add(keys[i], Result[T]{}, c.gone)
		}
	}
}

// callInside calls the source on the goroutine of the caller: a transaction is best not used by another one, which might go on
// when the caller has left. A panic is an error, as in any fetch; a Goexit ends the caller.
func (c *Client[T]) callInside(fetch func() error) (err error) {
	c.countFetch(false)
	begun := c.clock.now()
	returned := false
	defer func() {
		if !returned {
			if r := recover(); r != nil {
				err = abnormal(r)
			}
		}
		if err != nil && !c.isNotFound(err) {
			c.stats.fetchErrors.Add(1)
		}
		if c.isNotFound(err) && !errors.Is(err, ErrNotFound) {
			err = &notFoundError{cause: err}
		}
		c.observe(Event{Kind: EventFetch, Duration: time.Duration(c.clock.now() - begun), Err: err})
	}()
	err = fetch()
	returned = true
	return err
}

// alone is a fetch of one key by a function for several.
func (c *Client[T]) alone(fetch FetchManyFunc[T]) FetchFunc[T] {
	return func(ctx context.Context, key string) (value T, err error) {
		all, err := fetch(ctx, []string{key})
		value, ok := all[key]
		switch {
		case ok:
			return value, nil
		case err != nil:
			return value, err
		}
		return value, c.gone
	}
}
