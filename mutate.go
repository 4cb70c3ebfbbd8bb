package cacheaside

import (
	"context"
	"errors"
	"fmt"
)

// Mutate changes the source by write, and removes what is cached under keys after it. What is fetched
// meanwhile is given to those who wait for it, and not kept, so that no value from before the write can
// come back after it.
//
// keys are removed whether write succeeds, fails, panics or is cut short by its context: an error does not
// tell that nothing was written. An error of write is returned unchanged. If write succeeds and the backend
// does not answer, Mutate returns an error that matches [ErrUnavailable]: then the source has changed, and
// the removal is tried again in the background, for ten minutes, until it succeeds or the cache is closed.
// Until then the keys count as absent in this process, unless it sets them: look-ups fetch, and nothing of that is kept. Where
// more than 65,536 removals wait, or 16 MiB of keys, the whole cache counts as absent, and is cleared in their place.
// An [Observer] and the log are told of a removal that waits, and of one that is given up.
//
// Mutate is [Begin], [Client.Changed], write, and [Change.End]: the context of write carries the change, and within another
// change Mutate is part of that.
func (c *Client[T]) Mutate(ctx context.Context, keys []string, write func(context.Context) error) error {
	if err := c.checkMany(ctx, keys); err != nil {
		return err
	}
	if write == nil {
		return nilArgument("write", "a function")
	}
	keys, err := c.locateMany(ctx, keys)
	if err != nil {
		return err
	}
	return c.backend.mutate(ctx, sorted{keys: map[string][]string{c.cfg.Name: distinct(keys)}}, write)
}

// fenceAllOf is fence for keys, none of them twice, before a write that takes its time. unfence is never nil.
func (c *Client[T]) fenceAllOf(ctx context.Context, keys []string) (unfence func(), err error) {
	writes := make([]writeUnderWay, 0, len(keys))
	unfence = func() {
		for i, w := range writes {
			c.unfence(keys[i], w)
		}
	}
	for _, key := range keys {
		w, err := c.fence(ctx, key, true)
		writes = append(writes, w)
		if err != nil {
			return unfence, err
		}
	}
	return unfence, nil
}

// invalidate removes keys whose fences are up, though ctx may have ended, and has the removal of those
// that fail tried again.
func (c *Client[T]) invalidate(ctx context.Context, keys []string) error {
	c.markers.lay(keys...)
	ctx = context.WithoutCancel(ctx)
	_ = c.beforeRemoval(ctx, keys, true) // it is tried again, and whatever fails it fails what follows
	failed, cause := c.store.deleteMany(ctx, keys)
	if cause == nil {
		return nil
	}
	cause = c.backendError(cause)
	c.observe(Event{Kind: EventInvalidationFailed, Err: cause})
	if !errors.Is(cause, ErrClosed) {
		c.repeats.add(failed)
	}
	return notRemoved(len(failed), len(keys), cause)
}

func notRemoved(failed, of int, cause error) error {
	return fmt.Errorf("cacheaside: the source is written, but %d of %d keys are not removed yet: %w", failed, of, cause)
}

// What follows is what repeats asks of the cache.

var _ removing = (*Client[struct{}])(nil)

func (c *Client[T]) withhold(key string) {
	c.flights.hold(key)
	c.store.dropNear(key)
}

func (c *Client[T]) letPass(key string) { c.flights.unfence(key, true) }

func (c *Client[T]) withholdAll() {
	c.flights.holdAll()
	c.store.dropAllNear()
}

func (c *Client[T]) letAllPass() { c.flights.letAllPass() }

func (c *Client[T]) removeNow(ctx context.Context, keys []string) (failed []string, err error) {
	failed, err = c.store.deleteMany(ctx, keys)
	return failed, c.writeError(err)
}

func (c *Client[T]) clearNow(ctx context.Context) error { return c.Clear(ctx) }

func (c *Client[T]) lostRemoval(err error) { c.observe(Event{Kind: EventInvalidationLost, Err: err}) }
