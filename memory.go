package cacheaside

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/cacheaside/cacheaside/internal/table"
)

// memory keeps entries in this process.
type memory[T any] struct {
	*expiring[entry[T]]
	weigh  func(key string, value T) int // nil: every entry weighs 1
	closed atomic.Bool
}

var _ store[struct{}] = (*memory[struct{}])(nil)

func newMemory[T any](cfg Config, c *clock, weigh func(string, T) int, evicted func()) *memory[T] {
	deadline := func(e *entry[T]) int64 { return e.deadline }
	return &memory[T]{
		expiring: newExpiring(cfg.MaxEntries, cfg.ReapInterval, c, deadline, evicted),
		weigh:    weigh,
	}
}

func (m *memory[T]) peek(key string) *entry[T] { return m.Get(key) }

func (m *memory[T]) lookup(_ context.Context, key string) (*entry[T], error) {
	e := m.Get(key)
	if e != nil && e.deadline <= m.clock.now() {
		return nil, nil
	}
	return e, nil
}

func (m *memory[T]) lookupMany(ctx context.Context, keys []string) []lookedUp[T] {
	got := make([]lookedUp[T], len(keys))
	for i, key := range keys {
		got[i].entry, got[i].err = m.lookup(ctx, key)
	}
	return got
}

// acquire has nothing to do: the flights are the lease.
func (m *memory[T]) acquire(_ context.Context, _ string, seen *entry[T], _ *allowance, _ bool) (lease[T], *entry[T], error) {
	return lease[T]{seen: seen}, nil, nil
}

// fill refuses to replace an entry other than the one that the flight set out to replace: somebody has
// set it since.
func (m *memory[T]) fill(_ context.Context, key string, l lease[T], e entry[T], _ time.Duration) (bool, error) {
	weight := m.weight(key, e.value)
	switch m.PutIf(key, e, weight, func(current *entry[T]) bool {
		return current == nil || current == l.seen || current.deadline <= m.clock.now()
	}) {
	case table.Stored:
		m.keep(key, e.deadline)
		return true, nil
	case table.TooHeavy:
		return false, tooHeavy(weight)
	default:
		return false, nil
	}
}

func (m *memory[T]) abandon(_ context.Context, key string, l lease[T], remove bool) error {
	if remove && l.seen != nil {
		m.DeleteIf(key, func(current *entry[T]) bool { return current == l.seen })
	}
	return nil
}

func (m *memory[T]) set(_ context.Context, key string, e entry[T]) error {
	weight := m.weight(key, e.value)
	if !m.Put(key, e, weight) {
		return tooHeavy(weight)
	}
	m.keep(key, e.deadline)
	return nil
}

func (m *memory[T]) delete(_ context.Context, key string) error {
	m.Delete(key)
	return nil
}

func (m *memory[T]) clear(context.Context) error {
	m.Clear()
	return nil
}

func (m *memory[T]) ping(context.Context) error { return nil }

func (m *memory[T]) close() {
	m.closed.Store(true)
	m.expiring.close()
}

func (m *memory[T]) weight(key string, value T) uint32 {
	if m.weigh == nil {
		return 1
	}
	return uint32(min(max(m.weigh(key, value), 1), math.MaxUint32))
}

func tooHeavy(weight uint32) error {
	return &limitError{fmt.Sprintf("its weight of %d is more than one part of the cache may hold", weight)}
}

// keep makes sure that an entry with this deadline will be reaped, and that it does not outlive close: that
// sets closed before it clears, so one of the two sees the other.
func (m *memory[T]) keep(key string, deadline int64) {
	if m.closed.Load() {
		m.Delete(key)
		return
	}
	m.stored(deadline)
}
