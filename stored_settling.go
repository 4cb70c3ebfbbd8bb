package cacheaside

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"time"
	"unsafe"
)

// A marker stands in Redis in the place of a value that was removed. It has the form of the mark that a lease leaves, with an
// outcome of its own, so that a process which knows no markers takes it for absent. The mark's text says when the key
// was removed, in unix milliseconds, and for how long it stands, in letters of five bits; the rest of it is at random.
//
// What is fetched while a marker stands takes its place, and goes with it. It has a flag, and tells in the place of what the fetch
// cost how many milliseconds the removal was before it was stored, and its end is before the marker's, two bytes each.
const (
	settles outcome = 'S'

	markerAt     = markTextAt
	markerLasts  = markerAt + 9
	markerRandom = markerLasts + 4

	flagAt       = 3
	settlingFlag = 1
)

// newMarker returns the marker of a key that was removed at this time, in unix milliseconds.
func newMarker(at int64, lasts time.Duration) string {
	b := []byte{magic, version | kindOutcome, byte(settles)}
	b = appendLetters(b, uint64(max(at, 0)), markerLasts-markerAt)
	b = appendLetters(b, uint64(max(lasts.Milliseconds(), 0)), markerRandom-markerLasts)
	return string(appendLetters(b, rand.Uint64(), markBytes-markerRandom))
}

// appendLetters appends the lowest bits of n, five to a letter.
func appendLetters(b []byte, n uint64, letters int) []byte {
	for i := letters - 1; i >= 0; i-- {
		b = append(b, tokenLetters[n>>(5*i)&31])
	}
	return b
}

func readLetters[B []byte | string](data B) (n int64) {
	for i := range len(data) {
		n = n<<5 | int64(strings.IndexByte(tokenLetters, data[i]))
	}
	return n
}

func isMarker[B []byte | string](data B) bool {
	return isMark(data) && outcome(data[markOutcomeAt]) == settles
}

// isSettling reports whether data is a value that was fetched while a marker stood.
func isSettling[B []byte | string](data B) bool {
	return len(data) >= headerBytes && data[0] == magic && data[flagAt]&settlingFlag != 0
}

// settledEntry is an entry that stands outside of a table, and what its marker tells. That of the marker itself has no value, and its
// time is over.
type settledEntry[T any] struct {
	taggedEntry[T]
	settling settling
}

// markerEntry is what a lookup makes of a marker.
func (f *form[T]) markerEntry(marker string) *entry[T] {
	at, lasts := readLetters(marker[markerAt:markerLasts]), readLetters(marker[markerLasts:markerRandom])
	e := &settledEntry[T]{settling: f.settlingSince(at, at+lasts)}
	e.meta = settledMeta | stored(e.settling.since)
	return &e.entry
}

// settlingSince is a time after a removal, in unix milliseconds, on the clock of this process. Where the clocks of two processes
// differ it is neither in the future, nor over: the marker stands.
func (f *form[T]) settlingSince(at, until int64) settling {
	present := time.Now()
	lasts := min(max(until-at, 0), int64(2*maxSettle/time.Millisecond))
	age := min(max(present.UnixMilli()-at, 0), lasts)
	since := int64(present.Sub(f.clock.base)) - age*int64(time.Millisecond)
	return settling{since, since + lasts*int64(time.Millisecond)}
}

// settled is e, whose stored form is data, with what that tells of its marker.
func (f *form[T]) settled(e *entry[T], tags *tagging, data []byte) *entry[T] {
	freshUntil, storedAt := int64(binary.BigEndian.Uint64(data[8:])), int64(binary.BigEndian.Uint64(data[16:]))
	at := storedAt - int64(binary.BigEndian.Uint16(data[24:]))
	until := freshUntil + int64(binary.BigEndian.Uint16(data[26:]))
	s := &settledEntry[T]{taggedEntry: taggedEntry[T]{*e, tags}, settling: f.settlingSince(at, until)}
	s.deadline = e.freshUntil(f.window)
	s.meta = e.meta&^earlyMeta | settledMeta
	if tags != nil {
		s.meta |= taggedBit
	}
	return &s.entry
}

// putSettling makes b, the header of a stored form, that of a value which was fetched while a marker stood.
func (f *form[T]) putSettling(b []byte, s *settling) {
	at, until := f.clock.unixMilli(s.since), f.clock.unixMilli(s.until)
	b[flagAt] |= settlingFlag
	binary.BigEndian.PutUint16(b[24:], milliseconds16(int64(binary.BigEndian.Uint64(b[16:]))-at))
	binary.BigEndian.PutUint16(b[26:], milliseconds16(until-int64(binary.BigEndian.Uint64(b[8:]))))
}

func milliseconds16(ms int64) uint16 { return uint16(min(max(ms, 0), 1<<16-1)) }

// settling returns what e, which a lookup in Redis has returned, tells of its marker; nil if it has none.
func (e *entry[T]) settling() *settling {
	if e == nil || e.meta&earlyMeta != settledMeta {
		return nil
	}
	return &(*settledEntry[T])(unsafe.Pointer(e)).settling
}

// isMarker reports whether e is what a lookup has made of a marker, and no value.
func (e *entry[T]) isMarker() bool { return e.settling() != nil && e.deadline == 0 }
