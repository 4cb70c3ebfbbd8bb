package cacheaside

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"
)

func init() {
	promises = append(promises,
		promise{"batch", "what is missing is fetched by one call, and kept", nil, checkBatchFetch},
		promise{"batch", "keys under way are joined and not fetched twice", nil, checkBatchJoins},
		promise{"batch", "a key that the source leaves out is absent, and remembered so", nil, checkBatchAbsent},
		promise{"batch", "a key that is left out matches the WithNotFound sentinels for who joins", nil, checkBatchAbsentJoined},
		promise{"batch", "what failed is counted and explained, and the rest is returned", nil, checkBatchPartial},
		promise{"batch", "a panic in the source reaches all who wait", nil, checkBatchPanic},
		promise{"batch", "a caller leaves at its own time and the fetch goes on", nil, checkBatchLeaves},
		promise{"batch", "SetMany and DeleteMany do what they say for every key", nil, checkBatchWrites},
		promise{"batch", "bad input is refused whole", nil, checkBatchBadInput},
		promise{"batch", "a Delete voids its key only", nil, checkBatchDelete},
		promise{"batch", "what is stale is returned while one call refreshes it", nil, checkBatchStale},
		promise{"batch", "a slow source costs SoftTimeout once, for all that is stale", nil, checkBatchSoftTimeout},
		promise{"batch", "a source that failed is not asked again until its cooldown ends", nil, checkBatchCooldown},
		promise{"batch", "a fetch that asks for one of its own keys gets ErrReentrant", nil, checkBatchReentrant},
		promise{"batch", "reading takes one round trip", isRemote, checkBatchRoundTrip},
		promise{"batch", "the fetch of another process is waited for, and its outcome is the answer", isLeased, checkBatchLeased},
		promise{"batch", "what another process closed over and the source leaves out is absent", isLeased, checkBatchLeasedAbsent},
		promise{"batcher", "concurrent look-ups are fetched together", nil, checkBatcher},
		promise{"batcher", "a full batch does not wait, and nobody waits for ever", nil, checkBatcherFull},
		promise{"batcher", "a fetch that takes too long is ErrFetchTimeout to all who wait", nil, checkBatcherTimeout},
		promise{"batcher", "the source is not asked after Close", nil, checkBatcherClosed},
		promise{"Mutate", "writes, and removes what was cached", nil, checkMutate},
		promise{"Mutate", "removes also when the write failed or panicked", nil, checkMutateFails},
		promise{"Mutate", "what is fetched during the write is not kept", nil, checkMutateFences},
	)
}

// manySource counts the calls of a source of several keys, and the keys they were for.
type manySource struct {
	mu    sync.Mutex
	calls [][]string
	fetch FetchManyFunc[string] // nil: every key is there
}

func (s *manySource) get(ctx context.Context, keys []string) (map[string]string, error) {
	s.mu.Lock()
	s.calls = append(s.calls, slices.Clone(keys))
	fetch := s.fetch
	s.mu.Unlock()
	if fetch != nil {
		return fetch(ctx, keys)
	}
	return valuesOf(keys...), nil
}

