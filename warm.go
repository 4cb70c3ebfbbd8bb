package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
)

// warmWidth is how many keys a Loader of [Client.Bind] warms at once.
const warmWidth = 16

// Warm fills what is not cached of keys, and returns when all is done. It works in the background: under
// [Config.MaxFetches] its fetches take places that no caller waits for, and wait for them as long as ctx allows. A Loader of
// [Client.BindMany] collects the keys as it does those of look-ups. What is cached and fresh is left as it is, and keys that
// the source does not have are no failure.
//
// Under the context of an open [Change] it fetches nothing, and returns [ErrInvalidValue]: warm before it begins, or after its end.
//
// It counts as no look-up. If some keys fail, the others are filled, and the error says how many failed and why; if ctx ends,
// Warm returns its error, and fetches that have begun go on. Warm stops to read keys when it returns.
func (l *Loader[T]) Warm(ctx context.Context, keys iter.Seq[string]) error {
	c := l.client
	switch {
	case l.fetch == nil:
		return nilArgument("fetch", "a function")
	case keys == nil:
		return nilArgument("keys", "a sequence")
	case l.ttl <= 0:
		return fmt.Errorf("%w of what is warmed", invalidTTL(l.ttl))
	case changeOf(ctx) != nil:
		return fmt.Errorf("%w: the context carries a Change, allowed: one without, since what is fetched within a change is not kept", ErrInvalidValue)
	}
	if err := c.check(ctx, ""); err != nil {
		return err
	}
	m, of := many[T]{client: c}, 0
	var mu sync.Mutex
	var all sync.WaitGroup
	slots := make(chan struct{}, l.width)
	for key := range keys {
		select {
		case slots <- struct{}{}:
		case <-c.closed:
		case <-ctx.Done():
		}
		if ctx.Err() != nil || c.isClosed() {
			break
		}
		of++
		all.Go(func() { // ends with ctx, or with the flight of key
			defer func() { <-slots }()
			if err := c.warm(ctx, l, key); err != nil {
				mu.Lock()
				defer mu.Unlock()
				m.fail(err)
			}
		})
	}
	all.Wait()
	if err := c.check(ctx, ""); err != nil {
		return err
	}
	if m.failed == 0 {
		return nil
	}
	return &batchError{failed: m.failed, of: of, causes: m.causes}
}

// warm fills key. Inside of a fetch that is a look-up: that fetch lends its place.
func (c *Client[T]) warm(ctx context.Context, l *Loader[T], key string) error {
	q := request[T]{key: key, ttl: l.ttl, fetch: l.fetch, collects: l.collects}
	if c.opts.scope != nil {
		_, hit, err := c.hitInScope(ctx, &q)
		if hit || err != nil {
			return err
		}
	}
	if flightOf(ctx) != nil {
		_, err := c.getOrFetch(ctx, q)
		return c.unlessNotFound(err)
	}
	for {
		done, err := c.warmOnce(ctx, q)
		if done {
			return c.unlessNotFound(err)
		}
	}
}

func (c *Client[T]) unlessNotFound(err error) error {
	if errors.Is(err, ErrNotFound) && !isPanic(err) {
		return nil
	}
	return err
}

// warmOnce is one attempt, and reports whether it is the last: not if there was no room for it.
func (c *Client[T]) warmOnce(ctx context.Context, q request[T]) (done bool, err error) {
	if err := c.check(ctx, q.key); err != nil {
		return true, err
	}
	if limit := c.backend.limit; limit != nil {
		if err := limit.awaitRoom(ctx, c.closed); err != nil {
			return true, err
		}
	}
	q.shard = c.flights.shard(q.key)
	q.ended = q.shard.ended.Load()
	begun := c.askedAt()
	q.found, err = c.find(ctx, q.key, c.store.peek(q.key))
	q.asked = c.askedAt().Sub(begun)
	switch {
	case err != nil && (ctx.Err() != nil || errors.Is(err, ErrClosed)):
		return true, err
	case q.found.state == fresh || q.found.state == refreshDue:
		return true, nil
	}
	q.failed = err != nil && errors.Is(err, ErrUnavailable)
	select {
	case c.refreshes <- struct{}{}: // the flight gives it back
	case <-c.closed:
		return true, ErrClosed
	case <-ctx.Done():
		return true, ctx.Err()
	}
	f, started, err := c.flights.join(ctx, nil, &q, true)
	if !started {
		<-c.refreshes
	}
	if err != nil {
		return true, err
	}
	if !started {
		f.context.footing.leaves() // Warm is none of those for whose sake a flight queues
	}
	if err := await(ctx, f.done); err != nil {
		return true, err
	}
	return !errors.Is(f.err, ErrOverloaded) && f.err != errAbandoned, f.err
}
