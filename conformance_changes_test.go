package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"
)

func init() {
	remote := func(r rig) bool { return r.remote }
	promises = append(promises,
		promise{"G26", "from Changed until End nothing of the keys is stored", nil, checkChangedIsNotStored},
		promise{"G26", "nor of tags", nil, checkChangedTagsAreNotStored},
		promise{"G26", "a fetch that was under way at Changed is not stored", nil, checkChangedVoidsFlights},
		promise{"G26", "no caller outside joins a fetch that began inside a change", nil, checkNobodyJoinsInside},
		promise{"G27", "a lookup inside reads through for what has changed, and is served what has not", nil, checkLookupsInside},
		promise{"G27", "a fetch inside runs under the caller's context, and stores nothing, whatever the key", nil, checkFetchInside},
		promise{"G27", "so do batches and BindMany", nil, checkBatchesInside},
		promise{"G27", "a Set inside keeps nothing, and a Delete inside is not undone", nil, checkWritesInside},
		promise{"G27", "what is due for a refresh is not refreshed inside", nil, checkNoRefreshInside},
		promise{"G27", "a fetch inside that asks for its own key, or panics, is an error", nil, checkBadFetchesInside},
		promise{"G27", "Warm fetches nothing inside, and says so", nil, checkWarmInside},
		promise{"G32", "fetches inside changes take a place too, and those that they ask for take none", nil, checkLimitInside},
		promise{"G28", "End removes keys and tags, also under a context that has ended, and a second End is nil", nil, checkEndRemoves},
		promise{"G28", "End removes in every process", remote, checkEndRemovesEverywhere},
		promise{"G28", "what other callers fetched during the change is not served after it", nil, checkNothingFromBefore},
		promise{"G28", "Changed and lookups under an ended change", nil, checkEndedChange},
		promise{"changes", "Discard removes nothing", nil, checkDiscard},
		promise{"changes", "a change within a change is part of it", nil, checkNestedChanges},
		promise{"changes", "several caches, backends and goroutines", nil, checkWideChanges},
		promise{"changes", "one that is never ended is told of, and lets go", nil, checkChangeLeftOpen},
		promise{"changes", "bad keys and refs", nil, checkBadChanges},
	)
}

// ask1 asks once, and returns how often the source was asked.
func ask1(e *env, ctx context.Context, c *Client[string], key, value string) (got string, fetched bool) {
	e.Helper()
	got, err := c.GetWithFetch(ctx, key, time.Minute, func(context.Context, string) (string, error) {
		fetched = true
		return value, nil
	})
	require.NoError(e, err)
	return got, fetched
}

// served requires that key is there with this value, and needs no fetch.
func served(e *env, ctx context.Context, c *Client[string], key, want string) {
	e.Helper()
	got, fetched := ask1(e, ctx, c, key, "fetched")
	require.False(e, fetched)
	require.Equal(e, want, got)
}

func checkChangedIsNotStored(e *env) {
	c := open[string](e, nil)
	ctx, change := Begin(e.Context())
	require.NoError(e, c.Changed(ctx, key, "b"))
	require.NoError(e, c.Changed(ctx, key))
	for range 3 {
		_, fetched := ask1(e, e.Context(), c, key, "old")
		require.True(e, fetched)
		m, err := c.GetManyWithFetch(e.Context(), []string{"b"}, time.Minute, func(context.Context, []string) (map[string]string, error) {
			return map[string]string{"b": "old"}, nil
		})
		require.NoError(e, err)
		require.Equal(e, map[string]string{"b": "old"}, m)
	}
	require.NoError(e, c.Set(e.Context(), key, "set", time.Minute))
	_, err := c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss)
	_, err = c.Get(e.Context(), "b")
	require.ErrorIs(e, err, ErrMiss)
	_, fetched := ask1(e, e.Context(), c, "other", "v")
	require.True(e, fetched)
	served(e, e.Context(), c, "other", "v")
	require.NoError(e, change.End(e.Context()))
	ask1(e, e.Context(), c, key, "new")
	served(e, e.Context(), c, key, "new")
}

