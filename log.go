package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// log is the Observer behind [WithLogger].
//
// What an operator's log shows is read by more people than may see the data, so nothing gets into it that
// could quote a key or a value: of an error that comes from outside of this package, only its type.
type log struct {
	logger *slog.Logger
	values string // the name of the values' type
	limits [logLines]logLimit
	down   atomic.Bool // the log says that the backend is down
}

// logLine is a kind of line; each is limited apart from the others.
type logLine int

const (
	logPanic logLine = iota
	logTimeout
	logRefresh
	logUnreadable
	logUnstorable
	logDown // this and the following are of the backend
	logRefused
	logBackendError
	logWriteFailed
	logInvalidationFailed
	logInvalidationLost
	logFeedLost
	logLines
)

func newLog(logger *slog.Logger, values string) *log { return &log{logger: logger, values: values} }

func (l *log) ofType() slog.Attr { return slog.String("type", l.values) }

// Observe logs what is worth it.
func (l *log) Observe(e Event) {
	switch e.Kind {
	case EventFetch:
		l.fetch(e)
	case EventUnreadable:
		l.line(logUnreadable, slog.LevelWarn, "cacheaside: stored bytes cannot be read as a value of the cache's type, so the look-up is a miss", e, l.ofType())
	case EventUnstorable:
		l.line(logUnstorable, slog.LevelWarn, "cacheaside: a fetched value cannot be stored, so every look-up of its key fetches", e, l.ofType())
	case EventBackendError:
		l.line(logBackendError, slog.LevelWarn, "cacheaside: the backend did not answer, or refused; going on without it", e)
	case EventWriteFailed:
		l.line(logWriteFailed, slog.LevelError, "cacheaside: a Set, Delete or Clear failed; what was there before may be returned until it expires", e)
	case EventInvalidationFailed:
		l.line(logInvalidationFailed, slog.LevelWarn, "cacheaside: what Mutate changed is not removed from the backend yet; trying again", e)
	case EventInvalidationLost:
		l.line(logInvalidationLost, slog.LevelError, "cacheaside: what Mutate changed could not be removed from the backend; the old value may be returned until it expires", e)
	case EventBackendDown:
		if isRefused(e.Err) {
			if l.line(logRefused, slog.LevelError, "cacheaside: Redis refuses this client; fetching without it until it does not", e) {
				l.down.Store(true)
			}
			return
		}
		down := l.line(logDown, slog.LevelWarn, "cacheaside: Redis does not answer; fetching without it until it does", e)
		l.down.Store(down)
	case EventFeedLost:
		l.line(logFeedLost, slog.LevelWarn, "cacheaside: a feed may have missed changes; keeping nothing until it tells again", e)
	case EventBackendUp:
		if l.down.Swap(false) {
			l.logger.LogAttrs(context.Background(), slog.LevelInfo, "cacheaside: Redis answers again")
		}
	}
}

// fetch logs what nobody may be there to learn of: a failure that everybody was shielded from, or that is a
// bug. Any other error is returned to a caller, who knows better what it means.
func (l *log) fetch(e Event) {
	switch outcome := e.Outcome(); {
	case outcome == "panic":
		l.line(logPanic, slog.LevelError, "cacheaside: a fetch panicked or ended its goroutine", e)
	case outcome == "timeout":
		l.line(logTimeout, slog.LevelWarn, "cacheaside: a fetch did not end within FetchTimeout", e, slog.Duration("after", e.Duration))
	case outcome == "error" && e.Background:
		l.line(logRefresh, slog.LevelWarn, "cacheaside: refreshing a value in the background failed; the old one stays until it is too old", e)
	}
}

// line logs one line, unless there was one of its kind and cause a short while ago, and reports whether it did.
func (l *log) line(kind logLine, level slog.Level, message string, e Event, attrs ...slog.Attr) bool {
	ctx := context.Background()
	if !l.logger.Enabled(ctx, level) {
		return false
	}
	cause := describeError(e.Err)
	leftOut, ok := l.limits[kind].allow(cause, kind.causes(), time.Now())
	if !ok {
		return false
	}
	if e.Cache != "" {
		attrs = append(attrs, slog.String("cache", e.Cache))
	}
	attrs = append(attrs, slog.String("error", cause))
	var panicked *PanicError
	if errors.As(e.Err, &panicked) {
		attrs = append(attrs, slog.String("stack", string(panicked.Stack)))
	}
	if leftOut > 0 {
		attrs = append(attrs, slog.Int("left_out", leftOut))
	}
	l.logger.LogAttrs(ctx, level, message, attrs...)
	return true
}

// describeError says of err what can be said without quoting anybody: the texts of errors that are known to
// hold nothing but what they say, and the types of all others, from the outside to the cause.
func describeError(err error) string {
	var parts []string
	describeParts(err, &parts)
	return strings.Join(parts, ": ")
}

// maxErrorParts keeps a line readable that tells of many errors joined.
const maxErrorParts = 8

func describeParts(err error, parts *[]string) {
	if err == nil || len(*parts) >= maxErrorParts {
		return
	}
	text, leaf := describeOne(err)
	if text != "" {
		*parts = append(*parts, text)
	}
	if leaf {
		return
	}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		describeParts(e.Unwrap(), parts)
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			describeParts(inner, parts)
		}
	}
}

// describeOne describes err apart from what it wraps. With leaf, that adds nothing.
func describeOne(err error) (text string, leaf bool) {
	if slices.Contains([]error{
		ErrMiss, ErrNotFound, ErrInvalidValue, ErrUnavailable, ErrClosed, ErrFetchTimeout, ErrReentrant, ErrGoexit,
		errConnectionLost, errSpeaksTLS, errSpeaksPlain, errTagsWait, errStrangeMarks, context.Canceled, context.DeadlineExceeded, io.EOF, io.ErrUnexpectedEOF,
	}, err) {
		return err.Error(), true
	}
	switch e := err.(type) {
	case *plainError:
		return e.Error(), true
	case *tagError:
		return e.Error(), true
	case *PanicError:
		return e.Error(), true
	case *hiddenError:
		return e.Error(), true
	case *shortened:
		return "", false
	case *credentialsError:
		return "AuthCredentialsFn", false
	case syscall.Errno:
		return e.Error(), true
	}
	if code := replyCode(err); code != "" {
		return "Redis replied " + code, true
	}
	if text := clientError(err); text != "" {
		return text, true
	}
	switch name := fmt.Sprintf("%T", err); name {
	case "*fmt.wrapError", "*fmt.wrapErrors", "*errors.joinError":
		return "", false // says nothing apart from its text and what it wraps
	default:
		return name, false
	}
}

// shortestMeant is the shortest TTL that is likely to be meant: a value is kept for a millisecond at least.
const shortestMeant = time.Microsecond

// logShortTTL tells of a TTL that is most likely a number without its unit, 30 instead of 30*time.Second.
func logShortTTL(logger *slog.Logger, cache string, ttl time.Duration) {
	logger.Warn("cacheaside: a value was given a TTL of nanoseconds; a unit may be missing, as in 30*time.Second",
		"cache", cache, "ttl", ttl)
}
