package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSentinelsAreDistinct(t *testing.T) {
	all := []error{
		ErrMiss, ErrNotFound, ErrInvalidValue, ErrInvalidTTL, ErrInvalidKey, ErrInvalidConfig,
		ErrUnavailable, ErrClosed, ErrFetchTimeout, ErrReentrant, ErrGoexit, ErrFetchFailed,
	}
	texts := make(map[string]bool)
	for i, a := range all {
		require.True(t, strings.HasPrefix(a.Error(), "cacheaside: "), a)
		texts[a.Error()] = true
		for j, b := range all {
			require.Equal(t, i == j, errors.Is(a, b))
		}
	}
	require.Len(t, texts, len(all))
}

func TestBothHalvesOfAnErrorAreFound(t *testing.T) {
	refused := &customError{syscall.ECONNREFUSED}
	for _, err := range []error{unavailable(refused), fmt.Errorf("get: %w", unavailable(refused))} {
		require.ErrorIs(t, err, ErrUnavailable)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		var custom *customError
		require.ErrorAs(t, err, &custom)
		require.Same(t, refused, custom)
	}
	gone := &notFoundError{cause: refused}
	require.ErrorIs(t, gone, ErrNotFound)
	require.ErrorIs(t, gone, syscall.ECONNREFUSED)
	require.EqualError(t, gone, "cacheaside: not found: of my own")

	bad := undecodable(refused)
	require.ErrorIs(t, bad, ErrInvalidValue)
	require.ErrorIs(t, bad, syscall.ECONNREFUSED)
	require.NotContains(t, bad.Error(), "of my own", "a decoder's text may quote the value")
	require.ErrorContains(t, bad, "*cacheaside.customError")
}

type customError struct{ cause error }

func (e *customError) Error() string { return "of my own" }

func (e *customError) Unwrap() error { return e.cause }

func TestPanicErrorPrintsNoValue(t *testing.T) {
	for _, value := range []any{
		"secret", errors.New("secret"), struct{ password string }{"secret"}, &customError{errors.New("secret")}, []byte("secret"), 0xC0FFEE,
	} {
		err := fmt.Errorf("wrapped: %w", &PanicError{Value: value, Stack: []byte("secret stack")})
		for _, verb := range []string{"%v", "%s", "%+v", "%q"} {
			printed := fmt.Sprintf(verb, err)
			require.NotContains(t, printed, "secret")
			require.NotContains(t, printed, fmt.Sprint(0xC0FFEE))
			require.Contains(t, printed, fmt.Sprintf("%T", value))
		}
		var panicked *PanicError
		require.ErrorAs(t, err, &panicked)
		require.Equal(t, value, panicked.Value)
		if cause, ok := value.(error); ok {
			require.ErrorIs(t, err, cause)
			require.Same(t, cause, panicked.Unwrap())
		} else {
			require.NoError(t, panicked.Unwrap())
		}
	}
	require.NotErrorIs(t, &PanicError{Value: "x"}, ErrGoexit)
}

func TestAPanicWithNilIsAPanic(t *testing.T) {
	c := newTestCache[int](t, Config{})
	_, err := c.GetWithFetch(context.Background(), key, time.Minute, func(context.Context, string) (int, error) { panic(nil) })
	var panicked *PanicError
	require.ErrorAs(t, err, &panicked)
}