func checkChangedTagsAreNotStored(e *env) {
	c := open[string](e, nil, WithTags(func(key, _ string) []string { return []string{"tag:" + key} }))
	ask1(e, e.Context(), c, key, "old")
	ctx, change := Begin(e.Context())
	require.NoError(e, c.Backend().Changed(ctx, Tags("tag:"+key)...))
	_, fetched := ask1(e, ctx, c, key, "uncommitted")
	require.True(e, fetched, "inside it has changed")
	for range 2 {
		got, fetched := ask1(e, e.Context(), c, key, "old")
		require.True(e, fetched)
		require.Equal(e, "old", got)
	}
	_, fetched = ask1(e, e.Context(), c, "other", "v")
	require.True(e, fetched)
	served(e, e.Context(), c, "other", "v")
	require.NoError(e, change.End(e.Context()))
	got, fetched := ask1(e, e.Context(), c, key, "new")
	require.True(e, fetched)
	require.Equal(e, "new", got)
	served(e, e.Context(), c, key, "new")
	served(e, e.Context(), c, "other", "v")
}

func checkChangedVoidsFlights(e *env) {
	c := open[string](e, nil)
	s := serve("old")
	release := s.hold()
	got := ask(e.Context(), c, key, s.fetch)
	e.settle(func() bool { return s.calls.Load() == 1 }, "the fetch has begun")
	ctx, change := Begin(e.Context())
	require.NoError(e, c.Changed(ctx, key))
	release()
	require.Equal(e, "old", (<-got).value)
	_, err := c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss)
	require.NoError(e, change.End(e.Context()))
	_, err = c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss)
}

func checkNobodyJoinsInside(e *env) {
	c := open[string](e, nil)
	ctx, change := Begin(e.Context())
	inside := serve("uncommitted")
	release := inside.hold()
	got := ask(ctx, c, key, inside.fetch)
	e.settle(func() bool { return inside.calls.Load() == 1 }, "the fetch inside has begun")
	v, fetched := ask1(e, e.Context(), c, key, "committed")
	require.True(e, fetched)
	require.Equal(e, "committed", v)
	release()
	require.Equal(e, "uncommitted", (<-got).value)
	served(e, e.Context(), c, key, "committed")
	require.NoError(e, change.End(e.Context()))

	// nor does one inside join a fetch of others
	outside := serve("committed")
	release = outside.hold()
	got = ask(e.Context(), c, "b", outside.fetch)
	e.settle(func() bool { return outside.calls.Load() == 1 }, "the fetch outside has begun")
	ctx, change = Begin(e.Context())
	v, fetched = ask1(e, ctx, c, "b", "uncommitted")
	require.True(e, fetched)
	require.Equal(e, "uncommitted", v)
	release()
	<-got
	change.Discard()
	served(e, e.Context(), c, "b", "committed")
}

func checkLookupsInside(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.StaleFor, cfg.StaleIfError = time.Hour, time.Hour })
	for _, k := range []string{"changed", "same"} {
		require.NoError(e, c.Set(e.Context(), k, "old", time.Minute))
		served(e, e.Context(), c, k, "old")
		served(e, e.Context(), c, k, "old") // by the near copy
	}
	ctx, change := Begin(e.Context())
	require.NoError(e, c.Changed(ctx, "changed"))
	for range 2 {
		v, fetched := ask1(e, ctx, c, "changed", "new")
		require.True(e, fetched)
		require.Equal(e, "new", v)
		_, err := c.Get(ctx, "changed")
		require.ErrorIs(e, err, ErrMiss)
		r, err := c.Lookup(ctx, "changed", time.Minute, serve("new").fetch)
		require.NoError(e, err)
		require.Equal(e, SourceFetched, r.Source)
		v, err = c.Bind(time.Minute, serve("bound").fetch).Get(ctx, "changed")
		require.NoError(e, err)
		require.Equal(e, "bound", v)
		served(e, ctx, c, "same", "old")
		many, err := c.GetMany(ctx, []string{"changed", "same"})
		require.NoError(e, err)
		require.Equal(e, map[string]string{"same": "old"}, many)
		served(e, e.Context(), c, "changed", "old") // outside nothing has changed yet
		many, err = c.GetMany(e.Context(), []string{"changed", "same"})
		require.NoError(e, err)
		require.Len(e, many, 2)
	}
	_, err := c.GetWithFetch(ctx, "changed", time.Minute, func(context.Context, string) (string, error) { return "", errSource })
	require.ErrorIs(e, err, errSource, "no old value stands in")
	require.NoError(e, change.End(e.Context()))
}

type insideKey struct{}

