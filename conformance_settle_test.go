package cacheaside

import (
	"context"
	"fmt"
	"time"

	"github.com/stretchr/testify/require"
)

func init() {
	remote := func(r rig) bool { return r.remote }
	aside := func(r rig) bool { return r.name == BackendRueidisAside }
	promises = append(promises,
		promise{"settle", "a fetch is told of each kind of removal, and of nothing else", nil, checkRemovalsSettle},
		promise{"settle", "what is fetched meanwhile is kept until the marker's end", nil, checkSettlingValues},
		promise{"settle", "a short ttl, a failure and an answer that is not kept end no marker", nil, checkMarkersStay},
		promise{"settle", "a burst of callers costs one fetch", nil, checkSettlingBurst},
		promise{"settle", "refreshes, batches and collected fetches are told", nil, checkSettlingFetches},
		promise{"settle", "fetches within a change that has declared the key are told", nil, checkSettlingInside},
		promise{"settle", "a Set keeps its ttl", nil, checkSetWhileSettling},
		promise{"settle", "every process is told", remote, checkOthersSettle},
		promise{"settle", "a process that hears of a removal is told", func(r rig) bool { return r.tells }, checkHeardRemovalsSettle},
		promise{"settle", "a marker costs no further command, and nothing without Settle", remote, checkMarkerCommands},
		promise{"settle", "one process fetches for all, near copies are not kept, and a second removal voids the fetch", aside, checkSettlingAside},
	)
}

// settleLong outlasts every case.
const settleLong = 30 * time.Second

func settleFor(d time.Duration) func(*Config) { return func(cfg *Config) { cfg.Settle = d } }

// tells asks once, and tells whether the source was asked, and what Settling told it.
func tells(e *env, c *Client[string], key, value string) (fetched, settling bool) {
	e.Helper()
	_, err := c.GetWithFetch(e.Context(), key, time.Minute, func(ctx context.Context, _ string) (string, error) {
		fetched = true
		_, settling = Settling(ctx)
		return value, nil
	})
	require.NoError(e, err)
	return fetched, settling
}

func requireSettling(e *env, c *Client[string], key, what string) {
	e.Helper()
	fetched, settling := tells(e, c, key, "settling")
	require.True(e, fetched, what)
	require.True(e, settling, what)
}

func requireSettled(e *env, c *Client[string], key, what string) {
	e.Helper()
	fetched, settling := tells(e, c, key, "settled")
	require.True(e, fetched, what)
	require.False(e, settling, what)
}

// waysToRemove are the ways to remove a key.
func waysToRemove(c *Client[string]) map[string]func(ctx context.Context, key string) error {
	nothing := func(context.Context) error { return nil }
	return map[string]func(ctx context.Context, key string) error{
		"Delete":     c.Delete,
		"DeleteMany": func(ctx context.Context, key string) error { return c.DeleteMany(ctx, []string{key}) },
		"Mutate":     func(ctx context.Context, key string) error { return c.Mutate(ctx, []string{key}, nothing) },
		"Invalidate": func(ctx context.Context, key string) error { return c.Backend().Invalidate(ctx, c.Refs(key)...) },
		"Backend.Mutate": func(ctx context.Context, key string) error {
			return c.Backend().Mutate(ctx, c.Refs(key), nothing)
		},
		"End": func(ctx context.Context, key string) error {
			ctx, change := Begin(ctx)
			if err := c.Changed(ctx, key); err != nil {
				return err
			}
			return change.End(ctx)
		},
	}
}

func checkRemovalsSettle(e *env) {
	c := open[string](e, settleFor(settleLong))
	for name, remove := range waysToRemove(c) {
		requireSettled(e, c, name, name)
		require.NoError(e, remove(e.Context(), name))
		_, err := c.Get(e.Context(), name)
		require.ErrorIs(e, err, ErrMiss)
		requireSettling(e, c, name, name)
		fetched, _ := tells(e, c, name, "again")
		require.False(e, fetched, "it is kept")
	}
	require.NoError(e, c.Delete(e.Context(), "never there"))
	requireSettling(e, c, "never there", "a removal of nothing")

	require.NoError(e, c.Set(e.Context(), "set", "v", time.Minute))
	fetched, _ := tells(e, c, "set", "fetched")
	require.False(e, fetched)
	require.NoError(e, c.Clear(e.Context()))
	requireSettled(e, c, "set", "after Clear")
	ctx, change := Begin(e.Context())
	require.NoError(e, c.Changed(ctx, "discarded"))
	change.Discard()
	requireSettled(e, c, "discarded", "after Discard")

	_, ok := Settling(e.Context())
	require.False(e, ok)
	off := open[string](e, func(cfg *Config) { cfg.Name = "off" })
	for name, remove := range waysToRemove(off) {
		require.NoError(e, remove(e.Context(), name))
		requireSettled(e, off, name, "without Settle")
	}
}

