package cacheaside

import (
	"math"
	"sync/atomic"
	"time"
	"weak"

	"github.com/cacheaside/cacheaside/internal/table"
)

// expiring is a bounded table of values with deadlines, whose look-ups take no lock, and the reaper that
// removes in small steps what has expired without anybody asking for it.
type expiring[V any] struct {
	*table.Map[V]
	most        int // by weight
	clock       *clock
	reaper      *reaper     // nil: expired values stay until they are asked for
	reaping     atomic.Bool // the reaper is awake, or being woken
	expirations atomic.Uint64
}

// newExpiring returns a table that holds up to most (zero or less: any number), by weight if weighted.
// deadline tells when a value expires, on the clock; evicted is called when one is dropped for want of
// room, possibly under locks.
func newExpiring[V any](most int, weighted bool, interval time.Duration, c *clock, deadline func(*V) int64, evicted func()) *expiring[V] {
	t := &expiring[V]{most: most, clock: c}
	t.Map = table.New(table.Options[V]{
		Capacity: int64(max(most, 0)),
		Weighted: weighted,
		Deadline: func(v *V) int64 {
			if d := deadline(v); d < never {
				return d
			}
			return math.MaxInt64
		},
		OnEvict: func(string, *V) { evicted() },
	})
	if interval > 0 {
		w := weak.Make(t)
		t.reaper = newReaper(interval, func(time.Time) bool {
			t := w.Value()
			return t != nil && t.reap()
		})
	}
	return t
}

// stored makes sure that a value with this deadline, which is in the table now, will be reaped.
func (t *expiring[V]) stored(deadline int64) {
	if deadline < never && t.reaper != nil && !t.reaping.Load() && t.reaping.CompareAndSwap(false, true) {
		t.reaper.wake()
	}
}

// reap removes what has expired, and reports whether anything is left that will. reaping falls before
// the table is asked, so that a value stored meanwhile is either seen here or wakes the reaper.
func (t *expiring[V]) reap() (more bool) {
	t.expirations.Add(uint64(t.Sweep(t.clock.now(), t.reaper.stopping)))
	t.reaping.Store(false)
	if t.Due() == math.MaxInt64 {
		return false
	}
	t.reaping.Store(true)
	return true
}

func (t *expiring[V]) figures() (entries int, evictions, expirations uint64) {
	return t.Len(), t.Evictions(), t.expirations.Load()
}

// close stops the reaper, waits for it, and lets go of the values.
func (t *expiring[V]) close() {
	if t.reaper != nil {
		t.reaper.stop()
	}
	t.Clear()
}
