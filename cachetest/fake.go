package cachetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cacheaside/cacheaside"
)

// Fake is a [cacheaside.Cache] in this process for the tests of code that uses one: it keeps the promises of
// a cache, counts what is asked of it, and can be made to fail as a Redis that is down does. It is safe for
// concurrent use.
//
// Tags work as in a cache in memory: [cacheaside.Tag] inside a fetch, and [cacheaside.WithTags] given to [NewFake]. They
// belong to this fake alone. Code that shares tags between caches is best tested with caches in memory, made by
// [cacheaside.New] on one [cacheaside.Backend].
type Fake[T any] struct {
	kept *cacheaside.Client[T] // while all is well
	bare *cacheaside.Client[T] // without a backend: nothing is kept, and fetches are shared

	closing sync.Once
	closed  chan struct{} // lets the calls go that Slow holds

	mu    sync.Mutex
	down  error
	delay time.Duration
	calls []Call
}

var _ cacheaside.Cache[struct{}] = (*Fake[struct{}])(nil)

// Call is one call of a Fake.
type Call struct {
	Method string // "Get", "Set", "Delete", "GetWithFetch", "Refresh", "InvalidateTags" or "Health"
	Key    string // a tag for InvalidateTags, of which there is one Call for each; "" for Health
}

// NewFake returns a Fake with these options and the configuration of a cache in memory; cfg.Backend is
// ignored. It returns the errors of [cacheaside.NewMemory]. Close it as any other cache.
func NewFake[T any](cfg cacheaside.Config, opts ...cacheaside.Option) (*Fake[T], error) {
	cfg.Backend = cacheaside.BackendMemory
	kept, err := cacheaside.Open[T](context.Background(), cfg, opts...)
	if err != nil {
		return nil, err
	}
	cfg.Backend = cacheaside.BackendNoop
	bare, err := cacheaside.Open[T](context.Background(), cfg, opts...)
	if err != nil {
		_ = kept.Close() // always nil
		return nil, err
	}
	return &Fake[T]{kept: kept, bare: bare, closed: make(chan struct{})}, nil
}

// Fail makes the fake behave as a cache whose backend is down, until Recover: Get, Set, Delete, InvalidateTags and Health
// return an error that matches [cacheaside.ErrUnavailable] and cause, and GetWithFetch fetches each time.
// A nil cause is left out. What every cache refuses, up or down, gets its own error still: a ttl of zero, or any
// call after Close. What was kept is there again after Recover.
func (f *Fake[T]) Fail(cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = cacheaside.ErrUnavailable
	if cause != nil {
		f.down = fmt.Errorf("%w: %w", cacheaside.ErrUnavailable, cause)
	}
}

// Recover ends what Fail began.
func (f *Fake[T]) Recover() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = nil
}

// Slow makes every call take d longer, or until its context ends or the fake is closed. Zero makes them prompt again.
func (f *Fake[T]) Slow(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.delay = d
}

// Forget drops everything that is kept, as an eviction or a FLUSHALL would.
func (f *Fake[T]) Forget(ctx context.Context) error { return f.kept.Clear(ctx) }

// Calls returns the calls so far, in the order in which they began.
func (f *Fake[T]) Calls() []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// Stats returns the counts of the cache behind the fake. What happened while it was down is not among them.
func (f *Fake[T]) Stats() cacheaside.Stats { return f.kept.Stats() }

// Get is [cacheaside.Client.Get].
func (f *Fake[T]) Get(ctx context.Context, key string) (value T, err error) {
	c, down, err := f.begin(ctx, "Get", key)
	if err != nil {
		return value, err
	}
	value, err = c.Get(ctx, key)
	if down != nil && errors.Is(err, cacheaside.ErrMiss) {
		err = down
	}
	return value, err
}

// Set is [cacheaside.Client.Set].
func (f *Fake[T]) Set(ctx context.Context, key string, value T, ttl time.Duration) error {
	c, down, err := f.begin(ctx, "Set", key)
	if err != nil {
		return err
	}
	return cmp.Or(c.Set(ctx, key, value, ttl), down)
}

// Delete is [cacheaside.Client.Delete].
func (f *Fake[T]) Delete(ctx context.Context, key string) error {
	c, down, err := f.begin(ctx, "Delete", key)
	if err != nil {
		return err
	}
	return cmp.Or(c.Delete(ctx, key), down)
}

// GetWithFetch is [cacheaside.Client.GetWithFetch].
func (f *Fake[T]) GetWithFetch(ctx context.Context, key string, ttl time.Duration, fetch cacheaside.FetchFunc[T]) (value T, err error) {
	c, _, err := f.begin(ctx, "GetWithFetch", key)
	if err != nil {
		return value, err
	}
	return c.GetWithFetch(ctx, key, ttl, fetch)
}

// Refresh is [cacheaside.Client.Refresh].
func (f *Fake[T]) Refresh(ctx context.Context, key string, ttl time.Duration, fetch cacheaside.FetchFunc[T]) (value T, err error) {
	c, _, err := f.begin(ctx, "Refresh", key)
	if err != nil {
		return value, err
	}
	return c.Refresh(ctx, key, ttl, fetch)
}

// InvalidateTags is [cacheaside.Client.InvalidateTags].
func (f *Fake[T]) InvalidateTags(ctx context.Context, tags ...string) error {
	c, down, err := f.begin(ctx, "InvalidateTags", tags...)
	if err != nil {
		return err
	}
	if err = c.InvalidateTags(ctx, tags...); err == nil && len(tags) > 0 {
		err = down
	}
	return err
}

// Refs is [cacheaside.Client.Refs].
func (f *Fake[T]) Refs(keys ...string) []cacheaside.Ref { return f.kept.Refs(keys...) }

// Backend returns the backend of the fake, for code that takes one: what it invalidates is gone from the fake. Fail and
// Slow do not reach it, and Calls does not show its calls.
func (f *Fake[T]) Backend() *cacheaside.Backend { return f.kept.Backend() }

// Health is [cacheaside.Client.Health].
func (f *Fake[T]) Health(ctx context.Context) error {
	c, down, err := f.begin(ctx, "Health", "")
	if err != nil {
		return err
	}
	return cmp.Or(c.Health(ctx), down)
}

// Close is [cacheaside.Client.Close].
func (f *Fake[T]) Close() error {
	f.closing.Do(func() { close(f.closed) })
	_ = f.bare.Close() // always nil
	return f.kept.Close()
}

// begin notes a call for each of keys, makes it take its time, and returns the cache that answers it. If the backend is down that
// is the bare one, which knows what every cache refuses, and down is what the call returns unless it is refused.
func (f *Fake[T]) begin(ctx context.Context, method string, keys ...string) (c *cacheaside.Client[T], down, err error) {
	c, delay, down := f.note(method, keys)
	return c, down, f.wait(ctx, delay)
}

func (f *Fake[T]) note(method string, keys []string) (c *cacheaside.Client[T], delay time.Duration, down error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, key := range keys {
		f.calls = append(f.calls, Call{method, key})
	}
	if f.down != nil {
		return f.bare, f.delay, f.down
	}
	return f.kept, f.delay, nil
}

func (f *Fake[T]) wait(ctx context.Context, delay time.Duration) error {
	if delay <= 0 {
		return nil
	}
	t := time.NewTimer(delay)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-f.closed:
		return cacheaside.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}