func checkSettlingValues(e *env) {
	const short = 400 * time.Millisecond
	change := func(cfg *Config) {
		cfg.Settle, cfg.StaleFor, cfg.StaleIfError, cfg.NegativeTTL, cfg.RefreshAhead = short, time.Hour, time.Hour, time.Hour, 0.5
	}
	c := open[string](e, change, WithNotFound(errSource))
	remover := c
	if e.remote() {
		remover = open[string](e, change)
	}
	for _, k := range []string{"value", "forever", "none"} {
		require.NoError(e, remover.Delete(e.Context(), k))
	}
	_, err := c.GetWithFetch(e.Context(), "value", time.Minute, serve("lagging").fetch)
	require.NoError(e, err)
	_, err = c.GetWithFetch(e.Context(), "forever", NoExpiry, serve("lagging").fetch)
	require.NoError(e, err)
	none := serve("")
	none.set("", errSource)
	_, err = c.GetWithFetch(e.Context(), "none", time.Minute, none.fetch)
	require.ErrorIs(e, err, ErrNotFound)
	e.pass(short + 100*time.Millisecond)
	for _, k := range []string{"value", "forever", "none"} {
		_, err := c.Get(e.Context(), k)
		require.ErrorIs(e, err, ErrMiss, k)
	}
	requireSettled(e, c, "value", "the time is over")
	fetched, _ := tells(e, c, "value", "again")
	require.False(e, fetched)
	e.pass(short + 100*time.Millisecond)
	served(e, e.Context(), c, "value", "settled")

	// a fetch that takes longer than that is given out, and not kept
	require.NoError(e, remover.Delete(e.Context(), "slow"))
	v, err := c.GetWithFetch(e.Context(), "slow", time.Minute, func(ctx context.Context, _ string) (string, error) {
		_, ok := Settling(ctx)
		require.True(e, ok)
		e.passInside(short + 100*time.Millisecond)
		return "lagging", nil
	})
	require.NoError(e, err)
	require.Equal(e, "lagging", v)
	requireSettled(e, c, "slow", "it was not kept")
	served(e, e.Context(), c, "slow", "settled")
}

func checkMarkersStay(e *env) {
	c := open[string](e, settleFor(settleLong), WithNotFound(errSource))
	other := c
	if e.remote() {
		other = open[string](e, settleFor(settleLong)) // it has only what stands in Redis
	}
	stays := func(key, after string) {
		e.Helper()
		requireSettling(e, other, key, after)
	}
	ctx := e.Context()

	require.NoError(e, c.Delete(ctx, "ttl"))
	_, err := c.GetWithFetch(ctx, "ttl", 20*time.Millisecond, serve("v").fetch)
	require.NoError(e, err)
	e.pass(50 * time.Millisecond)
	stays("ttl", "a value whose ttl is over")

	broken, none := serve(""), serve("")
	broken.set("", fmt.Errorf("broken"))
	none.set("", errSource)
	require.NoError(e, c.Delete(ctx, "fails"))
	_, err = c.GetWithFetch(ctx, "fails", time.Minute, broken.fetch)
	require.Error(e, err)
	stays("fails", "a failed fetch")

	require.NoError(e, c.Delete(ctx, "none"))
	_, err = c.GetWithFetch(ctx, "none", time.Minute, none.fetch)
	require.ErrorIs(e, err, ErrNotFound)
	stays("none", "the source has none")

	require.NoError(e, c.Delete(ctx, "skipped"))
	skips := serve("v")
	skips.inside = func(ctx context.Context, _ string) { SkipStore(ctx) }
	_, err = c.GetWithFetch(ctx, "skipped", time.Minute, skips.fetch)
	require.NoError(e, err)
	stays("skipped", "SkipStore")

	require.NoError(e, c.Delete(ctx, "refreshed"))
	requireSettling(e, c, "refreshed", "at first")
	_, err = c.Refresh(ctx, "refreshed", time.Minute, none.fetch)
	require.ErrorIs(e, err, ErrNotFound)
	stays("refreshed", "a refresh that found none")
}

func (e *env) remote() bool { return e.server != nil || e.owner != nil }

func checkSettlingBurst(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.Settle, cfg.StaleFor, cfg.StaleIfError = settleLong, time.Hour, time.Hour })
	require.NoError(e, c.Delete(e.Context(), key))
	s := serve("v")
	release := s.hold()
	all := askMany(e, 20, c, key, s)
	release()
	for _, got := range all {
		require.Equal(e, answer[string]{value: "v"}, <-got)
	}
	r, err := c.Lookup(e.Context(), key, time.Minute, s.fetch)
	require.NoError(e, err)
	require.Equal(e, SourceHit, r.Source, "it is fresh, though it may not become stale")
	require.EqualValues(e, 1, s.calls.Load())
}

