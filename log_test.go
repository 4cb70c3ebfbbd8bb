package cacheaside

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// logRecorder is a log that a test can read.
type logRecorder struct {
	recorder // for its lock
	buffer   bytes.Buffer
}

func (l *logRecorder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(p)
}

func (l *logRecorder) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// lines returns what was logged so far, and forgets it.
func (l *logRecorder) lines(t *testing.T) (lines []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.buffer.String()) {
		require.NotContains(t, line, "secret")
		var m map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &m))
		delete(m, "time")
		lines = append(lines, m)
	}
	l.buffer.Reset()
	return lines
}

// await waits until this was logged.
func (l *logRecorder) await(t *testing.T, message string) {
	t.Helper()
	require.Eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return strings.Contains(l.buffer.String(), message)
	}, 10*time.Second, time.Millisecond, message)
}

func TestPanicOfAFetchIsLoggedWithItsStackAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(logRecorder)
		c, err := NewMemory[string](Config{Name: "users"}, WithLogger(l.logger()))
		require.NoError(t, err)
		defer c.Close()
		_, err = c.GetWithFetch(t.Context(), "secret key", time.Minute, panicWithASecret)
		require.Error(t, err)
		lines := l.lines(t)
		require.Len(t, lines, 1)
		require.Equal(t, "ERROR", lines[0]["level"])
		require.Equal(t, "users", lines[0]["cache"])
		require.Equal(t, "cacheaside: fetch panicked with a value of type string", lines[0]["error"])
		require.Contains(t, lines[0]["stack"], "panicWithASecret"[:6])
		require.Contains(t, lines[0]["stack"], "log_test.go")
	})
}

func panicWithASecret(context.Context, string) (string, error) { panic("a secret") }

func TestErrorsThatCallersGetAreNotLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(logRecorder)
		c, err := NewMemory[string](Config{}, WithLogger(l.logger()))
		require.NoError(t, err)
		defer c.Close()
		for _, problem := range []error{errors.New("a secret"), ErrNotFound} {
			_, err = c.GetWithFetch(t.Context(), "k", time.Minute, func(context.Context, string) (string, error) { return "", problem })
			require.ErrorIs(t, err, problem)
		}
		require.Empty(t, l.lines(t))
	})
}

func TestFailedRefreshIsLoggedOnceInAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(logRecorder)
		c, err := NewMemory[string](Config{Name: "users", StaleFor: time.Hour, ErrorCooldown: -1}, WithLogger(l.logger()))
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.Set(t.Context(), "k", "old", time.Second))
		refresh := func() {
			_, err := c.GetWithFetch(t.Context(), "k", time.Minute, func(context.Context, string) (string, error) {
				return "", fmt.Errorf("getting secret: %w", &json.SyntaxError{})
			})
			require.NoError(t, err)
			synctest.Wait()
		}
		elapse(2 * time.Second)
		for range 5 {
			refresh()
		}
		lines := l.lines(t)
		require.Len(t, lines, 1)
		require.Equal(t, map[string]any{
			"level": "WARN",
			"msg":   "cacheaside: refreshing a value in the background failed; the old one stays until it is too old",
			"cache": "users",
			"error": "*json.SyntaxError",
		}, lines[0])
		elapse(logEvery)
		refresh()
		lines = l.lines(t)
		require.Len(t, lines, 1)
		require.EqualValues(t, 4, lines[0]["left_out"])
	})
}

func TestFetchThatDidNotEndInTimeIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(logRecorder)
		c, err := NewMemory[string](Config{FetchTimeout: time.Second}, WithLogger(l.logger()))
		require.NoError(t, err)
		defer c.Close()
		_, err = c.GetWithFetch(t.Context(), "k", time.Minute, func(context.Context, string) (string, error) {
			<-time.After(time.Minute)
			return "", nil
		})
		require.ErrorIs(t, err, ErrFetchTimeout)
		synctest.Wait()
		lines := l.lines(t)
		require.Len(t, lines, 1)
		require.Equal(t, "cacheaside: a fetch did not end within FetchTimeout", lines[0]["msg"])
		elapse(time.Hour)
	})
}

