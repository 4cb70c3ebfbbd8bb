package cacheaside

import (
	"time"

	"github.com/cacheaside/cacheaside/internal/table"
)

// entry is what a store keeps under a key: a value, or the news that the source has none. It does not
// change once a store has it. Times are on the cache's clock.
//
// It is packed, since a process may hold millions of them: with a key of 16 bytes, a value of one word makes it a node
// of 48 bytes in the table, and 12 more are what the policy knows of it.
type entry[T any] struct {
	value    T
	deadline int64 // when a store may forget it: the end of its freshness plus the cache's stale window

	// meta holds, from the highest bit down: 1 bit, set for a negative entry; 1 bit, set for one with tags,
	// behind which a pointer to its tagging stands; 24 bits, how long before the end of its freshness a refresh
	// is due, as a floating point number of milliseconds with 3 bits of exponent; 38 bits, when it
	// was stored, in milliseconds (8.7 years of them: the age of what came from Redis ends there).
	meta uint64
}

const (
	storedBits   = 38
	earlyBits    = 21               // exact up to 35 minutes, and to a two-millionth beyond
	maxEarly     = 1<<earlyBits - 1 // with the largest exponent, 139 years
	exponentBits = 3
	maxExponent  = 1<<exponentBits - 1
	exponentStep = 3 // what one more of the exponent shifts by
	taggedBit    = 1 << (storedBits + earlyBits + exponentBits)
	negativeBit  = taggedBit << 1

	// No number of milliseconds is packed as these two, which are marks. Either is on an entry that has no stale window, since it is of
	// no use when its freshness ends. settledMeta is on one that also tells of a marker, see stored_settling.go.
	shortMeta   = maxExponent << (storedBits + earlyBits)
	settledMeta = (maxExponent - 1) << (storedBits + earlyBits)
	earlyMeta   = (1<<(earlyBits+exponentBits) - 1) << storedBits

	// maxAge is the greatest age that an entry can tell.
	maxAge = int64(1<<storedBits-1) * int64(time.Millisecond)
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
	ms, exponent := max(early.Milliseconds(), 0), uint64(0)
	for ms > maxEarly && exponent < maxExponent {
		ms >>= exponentStep
		exponent++
	}
	return uint64(min(ms, maxEarly)) | exponent<<earlyBits
}

// negativeEntry makes the entry that says "the source has none" until the deadline.
func negativeEntry[T any](now, deadline int64) entry[T] {
	return entry[T]{deadline: deadline, meta: negativeBit | stored(now)}
}

func stored(now int64) uint64 { return uint64(now/int64(time.Millisecond)) & (1<<storedBits - 1) }

func (e *entry[T]) negative() bool { return e.meta&negativeBit != 0 }

// tagging returns what is known of the tags of e, nil if it has none. A copy of an entry has lost them.
func (e *entry[T]) tagging() *tagging {
	if e.meta&taggedBit == 0 {
		return nil
	}
	t := e.beside()
	if t.hides {
		return t.under
	}
	return t
}

// beside is the record behind an entry with taggedBit.
func (e *entry[T]) beside() *tagging { return (*tagging)(table.Beside(e)) }

// hidden reports whether a hit does not find e on the short way: a change has declared its key.
func (e *entry[T]) hidden() bool { return e.meta&taggedBit != 0 && e.beside().hides }

// isVoid reports whether a tag is known to have voided e, in memory: there what is known of a tag ends with that.
func (e *entry[T]) isVoid() bool {
	t := e.tagging()
	return t != nil && !t.holds(nil)
}

// taggedEntry is an entry with tags that stands outside of a table.
type taggedEntry[T any] struct {
	entry[T]
	tags *tagging
}

// tagged returns a copy of e with tags.
func tagged[T any](e entry[T], tags *tagging) *entry[T] {
	if tags == nil {
		return &e
	}
	e.meta |= taggedBit
	return &(&taggedEntry[T]{e, tags}).entry
}

// untagged reports whether nothing but its deadline decides about e: it is a value, and has no tags.
func (e *entry[T]) untagged() bool { return e.meta&(negativeBit|taggedBit) == 0 }

// isShort reports whether e has no stale window, though it is a value.
func (e *entry[T]) isShort() bool {
	return e.meta&earlyMeta == shortMeta || e.meta&earlyMeta == settledMeta
}

// early is how long before the end of its freshness a refresh is due, in nanoseconds.
func (e *entry[T]) early() int64 {
	packed := e.meta >> storedBits
	return int64(packed&maxEarly<<(packed>>earlyBits&maxExponent*exponentStep)) * int64(time.Millisecond)
}

// freshUntil is when the entry stops to be fresh, given the cache's stale window.
func (e *entry[T]) freshUntil(window int64) int64 {
	if e.negative() || e.deadline == never || e.isShort() {
		return e.deadline
	}
	return e.deadline - window
}

// age is how long before now the entry was stored, to the millisecond.
func (e *entry[T]) age(now int64) time.Duration {
	return time.Duration((stored(now)-e.meta)&(1<<storedBits-1)) * time.Millisecond
}