func checkFetchInside(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.NegativeTTL = time.Minute }, WithNotFound(errSource))
	parent, cancel := context.WithCancel(context.WithValue(e.Context(), insideKey{}, "tx"))
	ctx, change := Begin(parent)
	defer change.Discard()
	v, err := c.GetWithFetch(ctx, key, time.Minute, func(ctx context.Context, k string) (string, error) {
		require.Equal(e, "tx", ctx.Value(insideKey{}))
		require.Equal(e, key, k)
		OverrideTTL(ctx, time.Hour)
		Tag(ctx, "t")
		nested, err := c.GetWithFetch(ctx, "another", time.Minute, serve("nested").fetch)
		require.NoError(e, err)
		return "uncommitted, " + nested, nil
	})
	require.NoError(e, err)
	require.Equal(e, "uncommitted, nested", v)
	for _, k := range []string{key, "another"} {
		_, err = c.Get(e.Context(), k)
		require.ErrorIs(e, err, ErrMiss)
	}
	_, err = c.GetWithFetch(ctx, "none", time.Minute, func(context.Context, string) (string, error) { return "", errSource })
	require.ErrorIs(e, err, ErrNotFound)
	require.ErrorIs(e, err, errSource)
	_, fetched := ask1(e, e.Context(), c, "none", "some")
	require.True(e, fetched, "that there is none is not known outside")
	_, err = c.GetWithFetch(ctx, key, time.Minute, func(ctx context.Context, _ string) (string, error) {
		cancel()
		<-ctx.Done()
		return "", ctx.Err()
	})
	require.ErrorIs(e, err, context.Canceled)
	require.NotZero(e, c.Stats().Fetches)
}

func checkBatchesInside(e *env) {
	c := open[string](e, nil)
	require.NoError(e, c.Set(e.Context(), "same", "old", time.Minute))
	require.NoError(e, c.Set(e.Context(), "changed", "old", time.Minute))
	ctx, change := Begin(context.WithValue(e.Context(), insideKey{}, "tx"))
	require.NoError(e, c.Changed(ctx, "changed"))
	fetch := func(ctx context.Context, keys []string) (map[string]string, error) {
		require.Equal(e, "tx", ctx.Value(insideKey{}))
		all := make(map[string]string)
		for _, k := range keys {
			if k != "none" {
				all[k] = "uncommitted"
			}
		}
		return all, nil
	}
	for range 2 {
		got, err := c.GetManyWithFetch(ctx, []string{"same", "changed", "new", "none"}, time.Minute, fetch)
		require.NoError(e, err)
		require.Equal(e, map[string]string{"same": "old", "changed": "uncommitted", "new": "uncommitted"}, got)
	}
	some := func(context.Context, []string) (map[string]string, error) {
		return map[string]string{"new": "part"}, errSource
	}
	got, err := c.GetManyWithFetch(ctx, []string{"same", "new", "new2"}, time.Minute, some)
	require.ErrorIs(e, err, errSource)
	require.Equal(e, map[string]string{"same": "old", "new": "part"}, got)

	loader, err := c.BindMany(time.Minute, fetch, Batching{MaxWait: 50 * time.Millisecond})
	require.NoError(e, err)
	outside, err := c.BindMany(time.Minute, func(ctx context.Context, keys []string) (map[string]string, error) {
		require.Nil(e, ctx.Value(insideKey{}))
		return map[string]string{"bound": "committed", "bound2": "committed"}, nil
	}, Batching{})
	require.NoError(e, err)
	v, err := loader.Get(ctx, "bound")
	require.NoError(e, err)
	require.Equal(e, "uncommitted", v)
	_, err = loader.Get(ctx, "none")
	require.ErrorIs(e, err, ErrNotFound)
	v, err = outside.Get(e.Context(), "bound")
	require.NoError(e, err)
	require.Equal(e, "committed", v)
	change.Discard()
	_, err = c.Get(e.Context(), "new")
	require.ErrorIs(e, err, ErrMiss)
}

func checkWritesInside(e *env) {
	c := open[string](e, nil)
	for _, k := range []string{"set", "deleted", "tagged"} {
		require.NoError(e, c.Set(e.Context(), k, "old", time.Minute))
	}
	ctx, change := Begin(e.Context())
	require.NoError(e, c.Set(ctx, "set", "uncommitted", time.Minute))
	require.NoError(e, c.SetMany(ctx, map[string]string{"set2": "uncommitted"}, time.Minute))
	require.NoError(e, c.Delete(ctx, "deleted"))
	require.NoError(e, c.Backend().Invalidate(ctx, c.Refs("tagged")...))
	served(e, e.Context(), c, "set", "old")
	_, err := c.Get(e.Context(), "set2")
	require.ErrorIs(e, err, ErrMiss)
	for _, k := range []string{"deleted", "tagged", "set", "set2"} {
		ask1(e, e.Context(), c, k, "old") // puts the old row back, as far as it goes
		_, fetched := ask1(e, ctx, c, k, "new")
		require.True(e, fetched, k)
	}
	require.NoError(e, change.End(e.Context()))
	for _, k := range []string{"deleted", "tagged", "set", "set2"} {
		_, err := c.Get(e.Context(), k)
		require.ErrorIs(e, err, ErrMiss, k)
	}
}

