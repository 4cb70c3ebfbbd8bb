package cacheaside

import (
	"context"
	"sync"
	"sync/atomic"
)

// changing are the keys of a cache that changes have declared. A lookup within such a change does not find them. The way on which a
// hit is found knows no changes: so in memory what is kept under them is hidden from it, in its place, and other lookups find it on
// the long way.
type changing struct {
	any atomic.Int64 // how many keys there are

	mu   sync.Mutex // before the locks of the store
	keys map[string]*changingKey
}

type changingKey struct {
	changes int // that hold it
	strict  int // of these, those during which no Set of the key is kept
}

// isHeld reports whether a change holds key.
func (s *changing) isHeld(key string) bool {
	if s.any.Load() == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[key] != nil
}

// isClosed reports whether a Set of key is not kept.
func (s *changing) isClosed(key string) bool {
	if s.any.Load() == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[key]
	return k != nil && k.strict > 0
}

func (s *changing) hold(key string, strict bool) {
	s.any.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil {
		s.keys = make(map[string]*changingKey)
	}
	k := s.keys[key]
	if k == nil {
		k = new(changingKey)
		s.keys[key] = k
	}
	if k.changes++; strict {
		k.strict++
	}
}

// release lets a key go, and calls last if no change holds it any more, before another one can.
func (s *changing) release(key string, strict bool, last func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[key]
	if strict {
		k.strict--
	}
	if k.changes--; k.changes == 0 {
		delete(s.keys, key)
		last()
	}
	s.any.Add(-1)
}

// holdChanged makes key one that a change holds. Its fence is up. If it is strict, no Set of key is kept meanwhile.
func (c *Client[T]) holdChanged(key string, strict bool) {
	c.changing.hold(key, strict)
	if !c.instant {
		c.store.dropNear(key) // without the lock: what comes by the wire asks whether the key is held
		return
	}
	for e := c.store.peek(key); e != nil && !e.hidden(); e = c.store.peek(key) {
		if weight, ok := c.weightAgain(key, e); !ok || !c.store.mark(key, e, true, weight) {
			c.store.dropKept(key, e) // it has no room any more, or has been replaced
		}
	}
}

// releaseChanged ends what holdChanged began, while the fence is up still. With restore, what was hidden is not any more.
func (c *Client[T]) releaseChanged(key string, strict, restore bool) {
	show := func() {}
	if restore && c.instant {
		if e := c.store.peek(key); e != nil && e.hidden() {
			if weight, ok := c.weightAgain(key, e); ok {
				show = func() { c.store.mark(key, e, false, weight) }
			}
		}
	}
	c.changing.release(key, strict, show)
}

// weightAgain asks the weigher, which is the caller's and is called without a lock, for the weight of what is kept.
func (c *Client[T]) weightAgain(key string, e *entry[T]) (weight uint32, ok bool) {
	if c.weigh == nil {
		return 0, true
	}
	again := *e
	again.meta &^= taggedBit
	weight, err := c.weigh(key, &again)
	return weight, err == nil
}

// isChangedIn reports whether the change that ctx carries has declared key.
func (c *Client[T]) isChangedIn(ctx context.Context, key string) bool {
	ch := changeOf(ctx)
	return ch != nil && ch.has(c.backend, c.cfg.Name, key)
}
