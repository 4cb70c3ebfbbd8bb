package cachetest_test //nolint:testableexamples // ExampleRun needs a *testing.T, so tenant_test.go runs it

import (
	"context"
	"testing"
	"time"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/cachetest"
)

// tenant is a wrapper: the part of a shared cache that belongs to one customer.
type tenant[T any] struct {
	cacheaside.Cache[T]
	name string
}

func (t tenant[T]) Get(ctx context.Context, key string) (T, error) {
	return t.Cache.Get(ctx, t.name+"/"+key)
}

func (t tenant[T]) Set(ctx context.Context, key string, value T, ttl time.Duration) error {
	return t.Cache.Set(ctx, t.name+"/"+key, value, ttl)
}

func (t tenant[T]) Delete(ctx context.Context, key string) error {
	return t.Cache.Delete(ctx, t.name+"/"+key)
}

// GetWithFetch gives fetch the caller's key, and not the one that it is kept under.
func (t tenant[T]) GetWithFetch(ctx context.Context, key string, ttl time.Duration, fetch cacheaside.FetchFunc[T]) (value T, err error) {
	if fetch == nil {
		return t.Cache.GetWithFetch(ctx, t.name+"/"+key, ttl, nil) // which says that it must not be
	}
	return t.Cache.GetWithFetch(ctx, t.name+"/"+key, ttl, func(ctx context.Context, _ string) (T, error) {
		return fetch(ctx, key)
	})
}

func openTenant(t *testing.T) cacheaside.Cache[string] {
	shared, err := cacheaside.NewMemory[string](cacheaside.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return tenant[string]{shared, "acme"}
}

func ExampleRun() {
	_ = func(t *testing.T) { // in your package: func TestTenantKeepsThePromises(t *testing.T)
		cachetest.Run(t, openTenant)
	}
}