func checkSettlingFetches(e *env) {
	e.Cleanup(forgetAges)
	c := open[string](e, settleFor(settleLong))
	ctx, first := e.Context(), c
	if e.remote() {
		first = open[string](e, settleFor(settleLong)) // then c knows only what stands in Redis
	}
	require.NoError(e, first.Delete(ctx, key))
	requireSettling(e, first, key, "at first")
	s := serve("v")
	told := make(chan time.Duration, 10)
	s.inside = func(ctx context.Context, _ string) {
		if since, ok := Settling(ctx); ok {
			told <- since
		}
	}
	_, err := c.Refresh(ctx, key, time.Minute, s.fetch)
	require.NoError(e, err)
	require.Len(e, told, 1, "Refresh")
	_, err = c.GetWithFetch(MaxAge(ctx, 0), key, time.Minute, s.fetch)
	require.NoError(e, err)
	require.Len(e, told, 2, "MaxAge")
	<-told
	<-told

	fetchMany := func(ctx context.Context, keys []string) (map[string]string, error) {
		if since, ok := Settling(ctx); ok {
			told <- since
		}
		m := make(map[string]string)
		for _, k := range keys {
			m[k] = "v"
		}
		return m, nil
	}
	many := func(keys ...string) {
		_, err := c.GetManyWithFetch(ctx, keys, time.Minute, fetchMany)
		require.NoError(e, err)
	}
	many("a", "b", "c")
	require.Empty(e, told)
	require.NoError(e, c.Delete(ctx, "a"))
	e.pass(20 * time.Millisecond)
	begun := time.Now()
	require.NoError(e, c.Delete(ctx, "b"))
	many("a", "b", "d")
	require.LessOrEqual(e, <-told, time.Since(begun)+5*time.Millisecond, "of the last removal")
	many("a", "b", "d")
	require.Empty(e, told, "they are kept")

	l, err := c.BindMany(time.Minute, fetchMany, Batching{})
	require.NoError(e, err)
	require.NoError(e, c.Delete(ctx, "c"))
	_, err = l.Get(ctx, "c")
	require.NoError(e, err)
	require.Len(e, told, 1, "BindMany")
	_, err = l.Get(ctx, "e")
	require.NoError(e, err)
	require.Len(e, told, 1, "nor of another key")
}

func checkSettlingInside(e *env) {
	c := open[string](e, settleFor(settleLong))
	require.NoError(e, c.Delete(e.Context(), "removed"))
	ctx, change := Begin(e.Context())
	require.NoError(e, c.Changed(ctx, "declared"))
	for k, want := range map[string]bool{"declared": true, "removed": true, "another": false} {
		_, err := c.GetWithFetch(ctx, k, time.Minute, func(ctx context.Context, _ string) (string, error) {
			since, ok := Settling(ctx)
			require.Equal(e, want, ok, k)
			if k == "declared" {
				require.Zero(e, since)
			}
			return "v", nil
		})
		require.NoError(e, err)
		_, err = c.GetManyWithFetch(ctx, []string{k, "yet another"}, time.Minute, func(ctx context.Context, _ []string) (map[string]string, error) {
			_, ok := Settling(ctx)
			require.Equal(e, want, ok, k)
			return nil, nil //nolint:nilnil // the source has none
		})
		require.NoError(e, err)
	}
	// each fetch is told of its own key, whichever is within the other
	_, err := c.GetWithFetch(ctx, "declared", time.Minute, func(ctx context.Context, _ string) (string, error) {
		return c.GetWithFetch(ctx, "another", time.Minute, func(ctx context.Context, _ string) (string, error) {
			_, ok := Settling(ctx)
			require.False(e, ok)
			return "v", nil
		})
	})
	require.NoError(e, err)
	var within context.Context
	_, err = c.GetWithFetch(ctx, "declared", time.Minute, func(ctx context.Context, _ string) (string, error) {
		within = ctx
		return "v", nil
	})
	require.NoError(e, err)
	require.NoError(e, change.End(ctx))
	_, err = c.GetWithFetch(within, "another", time.Minute, func(ctx context.Context, _ string) (string, error) {
		_, ok := Settling(ctx)
		require.False(e, ok, "the change has ended")
		return "v", nil
	})
	require.NoError(e, err)
	requireSettling(e, c, "declared", "after End")
}