func checkNoRefreshInside(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.StaleFor = time.Hour })
	require.NoError(e, c.Set(e.Context(), key, "stale", 10*time.Millisecond))
	e.pass(20 * time.Millisecond)
	ctx, change := Begin(e.Context())
	v, err := c.GetWithFetch(ctx, key, time.Minute, func(context.Context, string) (string, error) {
		e.Error("a refresh under the context of a change")
		return "uncommitted", nil
	})
	require.NoError(e, err)
	require.Equal(e, "stale", v)
	_, err = c.GetManyWithFetch(ctx, []string{key}, time.Minute, func(context.Context, []string) (map[string]string, error) {
		e.Error("a refresh under the context of a change")
		return nil, nil
	})
	require.NoError(e, err)
	require.NoError(e, change.End(e.Context()))
}

func checkBadFetchesInside(e *env) {
	c := open[string](e, nil)
	ctx, change := Begin(e.Context())
	defer change.Discard()
	var again FetchFunc[string]
	again = func(ctx context.Context, _ string) (string, error) {
		return c.GetWithFetch(ctx, key, time.Minute, again)
	}
	_, err := c.GetWithFetch(ctx, key, time.Minute, again)
	require.ErrorIs(e, err, ErrReentrant)
	_, err = c.GetManyWithFetch(ctx, []string{"a", key}, time.Minute, func(ctx context.Context, _ []string) (map[string]string, error) {
		_, err := c.GetWithFetch(ctx, key, time.Minute, again)
		return nil, err
	})
	require.ErrorIs(e, err, ErrReentrant)
	_, err = c.GetWithFetch(ctx, key, time.Minute, func(context.Context, string) (string, error) { panic("the fetch's own") })
	var panicked *PanicError
	require.ErrorAs(e, err, &panicked)
	_, err = c.GetWithFetch(ctx, key, time.Minute, nil)
	require.ErrorIs(e, err, ErrInvalidValue)
}

func checkWarmInside(e *env) {
	c := open[string](e, nil)
	s := serve("uncommitted")
	many, err := c.BindMany(time.Minute, func(ctx context.Context, keys []string) (map[string]string, error) {
		v, err := s.fetch(ctx, keys[0])
		return map[string]string{keys[0]: v}, err
	}, Batching{})
	require.NoError(e, err)
	ctx, change := Begin(e.Context())
	for _, l := range []*Loader[string]{c.Bind(time.Minute, s.fetch), many} {
		require.ErrorIs(e, l.Warm(ctx, slices.Values([]string{key})), ErrInvalidValue)
		require.Zero(e, s.calls.Load())
		_, err := c.Get(e.Context(), key)
		require.ErrorIs(e, err, ErrMiss)
	}
	require.NoError(e, change.End(ctx))
	require.NoError(e, many.Warm(ctx, slices.Values([]string{key})))
	served(e, e.Context(), c, key, "uncommitted")
}

func checkLimitInside(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.MaxFetches = 1 })
	ctx, change := Begin(e.Context())
	defer change.Discard()
	v, err := c.GetWithFetch(ctx, "outer", time.Minute, func(ctx context.Context, _ string) (string, error) {
		_, err := c.GetWithFetch(e.Context(), "outside", time.Minute, serve("v").fetch)
		require.ErrorIs(e, err, ErrOverloaded)
		_, err = c.GetManyWithFetch(ctx, []string{"a", "b"}, time.Minute, func(context.Context, []string) (map[string]string, error) {
			return map[string]string{"a": "v"}, nil
		})
		require.NoError(e, err)
		return c.GetWithFetch(ctx, "inner", time.Minute, serve("v").fetch)
	})
	require.NoError(e, err)
	require.Equal(e, "v", v)
	_, err = c.GetWithFetch(e.Context(), "outside", time.Minute, func(context.Context, string) (string, error) {
		_, err := c.GetWithFetch(ctx, "another", time.Minute, serve("v").fetch)
		return "v", err
	})
	require.ErrorIs(e, err, ErrOverloaded, "the change is another's")
	_, err = c.GetWithFetch(e.Context(), "outside", time.Minute, serve("v").fetch)
	require.NoError(e, err, "the place is free")
}

