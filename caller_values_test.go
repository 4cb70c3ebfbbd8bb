package cacheaside

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// pooled is a context such as web frameworks have: it is used again for another request as soon as its handler
// has returned. Its field is guarded by nothing, so the race detector sees who reads it after that.
type pooled struct {
	context.Context
	tenant string
}

type tenantKey struct{}

func (p *pooled) Value(key any) any {
	if key == (tenantKey{}) {
		return p.tenant
	}
	return p.Context.Value(key)
}

func isStandard(ctx context.Context) bool { return rootOf(ctx) == standard }

func TestWhichContextsAreStandard(t *testing.T) {
	custom := &pooled{Context: context.Background()}
	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	require.True(t, rootOf(stop) == standard)
	for name, derive := range map[string]func(context.Context) context.Context{
		"itself": func(ctx context.Context) context.Context { return ctx },
		"value":  func(ctx context.Context) context.Context { return context.WithValue(ctx, tenantKey{}, 1) },
		"cancel": func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancel(ctx)
			t.Cleanup(cancel)
			return ctx
		},
		"cause": func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancelCause(ctx)
			t.Cleanup(func() { cancel(nil) })
			return ctx
		},
		"deadline": func(ctx context.Context) context.Context {
			ctx, cancel := context.WithTimeout(ctx, time.Hour)
			t.Cleanup(cancel)
			return ctx
		},
		"without cancel": context.WithoutCancel,
		"signal": func(ctx context.Context) context.Context {
			ctx, cancel := signal.NotifyContext(ctx, os.Interrupt)
			t.Cleanup(cancel)
			return ctx
		},
	} {
		for outerName, outer := range map[string]func(context.Context) context.Context{"": func(ctx context.Context) context.Context { return ctx }, "in values": func(ctx context.Context) context.Context {
			return context.WithoutCancel(context.WithValue(ctx, tenantKey{}, 2))
		}} {
			what := fmt.Sprint(name, " ", outerName)
			require.True(t, isStandard(outer(derive(context.Background()))), what)
			require.True(t, isStandard(outer(derive(context.TODO()))), what)
			require.True(t, isStandard(outer(derive(t.Context()))), what)
			require.False(t, isStandard(outer(derive(custom))), what)
			require.False(t, isStandard(outer(derive(pooled{Context: context.Background()}.byValue()))), what)
		}
	}
}

// byValue is a context that is no pointer.
func (p pooled) byValue() context.Context { return valueContext{p.Context} }

type valueContext struct{ context.Context }

// serveRequests lets handlers of several tenants run one after the other on one pooled context. handle is what
// the cache is asked by a handler; the tenant of the context changes as soon as it has returned.
func serveRequests(handle func(ctx context.Context, i int)) {
	pool := sync.Pool{New: func() any { return &pooled{Context: context.Background()} }}
	ctx := pool.Get().(*pooled)
	for i := range 100 {
		ctx.tenant = fmt.Sprint("tenant ", i)
		handle(context.WithValue(ctx, "other", i), i) //nolint:staticcheck,revive // a key as applications have them
	}
}

func TestARefreshReadsNothingFromARecycledContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCache[string](t, Config{StaleFor: time.Hour})
		for i := range 100 {
			require.NoError(t, c.Set(t.Context(), fmt.Sprint(i), "old", time.Millisecond))
		}
		require.NoError(t, c.SetMany(t.Context(), map[string]string{"many": "old"}, time.Millisecond))
		time.Sleep(time.Second)
		var mu sync.Mutex
		var seen []any
		read := func(ctx context.Context) {
			for range 10 {
				mu.Lock()
				seen = append(seen, ctx.Value(tenantKey{}), ctx.Value("other"))
				mu.Unlock()
				time.Sleep(time.Microsecond)
			}
		}
		serveRequests(func(ctx context.Context, i int) {
			v, err := c.GetWithFetch(ctx, fmt.Sprint(i), time.Minute, func(ctx context.Context, _ string) (string, error) {
				read(ctx)
				return "new", nil
			})
			require.NoError(t, err)
			require.Equal(t, "old", v)
			_, err = c.GetManyWithFetch(ctx, []string{"many"}, time.Minute, func(ctx context.Context, _ []string) (map[string]string, error) {
				read(ctx)
				return map[string]string{"many": "new"}, nil
			})
			require.NoError(t, err)
		})
		synctest.Wait()
		time.Sleep(time.Second)
		mu.Lock()
		defer mu.Unlock()
		require.NotEmpty(t, seen)
		for _, value := range seen {
			require.Nil(t, value)
		}
	})
}

