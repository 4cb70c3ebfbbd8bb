package cacheaside

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cacheaside/cacheaside/internal/table"
)

// memory keeps entries in this process.
type memory[T any] struct {
	inProcess[T]
	*expiring[entry[T]]
	weigh func(key string, value T) int // nil: every entry weighs 1

	// shut is raised when the store begins and ends to keep nothing: it is odd while that lasts. What is put in meanwhile
	// is removed by those who do that.
	shut   atomic.Uint64
	closed atomic.Bool
}

var _ store[struct{}] = (*memory[struct{}])(nil)

func newMemory[T any](cfg Config, c *clock, weigh func(string, T) int, evicted func()) *memory[T] {
	deadline := func(e *entry[T]) int64 { return e.deadline }
	return &memory[T]{
		expiring: newExpiring(cfg.MaxEntries, weigh != nil, cfg.ReapInterval, c, deadline, evicted),
		weigh:    weigh,
	}
}

func (m *memory[T]) peek(key string) *entry[T] { return m.Get(key) }

// fill refuses to replace an entry other than the one that the flight set out to replace: somebody has
// set it since. It runs under the lock of the flight's shard, so the lease brings the weight of e: the
// weigher is the user's code.
func (m *memory[T]) fill(_ context.Context, key string, l lease[T], e entry[T], _ time.Duration) (bool, error) {
	shut := m.shut.Load()
	switch m.put(key, e, l.tags, l.weight, func(current *entry[T]) bool {
		return current == nil || current == l.seen || current.deadline <= m.clock.now() || current.isVoid()
	}) {
	case table.Stored:
		m.keep(key, e.deadline, shut)
		return true, nil
	case table.Declined:
		return true, nil // stored and evicted in one step
	case table.TooHeavy:
		return false, m.tooHeavy(l.weight)
	default:
		return false, nil
	}
}

func (m *memory[T]) abandon(_ context.Context, key string, l lease[T], _ outcome, remove bool) error {
	if remove && l.seen != nil {
		m.DeleteIf(key, func(current *entry[T]) bool { return current == l.seen })
	}
	return nil
}

// put is PutIf of an entry with tags, if there are any.
func (m *memory[T]) put(key string, e entry[T], tags *tagging, weight uint32, allow func(*entry[T]) bool) table.Outcome {
	if tags == nil {
		return m.PutIf(key, e, weight, allow)
	}
	e.meta |= taggedBit
	return m.PutBeside(key, e, unsafe.Pointer(tags), weight, allow)
}

func (m *memory[T]) set(_ context.Context, key string, e entry[T], tags *tagging) error {
	weight, err := weightOf(m.weigh, key, &e)
	if err != nil {
		return err
	}
	shut := m.shut.Load()
	if m.put(key, e, tags, weight, nil) != table.Stored {
		return m.tooHeavy(weight)
	}
	m.keep(key, e.deadline, shut)
	return nil
}

func (m *memory[T]) delete(_ context.Context, key string) error {
	m.Delete(key)
	return nil
}

func (m *memory[T]) deleteMany(_ context.Context, keys []string) ([]string, error) {
	for _, key := range keys {
		m.Delete(key)
	}
	return nil, nil
}

func (m *memory[T]) clear(context.Context) error {
	m.Clear()
	return nil
}

func (m *memory[T]) dropNear(key string) { m.Delete(key) }
func (m *memory[T]) dropAllNear()        { m.Clear() }

func (m *memory[T]) dropKept(key string, e *entry[T]) {
	m.DeleteIf(key, func(current *entry[T]) bool { return current == e })
}

func (m *memory[T]) mark(key string, e *entry[T], hidden bool, weight uint32) bool {
	t, again := e.tagging(), *e
	again.meta &^= taggedBit
	if hidden {
		t = &tagging{hides: true, under: t}
	}
	return m.put(key, again, t, weight, func(current *entry[T]) bool { return current == e }) == table.Stored
}

func (m *memory[T]) suspend() {
	m.shut.Add(1)
	m.Clear()
}

func (m *memory[T]) resume() { m.shut.Add(1) }

func (m *memory[T]) close() {
	m.closed.Store(true)
	m.expiring.close()
}

// weightOf is what an entry counts against MaxEntries: one without a weigher, and without a value to weigh.
// A weigher that panics is an error that matches [ErrInvalidValue]. No lock may be held.
func weightOf[T any](weigh func(string, T) int, key string, e *entry[T]) (weight uint32, err error) {
	if weigh == nil || e.negative() {
		return 1, nil
	}
	returned := false
	defer func() {
		if !returned {
			err = fmt.Errorf("%w: its weigher failed: %w", ErrInvalidValue, abnormal(recover()))
		}
	}()
	w := uint64(max(weigh(key, e.value), 1))
	returned = true
	return uint32(min(w, math.MaxUint32)), nil
}

func (m *memory[T]) tooHeavy(weight uint32) error {
	return &plainError{fmt.Sprintf("its weight of %d is more than MaxEntries, %d", weight, m.most)}
}

// keep makes sure that an entry with this deadline will be reaped, and that none is kept that was put in while the store
// keeps nothing: suspend raises shut, which was read before, and close sets closed, before they clear, so one of the two sees
// the other.
func (m *memory[T]) keep(key string, deadline int64, shut uint64) {
	if shut&1 != 0 || m.shut.Load() != shut || m.closed.Load() {
		m.Delete(key)
		return
	}
	m.stored(deadline)
}
