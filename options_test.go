package cacheaside

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"log/slog"
	"testing"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
)

func TestNilOptionsAreNamed(t *testing.T) {
	for name, option := range map[string]Option{
		"WithCodec":         WithCodec[int](nil),
		"WithNotFound":      WithNotFound(sql.ErrNoRows, nil),
		"WithClone":         WithClone[int](nil),
		"WithWeigher":       WithWeigher[int](nil),
		"WithObserver":      WithObserver(nil),
		"WithLogger":        WithLogger(nil),
		"WithFetchContext":  WithFetchContext(nil),
		"WithRueidisOption": WithRueidisOption(nil),
	} {
		for _, backend := range []string{BackendMemory, BackendNoop, BackendRueidis, BackendRueidisAside} {
			_, err := Open[int](context.Background(), Config{Backend: backend}, option)
			require.ErrorIs(t, err, ErrInvalidConfig, name)
			require.ErrorContains(t, err, name+" is nil, allowed: ")
		}
		b, err := Connect(context.Background(), Config{})
		require.NoError(t, err)
		_, err = New[int](b, "n", option)
		require.ErrorContains(t, err, name, "New looks at its options too")
		require.NoError(t, b.Close())
	}
	_, err := NewMemory[int](Config{}, WithClone[int](nil), WithLogger(nil))
	require.ErrorContains(t, err, "WithClone", "the first bad option is told")
}

func TestOptionsOfAnotherTypeAreNamed(t *testing.T) {
	type other struct{}
	for name, option := range map[string]Option{
		"WithCodec":   WithCodec(JSONCodec[other]()),
		"WithClone":   WithClone(func(o other) other { return o }),
		"WithWeigher": WithWeigher(func(string, other) int { return 1 }),
	} {
		for _, backend := range []string{BackendMemory, BackendNoop} {
			_, err := Open[string](context.Background(), Config{Backend: backend}, option)
			require.ErrorIs(t, err, ErrInvalidConfig, name)
			require.ErrorContains(t, err, name)
			require.ErrorContains(t, err, "other", "the type that was given")
			require.ErrorContains(t, err, "string", "the type of the cache")
		}
	}
	b, err := Connect(context.Background(), Config{}, WithCodec(StringCodec()))
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close()) }()
	_, err = New[int](b, "ints")
	require.ErrorContains(t, err, "WithCodec")
	_, err = New[string](b, "strings")
	require.NoError(t, err)
}

func TestOptionsThatAreNilThemselvesAreSkipped(t *testing.T) {
	c, err := NewMemory[int](Config{}, nil, WithNotFound(), nil)
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

func TestOptionsOfOneCacheDoNotReachAnother(t *testing.T) {
	b, err := Connect(context.Background(), Config{}, // one at a time, so that there is room for a fourth
		WithNotFound(sql.ErrNoRows), WithNotFound(sql.ErrTxDone), WithNotFound(sql.ErrConnDone))
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close()) }()
	first, err := New[string](b, "first", WithNotFound(io.EOF))
	require.NoError(t, err)
	second, err := New[string](b, "second", WithNotFound(io.ErrUnexpectedEOF))
	require.NoError(t, err)
	get := func(c *Client[string], err error) error {
		_, got := c.GetWithFetch(context.Background(), key, NoExpiry, func(context.Context, string) (string, error) { return "", err })
		return got
	}
	require.ErrorIs(t, get(first, sql.ErrNoRows), ErrNotFound)
	require.ErrorIs(t, get(second, sql.ErrNoRows), ErrNotFound)
	require.ErrorIs(t, get(first, io.EOF), ErrNotFound)
	require.NotErrorIs(t, get(second, io.EOF), ErrNotFound)
	require.ErrorIs(t, get(second, io.ErrUnexpectedEOF), ErrNotFound)
	require.NotErrorIs(t, get(first, io.ErrUnexpectedEOF), ErrNotFound)
}

func TestLaterOptionsWinAndListsAddUp(t *testing.T) {
	change := func(*rueidis.ClientOption) {}
	o := collect([]Option{
		WithClone(func(i int) int { return i }), WithClone(func(s string) string { return s }),
		WithNotFound(sql.ErrNoRows), WithNotFound(io.EOF, io.ErrNoProgress),
		WithRueidisOption(change), WithRueidisOption(change),
		WithLogger(slog.Default()),
	})
	require.NoError(t, o.err)
	_, err := typedOption[func(string) string]("WithClone", o.clone)
	require.NoError(t, err)
	require.Equal(t, []error{sql.ErrNoRows, io.EOF, io.ErrNoProgress}, o.notFound)
	require.Len(t, o.rueidis, 2)
	require.NotNil(t, o.logger)
}

// tenant is a context value that a fetch must not see by accident.
type tenant struct{}

func TestFetchContextIsDerivedFromTheCallers(t *testing.T) {
	derived := make(chan any, 1)
	c, err := NewMemory[string](Config{}, WithFetchContext(func(ctx context.Context) context.Context {
		derived <- ctx.Value(tenant{})
		ctx, cancel := context.WithCancel(context.WithValue(ctx, tenant{}, "nobody"))
		cancel() // its cancellation is ignored
		return ctx
	}))
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	v, err := c.GetWithFetch(context.WithValue(context.Background(), tenant{}, "me"), key, NoExpiry,
		func(ctx context.Context, _ string) (string, error) {
			select {
			case <-ctx.Done():
				return "", ctx.Err()
			default:
			}
			_, err := c.GetWithFetch(ctx, key, NoExpiry, func(context.Context, string) (string, error) { return "", nil })
			if !errors.Is(err, ErrReentrant) {
				return "", errors.New("the fetch is no longer known as such")
			}
			who, _ := ctx.Value(tenant{}).(string)
			return who, nil
		})
	require.NoError(t, err)
	require.Equal(t, "nobody", v)
	require.Equal(t, "me", <-derived)
}