func (s *manySource) asked() [][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

func valuesOf(keys ...string) map[string]string {
	values := make(map[string]string)
	for _, k := range keys {
		values[k] = "value of " + k
	}
	return values
}

func checkBatchFetch(e *env) {
	c := open[string](e, nil)
	require.NoError(e, c.Set(e.Context(), "a", "kept", time.Minute))
	s := new(manySource)
	got, err := c.GetManyWithFetch(e.Context(), []string{"a", "b", "c", "b"}, time.Minute, s.get)
	require.NoError(e, err)
	require.Equal(e, map[string]string{"a": "kept", "b": "value of b", "c": "value of c"}, got)
	require.Equal(e, [][]string{{"b", "c"}}, s.asked(), "only what is missing, each once")
	got, err = c.GetManyWithFetch(e.Context(), []string{"a", "b", "c"}, time.Minute, s.get)
	require.NoError(e, err)
	require.Len(e, got, 3)
	require.Len(e, s.asked(), 1)
	got, err = c.GetMany(e.Context(), []string{"c", "d", "a"})
	require.NoError(e, err)
	require.Equal(e, map[string]string{"a": "kept", "c": "value of c"}, got)
	v, err := c.Get(e.Context(), "b")
	require.NoError(e, err)
	require.Equal(e, "value of b", v)
	stats := c.Stats()
	require.EqualValues(e, 1, stats.Fetches)
	require.EqualValues(e, 3, stats.Misses, "b, c, and d of GetMany")
	got, err = c.GetManyWithFetch(e.Context(), nil, time.Minute, s.get)
	require.NoError(e, err)
	require.Empty(e, got)
}

func checkBatchJoins(e *env) {
	c := open[string](e, nil)
	single := serve("by itself")
	releaseSingle := single.hold()
	defer releaseSingle()
	alone := askMany(e, 1, c, "a", single)

	gate := make(chan struct{})
	s := &manySource{fetch: func(_ context.Context, keys []string) (map[string]string, error) {
		<-gate
		return valuesOf(keys...), nil
	}}
	type result struct {
		values map[string]string
		err    error
	}
	batch := func(keys ...string) <-chan result {
		out := make(chan result, 1)
		go func() {
			values, err := c.GetManyWithFetch(e.Context(), keys, time.Minute, s.get)
			out <- result{values, err}
		}()
		return out
	}
	first := batch("a", "b", "c")
	e.settle(func() bool { return len(s.asked()) == 1 }, "the first batch fetches")
	second := batch("b", "c", "d")
	e.settle(func() bool { return len(s.asked()) == 2 }, "the second batch fetches")
	late := ask(e.Context(), c, "c", single.fetch)
	e.settle(func() bool { return c.Stats().Joined == 4 }, "a, b, c of the batches and c of the late caller are joined")
	require.Equal(e, [][]string{{"b", "c"}, {"d"}}, s.asked())
	close(gate)
	releaseSingle()
	r := <-first
	require.NoError(e, r.err)
	require.Equal(e, map[string]string{"a": "by itself", "b": "value of b", "c": "value of c"}, r.values)
	r = <-second
	require.NoError(e, r.err)
	require.Equal(e, valuesOf("b", "c", "d"), r.values)
	require.Equal(e, answer[string]{"value of c", nil}, <-late)
	require.Equal(e, "by itself", (<-alone[0]).value)
	require.EqualValues(e, 1, single.calls.Load())
}

func checkBatchAbsent(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.NegativeTTL = time.Minute })
	s := &manySource{fetch: func(context.Context, []string) (map[string]string, error) { return valuesOf("a"), nil }}
	for range 2 {
		got, err := c.GetManyWithFetch(e.Context(), []string{"a", "b"}, time.Minute, s.get)
		require.NoError(e, err)
		require.Equal(e, valuesOf("a"), got)
	}
	require.Len(e, s.asked(), 1, "that b is not there was remembered")
	_, err := c.Get(e.Context(), "b")
	require.ErrorIs(e, err, ErrNotFound)
	got, err := c.GetMany(e.Context(), []string{"a", "b"})
	require.NoError(e, err)
	require.Equal(e, valuesOf("a"), got)
}

func checkBatchAbsentJoined(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.NegativeTTL = time.Minute }, WithNotFound(sql.ErrNoRows))
	gate := make(chan struct{})
	release := sync.OnceFunc(func() { close(gate) })
	defer release()
	s := &manySource{fetch: func(context.Context, []string) (map[string]string, error) {
		<-gate
		return nil, nil
	}}
	done := make(chan error)
	go func() {
		_, err := c.GetManyWithFetch(e.Context(), []string{"a"}, time.Minute, s.get)
		done <- err
	}()
	e.settle(func() bool { return len(s.asked()) == 1 }, "the batch fetches")
	joined := ask(e.Context(), c, "a", serve("another").fetch)
	e.settle(func() bool { return c.Stats().Joined == 1 }, "it is joined")
	l, err := c.BindMany(time.Minute, s.get, Batching{})
	require.NoError(e, err)
	collected := make(chan error)
	go func() {
		_, err := l.Get(e.Context(), "b")
		collected <- err
	}()
	release()
	require.NoError(e, <-done)
	_, err = c.Get(e.Context(), "a")
	for _, err := range []error{(<-joined).err, <-collected, err} {
		require.ErrorIs(e, err, ErrNotFound)
		require.ErrorIs(e, err, sql.ErrNoRows)
	}
}

