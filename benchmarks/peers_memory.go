package main

import (
	"context"
	"sync"
	"time"

	theine "github.com/Yiling-J/theine-go"
	"github.com/dgraph-io/ristretto/v2"
	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/jellydator/ttlcache/v3"
	"github.com/maypok86/otter/v2"
	"github.com/patrickmn/go-cache"
	"github.com/viccon/sturdyc"
	"golang.org/x/sync/singleflight"

	"github.com/cacheaside/cacheaside"
)

// background is the context of every call: a hit in memory should not depend on it.
var background = context.Background()

// libraries are the contenders that are caches of Go values.
func libraries[V any]() []contender[V] {
	return []contender[V]{
		{"cacheaside", "", ours, openOurs[V]},
		{"otter", "one ttl for all, or computed; a load has one caller's context; counts nothing", peer, openOtter[V]},
		{"otter (coarse clock)", "otter with an option that makes it expire up to 100 ms off", peer, openOtterCoarse[V]},
		{"theine", "overruns its bound for a moment; a load has one caller's context", peer, openTheine[V]},
		{"ristretto", "drops writes when busy; shows a write later; keeps no keys; no get-or-fetch; counts nothing", peer, openRistretto[V]},
		{"sturdyc", "one ttl for all; evicts a tenth of a shard at once; no Close; counts nothing", peer, openSturdyc[V]},
		{"ttlcache", "LRU behind one lock; a loader without context or error", peer, openTTLCache[V]},
		{"golang-lru expirable", "LRU behind one lock; one ttl for all; no get-or-fetch; no Close; counts nothing", peer, openLRU[V]},
		{"go-cache", "no bound; sweeps all under one lock; no get-or-fetch; counts nothing", loose, openGoCache[V]},
		{"RWMutex map + singleflight", "no bound; expired entries stay until they are asked for; counts nothing", loose, openMutexMap[V]},
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // a contender that can't be opened is a mistake in this program
	}
	return v
}

func openOurs[V any](o setup[V]) handle[V] {
	c := must(cacheaside.NewMemory[V](cacheaside.Config{MaxEntries: o.capacity}))
	fetch := func(_ context.Context, key string) (V, error) { return o.fetch(key), nil }
	return handle[V]{
		get: func(key string) (V, bool) {
			v, err := c.Get(background, key)
			return v, err == nil
		},
		load: func(key string) (V, error) { return c.GetWithFetch(background, key, o.ttl, fetch) },
		set: func(key string, value V) {
			if err := c.Set(background, key, value, o.ttl); err != nil {
				panic(err)
			}
		},
		size:  func() int { return c.Stats().Entries },
		close: func() { _ = c.Close() },
	}
}

func openOtter[V any](o setup[V]) handle[V] { return otterWith(o, nil) }

func openOtterCoarse[V any](o setup[V]) handle[V] {
	return otterWith(o, otter.NewCoarseClock(100*time.Millisecond))
}

func otterWith[V any](o setup[V], clock *otter.CoarseClock) handle[V] {
	options := &otter.Options[string, V]{
		MaximumSize:      o.capacity,
		ExpiryCalculator: otter.ExpiryWriting[string, V](o.ttl),
	}
	if clock != nil {
		options.Clock = clock
	}
	if o.exact {
		options.Executor = func(task func()) { task() }
	}
	c := must(otter.New(options))
	loader := otter.LoaderFunc[string, V](func(_ context.Context, key string) (V, error) { return o.fetch(key), nil })
	return handle[V]{
		get:    c.GetIfPresent,
		load:   func(key string) (V, error) { return c.Get(background, key, loader) },
		set:    func(key string, value V) { c.Set(key, value) },
		settle: c.CleanUp,
		size:   c.EstimatedSize,
		close: func() {
			c.InvalidateAll()
			c.StopAllGoroutines()
			if clock != nil {
				clock.Stop()
			}
		},
	}
}

func openTheine[V any](o setup[V]) handle[V] {
	builder := theine.NewBuilder[string, V](int64(o.capacity))
	if o.fetch == nil {
		c := must(builder.Build())
		return handle[V]{
			get: c.Get,
			set: func(key string, value V) {
				c.SetWithTTL(key, value, 1, o.ttl)
				if o.exact {
					c.Wait()
				}
			},
			settle: c.Wait,
			size:   c.Len,
			close:  c.Close,
		}
	}
	c := must(builder.BuildWithLoader(func(_ context.Context, key string) (theine.Loaded[V], error) {
		return theine.Loaded[V]{Value: o.fetch(key), Cost: 1, TTL: o.ttl}, nil
	}))
	load := func(key string) (V, error) { return c.Get(background, key) }
	return handle[V]{
		get: func(key string) (V, bool) { // a loading cache has no other way to look a key up
			v, err := load(key)
			return v, err == nil
		},
		load:   load,
		set:    func(key string, value V) { c.SetWithTTL(key, value, 1, o.ttl) },
		settle: c.Wait,
		size:   c.Len,
		close:  c.Close,
	}
}

func openRistretto[V any](o setup[V]) handle[V] {
	c := must(ristretto.NewCache(&ristretto.Config[string, V]{
		NumCounters:        int64(o.capacity) * 10,
		MaxCost:            int64(o.capacity),
		BufferItems:        64,
		IgnoreInternalCost: true,
	}))
	set := func(key string, value V) { c.SetWithTTL(key, value, 1, o.ttl) }
	if o.exact {
		set = func(key string, value V) {
			c.SetWithTTL(key, value, 1, o.ttl)
			c.Wait()
		}
	}
	size := func() int { return int(c.MaxCost() - c.RemainingCost()) }
	return handle[V]{get: c.Get, set: set, settle: c.Wait, size: size, close: c.Close}
}

