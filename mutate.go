package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// Mutate changes the source by write, and removes what is cached under keys after it. What is fetched
// meanwhile is given to those who wait for it, and not kept, so that no value from before the write can
// come back after it.
//
// keys are removed whether write succeeds, fails, panics or is cut short by its context: an error does not
// tell that nothing was written. An error of write is returned unchanged. If write succeeds and the backend
// does not answer, Mutate returns an error that matches [ErrUnavailable]: then the source has changed, and
// the removal is tried again in the background, for ten minutes, until it succeeds or the cache is closed.
// An [Observer] and the log are told of that.
func (c *Client[T]) Mutate(ctx context.Context, keys []string, write func(context.Context) error) (err error) {
	if err := c.checkMany(ctx, keys); err != nil {
		return err
	}
	if write == nil {
		return nilArgument("write", "a function")
	}
	keys = distinct(keys)
	fenced := 0
	defer func() {
		for _, key := range keys[:fenced] {
			c.flights.unfence(key, true)
		}
	}()
	for _, key := range keys {
		fenced++
		if _, err := c.flights.fence(ctx, key, true); err != nil {
			return err
		}
	}
	returned := false
	defer func() { // after a panic too
		if failed := c.invalidate(ctx, keys); returned && err == nil {
			err = failed
		}
	}()
	err = write(ctx)
	returned = true
	return err
}

// invalidate removes keys whose fences are up, though ctx may have ended, and has the removal of those
// that fail tried again.
func (c *Client[T]) invalidate(ctx context.Context, keys []string) error {
	ctx = context.WithoutCancel(ctx)
	var mu sync.Mutex
	var failed []string
	var cause error
	var lost atomic.Pointer[error]
	c.concurrently(len(keys), func(i int) {
		if err := c.unlessLost(&lost, func() error { return c.backendError(c.store.delete(ctx, keys[i])) }); err != nil {
			mu.Lock()
			defer mu.Unlock()
			failed, cause = append(failed, keys[i]), err
		}
	})
	if cause == nil {
		return nil
	}
	c.observe(Event{Kind: EventInvalidationFailed, Err: cause})
	if !errors.Is(cause, ErrClosed) {
		c.repeats.add(failed)
	}
	return fmt.Errorf("cacheaside: the source is written, but %d of %d keys are not removed yet: %w", len(failed), len(keys), cause)
}

// repeats are removals that have failed and are tried again in the background.
type repeats struct {
	remove func(ctx context.Context, key string) error
	lost   func(error) // called when a removal is given up

	ctx    context.Context // ended by stop
	cancel context.CancelFunc
	beat   *reaper

	mu      sync.Mutex
	pending map[string]time.Time // by key: when to give up
}

const (
	repeatEvery = 250 * time.Millisecond
	repeatFor   = 10 * time.Minute
	maxRepeats  = 4096 // keys
)

var errTooManyRepeats = errors.New("too many removals wait to be tried again")

func newRepeats(remove func(context.Context, string) error, lost func(error)) *repeats {
	r := &repeats{remove: remove, lost: lost, pending: make(map[string]time.Time)}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.beat = newReaper(repeatEvery, r.run)
	return r
}

func (r *repeats) add(keys []string) {
	for range r.note(keys) {
		r.lost(errTooManyRepeats)
	}
	r.beat.wake()
}

// note makes keys pending, and returns how many there was no room for.
func (r *repeats) note(keys []string) (refused int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	until := time.Now().Add(repeatFor)
	for _, key := range keys {
		if _, ok := r.pending[key]; !ok && len(r.pending) >= maxRepeats {
			refused++
			continue
		}
		r.pending[key] = until
	}
	return refused
}

// run tries the pending removals, in no order, until one fails, and reports whether any is left. If one
// fails, the others most likely would as well, and keep the goroutine for long.
func (r *repeats) run(now time.Time) (more bool) {
	for key, until := range r.snapshot() {
		err := r.remove(r.ctx, key)
		switch {
		case err == nil:
			r.done(key, until)
		case now.After(until):
			r.done(key, until)
			r.lost(err)
		default:
			return true
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.pending) > 0
}

func (r *repeats) snapshot() map[string]time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.pending)
}

// done takes a removal off, unless the same key has failed again since.
func (r *repeats) done(key string, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending[key].Equal(until) {
		delete(r.pending, key)
	}
}

// stop gives up what is pending, and returns when nothing is tried any more.
func (r *repeats) stop() {
	r.cancel()
	r.beat.stop()
}