func checkBatchPartial(e *env) {
	c := open[string](e, nil)
	require.NoError(e, c.Set(e.Context(), "a", "kept", time.Minute))
	s := &manySource{fetch: func(context.Context, []string) (map[string]string, error) { return valuesOf("b"), errSource }}
	got, err := c.GetManyWithFetch(e.Context(), []string{"a", "b", "c", "d"}, time.Minute, s.get)
	require.ErrorIs(e, err, errSource)
	require.ErrorContains(e, err, "2 of 4 keys")
	require.Equal(e, map[string]string{"a": "kept", "b": "value of b"}, got)
	got, err = c.GetMany(e.Context(), []string{"a", "b", "c", "d"})
	require.NoError(e, err)
	require.Len(e, got, 2, "errors are not cached")
}

func checkBatchPanic(e *env) {
	c := open[string](e, nil)
	s := &manySource{fetch: func(context.Context, []string) (map[string]string, error) { panic("boom") }}
	_, err := c.GetManyWithFetch(e.Context(), []string{"a", "b"}, time.Minute, s.get)
	var p *PanicError
	require.ErrorAs(e, err, &p)
	require.Equal(e, "boom", p.Value)
	require.EqualValues(e, 2, c.Stats().FetchErrors+c.Stats().Fetches, "one fetch that failed")
	got, err := c.GetManyWithFetch(e.Context(), []string{"a", "b"}, time.Minute, new(manySource).get)
	require.NoError(e, err)
	require.Len(e, got, 2)
}

