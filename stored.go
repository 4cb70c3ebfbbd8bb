package cacheaside

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// The stored form of an entry in Redis is a header and what the codec wrote. All numbers are big-endian.
//
//	 0     0xCA
//	 1     version (high four bits: 1, or 2 with tags) and kind (low four)
//	 2     codec ID
//	 3     flags: 1 if it was fetched while a marker stood, see stored_settling.go
//	 4-7   fingerprint of the value's type
//	 8-15  fresh until, unix milliseconds; the highest int64 is for ever
//	16-23  stored at, unix milliseconds
//	24-27  what the fetch cost, milliseconds
//	28-31  hash of the whole key and of the value's length
//	32-    the value
//
// With tags there stands before the value, as of which moment it was fetched, an epoch and a number of eight bytes each,
// then the number of tags in one byte, and of each its length in two bytes, and the tag.
//
// Bytes that do not begin with 0xCA are a bare payload of the codec, so that what was there before this
// library is readable. No JSON and no UTF-8 text begins with that byte followed by a version of ours.
const (
	headerBytes = 32
	magic       = 0xCA
	version     = 1 << 4
	withTags    = 2 << 4
	versionMask = 0xF0

	tagHeaderBytes = 17
	tagLengthBytes = 2

	kindValue    = 1
	kindNegative = 2
	kindLease    = 3
	kindOutcome  = 4 // of a lease that ended without a value
	kindMask     = 0x0F
)

// form turns entries into their stored form and back.
type form[T any] struct {
	codec       Codec[T]
	fingerprint uint32
	clock       *clock
	window      int64 // the cache's stale window
	maxBytes    int
	early       func(ttl, took time.Duration) time.Duration
}

// encode returns the stored form of e with tags, if that is not nil: a new slice each time, since after a timeout the client
// may still be writing it. took is what fetching the value cost. s is of the marker that stood then, or nil.
func (f *form[T]) encode(key string, e *entry[T], tags *tagging, took time.Duration, s *settling) ([]byte, error) {
	b := make([]byte, headerBytes, headerBytes+64)
	b[0], b[1], b[2] = magic, version|kindValue, f.codec.ID()
	if e.negative() {
		b[1] = version | kindNegative
	}
	binary.BigEndian.PutUint32(b[4:], f.fingerprint)
	binary.BigEndian.PutUint64(b[8:], uint64(f.clock.unixMilli(e.freshUntil(f.window))))
	binary.BigEndian.PutUint64(b[16:], uint64(time.Now().UnixMilli()))
	binary.BigEndian.PutUint32(b[24:], uint32(min(took.Milliseconds(), math.MaxUint32)))
	if s != nil {
		f.putSettling(b, s)
	}
	if tags != nil {
		b[1] = withTags | b[1]&kindMask
		b = tags.append(b)
	}
	before := len(b)
	if !e.negative() {
		var err error
		if b, err = f.append(b, e.value); err != nil {
			return nil, hide("it cannot be encoded", err)
		}
		if len(b) < before || b[0] != magic || b[2] != f.codec.ID() {
			return nil, &plainError{"the codec's Append does not append to dst"}
		}
		if n := len(b) - before; n > f.maxBytes {
			return nil, &plainError{fmt.Sprintf("%d bytes encoded, allowed by MaxValueBytes: %d", n, f.maxBytes)}
		}
	}
	binary.BigEndian.PutUint32(b[28:], seal(key, len(b)))
	return b, nil
}

// errLease is what decode says of a lease, and of the mark that one has left: there is no value yet.
var errLease = fmt.Errorf("%w: a lease", ErrInvalidValue)

// decode reads a stored form, of which nobody else makes use. An error matches ErrInvalidValue; errLease
// stands for a lease.
func (f *form[T]) decode(key string, data []byte) (*entry[T], error) {
	if isMarker(data) {
		return f.markerEntry(string(data)), nil
	}
	if isLease(data) || isMark(data) { // before its size counts: a small limit must not make it unreadable
		return nil, errLease
	}
	bare, n := len(data) == 0 || data[0] != magic, payloadBytes(data)
	switch {
	case n > f.maxBytes:
		return nil, &plainError{fmt.Sprintf("%d bytes stored, allowed by MaxValueBytes: %d", n, f.maxBytes)}
	case bare:
		return f.decodeBare(data)
	}
	if len(data) < headerBytes {
		return nil, &plainError{fmt.Sprintf("%d bytes stored, too few for a header", len(data))}
	}
	if err := f.checkHeader(key, data); err != nil {
		return nil, err
	}
	e, tags, rest := f.times(data), (*tagging)(nil), data[headerBytes:]
	if data[1]&versionMask == withTags {
		if tags, rest = cutTags(rest); tags == nil {
			return nil, &plainError{"stored with tags that make no sense"}
		}
	}
	if !e.negative() {
		var err error
		if e.value, err = f.take(rest); err != nil {
			return nil, undecodable(err)
		}
	}
	switch {
	case isSettling(data):
		return f.settled(e, tags, data), nil
	case tags != nil:
		return tagged(*e, tags), nil
	}
	return e, nil
}

// payloadBytes is how many bytes of data are the value's.
func payloadBytes[B []byte | string](data B) int {
	switch {
	case len(data) == 0 || data[0] != magic:
		return len(data)
	case len(data) < headerBytes+tagHeaderBytes || data[1]&versionMask != withTags:
		return len(data) - headerBytes
	}
	n := headerBytes + tagHeaderBytes
	for range data[n-1] {
		if n+tagLengthBytes > len(data) {
			return 0 // it will be found to make no sense
		}
		n += tagLengthBytes + int(data[n])<<8 + int(data[n+1])
	}
	return len(data) - n
}

