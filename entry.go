package cacheaside

import (
	"time"
)

// entry is what a store keeps under a key: a value, or the news that the source has none. It does not
// change once a store has it. Times are on the cache's clock.
//
// It is packed, since a process may hold millions of them: with a key of 16 bytes, a value of one word makes it a node
// of 48 bytes in the table, and 12 more are what the policy knows of it.
type entry[T any] struct {
	value    T
	deadline int64 // when a store may forget it: the end of its freshness plus the cache's stale window

	// meta holds, from the highest bit down: 1 bit, set for a negative entry; 28 bits, how long before the
	// end of its freshness a refresh is due, of which the first tells the unit, milliseconds or 4096 of
	// them; 35 bits, when it was stored, in milliseconds (397 days of them; an age beyond that is told
	// wrong, nothing else).
	meta uint64
}

const (
	storedBits  = 35
	earlyBits   = 27
	maxEarly    = 1<<earlyBits - 1 // a day and a half in milliseconds, 17 years in the larger unit
	earlyShift  = 12               // from one unit to the other
	negativeBit = 1 << (storedBits + earlyBits + 1)
)

// newEntry makes the entry of a value stored at now that is fresh until freshUntil, with a refresh due
// early before that.
func newEntry[T any](value T, now, freshUntil, window int64, early time.Duration) entry[T] {
	e := entry[T]{value: value, deadline: never}
	if freshUntil < never {
		e.deadline = min(freshUntil+window, never-1)
	}
	e.meta = stored(now) | packEarly(early)<<storedBits
	return e
}

func packEarly(early time.Duration) uint64 {
	ms := max(early.Milliseconds(), 0)
	if ms <= maxEarly {
		return uint64(ms)
	}
	return uint64(min(ms>>earlyShift, maxEarly)) | 1<<earlyBits
}

// negativeEntry makes the entry that says "the source has none" until the deadline.
func negativeEntry[T any](now, deadline int64) entry[T] {
	return entry[T]{deadline: deadline, meta: negativeBit | stored(now)}
}

func stored(now int64) uint64 { return uint64(now/int64(time.Millisecond)) & (1<<storedBits - 1) }

func (e *entry[T]) negative() bool { return e.meta&negativeBit != 0 }

// early is how long before the end of its freshness a refresh is due, in nanoseconds.
func (e *entry[T]) early() int64 {
	packed := e.meta >> storedBits
	return int64(packed&maxEarly<<(packed>>earlyBits&1*earlyShift)) * int64(time.Millisecond)
}

// freshUntil is when the entry stops to be fresh, given the cache's stale window.
func (e *entry[T]) freshUntil(window int64) int64 {
	if e.negative() || e.deadline == never {
		return e.deadline
	}
	return e.deadline - window
}

// age is how long before now the entry was stored, to the millisecond.
func (e *entry[T]) age(now int64) time.Duration {
	return time.Duration((stored(now)-e.meta)&(1<<storedBits-1)) * time.Millisecond
}
