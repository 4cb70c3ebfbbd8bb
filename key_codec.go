package cacheaside

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strconv"
)

// KeyCodec turns keys of the type K into strings and back, for [Keyed]. Two keys that differ never have the
// same string, and Parse returns the key that Append has written. An Append that cannot write a key panics:
// the call then fails with [ErrInvalidKey]. Both methods may be called by several goroutines at once.
type KeyCodec[K any] interface {
	// Append appends the string of k to b and returns the extended slice. It keeps neither.
	Append(b []byte, k K) []byte

	// Parse returns the key whose string is s.
	Parse(s string) (K, error)
}

// IntKeys writes integers as decimal numbers: 42 as "42".
func IntKeys[K ~int | ~int32 | ~int64 | ~uint | ~uint32 | ~uint64]() KeyCodec[K] {
	return intKeys[K]{kind: integerKind[K]()}
}

// StringKeys uses strings as they are.
func StringKeys[K ~string]() KeyCodec[K] { return stringKeys[K]{} }

// TextKeys writes keys by their MarshalText, or AppendText if they have one, and reads them by
// UnmarshalText: a uuid.UUID, a netip.Addr and the like.
func TextKeys[K encoding.TextMarshaler, P interface {
	*K
	encoding.TextUnmarshaler
}]() KeyCodec[K] {
	return textKeys[K, P]{}
}

// keyKind is how a key is read without its codec.
type keyKind uint8

const (
	codedKey keyKind = iota // by nothing but its codec
	stringKey
	int64Key
	int32Key
	uint64Key
	uint32Key
)

// integerKind returns the kind of a type of integers.
func integerKind[K any]() keyKind {
	t := reflect.TypeFor[K]()
	switch {
	case t.Kind() >= reflect.Uint && t.Size() == 4:
		return uint32Key
	case t.Kind() >= reflect.Uint:
		return uint64Key
	case t.Size() == 4:
		return int32Key
	}
	return int64Key
}

type intKeys[K ~int | ~int32 | ~int64 | ~uint | ~uint32 | ~uint64] struct{ kind keyKind }

func (i intKeys[K]) isSigned() bool { return i.kind == int64Key || i.kind == int32Key }

func (i intKeys[K]) Append(b []byte, k K) []byte {
	if i.isSigned() {
		return strconv.AppendInt(b, int64(k), 10)
	}
	return strconv.AppendUint(b, uint64(k), 10)
}

// Parse takes the one form that Append writes: no sign of a positive number, no zeros in front.
func (i intKeys[K]) Parse(s string) (k K, err error) {
	if i.isSigned() {
		var n int64
		n, err = strconv.ParseInt(s, 10, 64)
		k = K(n)
	} else {
		var n uint64
		n, err = strconv.ParseUint(s, 10, 64)
		k = K(n)
	}
	if err != nil || string(i.Append(nil, k)) != s {
		return 0, fmt.Errorf("%w: %d bytes that are no decimal %v", ErrInvalidKey, len(s), reflect.TypeFor[K]())
	}
	return k, nil
}

type stringKeys[K ~string] struct{}

func (stringKeys[K]) Append(b []byte, k K) []byte { return append(b, k...) }

func (stringKeys[K]) Parse(s string) (K, error) { return K(s), nil }

type textKeys[K encoding.TextMarshaler, P interface {
	*K
	encoding.TextUnmarshaler
}] struct{}

func (textKeys[K, P]) Append(b []byte, k K) []byte {
	var err error
	if a, ok := any(k).(encoding.TextAppender); ok {
		b, err = a.AppendText(b)
	} else {
		var text []byte
		text, err = k.MarshalText()
		b = append(b, text...)
	}
	if err != nil {
		panic(unwritableKeyError{err})
	}
	return b
}

func (textKeys[K, P]) Parse(s string) (k K, err error) {
	if err := P(&k).UnmarshalText([]byte(s)); err != nil {
		return k, fmt.Errorf("%w: no text of a %v: %w", ErrInvalidKey, reflect.TypeFor[K](), err)
	}
	return k, nil
}

// unwritableKeyError is what the Append of [TextKeys] panics with, so that the call fails with the marshaler's error
// and not with a stack.
type unwritableKeyError struct{ error }

func (u unwritableKeyError) Unwrap() error { return u.error }

// keyString returns the string of k. A codec is code of the user: a panic is an error, and so is a string that
// Parse reads as another key, since two keys would share an entry.
func keyString[K comparable](keys KeyCodec[K], k K) (s string, err error) {
	returned := false
	defer func() {
		if !returned {
			err = badKey[K](recover())
		}
	}()
	s = string(keys.Append(nil, k))
	back, err := keys.Parse(s)
	returned = true
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: the codec of %v does not read what it has written: %w", ErrInvalidKey, reflect.TypeFor[K](), err)
	case back != k:
		return "", fmt.Errorf("%w: the codec of %v reads another key than it has written; the strings of two keys must differ",
			ErrInvalidKey, reflect.TypeFor[K]())
	}
	return s, nil
}

// parseKey returns the key whose string is s.
func parseKey[K comparable](keys KeyCodec[K], s string) (k K, err error) {
	returned := false
	defer func() {
		if !returned {
			err = badKey[K](recover())
		}
	}()
	k, err = keys.Parse(s)
	returned = true
	if err != nil && !errors.Is(err, ErrInvalidKey) {
		err = fmt.Errorf("%w: %w", ErrInvalidKey, err)
	}
	return k, err
}

// badKey is the error of a codec that has panicked with v, or ended its goroutine if v is nil.
func badKey[K any](v any) error {
	if u, ok := v.(unwritableKeyError); ok {
		return fmt.Errorf("%w: a %v: %w", ErrInvalidKey, reflect.TypeFor[K](), u.error)
	}
	return fmt.Errorf("%w: the codec of %v failed: %w", ErrInvalidKey, reflect.TypeFor[K](), abnormal(v))
}