func checkBatchLeaves(e *env) {
	c := open[string](e, nil)
	gate := make(chan struct{})
	s := &manySource{fetch: func(ctx context.Context, keys []string) (map[string]string, error) {
		select {
		case <-gate:
			return valuesOf(keys...), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}
	require.NoError(e, c.Set(e.Context(), "a", "kept", time.Minute))
	ctx, cancel := context.WithCancel(e.Context())
	go func() {
		e.settleInside(func() bool { return len(s.asked()) == 1 })
		cancel()
	}()
	got, err := c.GetManyWithFetch(ctx, []string{"a", "b", "c"}, time.Minute, s.get)
	require.ErrorIs(e, err, context.Canceled)
	require.Equal(e, map[string]string{"a": "kept"}, got)
	close(gate)
	e.settle(func() bool {
		got, err := c.GetMany(e.Context(), []string{"b", "c"})
		return err == nil && len(got) == 2
	}, "what was fetched is kept")
}

func checkBatchWrites(e *env) {
	c := open[string](e, nil)
	values := make(map[string]string)
	for i := range 300 {
		values[fmt.Sprint("key ", i)] = fmt.Sprint("value ", i)
	}
	keys := slices.Sorted(maps.Keys(values))
	require.NoError(e, c.SetMany(e.Context(), values, time.Minute))
	got, err := c.GetMany(e.Context(), keys)
	require.NoError(e, err)
	require.Equal(e, values, got)
	require.NoError(e, c.DeleteMany(e.Context(), keys[:299]))
	got, err = c.GetMany(e.Context(), keys)
	require.NoError(e, err)
	require.Equal(e, map[string]string{keys[299]: values[keys[299]]}, got)
	require.NoError(e, c.SetMany(e.Context(), nil, time.Minute))
	require.NoError(e, c.DeleteMany(e.Context(), nil))
}

func checkBatchBadInput(e *env) {
	c := open[string](e, nil)
	tooLong := string(make([]byte, MaxKeyBytes+1))
	_, err := c.GetMany(e.Context(), []string{"a", tooLong})
	require.ErrorIs(e, err, ErrInvalidKey)
	require.ErrorIs(e, c.SetMany(e.Context(), map[string]string{tooLong: ""}, time.Minute), ErrInvalidKey)
	require.ErrorIs(e, c.SetMany(e.Context(), map[string]string{"a": ""}, 0), ErrInvalidTTL)
	require.ErrorIs(e, c.DeleteMany(e.Context(), []string{tooLong}), ErrInvalidKey)
	_, err = c.GetManyWithFetch(e.Context(), []string{"a"}, time.Minute, nil)
	require.ErrorIs(e, err, ErrInvalidValue)
	require.ErrorIs(e, c.Mutate(e.Context(), []string{"a"}, nil), ErrInvalidValue)
	_, err = c.BindMany(time.Minute, nil, Batching{})
	require.ErrorIs(e, err, ErrInvalidConfig)
	_, err = c.BindMany(time.Minute, new(manySource).get, Batching{MaxSize: -1})
	require.ErrorContains(e, err, "Batching.MaxSize")
	_, err = c.BindMany(time.Minute, new(manySource).get, Batching{MaxWait: -1})
	require.ErrorContains(e, err, "Batching.MaxWait")
	require.NoError(e, c.Close())
	_, err = c.GetMany(e.Context(), []string{"a"})
	require.ErrorIs(e, err, ErrClosed)
	_, err = c.GetManyWithFetch(e.Context(), []string{"a"}, time.Minute, new(manySource).get)
	require.ErrorIs(e, err, ErrClosed)
	require.ErrorIs(e, c.SetMany(e.Context(), valuesOf("a"), time.Minute), ErrClosed)
	require.ErrorIs(e, c.DeleteMany(e.Context(), []string{"a"}), ErrClosed)
	require.ErrorIs(e, c.Mutate(e.Context(), []string{"a"}, func(context.Context) error { return nil }), ErrClosed)
}

func checkBatchDelete(e *env) {
	c := open[string](e, nil)
	s := &manySource{fetch: func(ctx context.Context, keys []string) (map[string]string, error) {
		return valuesOf(keys...), c.Delete(ctx, "b")
	}}
	got, err := c.GetManyWithFetch(e.Context(), []string{"a", "b"}, time.Minute, s.get)
	require.NoError(e, err)
	require.Equal(e, valuesOf("a", "b"), got, "those who asked before the Delete get what was fetched")
	got, err = c.GetMany(e.Context(), []string{"a", "b"})
	require.NoError(e, err)
	require.Equal(e, valuesOf("a"), got)
}

func checkBatchStale(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.StaleFor = time.Minute })
	require.NoError(e, c.SetMany(e.Context(), map[string]string{"a": "old", "b": "old"}, 50*time.Millisecond))
	e.pass(100 * time.Millisecond)
	s := new(manySource)
	got, err := c.GetManyWithFetch(e.Context(), []string{"a", "b"}, time.Minute, s.get)
	require.NoError(e, err)
	require.Equal(e, map[string]string{"a": "old", "b": "old"}, got)
	e.settle(func() bool {
		got, err := c.GetMany(e.Context(), []string{"a", "b"})
		return err == nil && maps.Equal(got, valuesOf("a", "b"))
	}, "both are refreshed")
	require.Len(e, s.asked(), 1)
	e.settle(func() bool { return c.Stats().Refreshes == 1 && len(c.refreshes) == 0 }, "the refresh is over")
}

// openStaleBatch makes a cache with "old" under a and b, both past their ttl.
func openStaleBatch(e *env, change func(*Config)) *Client[string] {
	c := open[string](e, change)
	require.NoError(e, c.SetMany(e.Context(), map[string]string{"a": "old", "b": "old"}, short))
	e.pass(2 * short)
	return c
}

func checkBatchSoftTimeout(e *env) {
	c := openStaleBatch(e, func(cfg *Config) { cfg.StaleIfError, cfg.SoftTimeout = time.Hour, short })
	gate := make(chan struct{})
	s := &manySource{fetch: func(_ context.Context, keys []string) (map[string]string, error) {
		<-gate
		return valuesOf(keys...), nil
	}}
	begun := time.Now()
	got, err := c.GetManyWithFetch(e.Context(), []string{"a", "b"}, time.Minute, s.get)
	require.NoError(e, err)
	require.Equal(e, map[string]string{"a": "old", "b": "old"}, got)
	require.GreaterOrEqual(e, time.Since(begun), short)
	if e.bubble {
		require.Equal(e, short, time.Since(begun), "once for both")
	}
	close(gate)
	e.settle(func() bool {
		got, err := c.GetMany(e.Context(), []string{"a", "b"})
		return err == nil && maps.Equal(got, valuesOf("a", "b"))
	}, "the fetch goes on and is kept")
	require.Len(e, s.asked(), 1)
}

