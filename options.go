package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
)

// An Option gives a constructor what a [Config] cannot hold: Go values. Those that carry a type are
// checked by the constructor, which returns an error matching [ErrInvalidConfig] for one of another type
// than the cache's.
type Option func(*options)

// options is what the Options were. Fields of type any hold something of the cache's type T, which only
// the constructor knows.
type options struct {
	codec        any // Codec[T]
	clone        any // func(T) T
	weigher      any // func(string, T) int
	tags         any // func(string, T) []string
	notFound     []error
	observers    []Observer
	logger       *slog.Logger
	rueidis      []any // func(*rueidis.ClientOption), kept untyped so that this file need not import rueidis
	fetchContext func(context.Context) context.Context
	mutated      func(key string)
	lossyJSON    bool
	process      *process // nil: this one
	roundTrip    func(key string, err error)
	bus          *RedisConfig
	scope        func(context.Context) (string, error) // nil: there are no scopes
	schema       *int                                  // the version that WithSchemaVersion names
	err          error                                 // the first bad option
}

func collect(opts []Option) options {
	return options{}.with(opts)
}

// with returns o with further options applied, leaving o as it was.
func (o options) with(opts []Option) options {
	o.notFound = slices.Clip(o.notFound)
	o.rueidis = slices.Clip(o.rueidis)
	o.observers = slices.Clip(o.observers)
	for _, opt := range opts {
		if opt != nil {
			opt(&o)
		}
	}
	return o
}

func (o *options) fail(name, allowed string) {
	if o.err == nil {
		o.err = nilPart(name, allowed)
	}
}

// WithCodec sets how values are written to Redis and read back. Defaults to [JSONCodec], with which a
// constructor refuses a type whose values JSON does not bring back; see [WithLossyJSON].
func WithCodec[T any](codec Codec[T]) Option {
	return func(o *options) {
		if o.codec = codec; codec == nil {
			o.fail("WithCodec", "a codec")
		}
	}
}

// WithLossyJSON says that it is meant if a hit on Redis lacks what JSON does not carry, or carries in another
// form. Without it the constructor of a cache on Redis that uses [JSONCodec] returns [ErrInvalidConfig] for a
// type with
//
//   - fields that are not exported, that the tag json:"-" leaves out, or that share their name in JSON,
//   - fields of an interface type with methods (error, say), of a func, a channel or a complex number,
//   - an embedded pointer to a struct that is not exported,
//   - a type that has MarshalJSON or MarshalText and no counterpart, if not even its zero value can be read back,
//   - a struct whose methods for JSON are those of one that it embeds, and which has other fields,
//   - keys of a map that cannot be written or read.
//
// A type that has both MarshalJSON and UnmarshalJSON, or both of the text methods, is trusted. Types of
// which some values do not come back (an any, a pointer to a pointer) are logged by [WithLogger] at the start,
// and a value that holds a string which is no UTF-8 cannot be encoded. WithLossyJSON switches all of that off:
// then strings that are no UTF-8 come back with U+FFFD, and what cannot be decoded is never a hit.
// It has no effect with another codec, or in memory.
func WithLossyJSON() Option {
	return func(o *options) { o.lossyJSON = true }
}

// WithSchemaVersion makes version, and nothing else, decide which stored values belong to this cache's type:
// those that were stored under another version, or without one, are a miss. Give a new version when the
// stored form of T changes or gets another meaning (seconds become milliseconds). It has no effect in
// memory. Caches of one name must agree on it.
//
// Without it a fingerprint of T decides. With [JSONCodec] that is made of what JSON shows: the names of
// fields, and which of them hold numbers, strings, booleans, lists, maps, structs, or a type with methods of
// its own for JSON. Names of types, pointers, the order of fields, tags of other libraries, fields that JSON
// leaves out, and omitempty may change without a miss. With a codec of your own, all names and tags count.
func WithSchemaVersion(version int) Option {
	return func(o *options) { o.schema = &version }
}

// WithNotFound names the errors that mean "the source has none", sql.ErrNoRows for instance. A fetch's
// error that matches one of them matches [ErrNotFound] too, and is remembered for [Config.NegativeTTL];
// what is returned from that memory matches ErrNotFound and each of errs.
func WithNotFound(errs ...error) Option {
	return func(o *options) {
		for _, err := range errs {
			if err == nil {
				o.fail("WithNotFound", "errors that are not nil")
				return
			}
		}
		o.notFound = append(o.notFound, errs...)
	}
}

