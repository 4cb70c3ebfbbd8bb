package cacheaside

// Codec writes values of type T as bytes and reads them back.
type Codec[T any] interface {
	// ID tells the codec's format from others, in the header of every stored value. 0 to 127 are for
	// this package.
	ID() byte

	// Append appends the encoded value to dst and returns the extended slice.
	Append(dst []byte, value T) ([]byte, error)

	// Decode reads what Append has written. data is valid during the call only.
	Decode(data []byte) (T, error)
}
