package cachetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cacheaside/cacheaside"
)

// Fake is a [cacheaside.Cache] in this process for the tests of code that uses one: it keeps the promises of
// a cache, counts what is asked of it, and can be made to fail as a Redis that is down does. It is safe for
// concurrent use.
type Fake[T any] struct {
	kept *cacheaside.Client[T] // while all is well
	bare *cacheaside.Client[T] // without a backend: nothing is kept, and fetches are shared

	mu    sync.Mutex
	down  error
	delay time.Duration
	calls []Call
}

var _ cacheaside.Cache[struct{}] = (*Fake[struct{}])(nil)

// Call is one call of a Fake.
type Call struct {
	Method string // "Get", "Set", "Delete", "GetWithFetch" or "Health"
	Key    string // "" for Health
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
	return &Fake[T]{kept: kept, bare: bare}, nil
}

// Fail makes the fake behave as a cache whose backend is down, until Recover: Get, Set, Delete and Health
// return an error that matches [cacheaside.ErrUnavailable] and cause, and GetWithFetch fetches each time.
// What was kept is there again after Recover.
func (f *Fake[T]) Fail(cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = fmt.Errorf("%w: %w", cacheaside.ErrUnavailable, cause)
}

// Recover ends what Fail began.
func (f *Fake[T]) Recover() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = nil
}

// Slow makes every call take d longer, or until its context ends. Zero makes them prompt again.
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
	if err := f.begin(ctx, "Get", key); err != nil {
		return value, err
	}
	return f.kept.Get(ctx, key)
}

// Set is [cacheaside.Client.Set].
func (f *Fake[T]) Set(ctx context.Context, key string, value T, ttl time.Duration) error {
	if err := f.begin(ctx, "Set", key); err != nil {
		return err
	}
	return f.kept.Set(ctx, key, value, ttl)
}

// Delete is [cacheaside.Client.Delete].
func (f *Fake[T]) Delete(ctx context.Context, key string) error {
	if err := f.begin(ctx, "Delete", key); err != nil {
		return err
	}
	return f.kept.Delete(ctx, key)
}

// GetWithFetch is [cacheaside.Client.GetWithFetch].
func (f *Fake[T]) GetWithFetch(ctx context.Context, key string, ttl time.Duration, fetch cacheaside.FetchFunc[T]) (value T, err error) {
	down := f.note("GetWithFetch", key)
	if err := f.wait(ctx); err != nil {
		return value, err
	}
	if down != nil {
		return f.bare.GetWithFetch(ctx, key, ttl, fetch)
	}
	return f.kept.GetWithFetch(ctx, key, ttl, fetch)
}

// Health is [cacheaside.Client.Health].
func (f *Fake[T]) Health(ctx context.Context) error {
	if err := f.begin(ctx, "Health", ""); err != nil {
		return err
	}
	return f.kept.Health(ctx)
}

// Close is [cacheaside.Client.Close].
func (f *Fake[T]) Close() error {
	_ = f.bare.Close() // always nil
	return f.kept.Close()
}

// begin notes a call, makes it take its time, and returns the error of a backend that is down.
func (f *Fake[T]) begin(ctx context.Context, method, key string) error {
	down := f.note(method, key)
	if err := f.wait(ctx); err != nil {
		return err
	}
	return down
}

func (f *Fake[T]) note(method, key string) (down error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, Call{method, key})
	return f.down
}

func (f *Fake[T]) wait(ctx context.Context) error {
	f.mu.Lock()
	delay := f.delay
	f.mu.Unlock()
	if delay <= 0 {
		return nil
	}
	t := time.NewTimer(delay)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
