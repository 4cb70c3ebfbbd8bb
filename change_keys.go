package cacheaside

import (
	"context"
	"sync"
	"sync/atomic"
)

// changing are the keys of a cache that changes have declared. A lookup within such a change does not find them. In memory
// what was kept under them is put aside, where only other lookups find it: the way on which a hit is found knows no
// changes.
type changing[T any] struct {
	any      atomic.Int64  // how many keys there are
	restored atomic.Uint64 // how often what was put aside was kept again

	mu   sync.Mutex // before the locks of the store
	keys map[string]*changingKey[T]
}

type changingKey[T any] struct {
	changes int       // that hold it
	strict  int       // of these, those during which no Set of the key is kept
	touched uint64    // how often it was written or removed since it was held
	aside   *entry[T] // what was kept; nil if nothing was, or the key has been touched since
}

// isHeld reports whether a change holds key.
func (s *changing[T]) isHeld(key string) bool {
	if s.any.Load() == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[key] != nil
}

// isClosed reports whether a Set of key is not kept.
func (s *changing[T]) isClosed(key string) bool {
	if s.any.Load() == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[key]
	return k != nil && k.strict > 0
}

// aside returns what was put aside of key, or else what peek finds, if anything. What goes from one place to the other is
// found in one of them.
func (s *changing[T]) aside(key string, peek func(string) *entry[T]) *entry[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.keys[key]; k != nil && k.aside != nil {
		return k.aside
	}
	return peek(key)
}

// forget drops what was put aside of a key that is being written or removed. forgetAll does so for every key.
func (s *changing[T]) forget(key string) {
	if s.any.Load() == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.keys[key]; k != nil {
		k.aside = nil
		k.touched++
	}
}

func (s *changing[T]) forgetAll() {
	if s.any.Load() == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.keys {
		k.aside = nil
		k.touched++
	}
}

// holdChanged makes key one that a change holds. Its fence is up. If it is strict, no Set of key is kept meanwhile.
func (c *Client[T]) holdChanged(key string, strict bool) {
	touched := c.changing.hold(key, strict)
	if !c.instant {
		c.store.dropNear(key) // without the lock: what comes by the wire asks whether the key is held
		return
	}
	for ok := false; !ok; { // a Set that comes after this look touches the key
		e := c.store.peek(key)
		if e == nil {
			return
		}
		if touched, ok = c.changing.putAside(key, e, touched); ok {
			c.store.dropKept(key, e)
		}
	}
}

func (s *changing[T]) hold(key string, strict bool) (touched uint64) {
	s.any.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil {
		s.keys = make(map[string]*changingKey[T])
	}
	k := s.keys[key]
	if k == nil {
		k = new(changingKey[T])
		s.keys[key] = k
	}
	if k.changes++; strict {
		k.strict++
	}
	return k.touched
}

// putAside puts e aside, unless the key has been touched since touched was read. It returns what that is now, and whether e is aside.
func (s *changing[T]) putAside(key string, e *entry[T], touched uint64) (now uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[key]
	if ok = k.touched == touched; ok {
		k.aside = e
	}
	return k.touched, ok
}

// release lets a key go. If no change holds it any more, what was put aside is handed to restore.
func (s *changing[T]) release(key string, strict bool, restore func(*entry[T])) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[key]
	if strict {
		k.strict--
	}
	if k.changes--; k.changes > 0 {
		return
	}
	delete(s.keys, key)
	if k.aside != nil && restore != nil {
		restore(k.aside)
		s.restored.Add(1)
	}
}

// releaseChanged ends what holdChanged began, while the fence is up still. With restore, what was put aside is kept again.
func (c *Client[T]) releaseChanged(key string, strict, restore bool) {
	var keep func(*entry[T])
	if restore && c.instant {
		keep = c.putBack(key, c.changing.aside(key, c.store.peek))
	}
	c.changing.release(key, strict, keep)
	c.changing.any.Add(-1)
}

// putBack returns what keeps e again, unless something is kept. The weigher, which is the caller's, is called before that.
func (c *Client[T]) putBack(key string, e *entry[T]) func(*entry[T]) {
	if e == nil {
		return nil
	}
	l := lease[T]{tags: e.tagging()}
	again := *e
	again.meta &^= taggedBit
	if c.weigh != nil {
		var err error
		if l.weight, err = c.weigh(key, &again); err != nil {
			return nil // it is gone, as after an eviction
		}
	}
	return func(aside *entry[T]) {
		if aside == e && !c.repeats.isPending(key) {
			_, _ = c.store.fill(context.Background(), key, l, again, 0) // in memory; what has no room is gone too
		}
	}
}

// forgetChanged follows a write or removal of keys, before which restored was that of changing. What a Discard has kept again
// meanwhile is older.
func (c *Client[T]) forgetChanged(restored uint64, keys ...string) {
	for {
		for _, key := range keys {
			c.changing.forget(key)
		}
		now := c.changing.restored.Load()
		if now == restored {
			return
		}
		restored = now
		for _, key := range keys {
			c.store.dropNear(key)
		}
	}
}

// forgetAllChanged is forgetChanged for every key.
func (c *Client[T]) forgetAllChanged(restored uint64) {
	for c.changing.forgetAll(); c.changing.restored.Load() != restored; c.changing.forgetAll() {
		restored = c.changing.restored.Load()
		c.store.dropAllNear()
	}
}

// hidden reports whether a lookup finds nothing under key, since its change has declared it. Otherwise it returns what there is
// to find, which is kept if peek has found anything.
func (c *Client[T]) hidden(ctx context.Context, key string, kept *entry[T]) (hidden bool, found *entry[T]) {
	if ch := changeOf(ctx); ch != nil && ch.has(c.backend, c.cfg.Name, key) {
		return true, nil
	}
	if kept != nil {
		return false, kept
	}
	return false, c.changing.aside(key, c.store.peek)
}
