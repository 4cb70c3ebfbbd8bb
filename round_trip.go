package cacheaside

import (
	"fmt"
	"reflect"
)

// WithRoundTripCheck is for tests: it finds values that would not come back from Redis as they were. Each value
// that is set or fetched to be kept is encoded by the cache's codec, decoded, and compared with itself; report is
// called with its key and an error if it cannot be encoded or decoded, or differs. The error matches
// [ErrInvalidValue] and names the first field that differs, and never a value. It works on every backend: so
// the tests of a service that run in memory show what a move to Redis would change. For the same reason the
// constructor refuses, and logs, on every backend what it would on Redis; see [WithLossyJSON].
//
// Values are compared field by field. An Equal method of a type decides, as that of time.Time does; a nil slice
// and an empty one differ, and so do an int and a float64 in an any. With [WithLossyJSON] the fields that JSON
// leaves out are not compared.
//
// report is called on the goroutine that stores the value, before it does. It may fail a test or log; it must
// not use the cache.
func WithRoundTripCheck(report func(key string, err error)) Option {
	return func(o *options) {
		if o.roundTrip = report; report == nil {
			o.fail("WithRoundTripCheck", "a function")
		}
	}
}

// checkRoundTrip reports a value that does not survive, if that is asked for.
func (c *Client[T]) checkRoundTrip(key string, value T) {
	if c.opts.roundTrip == nil {
		return
	}
	f := form[T]{codec: c.codec}
	if err := f.roundTrip(value, c.opts.lossyJSON); err != nil {
		c.opts.roundTrip(key, err)
	}
}

func (f *form[T]) roundTrip(value T, lossy bool) error {
	data, err := f.append(nil, value)
	if err != nil {
		return hide("it cannot be encoded", err)
	}
	back, err := f.take(data)
	if err != nil {
		return hide("what it is encoded as cannot be decoded", err)
	}
	_, isJSON := f.codec.(jsonCodec[T])
	c := comparison{lossy: lossy && isJSON, seen: make(map[pointers]bool)}
	if d := c.difference(reflect.ValueOf(&value).Elem(), reflect.ValueOf(&back).Elem(), ""); d != "" {
		return &plainError{fmt.Sprintf("%s of %v is not as it was when it is decoded again", d, reflect.TypeFor[T]())}
	}
	return nil
}