// append appends the stored form of t.
func (t *tagging) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, t.asOf.epoch)
	b = binary.BigEndian.AppendUint64(b, t.asOf.sequence)
	b = append(b, byte(len(t.tags)))
	for _, tag := range t.tags {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(tag))), tag...)
	}
	return b
}

// cutTags reads the stored form of tags, and returns what follows. It returns nil for what makes no sense.
func cutTags(data []byte) (t *tagging, rest []byte) {
	if len(data) < tagHeaderBytes {
		return nil, nil
	}
	t = &tagging{asOf: stamp{binary.BigEndian.Uint64(data), binary.BigEndian.Uint64(data[8:])}}
	n := int(data[tagHeaderBytes-1])
	t.tags, rest = make([]string, 0, n), data[tagHeaderBytes:]
	for range n {
		if len(rest) < tagLengthBytes {
			return nil, nil
		}
		length := int(binary.BigEndian.Uint16(rest))
		if rest = rest[tagLengthBytes:]; len(rest) < length {
			return nil, nil
		}
		t.tags, rest = append(t.tags, string(rest[:length])), rest[length:]
	}
	if len(t.tags) == 0 {
		return nil, nil
	}
	return t, rest
}

// append encodes a value. A codec is code of the user, or calls methods of the value: a panic is an error.
func (f *form[T]) append(b []byte, value T) (_ []byte, err error) {
	returned := false
	defer func() {
		if !returned {
			err = abnormal(recover())
		}
	}()
	b, err = f.codec.Append(b, value)
	returned = true
	return b, err
}

// take decodes a value from bytes that need not be copied. A panic of the codec is an error.
func (f *form[T]) take(data []byte) (value T, err error) {
	if t, ok := f.codec.(taker[T]); ok {
		return t.take(data), nil
	}
	returned := false
	defer func() {
		if !returned {
			err = abnormal(recover())
		}
	}()
	value, err = f.codec.Decode(data)
	returned = true
	return value, err
}

func undecodable(err error) error { return hide("the stored bytes cannot be decoded", err) }

// hide hides the text of a codec's error, which may quote the value; errors.As still finds it.
func hide(what string, err error) error {
	if plain := (*plainError)(nil); errors.As(err, &plain) {
		return plain
	}
	return &hiddenError{fmt.Sprintf("%v: %s (%T)", ErrInvalidValue, what, err), err}
}

type hiddenError struct {
	text  string
	cause error
}

func (e *hiddenError) Error() string { return e.text }

func (e *hiddenError) Unwrap() []error { return []error{ErrInvalidValue, e.cause} }

// decodeBare reads a value without a header. It is fresh for as long as Redis keeps it.
func (f *form[T]) decodeBare(data []byte) (*entry[T], error) {
	value, err := f.take(data)
	if err != nil {
		return nil, undecodable(err)
	}
	e := newEntry(value, f.clock.now(), never, f.window, 0)
	return &e, nil
}

func (f *form[T]) checkHeader(key string, data []byte) error {
	kind := data[1] & kindMask
	switch {
	case data[1]&versionMask != version && data[1]&versionMask != withTags || kind != kindValue && kind != kindNegative:
		return &plainError{fmt.Sprintf("stored in an unknown version or kind %#x", data[1])}
	case data[2] != f.codec.ID():
		return &plainError{fmt.Sprintf("stored by codec %d, this cache's is %d", data[2], f.codec.ID())}
	case binary.BigEndian.Uint32(data[4:]) != f.fingerprint:
		return &plainError{"stored as another type, or another shape of the type"}
	case binary.BigEndian.Uint32(data[28:]) != seal(key, len(data)):
		return &plainError{"stored for another key, or truncated"}
	}
	return nil
}

// times makes an entry from a header, without its value.
func (f *form[T]) times(data []byte) *entry[T] {
	freshUntil := int64(binary.BigEndian.Uint64(data[8:]))
	storedAt := int64(binary.BigEndian.Uint64(data[16:]))
	took := time.Duration(binary.BigEndian.Uint32(data[24:])) * time.Millisecond
	present := time.Now() // once: reading the clock is what this costs
	now := int64(present.Sub(f.clock.base))
	age := min(max(0, present.UnixMilli()-storedAt), maxAge/int64(time.Millisecond)) * int64(time.Millisecond)
	end := f.clock.atFrom(present, freshUntil)
	if data[1]&kindMask == kindNegative {
		e := negativeEntry[T](now-age, end)
		return &e
	}
	var zero T
	var early time.Duration
	if freshUntil < math.MaxInt64 {
		early = f.early(time.Duration(freshUntil-storedAt)*time.Millisecond, took)
	}
	e := newEntry(zero, now-age, end, f.window, early)
	return &e
}

func hashKey(key string) uint32 {
	h := uint32(2166136261) // FNV-1a
	for i := range len(key) {
		h = (h ^ uint32(key[i])) * fnvPrime
	}
	return h
}

const fnvPrime = 16777619

// seal tells the entry of a key, of this many bytes, from what was stored for another key, and from a part
// of itself, which for some codecs would be a value too.
func seal(key string, length int) uint32 {
	h := hashKey(key)
	for range 4 {
		h = (h ^ uint32(length&0xFF)) * fnvPrime
		length >>= 8
	}
	return h
}