func checkSetWhileSettling(e *env) {
	const short = 200 * time.Millisecond
	c := open[string](e, settleFor(short))
	require.NoError(e, c.Delete(e.Context(), key))
	require.NoError(e, c.Set(e.Context(), key, "set", time.Minute))
	served(e, e.Context(), c, key, "set")
	e.pass(short + 50*time.Millisecond)
	served(e, e.Context(), c, key, "set")
}

func checkOthersSettle(e *env) {
	c, other := open[string](e, settleFor(settleLong)), open[string](e, settleFor(settleLong))
	for name, remove := range waysToRemove(c) {
		fetched, _ := tells(e, other, name, "old")
		require.True(e, fetched)
		require.NoError(e, remove(e.Context(), name))
		e.settle(func() bool { _, err := other.Get(e.Context(), name); return err != nil }, name)
		many, err := other.GetMany(e.Context(), []string{name})
		require.NoError(e, err)
		require.Empty(e, many)
		requireSettling(e, other, name, name)
		served(e, e.Context(), other, name, "settling")
		served(e, e.Context(), c, name, "settling")
	}
	// also of a process that does not know the cache, and in one that has no Settle
	require.NoError(e, c.Set(e.Context(), key, "old", time.Minute))
	stranger, err := Connect(e.Context(), func() Config { cfg := e.config; cfg.Settle = settleLong; return cfg }(), e.options...)
	require.NoError(e, err)
	defer func() { require.NoError(e, stranger.Close()) }()
	require.NoError(e, stranger.Invalidate(e.Context(), c.Refs(key)...))
	off := open[string](e, nil)
	e.settle(func() bool { _, err := off.Get(e.Context(), key); return err != nil }, "it is removed")
	requireSettling(e, off, key, "the other process' marker")
	served(e, e.Context(), off, key, "settling")
	e.settle(func() bool { v, err := c.Get(e.Context(), key); return err == nil && v == "settling" }, "it is kept")
}

func checkHeardRemovalsSettle(e *env) {
	c, other := open[string](e, settleFor(settleLong)), open[string](e, settleFor(settleLong))
	busAlive(e.T, c)
	busAlive(e.T, other)
	for name, remove := range waysToRemove(c) {
		tells(e, other, name, "old")
		require.NoError(e, remove(e.Context(), name))
		gone(e.T, other, name)
		requireSettling(e, other, name, name)
	}
	tells(e, other, "set", "old")
	require.NoError(e, c.Set(e.Context(), "set", "new", time.Minute))
	gone(e.T, other, "set")
	requireSettling(e, other, "set", "what another process has set must be fetched here")
}

func checkMarkerCommands(e *env) {
	for _, settle := range []time.Duration{0, settleLong} {
		c := open[string](e, settleFor(settle))
		require.NoError(e, c.Set(e.Context(), key, "v", time.Minute))
		at := e.at(e.config.Prefix + ":" + e.config.Name + ":" + key)
		at.Must("CONFIG", "RESETSTAT")
		require.NoError(e, c.Delete(e.Context(), key))
		calls := at.Must("INFO", "commandstats").(string)
		if settle == 0 {
			require.Contains(e, calls, "cmdstat_del:calls=1,")
			require.NotContains(e, calls, "cmdstat_set:")
			continue
		}
		require.Contains(e, calls, "cmdstat_set:calls=1,")
		require.NotContains(e, calls, "cmdstat_del:")
		require.NotContains(e, calls, "cmdstat_eval")
	}
}

func checkSettlingAside(e *env) {
	c, other := open[string](e, settleFor(settleLong)), open[string](e, settleFor(settleLong))
	require.NoError(e, c.Delete(e.Context(), key))
	s := serve("v")
	release := s.hold()
	first := ask(e.Context(), c, key, s.fetch)
	e.settle(func() bool { return s.calls.Load() == 1 }, "it fetches")
	second := ask(e.Context(), other, key, s.fetch)
	e.pass(50 * time.Millisecond)
	release()
	require.Equal(e, "v", (<-first).value)
	require.Equal(e, "v", (<-second).value)
	require.EqualValues(e, 1, s.calls.Load(), "one process fetches")
	for range 3 {
		served(e, e.Context(), c, key, "v")
		served(e, e.Context(), other, key, "v")
	}
	require.Zero(e, c.Stats().NearHits+other.Stats().NearHits)

	old := serve("old")
	release = old.hold()
	require.NoError(e, c.Delete(e.Context(), key))
	first = ask(e.Context(), c, key, old.fetch)
	e.settle(func() bool { return old.calls.Load() == 1 }, "it fetches over a marker")
	require.NoError(e, other.Delete(e.Context(), key))
	release()
	require.Equal(e, "old", (<-first).value)
	requireSettling(e, other, key, "what was fetched before the second removal is not kept")
	served(e, e.Context(), c, key, "settling")
}