func openSturdyc[V any](o setup[V]) handle[V] {
	// A shard must hold at least as many entries as make a tenth of it one.
	shards := min(100, max(1, o.capacity/100))
	c := sturdyc.New[V](o.capacity, shards, o.ttl, 10)
	// Its fetch is not told the key, so real uses make a closure at every call. Made once, it shows the
	// best that a hit can cost.
	fetch := func(context.Context) (V, error) { return o.fetch(""), nil }
	return handle[V]{
		get:  c.Get,
		load: func(key string) (V, error) { return c.GetOrFetch(background, key, fetch) },
		set:  func(key string, value V) { c.Set(key, value) },
		size: c.Size,
		close: func() { // it can't be closed, so at least it is emptied
			for _, key := range c.ScanKeys() {
				c.Delete(key)
			}
		},
	}
}

func openTTLCache[V any](o setup[V]) handle[V] {
	options := []ttlcache.Option[string, V]{
		ttlcache.WithTTL[string, V](o.ttl),
		ttlcache.WithCapacity[string, V](uint64(o.capacity)),
		ttlcache.WithDisableTouchOnHit[string, V](), // a ttl that counts from the write, as everybody's here
	}
	if o.fetch != nil {
		loader := ttlcache.LoaderFunc[string, V](func(c *ttlcache.Cache[string, V], key string) *ttlcache.Item[string, V] {
			return c.Set(key, o.fetch(key), o.ttl)
		})
		options = append(options, ttlcache.WithLoader[string, V](ttlcache.NewSuppressedLoader(loader, nil)))
	}
	c := ttlcache.New(options...)
	go c.Start() // ends with Stop
	return handle[V]{
		get: func(key string) (v V, ok bool) {
			if item := c.Get(key); item != nil {
				return item.Value(), true
			}
			return v, false
		},
		load: func(key string) (V, error) { return c.Get(key).Value(), nil },
		set:  func(key string, value V) { c.Set(key, value, o.ttl) },
		size: func() int { return int(c.Metrics().Insertions - c.Metrics().Evictions) },
		close: func() {
			c.Stop()
			c.DeleteAll()
		},
	}
}

func openLRU[V any](o setup[V]) handle[V] {
	c := expirable.NewLRU[string, V](o.capacity, nil, o.ttl)
	return handle[V]{
		get:   c.Get,
		set:   func(key string, value V) { c.Add(key, value) },
		size:  c.Len,
		close: c.Purge,
	}
}

func openGoCache[V any](o setup[V]) handle[V] {
	c := cache.New(o.ttl, 2*time.Second)
	return handle[V]{
		get: func(key string) (v V, ok bool) {
			item, ok := c.Get(key)
			if ok {
				v = item.(V)
			}
			return v, ok
		},
		set:   func(key string, value V) { c.SetDefault(key, value) },
		size:  c.ItemCount,
		close: c.Flush,
	}
}

// mutexMap is what many write before they look for a library.
type mutexMap[V any] struct {
	flights singleflight.Group
	mu      sync.RWMutex
	entries map[string]expiringValue[V]
}

type expiringValue[V any] struct {
	value    V
	deadline time.Time
}

func (m *mutexMap[V]) get(key string) (v V, ok bool) {
	m.mu.RLock()
	e, ok := m.entries[key]
	m.mu.RUnlock()
	if !ok || !time.Now().Before(e.deadline) {
		return v, false
	}
	return e.value, true
}

func (m *mutexMap[V]) set(key string, value V, ttl time.Duration) {
	e := expiringValue[V]{value, time.Now().Add(ttl)}
	m.mu.Lock()
	m.entries[key] = e
	m.mu.Unlock()
}

func (m *mutexMap[V]) size() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.entries)
}

func openMutexMap[V any](o setup[V]) handle[V] {
	m := &mutexMap[V]{entries: map[string]expiringValue[V]{}}
	return handle[V]{
		get: m.get,
		load: func(key string) (V, error) {
			if v, ok := m.get(key); ok {
				return v, nil
			}
			v, err, _ := m.flights.Do(key, func() (any, error) {
				v := o.fetch(key)
				m.set(key, v, o.ttl)
				return v, nil
			})
			return v.(V), err
		},
		set:   func(key string, value V) { m.set(key, value, o.ttl) },
		size:  m.size,
		close: func() {},
	}
}

// ourLoader is ours with the fetch bound once.
func ourLoader() contender[user] {
	return contender[user]{"cacheaside (Loader)", "", loose, func(o setup[user]) handle[user] {
		c := must(cacheaside.NewMemory[user](cacheaside.Config{MaxEntries: o.capacity}))
		l := c.Bind(o.ttl, func(_ context.Context, key string) (user, error) { return o.fetch(key), nil })
		h := handle[user]{
			get: func(key string) (user, bool) {
				v, err := c.Get(background, key)
				return v, err == nil
			},
			load:  func(key string) (user, error) { return l.Get(background, key) },
			set:   func(key string, value user) { _ = c.Set(background, key, value, o.ttl) },
			close: func() { _ = c.Close() },
		}
		return h
	}}
}