// newTestCache opens a memory cache, and closes it in the end.
func newTestCache[T any](t testing.TB, cfg Config, opts ...Option) *Client[T] {
	t.Helper()
	c, err := NewMemory[T](cfg, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// calls are the methods of a cache that can fail, each with an ordinary call.
func calls(c *Client[int]) map[string]func(ctx context.Context, key string, ttl time.Duration, fetch FetchFunc[int]) error {
	type call = func(context.Context, string, time.Duration, FetchFunc[int]) error
	return map[string]call{
		"Get": func(ctx context.Context, key string, _ time.Duration, _ FetchFunc[int]) error {
			_, err := c.Get(ctx, key)
			return err
		},
		"Set": func(ctx context.Context, key string, ttl time.Duration, _ FetchFunc[int]) error {
			return c.Set(ctx, key, 1, ttl)
		},
		"Delete": func(ctx context.Context, key string, _ time.Duration, _ FetchFunc[int]) error {
			return c.Delete(ctx, key)
		},
		"GetWithFetch": func(ctx context.Context, key string, ttl time.Duration, fetch FetchFunc[int]) error {
			_, err := c.GetWithFetch(ctx, key, ttl, fetch)
			return err
		},
		"Lookup": func(ctx context.Context, key string, ttl time.Duration, fetch FetchFunc[int]) error {
			_, err := c.Lookup(ctx, key, ttl, fetch)
			return err
		},
		"Loader.Get": func(ctx context.Context, key string, ttl time.Duration, fetch FetchFunc[int]) error {
			_, err := c.Bind(ttl, fetch).Get(ctx, key)
			return err
		},
		"Health": func(ctx context.Context, _ string, _ time.Duration, _ FetchFunc[int]) error { return c.Health(ctx) },
		"Clear":  func(ctx context.Context, _ string, _ time.Duration, _ FetchFunc[int]) error { return c.Clear(ctx) },
	}
}

func TestBadCallsAreErrorsOfTheirKind(t *testing.T) {
	fetch := func(context.Context, string) (int, error) { return 1, nil }
	ctx := context.Background()
	for _, backend := range []string{BackendMemory, BackendNoop} {
		c, err := Open[int](ctx, Config{Backend: backend})
		require.NoError(t, err)
		for name, call := range calls(c) {
			takesKey := name != "Health" && name != "Clear"
			fetches := name == "GetWithFetch" || name == "Lookup" || name == "Loader.Get"
			if err := call(ctx, strings.Repeat("k", MaxKeyBytes+1), time.Minute, fetch); takesKey {
				require.ErrorIs(t, err, ErrInvalidKey, name)
				require.ErrorContains(t, err, "65537")
				require.ErrorContains(t, err, "65536")
				require.NotContains(t, err.Error(), "kk")
			}
			for _, ttl := range []time.Duration{0, -1, math.MinInt64} {
				err := call(ctx, key, ttl, fetch)
				switch name {
				case "Set":
					require.ErrorIs(t, err, ErrInvalidTTL)
					require.ErrorContains(t, err, ttl.String())
				case "Get":
					require.ErrorIs(t, err, ErrMiss)
				default:
					require.NoError(t, err, name)
				}
			}
			if fetches {
				require.ErrorIs(t, call(ctx, key, time.Minute, nil), ErrInvalidValue, name)
				require.ErrorIs(t, call(ctx, key, 0, nil), ErrInvalidValue, name)
			}
			gone, cancel := context.WithCancel(ctx)
			cancel()
			require.Equal(t, context.Canceled, call(gone, "not there", time.Minute, fetch), "%s: a context's error is left as it is", name)
		}
		require.NoError(t, c.Set(ctx, key, 1, time.Minute))
		if backend == BackendMemory {
			for _, get := range []string{"GetWithFetch", "Lookup", "Loader.Get"} {
				require.ErrorIs(t, calls(c)[get](ctx, key, time.Minute, nil), ErrInvalidValue, "a hit must not hide that fetch is nil")
			}
		}
		require.NoError(t, c.Close())
		require.NoError(t, c.Close())
		for name, call := range calls(c) {
			require.Equal(t, ErrClosed, call(ctx, key, time.Minute, fetch), name)
			require.Equal(t, ErrClosed, call(ctx, strings.Repeat("k", MaxKeyBytes+1), 0, nil), "%s: nothing counts more than that it is closed", name)
		}
		_ = c.Stats() // may be called after Close
	}
}

func TestABackendThatIsClosedSaysSo(t *testing.T) {
	ctx := context.Background()
	for _, backend := range []string{BackendMemory, BackendNoop} {
		b, err := Connect(ctx, Config{Backend: backend})
		require.NoError(t, err)
		require.NoError(t, b.Health(ctx))
		gone, cancel := context.WithCancel(ctx)
		cancel()
		require.ErrorIs(t, b.Health(gone), context.Canceled)
		first, err := New[int](b, "first")
		require.NoError(t, err)
		_, err = New[string](b, "first")
		require.ErrorIs(t, err, ErrInvalidConfig, "two caches of a name would undo each other's promises")
		require.ErrorContains(t, err, `"first"`)
		_, err = New[int](b, "a:b")
		require.ErrorContains(t, err, "Name")
		require.NoError(t, first.Close())
		first, err = New[int](b, "first")
		require.NoError(t, err, "Close gives the name back")
		unnamed, err := New[int](b, "")
		require.NoError(t, err)
		require.Equal(t, "default", unnamed.cfg.Name)
		require.NoError(t, b.Close())
		require.NoError(t, b.Close())
		require.Equal(t, ErrClosed, b.Health(ctx))
		for _, c := range []*Client[int]{first, unnamed} {
			_, err = c.Get(ctx, key)
			require.Equal(t, ErrClosed, err, "closing a backend closes its caches")
		}
		_, err = New[int](b, "late")
		require.ErrorIs(t, err, ErrClosed)
	}
	_, err := New[int](nil, "n")
	require.ErrorIs(t, err, ErrInvalidConfig)
}

func TestAWrappedNotFoundOfTheSourceKeepsItsText(t *testing.T) {
	c := newTestCache[int](t, Config{}, WithNotFound(io.EOF))
	_, err := c.GetWithFetch(context.Background(), key, time.Minute, func(context.Context, string) (int, error) {
		return 0, fmt.Errorf("users: %w", io.EOF)
	})
	require.EqualError(t, err, "cacheaside: not found: users: EOF")
}