func TestValuesThatCannotBeStoredAreLogged(t *testing.T) {
	redistest.Require(t)
	s := redistest.Start(t)
	cfg, err := ParseConfig(s.URL(BackendRueidis))
	require.NoError(t, err)
	cfg.MaxValueBytes = 100
	for name, tc := range map[string]struct{ value, says any }{
		"too large":     {strings.Repeat("secret", 100), "cacheaside: invalid value: 602 bytes encoded, allowed by MaxValueBytes: 100"},
		"not encodable": {math.NaN(), "cacheaside: invalid value: it cannot be encoded (*json.UnsupportedValueError)"},
	} {
		t.Run(name, func(t *testing.T) {
			l := new(logRecorder)
			c, err := Open[any](t.Context(), cfg, WithLogger(l.logger()), WithLossyJSON())
			require.NoError(t, err)
			defer c.Close()
			_, err = c.GetWithFetch(t.Context(), "secret key", time.Minute, func(context.Context, string) (any, error) { return tc.value, nil })
			require.NoError(t, err)
			lines := l.lines(t)
			require.Len(t, lines, 1)
			require.Equal(t, tc.says, lines[0]["error"])
		})
	}
}

func TestTroubleWithTheBackendIsLoggedWithoutTheCommand(t *testing.T) {
	redistest.Require(t)
	s := redistest.Start(t)
	cfg, err := ParseConfig(s.URL(BackendRueidis))
	require.NoError(t, err)
	l := new(logRecorder)
	c, err := Open[string](t.Context(), cfg, WithLogger(l.logger()))
	require.NoError(t, err)
	defer c.Close()
	s.FillMemory()
	require.ErrorIs(t, c.Set(t.Context(), "secret key", "secret value", time.Minute), ErrUnavailable)
	s.FreeMemory()
	lines := l.lines(t)
	require.Len(t, lines, 1)
	require.Equal(t, "ERROR", lines[0]["level"])
	require.Equal(t, "cacheaside: backend unavailable: Redis replied OOM", lines[0]["error"])

	s.Kill()
	_, err = c.GetWithFetch(t.Context(), "secret key", time.Minute, func(context.Context, string) (string, error) { return "v", nil })
	require.NoError(t, err)
	l.await(t, "cacheaside: the backend did not answer, or refused; going on without it")
	l.await(t, "cacheaside: Redis does not answer; fetching without it until it does")
	s.Restart()
	l.await(t, "cacheaside: Redis answers again")
	l.lines(t) // none with a secret
}

func TestARefusalOfTrackingAtAReconnectIsNamedInTheLog(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.User("app", ">secret", "+@all", "~*", "&*"))
	cfg := asideConfig(t, s, BackendRueidisAside)
	cfg.OpTimeout = 50 * time.Millisecond
	l := new(logRecorder)
	c := openAside[string](t, cfg, WithLogger(l.logger()))
	s.Must("ACL", "SETUSER", "app", "-client|tracking")
	s.KillClients()
	require.Eventually(t, func() bool {
		_, err := c.GetWithFetch(t.Context(), key, time.Minute, func(context.Context, string) (string, error) { return "v", nil })
		require.NoError(t, err)
		return describeError(c.Health(t.Context())) == "cacheaside: backend unavailable: Redis replied NOPERM to CLIENT TRACKING"
	}, 20*time.Second, time.Millisecond)
	s.Must("ACL", "SETUSER", "app", "+client|tracking")
	l.await(t, "cacheaside: Redis answers again")
	for _, line := range l.lines(t) {
		require.NotContains(t, fmt.Sprint(line["error"]), "errorString")
	}
}

func TestInvalidationsThatFailAreLogged(t *testing.T) {
	recorder := new(logRecorder)
	l := newLog(recorder.logger(), "")
	l.Observe(Event{Kind: EventInvalidationFailed, Cache: "users", Err: unavailable(io.EOF)})
	l.Observe(Event{Kind: EventInvalidationLost, Cache: "users", Err: unavailable(io.EOF)})
	lines := recorder.lines(t)
	require.Len(t, lines, 2)
	require.Equal(t, "WARN", lines[0]["level"])
	require.Contains(t, lines[0]["msg"], "trying again")
	require.Equal(t, "ERROR", lines[1]["level"], "an old value stays")
	require.Contains(t, lines[1]["msg"], "could not be removed")
	require.Equal(t, "users", lines[1]["cache"])
}

func TestLogSaysThatRedisIsBackOnlyIfItSaidThatItWasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		recorder := new(logRecorder)
		l := newLog(recorder.logger(), "")
		for range 3 {
			l.Observe(Event{Kind: EventBackendDown, Err: io.EOF})
			l.Observe(Event{Kind: EventBackendUp})
		}
		lines := recorder.lines(t)
		require.Len(t, lines, 2, "a connection that comes and goes must not fill the log")
		require.Equal(t, "EOF", lines[0]["error"])
		require.Equal(t, "INFO", lines[1]["level"])
		elapse(logEvery)
		l.Observe(Event{Kind: EventBackendDown, Err: io.EOF})
		l.Observe(Event{Kind: EventBackendUp})
		require.Len(t, recorder.lines(t), 2)
	})
}