func checkBatchCooldown(e *env) {
	c := openStaleBatch(e, func(cfg *Config) { cfg.StaleIfError, cfg.ErrorCooldown = time.Hour, time.Hour })
	s := &manySource{fetch: func(context.Context, []string) (map[string]string, error) { return nil, errSource }}
	for range 2 {
		got, err := c.GetManyWithFetch(e.Context(), []string{"a", "cold", "b"}, time.Minute, s.get)
		require.ErrorIs(e, err, errSource)
		require.ErrorContains(e, err, "1 of 3 keys", "what is stale covers up for the failure")
		require.Equal(e, map[string]string{"a": "old", "b": "old"}, got)
	}
	require.Equal(e, [][]string{{"a", "cold", "b"}}, s.asked())
	got, err := c.GetManyWithFetch(e.Context(), []string{"cold", "new"}, time.Minute, new(manySource).get)
	require.ErrorIs(e, err, errSource)
	require.Equal(e, valuesOf("new"), got, "the others are fetched")
}

func checkBatchReentrant(e *env) {
	c := open[string](e, nil)
	s := &manySource{fetch: func(ctx context.Context, keys []string) (map[string]string, error) {
		_, err := c.GetWithFetch(ctx, "b", time.Minute, serve("x").fetch)
		return nil, err
	}}
	_, err := c.GetManyWithFetch(e.Context(), []string{"a", "b"}, time.Minute, s.get)
	require.ErrorIs(e, err, ErrReentrant)

	_, err = c.GetWithFetch(e.Context(), "c", time.Minute, func(ctx context.Context, _ string) (string, error) {
		got, err := c.GetManyWithFetch(ctx, []string{"c", "d"}, time.Minute, new(manySource).get)
		require.Equal(e, valuesOf("d"), got, "other keys work")
		require.ErrorContains(e, err, "1 of 2 keys")
		return "", err
	})
	require.ErrorIs(e, err, ErrReentrant)
}

func checkBatchRoundTrip(e *env) {
	c := open[string](e, nil)
	other := open[string](e, nil)
	values := make(map[string]string)
	for i := range 100 {
		values[fmt.Sprint("key ", i)] = "value"
	}
	require.NoError(e, other.SetMany(e.Context(), values, time.Minute))
	keys := slices.Collect(maps.Keys(values))
	_, err := c.GetMany(e.Context(), keys)
	require.NoError(e, err)
	before := e.server.CommandStats()
	got, err := other.GetMany(e.Context(), keys)
	require.NoError(e, err)
	require.Len(e, got, 100)
	after := e.server.CommandStats()
	reads := after["get"] + after["mget"] - before["get"] - before["mget"]
	if c.local == SourceNearHit {
		require.EqualValues(e, 100, reads, "each key once")
		return
	}
	require.EqualValues(e, 1, reads, "one MGET")
}

func checkBatchLeased(e *env) {
	one, two := open[string](e, nil), open[string](e, nil)
	s := serve("by another process")
	release := s.hold()
	defer release()
	waiting := askMany(e, 1, one, "a", s)
	e.settle(func() bool { return s.calls.Load() == 1 }, "the other process fetches")
	failing := serve("")
	failing.set("", errSource)
	releaseFailing := failing.hold()
	defer releaseFailing()
	doomed := askMany(e, 1, one, "b", failing)
	e.settle(func() bool { return failing.calls.Load() == 1 }, "the other process fetches b too")

	many := new(manySource)
	got := make(chan map[string]string, 1)
	go func() {
		values, err := two.GetManyWithFetch(e.Context(), []string{"a", "b", "c"}, time.Minute, many.get)
		if errors.Is(err, ErrFetchFailed) {
			got <- values
		}
		close(got)
	}()
	e.settle(func() bool { return len(many.asked()) == 1 }, "c is not kept waiting")
	require.Equal(e, [][]string{{"c"}}, many.asked())
	e.settle(func() bool { return waitsFor(two, "a") && waitsFor(two, "b") }, "a and b wait")
	release()
	releaseFailing()
	require.ErrorIs(e, (<-doomed[0]).err, errSource)
	<-waiting[0]
	require.Equal(e, map[string]string{"a": "by another process", "c": "value of c"}, <-got)
	require.Equal(e, [][]string{{"c"}}, many.asked())
}