func TestAFetchReadsFromARecycledContextOnlyWhileItsCallerWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCache[string](t, Config{})
		var mu sync.Mutex
		early, late := 0, 0
		serveRequests(func(ctx context.Context, i int) {
			ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
			defer cancel()
			tenant := ctx.Value(tenantKey{})
			_, err := c.GetWithFetch(ctx, fmt.Sprint(i), time.Minute, func(ctx context.Context, _ string) (string, error) {
				first := ctx.Value(tenantKey{})
				time.Sleep(time.Second) // the caller has gone
				last := ctx.Value(tenantKey{})
				mu.Lock()
				defer mu.Unlock()
				if first == tenant {
					early++
				}
				if last != nil {
					late++
				}
				return "v", nil
			})
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, 100, early, "while the caller waits, its fetch has its values")
		require.Zero(t, late)
	})
}

func TestWithFetchContextRunsOnTheCallersGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var handling sync.Mutex // held by the handler until it returns
		calls := 0
		derive := WithFetchContext(func(ctx context.Context) context.Context {
			require.False(t, handling.TryLock(), "the caller has returned")
			calls++
			return context.WithValue(context.Background(), tenantKey{}, ctx.Value(tenantKey{}))
		})
		c := newTestCache[string](t, Config{StaleFor: time.Hour}, derive)
		for i := range 100 {
			require.NoError(t, c.Set(t.Context(), fmt.Sprint(i), "old", time.Millisecond))
		}
		time.Sleep(time.Second)
		var mu sync.Mutex
		wrong := 0
		serveRequests(func(ctx context.Context, i int) {
			handling.Lock()
			defer handling.Unlock()
			want := ctx.Value(tenantKey{})
			_, err := c.GetWithFetch(ctx, fmt.Sprint(i), time.Minute, func(ctx context.Context, _ string) (string, error) {
				time.Sleep(time.Second)
				mu.Lock()
				defer mu.Unlock()
				if ctx.Value(tenantKey{}) != want {
					wrong++
				}
				return "new", nil
			})
			require.NoError(t, err)
		})
		time.Sleep(time.Minute)
		require.Equal(t, 100, calls)
		require.Zero(t, wrong, "a refresh has the values of its own caller")
	})
}

func TestWithFetchContextMayKeepTheCallersContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type extra struct{}
		derive := WithFetchContext(func(ctx context.Context) context.Context { return context.WithValue(ctx, extra{}, "extra") })
		c := newTestCache[string](t, Config{}, derive)
		serveRequests(func(ctx context.Context, i int) {
			ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
			defer cancel()
			_, err := c.GetWithFetch(ctx, fmt.Sprint(i), time.Minute, func(ctx context.Context, _ string) (string, error) {
				require.Equal(t, "extra", ctx.Value(extra{}))
				require.Equal(t, fmt.Sprint("tenant ", i), ctx.Value(tenantKey{}))
				time.Sleep(time.Second)
				require.Nil(t, ctx.Value(tenantKey{}), "the caller has returned")
				return "v", nil
			})
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
		time.Sleep(time.Minute)
	})
}

func TestAPanicInWithFetchContextIsTheCallersError(t *testing.T) {
	c := newTestCache[string](t, Config{}, WithFetchContext(func(context.Context) context.Context { panic("on purpose") }))
	fetch := func(context.Context, string) (string, error) { return "v", nil }
	var panicked *PanicError
	_, err := c.GetWithFetch(t.Context(), key, time.Minute, fetch)
	require.ErrorAs(t, err, &panicked)
	_, err = c.GetManyWithFetch(t.Context(), []string{key}, time.Minute, func(context.Context, []string) (map[string]string, error) { return nil, nil })
	require.ErrorAs(t, err, &panicked)
	require.Zero(t, c.Stats().Flights)
}

func BenchmarkWhoseValues(b *testing.B) {
	ctx := b.Context()
	for range 20 {
		ctx = context.WithValue(ctx, tenantKey{}, 1)
	}
	for b.Loop() {
		if !isStandard(ctx) {
			b.Fatal("it is")
		}
	}
}
