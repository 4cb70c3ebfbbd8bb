package cacheaside

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/stretchr/testify/require"
)

func init() {
	promises = append(promises,
		promise{"G1", "a cancelled caller fails nobody else, even if it leads", nil, checkCancelledLeader},
		promise{"G1", "the fetch sees the leader's values but not its deadline", nil, checkDetachedContext},
		promise{"G2", "a caller returns at its own deadline and the fill still lands", nil, checkOwnDeadline},
		promise{"G3", "a flight ends by FetchTimeout though its fetch is deaf", nil, checkFetchTimeout},
		promise{"G3", "a fetch that heeds its context at FetchTimeout gives the same error", nil, checkFetchTimeoutHeeded},
		promise{"G3", "a Delete after FetchTimeout is not undone by the fetch that ignored it", nil, checkDeleteAfterFetchTimeout},
		promise{"G4", "a panic reaches every waiter as PanicError", nil, checkPanic},
		promise{"G4", "a Goexit reaches every waiter as ErrGoexit", nil, checkGoexit},
		promise{"G5", "a cold key is fetched once for all who ask", nil, checkOneFetch},
		promise{"G5", "callers that come one after another during a fetch join it", nil, checkLateJoiners},
		promise{"G19", "a fetch that asks for its own key gets ErrReentrant", nil, checkReentrant},
		promise{"G19", "recursion through another key is ErrReentrant", nil, checkReentrantThroughAnother},
		promise{"G19", "two fetches that wait for each other get ErrReentrant", nil, checkCrossedFetches},
		promise{"G19", "a fetch may ask for other keys", nil, checkNestedFetch},
		promise{"G22", "a failing source is asked once for a burst", nil, checkFailingBurst},
		promise{"G22", "ErrorCooldown spaces the next fetch", nil, checkErrorCooldown},
	)
}

func checkCancelledLeader(e *env) {
	c := open[string](e, nil)
	s := serve("v")
	release := s.hold()
	defer release()
	ctx, cancel := context.WithCancel(e.Context())
	leader := ask(ctx, c, key, s.fetch)
	e.settle(func() bool { return s.calls.Load() == 1 }, "the leader's fetch runs")
	joined := askMany(e, 3, c, key, s)
	cancel()
	require.ErrorIs(e, (<-leader).err, context.Canceled)
	release()
	for _, j := range joined {
		require.Equal(e, answer[string]{"v", nil}, <-j)
	}
	require.EqualValues(e, 1, s.calls.Load())
}

func checkDetachedContext(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.FetchTimeout = time.Hour })
	type tag struct{}
	ctx, cancel := context.WithTimeout(context.WithValue(e.Context(), tag{}, "mine"), time.Minute)
	defer cancel()
	begun, goOn, seen := make(chan context.Context), make(chan struct{}), make(chan error, 1)
	got := ask(ctx, c, key, func(ctx context.Context, _ string) (string, error) {
		begun <- ctx
		<-goOn
		child, stop := context.WithCancel(ctx)
		defer stop()
		seen <- errors.Join(ctx.Err(), child.Err())
		return "v", nil
	})
	inside := <-begun
	require.Equal(e, "mine", inside.Value(tag{}))
	deadline, ok := inside.Deadline()
	require.True(e, ok)
	require.Greater(e, time.Until(deadline), 30*time.Minute)
	cancel()
	require.ErrorIs(e, (<-got).err, context.Canceled)
	close(goOn)
	require.NoError(e, <-seen, "the caller's end is not the fetch's")
}

