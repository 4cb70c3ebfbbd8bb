package cacheaside

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"time"
	"weak"

	"github.com/cacheaside/cacheaside/internal/table"
)

// memory keeps entries in this process, in a bounded table whose look-ups take no lock. What expires is
// removed by its reaper, in small steps, without anybody asking for it.
type memory[T any] struct {
	table       *table.Map[entry[T]]
	clock       *clock
	weigh       func(key string, value T) int // nil: every entry weighs 1
	reaper      *reaper                       // nil: expired entries stay until they are asked for
	reaping     atomic.Bool                   // the reaper is awake, or being woken
	expirations atomic.Uint64
	closed      atomic.Bool
}

var _ store[struct{}] = (*memory[struct{}])(nil)

func newMemory[T any](cfg Config, clock *clock, weigh func(string, T) int, evicted func()) *memory[T] {
	m := &memory[T]{clock: clock, weigh: weigh}
	m.table = table.New(table.Options[entry[T]]{
		Capacity: int64(max(cfg.MaxEntries, 0)),
		Deadline: func(e *entry[T]) int64 {
			if e.deadline == never {
				return math.MaxInt64
			}
			return e.deadline
		},
		OnEvict: func(string, *entry[T]) {
			if evicted != nil {
				evicted()
			}
		},
	})
	if cfg.ReapInterval > 0 {
		w := weak.Make(m)
		m.reaper = newReaper(cfg.ReapInterval, func(time.Time) bool {
			m := w.Value()
			return m != nil && m.reap()
		})
	}
	return m
}

func (m *memory[T]) peek(key string) *entry[T] { return m.table.Get(key) }

func (m *memory[T]) lookup(_ context.Context, key string) (*entry[T], error) {
	e := m.table.Get(key)
	if e != nil && e.deadline <= m.clock.now() {
		return nil, nil
	}
	return e, nil
}

// acquire has nothing to do: the flights are the lease.
func (m *memory[T]) acquire(_ context.Context, _ string, seen *entry[T]) (lease[T], *entry[T], error) {
	return lease[T]{seen: seen}, nil, nil
}

// fill refuses to replace an entry other than the one that the flight set out to replace: somebody has
// set it since.
func (m *memory[T]) fill(_ context.Context, key string, l lease[T], e entry[T], _ time.Duration) (bool, error) {
	weight := m.weight(key, e.value)
	switch m.table.PutIf(key, e, weight, func(current *entry[T]) bool {
		return current == nil || current == l.seen || current.deadline <= m.clock.now()
	}) {
	case table.Stored:
		m.stored(key, e.deadline)
		return true, nil
	case table.TooHeavy:
		return false, tooHeavy(weight)
	default:
		return false, nil
	}
}

func (m *memory[T]) abandon(_ context.Context, key string, l lease[T], remove bool) error {
	if remove && l.seen != nil {
		m.table.DeleteIf(key, func(current *entry[T]) bool { return current == l.seen })
	}
	return nil
}

func (m *memory[T]) set(_ context.Context, key string, e entry[T]) error {
	weight := m.weight(key, e.value)
	if !m.table.Put(key, e, weight) {
		return tooHeavy(weight)
	}
	m.stored(key, e.deadline)
	return nil
}

func (m *memory[T]) delete(_ context.Context, key string) error {
	m.table.Delete(key)
	return nil
}

func (m *memory[T]) clear(context.Context) error {
	m.table.Clear()
	return nil
}

func (m *memory[T]) ping(context.Context) error { return nil }

func (m *memory[T]) figures() (entries int, evictions, expirations uint64) {
	return m.table.Len(), m.table.Evictions(), m.expirations.Load()
}

func (m *memory[T]) close() {
	m.closed.Store(true)
	if m.reaper != nil {
		m.reaper.stop()
	}
	m.table.Clear()
}

func (m *memory[T]) weight(key string, value T) uint32 {
	if m.weigh == nil {
		return 1
	}
	return uint32(min(max(m.weigh(key, value), 1), math.MaxUint32))
}

func tooHeavy(weight uint32) error {
	return fmt.Errorf("%w: its weight of %d is more than one part of the cache may hold", ErrInvalidValue, weight)
}

// stored makes sure that an entry with this deadline will be reaped, and that it does not outlive close:
// that sets closed before it clears, so one of the two sees the other.
func (m *memory[T]) stored(key string, deadline int64) {
	if m.closed.Load() {
		m.table.Delete(key)
		return
	}
	if deadline != never && m.reaper != nil && !m.reaping.Load() && m.reaping.CompareAndSwap(false, true) {
		m.reaper.wake()
	}
}

// reap removes what has expired, and reports whether anything is left that will. reaping falls before
// the table is asked, so that an entry put meanwhile is either seen here or wakes the reaper.
func (m *memory[T]) reap() (more bool) {
	m.expirations.Add(uint64(m.table.Sweep(m.clock.now(), m.reaper.stopping)))
	m.reaping.Store(false)
	more = m.table.Due() != math.MaxInt64
	if more {
		m.reaping.Store(true)
	}
	return more
}
