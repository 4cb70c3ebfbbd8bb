package main

import (
	"sync"

	"github.com/allegro/bigcache/v3"
	"github.com/coocood/freecache"
	"github.com/puzpuzpuz/xsync/v4"
)

// limits are the contenders that are no caches: what a hit could cost at best.
func limits[V any]() []contender[V] {
	return []contender[V]{
		{"xsync.Map", "no ttl, no bound", limit, openXsync[V]},
		{"sync.Map", "no ttl, no bound, values boxed", limit, openSyncMap[V]},
		plainMap[V](),
	}
}

// plainMap may be read by several goroutines, but not written meanwhile.
func plainMap[V any]() contender[V] {
	return contender[V]{"plain map", "no lock, no ttl, no bound", limit, func(setup[V]) handle[V] {
		m := map[string]V{}
		return handle[V]{
			get: func(key string) (V, bool) {
				v, ok := m[key]
				return v, ok
			},
			set:   func(key string, value V) { m[key] = value },
			size:  func() int { return len(m) },
			close: func() {},
		}
	}}
}

func openXsync[V any](setup[V]) handle[V] {
	m := xsync.NewMap[string, V]()
	return handle[V]{get: m.Load, set: m.Store, size: m.Size, close: m.Clear}
}

func openSyncMap[V any](setup[V]) handle[V] {
	var m sync.Map
	return handle[V]{
		get: func(key string) (v V, ok bool) {
			boxed, ok := m.Load(key)
			if ok {
				v = boxed.(V)
			}
			return v, ok
		},
		set:   func(key string, value V) { m.Store(key, value) },
		close: m.Clear,
	}
}

// byteCaches hold bytes only. They copy a value at every look-up, and what is not bytes has to be decoded
// on top of what is measured here.
func byteCaches() []contender[[]byte] {
	return []contender[[]byte]{
		{"bigcache", "bytes only, copied at a hit; one ttl for all, to the second; first in, first out", loose, openBigcache},
		{"freecache", "bytes only, copied at a hit; ttl to the second; bounded by bytes", loose, openFreecache},
	}
}

func openBigcache(o setup[[]byte]) handle[[]byte] {
	config := bigcache.DefaultConfig(o.ttl)
	config.MaxEntriesInWindow = o.capacity
	config.MaxEntrySize = 64
	config.Verbose = false
	c := must(bigcache.New(background, config))
	return handle[[]byte]{
		get: func(key string) ([]byte, bool) {
			v, err := c.Get(key)
			return v, err == nil
		},
		set: func(key string, value []byte) {
			if err := c.Set(key, value); err != nil {
				panic(err)
			}
		},
		size:  c.Len,
		close: func() { _ = c.Close() },
	}
}

func openFreecache(o setup[[]byte]) handle[[]byte] {
	const bytesEach = 24 + 24 + 24 // its header, our keys and values, and some room
	c := freecache.NewCache(max(512<<10, o.capacity*bytesEach*2))
	seconds := int(o.ttl.Seconds())
	return handle[[]byte]{
		get: func(key string) ([]byte, bool) {
			v, err := c.Get([]byte(key))
			return v, err == nil
		},
		set: func(key string, value []byte) {
			if err := c.Set([]byte(key), value, seconds); err != nil {
				panic(err)
			}
		},
		size:  func() int { return int(c.EntryCount()) },
		close: c.Clear,
	}
}