func checkOwnDeadline(e *env) {
	c := open[string](e, nil)
	s := serve("v")
	release := s.hold()
	defer release()
	_, err := c.Get(e.Context(), key) // so that the connection is there, and the deadline passes in the fetch
	require.ErrorIs(e, err, ErrMiss)
	ctx, cancel := context.WithTimeout(e.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = c.GetWithFetch(ctx, key, time.Minute, s.fetch)
	require.ErrorIs(e, err, context.DeadlineExceeded)
	require.NotErrorIs(e, err, ErrFetchTimeout)
	release()
	e.settle(func() bool {
		v, err := c.Get(e.Context(), key)
		return v == "v" && err == nil
	}, "the fill lands")
	require.EqualValues(e, 1, s.calls.Load())
}

func checkFetchTimeout(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.FetchTimeout = 50 * time.Millisecond })
	s := serve("late")
	s.deaf = true
	release := s.hold()
	defer release()
	for _, a := range askMany(e, 3, c, key, s) {
		err := (<-a).err
		require.ErrorIs(e, err, ErrFetchTimeout)
		require.ErrorIs(e, err, context.DeadlineExceeded)
	}
	prompt := serve("prompt")
	v, err := c.GetWithFetch(e.Context(), key, time.Minute, prompt.fetch)
	require.NoError(e, err)
	require.Equal(e, "prompt", v)
	release()
	e.pass(20 * time.Millisecond)
	v, err = c.Get(e.Context(), key)
	require.NoError(e, err)
	require.Equal(e, "prompt", v, "what a flight fetched that was over must not be stored")
	require.EqualValues(e, 1, c.Stats().FetchErrors)
}

// checkDeleteAfterFetchTimeout has a fetch return when its flight is over, and the Delete that could have
// voided it as well. Nothing else is in the way of what it fetched.
func checkDeleteAfterFetchTimeout(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.FetchTimeout = 50 * time.Millisecond })
	s := serve("late")
	s.deaf = true
	release := s.hold()
	defer release()
	_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.ErrorIs(e, err, ErrFetchTimeout)
	require.NoError(e, c.Delete(e.Context(), key))
	release()
	e.pass(20 * time.Millisecond)
	_, err = c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss)
}

func checkFetchTimeoutHeeded(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.FetchTimeout = 50 * time.Millisecond })
	s := serve("late")
	release := s.hold()
	defer release()
	_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.ErrorIs(e, err, ErrFetchTimeout)
	require.ErrorIs(e, err, context.DeadlineExceeded)
}

func checkPanic(e *env) {
	c := open[string](e, nil)
	s := serve("v")
	release := s.hold()
	boom := errors.New("boom")
	joined := askMany(e, 5, c, key, &source[string]{gate: s.gate, inside: nil, err: nil, value: ""})
	release()
	for _, j := range joined {
		require.NoError(e, (<-j).err)
	}
	require.NoError(e, c.Delete(e.Context(), key))

	release = s.hold()
	gate := s.gate
	var all []<-chan answer[string]
	for range 5 {
		all = append(all, ask(e.Context(), c, key, func(context.Context, string) (string, error) {
			<-gate
			panic(boom)
		}))
	}
	e.settle(func() bool { return c.Stats().Joined >= 8 }, "all callers wait")
	release()
	for _, a := range all {
		err := (<-a).err
		var panicked *PanicError
		require.ErrorAs(e, err, &panicked)
		require.Equal(e, boom, panicked.Value)
		require.ErrorIs(e, err, boom)
		require.Contains(e, string(panicked.Stack), "checkPanic")
		require.NotContains(e, err.Error(), "boom")
	}
	requireUsable(e, c)
}

func checkGoexit(e *env) {
	c := open[string](e, nil)
	var all []<-chan answer[string]
	gate := make(chan struct{})
	for range 5 {
		all = append(all, ask(e.Context(), c, key, func(context.Context, string) (string, error) {
			<-gate
			runtime.Goexit()
			return "", nil
		}))
	}
	e.settle(func() bool { return c.Stats().Joined == 4 }, "all callers wait")
	close(gate)
	for _, a := range all {
		require.ErrorIs(e, (<-a).err, ErrGoexit)
	}
	requireUsable(e, c)
}

// requireUsable shows that key can be fetched: nothing blocks it.
func requireUsable(e *env, c *Client[string]) {
	e.Helper()
	v, err := c.GetWithFetch(e.Context(), key, time.Minute, serve("after").fetch)
	require.NoError(e, err)
	require.Equal(e, "after", v)
}

func checkOneFetch(e *env) {
	c := open[string](e, nil)
	s := serve("v")
	release := s.hold()
	all := askMany(e, 200, c, key, s)
	release()
	for _, a := range all {
		require.Equal(e, answer[string]{"v", nil}, <-a)
	}
	require.EqualValues(e, 1, s.calls.Load())
	stats := c.Stats()
	require.EqualValues(e, 199, stats.Joined)
	require.EqualValues(e, 1, stats.Misses)
	require.EqualValues(e, 1, stats.Fetches)
	require.Zero(e, stats.Hits, "who joined counts as joined, not as a hit")
}

