package cacheaside

import (
	"errors"
	"fmt"
)

var (
	// ErrMiss is returned by [Client.Get] when nothing usable is cached under the key.
	ErrMiss = errors.New("cacheaside: miss")

	// ErrNotFound means that the source has no value for the key. A fetch reports it by returning an
	// error that matches ErrNotFound or a sentinel given to [WithNotFound]; look-ups return it when
	// such an answer is cached (see [Config.NegativeTTL]).
	ErrNotFound = errors.New("cacheaside: not found")

	// ErrInvalidValue means that a value or an argument cannot be used: it cannot be encoded, is over a
	// size limit, or is nil where something is needed. Every error for a nil fetch, function or backend
	// matches it, and those of constructors ErrInvalidConfig as well; that of [Client.Bind] comes from
	// [Loader.Get]. From [Client.Get] together with ErrMiss it means that the stored bytes cannot be
	// decoded.
	ErrInvalidValue = errors.New("cacheaside: invalid value")

	// ErrInvalidTTL is returned by [Client.Set] for a ttl of zero or less.
	ErrInvalidTTL = errors.New("cacheaside: invalid ttl")

	// ErrInvalidKey is returned by every method for a key of more than [MaxKeyBytes] bytes.
	ErrInvalidKey = errors.New("cacheaside: invalid key")

	// ErrInvalidConfig is returned by constructors and [ParseConfig]; the text names the field, the
	// value and what is allowed.
	ErrInvalidConfig = errors.New("cacheaside: invalid configuration")

	// ErrUnavailable means that the backend did not answer, or refused. Get, Set, Delete and Health
	// return it together with the cause; GetWithFetch never does, it fetches instead.
	ErrUnavailable = errors.New("cacheaside: backend unavailable")

	// ErrClosed is returned by every method after Close, and to callers that Close found waiting.
	ErrClosed = errors.New("cacheaside: closed")

	// ErrFetchTimeout is what the callers of a fetch get when it did not end within
	// [Config.FetchTimeout]. It comes together with [context.DeadlineExceeded].
	ErrFetchTimeout = errors.New("cacheaside: fetch timed out")

	// ErrFetchFailed is returned, on rueidis-aside, to callers that have waited for the fetch of another process
	// which has failed. The callers in that process get the error of the fetch itself.
	ErrFetchFailed = errors.New("cacheaside: the fetch of another process failed")

	// ErrReentrant is returned to a fetch that asks, directly or through other fetches, for a key that
	// waits for this very fetch: waiting for it would be a deadlock.
	ErrReentrant = errors.New("cacheaside: fetch asks for its own key")

	// ErrGoexit is what the callers of a fetch get when it ended its goroutine with [runtime.Goexit].
	ErrGoexit = errors.New("cacheaside: fetch called runtime.Goexit")
)

// PanicError is what every caller of a fetch gets when it panicked.
type PanicError struct {
	Value any    // what was given to panic
	Stack []byte // the stack of the fetch at that moment, as [runtime/debug.Stack] prints it
}

// Error names the kind of the panic's value and, if that is an error, nothing of its text: a text may
// hold what must not be logged. Value and Stack have the rest.
func (e *PanicError) Error() string {
	return fmt.Sprintf("cacheaside: fetch panicked with a value of type %T", e.Value)
}

// Unwrap returns the panic's value if it is an error, so that errors.Is finds it.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

func isPanic(err error) bool {
	var panicked *PanicError
	return errors.As(err, &panicked)
}

// notFoundError is a fetch's "not found" made to match [ErrNotFound] as well as itself.
type notFoundError struct{ cause error }

func (e *notFoundError) Error() string { return "cacheaside: not found: " + e.cause.Error() }

func (e *notFoundError) Unwrap() []error { return []error{ErrNotFound, e.cause} }

// goneError is what stands for a "not found" that is remembered, which could be any of the sentinels: it matches
// them all.
func goneError(sentinels []error) error {
	gone := ErrNotFound
	for _, s := range sentinels {
		gone = fmt.Errorf("%w: %w", gone, s)
	}
	return gone
}

// plainError says why a value cannot be stored or read. Its text quotes nothing but numbers and names of
// types, so it may be logged.
type plainError struct{ text string }

func (e *plainError) Error() string { return ErrInvalidValue.Error() + ": " + e.text }

func (e *plainError) Unwrap() error { return ErrInvalidValue }

// tagError says why a tag cannot be one. Its text quotes nothing but numbers, so it may be logged.
type tagError struct{ text string }

func (e *tagError) Error() string { return ErrInvalidTag.Error() + ": " + e.text }

func (e *tagError) Unwrap() error { return ErrInvalidTag }

// fieldError says which field of a Config has a value that it must not have.
func fieldError(field string, value any, allowed string) error {
	return fmt.Errorf("%w: %s is %v, allowed: %s", ErrInvalidConfig, field, value, allowed)
}

// nilArgument is the error of a call that was given nothing where it needs a function.
func nilArgument(name, wanted string) error {
	return fmt.Errorf("%w: %s is nil, allowed: %s", ErrInvalidValue, name, wanted)
}

// nilPart is the error of a constructor that was given nothing where it needs a function or a backend. It
// matches ErrInvalidValue too, as every error for a nil argument does.
func nilPart(name, wanted string) error {
	return fmt.Errorf("%w: %w", ErrInvalidConfig, nilArgument(name, wanted))
}

func unavailable(cause error) error { return fmt.Errorf("%w: %w", ErrUnavailable, cause) }
