package cachetest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
)

func TestEveryBackendConforms(t *testing.T) {
	for _, backend := range []string{cacheaside.BackendMemory, cacheaside.BackendRueidis, cacheaside.BackendRueidisAside} {
		t.Run(backend, func(t *testing.T) {
			cfg := cacheaside.Config{Backend: backend}
			if backend != cacheaside.BackendMemory {
				redistest.Require(t)
				var err error
				cfg, err = cacheaside.ParseConfig(redistest.Start(t).URL(backend))
				require.NoError(t, err)
				cfg.OpTimeout = 3 * time.Second
			}
			n := 0
			Run(t, func(t *testing.T) cacheaside.Cache[string] {
				n++
				cfg.Prefix = fmt.Sprintf("case%d", n)
				c, err := cacheaside.Open[string](t.Context(), cfg)
				require.NoError(t, err)
				return c
			})
		})
	}
}

func newFake(t *testing.T) *Fake[string] {
	t.Helper()
	f, err := NewFake[string](cacheaside.Config{})
	require.NoError(t, err)
	return f
}

func TestTheFakeConforms(t *testing.T) {
	Run(t, func(t *testing.T) cacheaside.Cache[string] { return newFake(t) })
}

func TestTheFakeFailsAsABackendThatIsDown(t *testing.T) {
	f := newFake(t)
	defer f.Close()
	require.NoError(t, f.Set(t.Context(), key, "kept", time.Minute))
	f.Fail(errSource)
	_, err := f.Get(t.Context(), key)
	require.ErrorIs(t, err, cacheaside.ErrUnavailable)
	require.ErrorIs(t, err, errSource)
	require.ErrorIs(t, f.Set(t.Context(), key, "x", time.Minute), cacheaside.ErrUnavailable)
	require.ErrorIs(t, f.Delete(t.Context(), key), cacheaside.ErrUnavailable)
	require.ErrorIs(t, f.Health(t.Context()), cacheaside.ErrUnavailable)
	for i := range 2 {
		want := fmt.Sprint("fetched ", i)
		v, err := f.GetWithFetch(t.Context(), key, time.Minute, fetches(want))
		require.NoError(t, err)
		require.Equal(t, want, v, "nothing is kept")
	}
	f.Recover()
	v, err := f.Get(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, "kept", v)
	require.Equal(t, Call{"Set", key}, f.Calls()[0])
	require.Len(t, f.Calls(), 8)
	require.EqualValues(t, 1, f.Stats().Hits)
}

func TestTheFakeIsSlowAndForgets(t *testing.T) {
	f := newFake(t)
	defer f.Close()
	require.NoError(t, f.Set(t.Context(), key, "kept", time.Minute))
	f.Slow(time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := f.Get(ctx, key)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = f.GetWithFetch(ctx, key, time.Minute, fetches("x"))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	f.Slow(0)
	require.NoError(t, f.Forget(t.Context()))
	_, err = f.Get(t.Context(), key)
	require.ErrorIs(t, err, cacheaside.ErrMiss)
	_, err = NewFake[string](cacheaside.Config{Jitter: -1})
	require.ErrorIs(t, err, cacheaside.ErrInvalidConfig)
}

// broken are wrappers as people write them, by the case of the suite that must find out.
var broken = map[string]func(cacheaside.Cache[string]) cacheaside.Cache[string]{
	"a_cancelled_caller_fails_nobody_else":                            func(c cacheaside.Cache[string]) cacheaside.Cache[string] { return leaderContext{c} },
	"a_fetch's_error_reaches_the_caller_unchanged,_and_is_not_cached": func(c cacheaside.Cache[string]) cacheaside.Cache[string] { return cachesErrors{c} },
	"a_Delete_during_a_fetch_is_not_undone_by_it":                     func(c cacheaside.Cache[string]) cacheaside.Cache[string] { return getThenSet{c} },
	"a_cold_key_is_fetched_once_for_all_who_ask":                      func(c cacheaside.Cache[string]) cacheaside.Cache[string] { return getThenSet{c} },
	"a_panic_reaches_every_waiter_as_PanicError":                      func(c cacheaside.Cache[string]) cacheaside.Cache[string] { return getThenSet{c} },
	"what_is_set_is_got,_until_it_is_deleted":                         func(c cacheaside.Cache[string]) cacheaside.Cache[string] { return &secondLayer{Cache: c} },
}

// leaderContext fetches under the context of the caller who came first.
type leaderContext struct{ cacheaside.Cache[string] }

func (c leaderContext) GetWithFetch(ctx context.Context, k string, ttl time.Duration, fetch cacheaside.FetchFunc[string]) (string, error) {
	return c.Cache.GetWithFetch(ctx, k, ttl, func(_ context.Context, k string) (string, error) { return fetch(ctx, k) })
}

// cachesErrors keeps the text of an error as if it were a value.
type cachesErrors struct{ cacheaside.Cache[string] }

func (c cachesErrors) GetWithFetch(ctx context.Context, k string, ttl time.Duration, fetch cacheaside.FetchFunc[string]) (string, error) {
	return c.Cache.GetWithFetch(ctx, k, ttl, func(ctx context.Context, k string) (string, error) {
		v, err := fetch(ctx, k)
		if err != nil {
			_ = c.Set(context.WithoutCancel(ctx), k+" failed", err.Error(), ttl)
			v, err = err.Error(), nil
		}
		return v, err
	})
}

// getThenSet is cache-aside by hand.
type getThenSet struct{ cacheaside.Cache[string] }

func (c getThenSet) GetWithFetch(ctx context.Context, k string, ttl time.Duration, fetch cacheaside.FetchFunc[string]) (string, error) {
	if v, err := c.Get(ctx, k); err == nil {
		return v, nil
	}
	v, err := fetch(ctx, k)
	if err != nil {
		return "", err
	}
	return v, c.Set(ctx, k, v, ttl)
}

// secondLayer keeps values in a map that a Delete leaves alone.
type secondLayer struct {
	cacheaside.Cache[string]
	mu   sync.Mutex
	kept map[string]string
}

func (c *secondLayer) Get(ctx context.Context, k string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok := c.kept[k]; ok {
		return v, nil
	}
	v, err := c.Cache.Get(ctx, k)
	if err == nil {
		if c.kept == nil {
			c.kept = make(map[string]string)
		}
		c.kept[k] = v
	}
	return v, err
}

const brokenEnv = "CACHETEST_BROKEN"

// TestABrokenWrapper is run by the next test, in a process of its own.
func TestABrokenWrapper(t *testing.T) {
	wrap, ok := broken[os.Getenv(brokenEnv)]
	if !ok {
		t.Skip("it fails, and is run by TestRunFindsBrokenWrappers")
	}
	Run(t, func(t *testing.T) cacheaside.Cache[string] { return wrap(newFake(t)) })
}

func TestRunFindsBrokenWrappers(t *testing.T) {
	for name := range broken {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			test := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestABrokenWrapper$/^"+name+"$", "-test.v")
			test.Env = append(os.Environ(), brokenEnv+"="+name)
			output, err := test.CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, "it passes:\n%s", output)
			require.Contains(t, string(output), "=== RUN   TestABrokenWrapper/"+name)
		})
	}
}
