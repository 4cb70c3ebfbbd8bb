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

// JSONCodec writes values as encoding/json does. It is the default. A value with a string that is no UTF-8 is
// an error unless the cache has [WithLossyJSON]: JSON would replace bytes of it.
func JSONCodec[T any]() Codec[T] { return jsonCodec[T]{} }

// BytesCodec keeps byte slices as they are. What Get returns is a copy that the caller owns on rueidis, and
// that all callers share on rueidis-aside.
func BytesCodec() Codec[[]byte] { return bytesCodec{} }

// aliasCodecID is that of the keys that aliases lead to.
const aliasCodecID = 4

// StringCodec keeps strings as they are.
func StringCodec() Codec[string] { return stringCodec{} }

type jsonCodec[T any] struct{ lossy bool }

func (jsonCodec[T]) ID() byte { return 1 }

func (j jsonCodec[T]) Append(dst []byte, value T) ([]byte, error) {
	before := len(dst)
	dst, err := appendJSON(dst, &value)
	if err == nil && !j.lossy && j.isMended(dst[before:]) {
		return nil, errNoUTF8
	}
	return dst, err
}

// appendJSON writes a value by its address, as it is decoded, so that methods of its pointer count for both.
func appendJSON[T any](dst []byte, value *T) ([]byte, error) {
	b := bytes.NewBuffer(dst)
	if err := json.NewEncoder(b).Encode(value); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

var errNoUTF8 = &plainError{"a string in it is no UTF-8, and JSON would replace bytes of it"}

// isMended reports whether bytes that are no UTF-8 were replaced. encoding/json writes what it puts in their
// place as an escape, and a U+FFFD of the value itself as it is. Only a type with methods of its own for JSON,
// such as json.RawMessage, may have the escape from elsewhere; then it comes back as it was.
func (j jsonCodec[T]) isMended(encoded []byte) bool {
	if !hasEscapedReplacement(encoded) {
		return false
	}
	value, err := j.Decode(encoded)
	if err != nil {
		return false // look-ups will say so
	}
	again, err := appendJSON(nil, &value)
	return err == nil && !bytes.Equal(again, encoded)
}

// hasEscapedReplacement reports whether the escape of U+FFFD stands in JSON, and not as the text of a string
// that has a backslash there.
func hasEscapedReplacement(encoded []byte) bool {
	escape := []byte(`\ufffd`)
	for {
		at := bytes.Index(encoded, escape)
		if at < 0 {
			return false
		}
		before := len(encoded[:at]) - len(bytes.TrimRight(encoded[:at], `\`))
		if before%2 == 0 {
			return true
		}
		encoded = encoded[at+len(escape):]
	}
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