func checkEndRemoves(e *env) {
	c := open[string](e, nil, WithTags(func(key, _ string) []string { return []string{"tag:" + key} }))
	for _, k := range []string{"key", "tag"} {
		require.NoError(e, c.Set(e.Context(), k, "old", time.Minute))
	}
	parent, cancel := context.WithCancel(e.Context())
	ctx, change := Begin(parent)
	require.NoError(e, c.Backend().Changed(ctx, append(c.Refs("key"), Tags("tag:tag")...)...))
	cancel()
	require.NoError(e, change.End(ctx))
	require.NoError(e, change.End(ctx))
	change.Discard()
	for _, k := range []string{"key", "tag"} {
		_, err := c.Get(e.Context(), k)
		require.ErrorIs(e, err, ErrMiss, k)
		ask1(e, e.Context(), c, k, "new")
		served(e, e.Context(), c, k, "new")
	}
}

func checkEndRemovesEverywhere(e *env) {
	c, other := open[string](e, nil), open[string](e, nil)
	require.NoError(e, c.Set(e.Context(), key, "old", time.Minute))
	served(e, e.Context(), other, key, "old")
	served(e, e.Context(), other, key, "old")
	ctx, change := Begin(e.Context())
	require.NoError(e, c.Changed(ctx, key))
	served(e, e.Context(), other, key, "old")
	require.NoError(e, change.End(e.Context()))
	e.settle(func() bool { _, err := other.Get(e.Context(), key); return errors.Is(err, ErrMiss) }, "it is gone there")
}

func checkNothingFromBefore(e *env) {
	c := open[string](e, nil)
	ctx, change := Begin(e.Context())
	require.NoError(e, c.Changed(ctx, key))
	s := serve("old")
	release := s.hold()
	got := ask(e.Context(), c, key, s.fetch)
	e.settle(func() bool { return s.calls.Load() == 1 }, "the fetch has begun")
	require.NoError(e, change.End(e.Context()))
	v, fetched := ask1(e, e.Context(), c, key, "new")
	require.True(e, fetched)
	require.Equal(e, "new", v)
	release()
	<-got
	served(e, e.Context(), c, key, "new")
}

func checkEndedChange(e *env) {
	c := open[string](e, nil)
	ctx, change := Begin(e.Context())
	require.NoError(e, change.End(ctx))
	ask1(e, ctx, c, key, "v")
	served(e, e.Context(), c, key, "v")
	err := c.Changed(ctx, key)
	require.ErrorIs(e, err, ErrNoChange)
	_, err = c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss, "it was removed all the same")
	require.ErrorIs(e, c.Changed(e.Context(), key), ErrNoChange)
	require.ErrorIs(e, c.Backend().Changed(e.Context(), c.Refs(key)...), ErrNoChange)
	require.NoError(e, c.Set(ctx, key, "set", time.Minute))
	served(e, e.Context(), c, key, "set")
	ctx, again := Begin(ctx)
	require.NoError(e, c.Changed(ctx, key))
	require.NoError(e, again.End(ctx))
	_, err = c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss)
}

func checkDiscard(e *env) {
	c := open[string](e, nil, WithTags(func(_, v string) []string { return []string{"t"} }))
	require.NoError(e, c.Set(e.Context(), key, "old", time.Minute))
	require.NoError(e, c.Set(e.Context(), "set", "old", time.Minute))
	ctx, change := Begin(e.Context())
	require.NoError(e, c.Changed(ctx, key, "set"))
	require.NoError(e, c.Delete(e.Context(), "set"))
	served(e, e.Context(), c, key, "old")
	change.Discard()
	require.NoError(e, change.End(ctx))
	served(e, e.Context(), c, key, "old")
	_, err := c.Get(e.Context(), "set")
	require.ErrorIs(e, err, ErrMiss, "what was deleted meanwhile does not come back")
	if kept := c.store.peek(key); kept != nil {
		require.False(e, kept.hidden(), "a hit takes the short way again")
	}
	require.NoError(e, c.InvalidateTags(e.Context(), "t"))
	_, err = c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss, "it has its tags still")
	ask1(e, e.Context(), c, key, "new")
	served(e, e.Context(), c, key, "new")
}