// WithClone makes a cache that keeps values in this process hand out clone(value), so that a caller may
// change what it got. Without it such values are shared by all callers and must be taken as read-only.
// clone must be safe for concurrent use. It runs on the goroutine of the caller that gets the clone, and a
// panic is that caller's. In memory, what a fetch returned is cloned before it is kept: a
// panic then fails the lookups that wait for the fetch, with a [*PanicError].
func WithClone[T any](clone func(T) T) Option {
	return func(o *options) {
		if o.clone = clone; clone == nil {
			o.fail("WithClone", "a function")
		}
	}
}

// WithWeigher makes [Config.MaxEntries] a bound on the total weight instead of on the number of entries.
// A weight below 1 counts as 1, and so does a remembered "not found". Weights above 262,144 are rounded up
// to 18 significant bits.
//
// An entry may weigh as much as MaxEntries. A heavier one is not kept: Set returns [ErrInvalidValue], and
// GetWithFetch returns the value unstored (Stats.Unstorable). In a full cache, a fetched value that is far
// heavier than the rest (eight times their mean) is kept only if it is asked for more often than the
// entries that would have to go for it; until then it counts as evicted at once. A value that is Set is
// kept in any case.
//
// On rueidis-aside the weights are those of the near copies: a copy that is too heavy is not kept in this
// process, and read from Redis each time. They do not bound the memory of Redis.
//
// weigh must be safe for concurrent use. The cache calls it without holding a lock, so it may use the cache.
// A weigher that panics makes the value one that cannot be kept.
func WithWeigher[T any](weigh func(key string, value T) int) Option {
	return func(o *options) {
		if o.weigher = weigh; weigh == nil {
			o.fail("WithWeigher", "a function")
		}
	}
}

// WithObserver reports what the cache does to observer; see [Observer], [HitObserver] and [FetchTracer]. It
// may be given several times, for several observers.
func WithObserver(observer Observer) Option {
	return func(o *options) {
		if observer == nil {
			o.fail("WithObserver", "an Observer")
			return
		}
		o.observers = append(o.observers, observer)
	}
}

// WithBus is [Config.Bus] for a Redis that a URL cannot describe: a cluster, or one behind sentinels. It is for the memory
// backend, and given to [Connect] or [Open].
func WithBus(redis RedisConfig) Option {
	return func(o *options) { o.bus = &redis }
}

// WithLogger logs what an operator should know: a backend that went away or came back, failed writes, a
// panic in a fetch, a failed refresh, values that cannot be stored. Each kind of line comes once in ten
// seconds at most, with the number of those left out. No value, key or password is logged, and no text of
// an error that could quote one, such as a source's: an [Observer] gets those whole. Defaults to no logging.
func WithLogger(logger *slog.Logger) Option {
	return func(o *options) {
		if o.logger = logger; logger == nil {
			o.fail("WithLogger", "a logger")
		}
	}
}

// WithFetchContext sets what the context of a fetch is derived from, given that of the caller who
// started it. Everybody who joins the fetch gets its result, so by default that caller's values
// (user, trace, transaction) act for all of them; a cache of what depends on the caller should
// drop them here, or put what it depends on into the key. The cancellation of the returned context
// is ignored.
//
// derive runs on the caller's goroutine, before the fetch begins, and must not block. So it may
// copy a context that a web framework uses again after the request, as gin's Copy does. Without a
// copy, a fetch reads from a context that is not of the standard library only while its caller
// waits, and finds no values there after that. A panic of derive is returned to the caller as a
// [*PanicError].
func WithFetchContext(derive func(context.Context) context.Context) Option {
	return func(o *options) {
		if o.fetchContext = derive; derive == nil {
			o.fail("WithFetchContext", "a function")
		}
	}
}

// typedOption returns an option's value as an F, the zero F if it was not given, and an error if it was
// given for another type than the cache's.
func typedOption[F any](name string, value any) (F, error) {
	typed, ok := value.(F)
	if !ok && value != nil {
		return typed, fmt.Errorf("%w: %s is given a %T, allowed: %v", ErrInvalidConfig, name, value, reflect.TypeFor[F]())
	}
	return typed, nil
}

// isAny reports whether err matches one of targets.
func isAny(err error, targets []error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}
