package cacheaside

import (
	"bytes"
	"encoding/json"
)

// Codec writes values of type T as bytes and reads them back. It must be safe for concurrent use.
type Codec[T any] interface {
	// ID tells the codec's format from others, in the header of every stored value: what was written
	// with another ID is a miss. 0 to 127 are for this package.
	ID() byte

	// Append appends the encoded value to dst and returns the extended slice.
	Append(dst []byte, value T) ([]byte, error)

	// Decode reads what Append has written. data must not be kept or changed.
	Decode(data []byte) (T, error)
}

// JSONCodec writes values as encoding/json does. It is the default.
func JSONCodec[T any]() Codec[T] { return jsonCodec[T]{} }

// BytesCodec keeps byte slices as they are. What Get returns is a copy that the caller owns on rueidis, and
// that all callers share on rueidis-aside.
func BytesCodec() Codec[[]byte] { return bytesCodec{} }

// StringCodec keeps strings as they are.
func StringCodec() Codec[string] { return stringCodec{} }

type jsonCodec[T any] struct{}

func (jsonCodec[T]) ID() byte { return 1 }

func (jsonCodec[T]) Append(dst []byte, value T) ([]byte, error) {
	b := bytes.NewBuffer(dst)
	// By its address, as it is decoded, so that methods of its pointer count for both.
	if err := json.NewEncoder(b).Encode(&value); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func (jsonCodec[T]) Decode(data []byte) (value T, err error) {
	err = json.Unmarshal(data, &value)
	return value, err
}

type bytesCodec struct{}

func (bytesCodec) ID() byte { return 2 }

func (bytesCodec) Append(dst, value []byte) ([]byte, error) { return append(dst, value...), nil }

func (bytesCodec) Decode(data []byte) ([]byte, error) { return append([]byte{}, data...), nil }

// taker is a codec of ours whose values may be made of the very bytes that have come from Redis.
type taker[T any] interface {
	take(data []byte) T
}

func (bytesCodec) take(data []byte) []byte { return data[:len(data):len(data)] }

type stringCodec struct{}

func (stringCodec) ID() byte { return 3 }

func (stringCodec) Append(dst []byte, value string) ([]byte, error) {
	return append(dst, value...), nil
}

func (stringCodec) Decode(data []byte) (string, error) { return string(data), nil }