func checkNestedChanges(e *env) {
	c := open[string](e, nil)
	require.NoError(e, c.Set(e.Context(), key, "old", time.Minute))
	ctx, outer := Begin(e.Context())
	within, inner := Begin(ctx)
	require.NoError(e, c.Changed(within, key))
	inner.Discard()
	require.NoError(e, inner.End(within))
	_, err := c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss)
	ask1(e, e.Context(), c, key, "old")
	_, err = c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss, "the outer change is open")
	require.NoError(e, c.Mutate(ctx, []string{"mutated"}, func(ctx context.Context) error {
		_, fetched := ask1(e, ctx, c, "mutated", "uncommitted")
		require.True(e, fetched)
		return nil
	}))
	ask1(e, e.Context(), c, "mutated", "old")
	_, err = c.Get(e.Context(), "mutated")
	require.ErrorIs(e, err, ErrMiss)
	require.NoError(e, outer.End(ctx))
	require.NoError(e, inner.End(within))
	for _, k := range []string{key, "mutated"} {
		ask1(e, e.Context(), c, k, "new")
		served(e, e.Context(), c, k, "new")
	}
}

func checkWideChanges(e *env) {
	one, two := open[string](e, func(cfg *Config) { cfg.Name = "one" }), open[string](e, func(cfg *Config) { cfg.Name = "two" })
	ctx, change := Begin(e.Context())
	var all sync.WaitGroup
	for i := range 20 {
		for _, c := range []*Client[string]{one, two} {
			require.NoError(e, c.Set(e.Context(), fmt.Sprint(i), "old", time.Minute))
			all.Go(func() {
				if err := c.Changed(ctx, fmt.Sprint(i)); err != nil {
					e.Error(err)
				}
				if _, err := c.Get(ctx, fmt.Sprint(i)); !errors.Is(err, ErrMiss) {
					e.Error(err)
				}
			})
		}
	}
	all.Wait()
	require.NoError(e, change.End(ctx))
	for i := range 20 {
		for _, c := range []*Client[string]{one, two} {
			_, err := c.Get(e.Context(), fmt.Sprint(i))
			require.ErrorIs(e, err, ErrMiss)
		}
	}
}

func checkChangeLeftOpen(e *env) {
	var mu sync.Mutex
	var text strings.Builder
	logger := slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return text.Write(p)
	}), nil))
	c := open[string](e, func(cfg *Config) {
		cfg.FetchTimeout, cfg.ChangeTimeout = 20*time.Millisecond, 100*time.Millisecond
	}, WithLogger(logger))
	require.NoError(e, c.Set(e.Context(), key, "old", time.Minute))
	ctx, change := Begin(e.Context())
	require.NoError(e, c.Changed(ctx, key))
	e.pass(50 * time.Millisecond)
	e.settle(func() bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Contains(text.String(), "conformance_changes_test.go:")
	}, "the log names the place")
	e.pass(100 * time.Millisecond)
	e.settle(func() bool { return !c.changing.isHeld(key) }, "it has let go")
	_, err := c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss, "and removed it")
	ask1(e, e.Context(), c, key, "old")
	served(e, e.Context(), c, key, "old")
	require.NoError(e, c.Changed(ctx, "late"))
	ask1(e, ctx, c, "late", "uncommitted")
	_, err = c.Get(e.Context(), "late")
	require.ErrorIs(e, err, ErrMiss)
	require.NoError(e, change.End(ctx))
	_, err = c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss)
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func checkBadChanges(e *env) {
	c := open[string](e, nil)
	ctx, change := Begin(e.Context())
	require.ErrorIs(e, c.Changed(ctx, strings.Repeat("k", MaxKeyBytes+1)), ErrInvalidKey)
	require.ErrorIs(e, c.Backend().Changed(ctx, Ref{}), ErrInvalidKey)
	require.ErrorIs(e, c.Backend().Changed(ctx, Tags("")...), ErrInvalidTag)
	require.ErrorIs(e, (*Backend)(nil).Changed(ctx), ErrInvalidValue)
	require.NoError(e, c.Changed(ctx))
	require.NoError(e, c.Changed(ctx, key))
	require.NoError(e, c.Close())
	require.ErrorIs(e, c.Changed(ctx, key), ErrClosed)
	_ = change.End(ctx) // a closed cache holds nothing
}