// waitsFor reports whether a flight of c waits for another process' lease of a key.
func waitsFor(c *Client[string], key string) bool {
	s := storeOf(c).shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.changes[key]
	return next != nil && next.waiters > 0
}

func checkBatchLeasedAbsent(e *env) {
	remember := func(cfg *Config) { cfg.NegativeTTL = time.Minute }
	one, two := open[string](e, nil), open[string](e, remember, WithNotFound(sql.ErrNoRows))
	failing := serve("")
	failing.set("", errSource)
	defer failing.hold()()
	doomed := askMany(e, 1, one, "a", failing)
	e.settle(func() bool { return failing.calls.Load() == 1 }, "the other process fetches")

	s := &manySource{fetch: func(context.Context, []string) (map[string]string, error) { return nil, nil }}
	type result struct {
		values map[string]string
		err    error
	}
	got := make(chan result)
	go func() {
		values, err := two.GetManyWithFetch(e.Context(), []string{"a"}, time.Minute, s.get)
		got <- result{values, err}
	}()
	e.settle(func() bool { return two.Stats().Flights == 1 }, "the batch waits for it")
	joined := ask(e.Context(), two, "a", serve("another").fetch)
	e.settle(func() bool { return two.Stats().Joined == 1 }, "it is joined")
	require.NoError(e, one.Close())
	require.ErrorIs(e, (<-doomed[0]).err, ErrClosed)
	r := <-got
	require.NoError(e, r.err)
	require.Empty(e, r.values)
	_, err := two.Get(e.Context(), "a")
	for _, err := range []error{(<-joined).err, err} {
		require.ErrorIs(e, err, ErrNotFound)
		require.ErrorIs(e, err, sql.ErrNoRows)
	}
	require.Equal(e, [][]string{{"a"}}, s.asked())
}

func checkBatcher(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.NegativeTTL = time.Minute })
	s := &manySource{fetch: func(ctx context.Context, keys []string) (map[string]string, error) {
		OverrideTTL(ctx, time.Hour)
		values := valuesOf(keys...)
		delete(values, "nobody")
		return values, nil
	}}
	l, err := c.BindMany(time.Minute, s.get, Batching{MaxWait: 500 * time.Millisecond})
	require.NoError(e, err)
	keys := []string{"a", "b", "c", "d", "nobody"}
	answers := make([]answer[string], len(keys))
	var all sync.WaitGroup
	for i, key := range keys {
		all.Go(func() { answers[i].value, answers[i].err = l.Get(e.Context(), key) })
	}
	all.Wait()
	for i, key := range keys[:4] {
		require.Equal(e, answer[string]{"value of " + key, nil}, answers[i])
	}
	require.ErrorIs(e, answers[4].err, ErrNotFound)
	require.Len(e, s.asked(), 1)
	require.ElementsMatch(e, keys, s.asked()[0])
	require.EqualValues(e, 1, c.Stats().Fetches)
	for _, key := range keys {
		_, _ = l.Get(e.Context(), key)
	}
	require.Len(e, s.asked(), 1, "all are kept")
}