func TestALineInTheLogHidesNoneOfAnotherCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		recorder := new(logRecorder)
		l := newLog(recorder.logger(), "")
		failing := func(err error) { l.Observe(Event{Kind: EventBackendError, Err: unavailable(err)}) }
		refused := fmt.Errorf("NOPERM secret: [CLIENT TRACKING ON]\n%w", rueidis.ErrNoCache)
		for range 3 {
			failing(io.EOF)
			failing(refused)
		}
		lines := recorder.lines(t)
		require.Len(t, lines, 2)
		require.Contains(t, lines[1]["error"], "Redis replied NOPERM to CLIENT TRACKING")
		elapse(logEvery)
		failing(refused)
		lines = recorder.lines(t)
		require.Len(t, lines, 1)
		require.EqualValues(t, 2, lines[0]["left_out"])

		elapse(logEvery)
		const causes = 100
		logged, leftOut := 0, 0.0
		for range 3 {
			for i := range causes {
				failing(syscall.Errno(i + 1))
			}
			for _, line := range recorder.lines(t) {
				logged++
				n, _ := line["left_out"].(float64)
				leftOut += n
			}
			require.LessOrEqual(t, logged, maxLogCauses, "many causes must not fill the log")
		}
		for i := range maxLogCauses {
			elapse(logEvery)
			failing(syscall.Errno(i + 1))
			for _, line := range recorder.lines(t) {
				logged++
				n, _ := line["left_out"].(float64)
				leftOut += n
			}
		}
		require.EqualValues(t, 3*causes+maxLogCauses+2, float64(logged)+leftOut, "each that was left out is counted, the two of the beginning too")
	})
}

func TestErrorsAreDescribedWithoutQuotingAnybody(t *testing.T) {
	secret := errors.New("a secret")
	for want, err := range map[string]error{
		"":                    nil,
		"*errors.errorString": secret,
		"cacheaside: backend unavailable: *errors.errorString":                                unavailable(secret),
		"cacheaside: backend unavailable: connection refused":                                 unavailable(fmt.Errorf("a secret: %w", syscall.ECONNREFUSED)),
		"cacheaside: fetch timed out: context deadline exceeded":                              fmt.Errorf("%w: %w", ErrFetchTimeout, context.DeadlineExceeded),
		"cacheaside: invalid value: the stored bytes cannot be decoded (*errors.errorString)": undecodable(secret),
		"EOF: *errors.errorString":                                                            errors.Join(io.EOF, secret),
		"cacheaside: backend unavailable: " + errSpeaksTLS.Error():                            unavailable(fmt.Errorf("a secret: %w", errSpeaksTLS)),
		"cacheaside: backend unavailable: one of its tags is being invalidated":               unavailable(errTagsWait),
		"cacheaside: invalid tag: it is empty, allowed: 1 to 1024 bytes":                      checkTag(""),
		"the server does not speak RESP3":                                                     rueidis.ErrNoCache,
		"Redis replied NOPERM to CLIENT TRACKING":                                             fmt.Errorf("NOPERM secret: [CLIENT TRACKING ON]\n%w", rueidis.ErrNoCache),
	} {
		require.Equal(t, want, describeError(err))
	}
	require.Less(t, len(describeError(errors.Join(make100(secret)...))), 200)
}

func make100(err error) []error {
	errs := make([]error, 100)
	for i := range errs {
		errs[i] = err
	}
	return errs
}

func TestATTLWithoutAUnitIsToldOnce(t *testing.T) {
	recorder := new(logRecorder)
	c := newTestCache[string](t, Config{}, WithLogger(recorder.logger()))
	fetch := func(context.Context, string) (string, error) { return "v", nil }
	require.NoError(t, c.Set(t.Context(), "a", "v", time.Millisecond))
	require.NoError(t, c.Set(t.Context(), "b", "v", NoExpiry))
	require.Empty(t, recorder.lines(t))
	for range 3 {
		require.NoError(t, c.Set(t.Context(), "c", "v", 30))
		_, err := c.GetWithFetch(t.Context(), "d", 60, fetch)
		require.NoError(t, err)
	}
	lines := recorder.lines(t)
	require.Len(t, lines, 1)
	require.Equal(t, "WARN", lines[0]["level"])
	require.Contains(t, lines[0]["msg"], "30*time.Second")
	require.NotContains(t, fmt.Sprint(lines[0]), "\"v\"")
}
