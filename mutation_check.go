package cacheaside

import (
	"context"
	"hash/maphash"
	"reflect"
	"sync"
	"time"
)

// WithMutationCheck is for tests and for hunting a bug, not for production: it finds out who changes a value
// that the cache shares. Values that this process keeps (memory, rueidis-aside) belong to everybody who gets
// them, and to whoever gave them to Set or returned them from a fetch, as read-only.
//
// With it, each value is hashed, with all that it points to, when it comes into the cache, and again each
// time that it is asked for, replaced or deleted. If it has changed, report is called with its key, once for
// a change, on the goroutine that found it: not necessarily the one that did it, but with the race detector
// on, that one is often named as well. report may fail a test, log or panic; it must not use the cache.
//
// A hit then costs many times what it did. Locks and atomics inside of a value are not looked at; what a
// value computes and keeps in itself when it is first asked for is a change. The values that the check knows
// are kept alive by it, up to MaxEntries of them.
func WithMutationCheck(report func(key string)) Option {
	return func(o *options) {
		if o.mutated = report; report == nil {
			o.fail("WithMutationCheck", "a function")
		}
	}
}

// guarded is a store that looks whether the values it shares are left alone. It does so by a ledger of its
// own, so that stores and entries need not know, and a hit without it costs nothing.
type guarded[T any] struct {
	store[T]
	local  bool // what is set or filled is what will be shared, and not a copy of it
	limit  int
	seed   maphash.Seed
	report func(key string)

	mu     sync.Mutex
	ledger map[string]*shared[T]
}

// shared is a value that somebody may hold.
type shared[T any] struct {
	value T
	hash  uint64
	entry *entry[T] // that the store has returned it in; nil if it has not yet
}

// maxGuarded is how many values are looked after if MaxEntries is no bound.
const maxGuarded = 100_000

func newGuarded[T any](s store[T], cfg Config, local bool, report func(string)) *guarded[T] {
	g := &guarded[T]{store: s, local: local, limit: cfg.MaxEntries, seed: maphash.MakeSeed(), report: report, ledger: make(map[string]*shared[T])}
	if g.limit <= 0 {
		g.limit = maxGuarded
	}
	return g
}

func (g *guarded[T]) hash(value T) uint64 {
	return deepHash(g.seed, reflect.ValueOf(&value).Elem())
}

// look compares what is known to be shared under key with what it was, and notes that e is there now.
func (g *guarded[T]) look(key string, e *entry[T]) *entry[T] {
	if e != nil && e.negative() {
		return e
	}
	g.mu.Lock()
	changed := g.changedLocked(key)
	switch known := g.ledger[key]; {
	case e == nil:
		delete(g.ledger, key)
	case known == nil || known.entry != e:
		g.noteLocked(key, &shared[T]{value: e.value, hash: g.hash(e.value), entry: e})
	}
	g.mu.Unlock()
	if changed {
		g.report(key)
	}
	return e
}

// note makes the value the one that is shared under key, after a look at the one before.
func (g *guarded[T]) note(key string, value T, hash uint64) {
	g.mu.Lock()
	changed := g.changedLocked(key)
	g.noteLocked(key, &shared[T]{value: value, hash: hash})
	g.mu.Unlock()
	if changed {
		g.report(key)
	}
}

// changedLocked reports whether the value of key has changed since the last look.
func (g *guarded[T]) changedLocked(key string) bool {
	known := g.ledger[key]
	if known == nil {
		return false
	}
	was := known.hash
	known.hash = g.hash(known.value)
	return was != known.hash
}

// noteLocked makes room by forgetting any other key.
func (g *guarded[T]) noteLocked(key string, s *shared[T]) {
	if g.ledger[key] == nil && len(g.ledger) >= g.limit {
		for other := range g.ledger {
			delete(g.ledger, other)
			break
		}
	}
	g.ledger[key] = s
}

func (g *guarded[T]) peek(key string) *entry[T] { return g.look(key, g.store.peek(key)) }

func (g *guarded[T]) lookup(ctx context.Context, key string) (*entry[T], error) {
	e, err := g.store.lookup(ctx, key)
	if e != nil {
		g.look(key, g.store.peek(key))
	}
	return e, err
}

func (g *guarded[T]) lookupMany(ctx context.Context, keys []string) []lookedUp[T] {
	all := g.store.lookupMany(ctx, keys)
	for i, key := range keys {
		if all[i].entry != nil {
			g.look(key, g.store.peek(key))
		}
	}
	return all
}

func (g *guarded[T]) fill(ctx context.Context, key string, l lease[T], e entry[T], took time.Duration) (bool, error) {
	hash := g.hash(e.value)
	ok, err := g.store.fill(ctx, key, l, e, took)
	if ok && g.local && !e.negative() {
		g.note(key, e.value, hash)
	}
	return ok, err
}

func (g *guarded[T]) set(ctx context.Context, key string, e entry[T], tags *tagging) error {
	hash := g.hash(e.value)
	err := g.store.set(ctx, key, e, tags)
	if err == nil && g.local {
		g.note(key, e.value, hash)
	}
	return err
}

func (g *guarded[T]) delete(ctx context.Context, key string) error {
	err := g.store.delete(ctx, key)
	g.look(key, g.store.peek(key))
	return err
}

func (g *guarded[T]) deleteMany(ctx context.Context, keys []string) ([]string, error) {
	failed, err := g.store.deleteMany(ctx, keys)
	for _, key := range keys {
		g.look(key, g.store.peek(key))
	}
	return failed, err
}

func (g *guarded[T]) clear(ctx context.Context) error {
	err := g.store.clear(ctx)
	g.mu.Lock()
	var changed []string
	for key := range g.ledger {
		if g.changedLocked(key) {
			changed = append(changed, key)
		}
	}
	clear(g.ledger)
	g.mu.Unlock()
	for _, key := range changed {
		g.report(key)
	}
	return err
}