func checkBatcherFull(e *env) {
	c := open[string](e, nil)
	var panics atomic.Bool
	s := &manySource{fetch: func(_ context.Context, keys []string) (map[string]string, error) {
		if panics.Load() {
			panic("boom")
		}
		return valuesOf(keys...), nil
	}}
	l, err := c.BindMany(time.Minute, s.get, Batching{MaxSize: 2, MaxWait: 10 * time.Hour})
	require.NoError(e, err)
	two := func(suffix string) (errs [2]error) {
		var all sync.WaitGroup
		for i := range 2 {
			all.Go(func() { _, errs[i] = l.Get(e.Context(), fmt.Sprint(suffix, i)) })
		}
		all.Wait()
		return errs
	}
	require.Equal(e, [2]error{}, two("a"))
	panics.Store(true)
	var p *PanicError
	for _, err := range two("b") {
		require.ErrorAs(e, err, &p)
	}
	ctx, cancel := context.WithTimeout(e.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = l.Get(ctx, "alone")
	require.ErrorIs(e, err, context.DeadlineExceeded, "the caller leaves at its own time")
}

func checkBatcherTimeout(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.FetchTimeout = 400 * time.Millisecond })
	s := &manySource{fetch: func(ctx context.Context, _ []string) (map[string]string, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	l, err := c.BindMany(time.Minute, s.get, Batching{MaxWait: 200 * time.Millisecond})
	require.NoError(e, err)
	errs := make(chan error)
	for i := range 4 {
		go func() {
			_, err := l.Get(e.Context(), strconv.Itoa(i))
			errs <- err
		}()
		e.pass(10 * time.Millisecond)
	}
	for range 4 {
		require.ErrorIs(e, <-errs, ErrFetchTimeout)
	}
	require.Len(e, s.asked(), 1)
}

func checkBatcherClosed(e *env) {
	c := open[string](e, nil)
	s := new(manySource)
	const wait = 50 * time.Millisecond
	l, err := c.BindMany(time.Minute, s.get, Batching{MaxWait: wait})
	require.NoError(e, err)
	waiting := make(chan error)
	go func() {
		_, err := l.Get(e.Context(), "a")
		waiting <- err
	}()
	e.settle(func() bool { return c.Stats().Flights == 1 }, "the look-up waits for others")
	require.NoError(e, c.Close())
	require.ErrorIs(e, <-waiting, ErrClosed)
	e.pass(2 * wait)
	require.Empty(e, s.asked(), "nobody is left to fetch for")
}

func checkMutate(e *env) {
	c := open[string](e, nil)
	require.NoError(e, c.SetMany(e.Context(), valuesOf("a", "b", "c"), time.Minute))
	err := c.Mutate(e.Context(), []string{"a", "b"}, func(context.Context) error { return nil })
	require.NoError(e, err)
	got, err := c.GetMany(e.Context(), []string{"a", "b", "c"})
	require.NoError(e, err)
	require.Equal(e, valuesOf("c"), got)
}

func checkMutateFails(e *env) {
	c := open[string](e, nil)
	require.NoError(e, c.SetMany(e.Context(), valuesOf("a", "b", "c"), time.Minute))
	ctx, cancel := context.WithCancel(e.Context())
	err := c.Mutate(ctx, []string{"a"}, func(context.Context) error {
		cancel()
		return errSource
	})
	require.Equal(e, errSource, err)
	require.PanicsWithValue(e, "boom", func() {
		_ = c.Mutate(e.Context(), []string{"b"}, func(context.Context) error { panic("boom") })
	})
	got, err := c.GetMany(e.Context(), []string{"a", "b", "c"})
	require.NoError(e, err)
	require.Equal(e, valuesOf("c"), got)
}

func checkMutateFences(e *env) {
	c := open[string](e, nil)
	s := serve("from before the write")
	fetched, release := make(chan answer[string], 1), s.hold()
	err := c.Mutate(e.Context(), []string{key}, func(ctx context.Context) error {
		waiting := ask(ctx, c, key, s.fetch)
		e.settleInside(func() bool { return s.calls.Load() == 1 })
		release()
		fetched <- <-waiting
		_, err := c.Get(ctx, key)
		if !errors.Is(err, ErrMiss) {
			return fmt.Errorf("what was fetched during the write is cached: %w", err)
		}
		return nil
	})
	require.NoError(e, err)
	require.Equal(e, answer[string]{"from before the write", nil}, <-fetched)
	_, err = c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss)
	v, err := c.GetWithFetch(e.Context(), key, time.Minute, serve("after").fetch)
	require.NoError(e, err)
	require.Equal(e, "after", v)
	v, err = c.Get(e.Context(), key)
	require.NoError(e, err)
	require.Equal(e, "after", v)
}