// checkLateJoiners has callers whose look-up may lie before a flight's end and whose join after it.
func checkLateJoiners(e *env) {
	c := open[string](e, nil)
	s := serve("v")
	done := make(chan error)
	const callers = 64
	for range callers {
		go func() {
			_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
			done <- err
		}()
	}
	for range callers {
		require.NoError(e, <-done)
	}
	require.EqualValues(e, 1, s.calls.Load())
}

func checkReentrant(e *env) {
	c := open[string](e, nil)
	var inner error
	v, err := c.GetWithFetch(e.Context(), key, time.Minute, func(ctx context.Context, key string) (string, error) {
		_, inner = c.GetWithFetch(ctx, key, time.Minute, serve("inner").fetch)
		return "outer", nil
	})
	require.NoError(e, err)
	require.Equal(e, "outer", v)
	require.ErrorIs(e, inner, ErrReentrant)
}

func checkReentrantThroughAnother(e *env) {
	c := open[string](e, nil)
	get := func(ctx context.Context, key string, fetch FetchFunc[string]) (string, error) {
		return c.GetWithFetch(ctx, key, time.Minute, fetch)
	}
	_, err := get(e.Context(), "a", func(ctx context.Context, _ string) (string, error) {
		return get(ctx, "b", func(ctx context.Context, _ string) (string, error) {
			require.NoError(e, c.Delete(ctx, "a")) // detaching the flight must not hide the recursion
			return get(ctx, "a", serve("never").fetch)
		})
	})
	require.ErrorIs(e, err, ErrReentrant)
}

func checkCrossedFetches(e *env) {
	c := open[string](e, nil)
	begun := make(chan struct{}, 2)
	both := make(chan struct{})
	crossing := func(other string) FetchFunc[string] {
		return func(ctx context.Context, _ string) (string, error) {
			begun <- struct{}{}
			<-both
			return c.GetWithFetch(ctx, other, time.Minute, serve("fallback").fetch)
		}
	}
	a, b := ask(e.Context(), c, "a", crossing("b")), ask(e.Context(), c, "b", crossing("a"))
	<-begun
	<-begun
	close(both)
	errA, errB := (<-a).err, (<-b).err
	require.True(e, errors.Is(errA, ErrReentrant) || errors.Is(errB, ErrReentrant), "%v, %v", errA, errB)
}

func checkNestedFetch(e *env) {
	c := open[string](e, nil)
	v, err := c.GetWithFetch(e.Context(), "outer", time.Minute, func(ctx context.Context, _ string) (string, error) {
		inner, err := c.GetWithFetch(ctx, "inner", time.Minute, serve("in").fetch)
		return "out+" + inner, err
	})
	require.NoError(e, err)
	require.Equal(e, "out+in", v)
}

func checkFailingBurst(e *env) {
	c := open[string](e, nil)
	s := serve("")
	s.set("", errSource)
	release := s.hold()
	all := askMany(e, 100, c, key, s)
	release()
	for _, a := range all {
		require.Same(e, errSource, (<-a).err, "a fetch's error is returned unchanged")
	}
	require.EqualValues(e, 1, s.calls.Load())
	require.EqualValues(e, 1, c.Stats().FetchErrors)
	s.set("v", nil)
	v, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.NoError(e, err, "an error is not cached")
	require.Equal(e, "v", v)
}

func checkErrorCooldown(e *env) {
	const cooldown = 300 * time.Millisecond
	c := open[string](e, func(cfg *Config) { cfg.ErrorCooldown = cooldown })
	s := serve("")
	s.set("", errSource)
	for range 20 {
		_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
		require.ErrorIs(e, err, errSource)
	}
	require.EqualValues(e, 1, s.calls.Load())
	_, err := c.GetWithFetch(e.Context(), "another key", time.Minute, serve("v").fetch)
	require.NoError(e, err)
	e.pass(cooldown + time.Millisecond)
	_, err = c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.ErrorIs(e, err, errSource)
	require.EqualValues(e, 2, s.calls.Load())
}
