package cacheaside

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"
)

func init() {
	promises = append(promises,
		promise{"G30", "no way of lookup returns a value of another scope", nil, checkScopesApart},
		promise{"G30", "removals reach the scope of their context, and no other", nil, checkScopedRemovals},
		promise{"G30", "flights and batches of two scopes are two", nil, checkScopedFlights},
		promise{"G30", "stale values, refreshes and what the source does not have stay in their scope", nil, checkScopedPolicies},
		promise{"G30", "scopes and keys of any bytes do not meet", nil, checkScopesDoNotMeet},
		promise{"G30", "a changed value is hidden in its scope, and removed there", nil, checkScopedChanges},
		promise{"G30", "without a scope nothing is looked up, fetched or removed", nil, checkNoScope},
		promise{"G30", "what stands under the key of another scope does not count", isRemote, checkScopeIsStored},
		promise{"scopes", "functions of the user get their own keys", nil, checkScopedFunctions},
		promise{"scopes", "ClearScope removes one scope, and voids its fetches", nil, checkClearScope},
		promise{"scopes", "ClearScope reaches every process", isRemote, checkClearScopeEverywhere},
		promise{"scopes", "Refs have the scope of their context, and RefsIn names it", nil, checkScopedRefs},
		promise{"scopes", "a feed's Ref without a scope removes the key from all", nil, checkScopedFeeds},
		promise{"scopes", "a cache with and one without are not one", isRemote, checkScopedNames},
	)
}

// scopeKey is the key of a tenant in a context.
type scopeKey struct{}

var errTenant = errors.New("no tenant is known")

func tenantOf(ctx context.Context) (string, error) {
	switch t := ctx.Value(scopeKey{}).(type) {
	case error:
		return "", t
	case string:
		return t, nil
	}
	return "", nil
}

func (e *env) as(tenant any) context.Context {
	return context.WithValue(e.Context(), scopeKey{}, tenant)
}

func openScoped(e *env, change func(*Config), opts ...Option) *Client[string] {
	e.Helper()
	return open[string](e, change, append(opts, WithScope(tenantOf))...)
}

// ofTenant is a source that has every key of every tenant, and says whose it was asked for.
func ofTenant(ctx context.Context, key string) (string, error) {
	tenant, err := tenantOf(ctx)
	return tenant + "'s " + key, err
}

func manyOfTenant(ctx context.Context, keys []string) (map[string]string, error) {
	values := make(map[string]string, len(keys))
	for _, k := range keys {
		v, err := ofTenant(ctx, k)
		if err != nil {
			return nil, err
		}
		values[k] = v
	}
	return values, nil
}

// scopedLookups are all ways of looking a key up.
func scopedLookups(e *env, c *Client[string]) map[string]func(ctx context.Context, key string) (string, error) {
	bound := c.Bind(time.Minute, ofTenant)
	collecting, err := c.BindMany(time.Minute, manyOfTenant, Batching{})
	require.NoError(e, err)
	keyed := Keyed(c, StringKeys[string]())
	one := func(all map[string]string, err error, key string) (string, error) {
		if v, ok := all[key]; ok || err != nil {
			return v, err
		}
		return "", ErrMiss
	}
	return map[string]func(ctx context.Context, key string) (string, error){
		"Get": c.Get,
		"GetWithFetch": func(ctx context.Context, key string) (string, error) {
			return c.GetWithFetch(ctx, key, time.Minute, ofTenant)
		},
		"Lookup": func(ctx context.Context, key string) (string, error) {
			r, err := c.Lookup(ctx, key, time.Minute, ofTenant)
			return r.Value, err
		},
		"Refresh": func(ctx context.Context, key string) (string, error) {
			return c.Refresh(ctx, key, time.Minute, ofTenant)
		},
		"GetMany": func(ctx context.Context, key string) (string, error) {
			all, err := c.GetMany(ctx, []string{key, key})
			return one(all, err, key)
		},
		"GetManyWithFetch": func(ctx context.Context, key string) (string, error) {
			all, err := c.GetManyWithFetch(ctx, []string{key, "another"}, time.Minute, manyOfTenant)
			return one(all, err, key)
		},
		"Loader": bound.Get,
		"Warm": func(ctx context.Context, key string) (string, error) {
			if err := bound.Warm(ctx, slices.Values([]string{key})); err != nil {
				return "", err
			}
			return c.Get(ctx, key)
		},
		"BindMany":     collecting.Get,
		"Keyed.Get":    keyed.Get,
		"Keyed.Loader": keyed.Bind(time.Minute, ofTenant).Get,
		"Keyed.GetWithFetch": func(ctx context.Context, key string) (string, error) {
			return keyed.GetWithFetch(ctx, key, time.Minute, ofTenant)
		},
		"within a change": func(ctx context.Context, key string) (string, error) {
			ctx, change := Begin(ctx)
			defer change.Discard()
			return collecting.Get(ctx, key)
		},
	}
}

func checkScopesApart(e *env) {
	c := openScoped(e, nil)
	ways := scopedLookups(e, c)
	for first := range ways {
		for _, way := range slices.Sorted(maps.Keys(ways)) {
			k := first + " before " + way
			for _, tenant := range []string{"a", "b", "a", "b"} {
				for _, name := range []string{first, way} {
					v, err := ways[name](e.as(tenant), k)
					if err == nil {
						require.Equal(e, tenant+"'s "+k, v, name)
					} else {
						require.ErrorIs(e, err, ErrMiss, name)
					}
				}
			}
		}
	}
}

func checkScopedRemovals(e *env) {
	c := openScoped(e, nil)
	removals := map[string]func(ctx context.Context) error{
		"Delete":     func(ctx context.Context) error { return c.Delete(ctx, key) },
		"DeleteMany": func(ctx context.Context) error { return c.DeleteMany(ctx, []string{key, "another"}) },
		"Mutate": func(ctx context.Context) error {
			return c.Mutate(ctx, []string{key}, func(context.Context) error { return nil })
		},
		"Backend.Mutate": func(ctx context.Context) error {
			return c.Backend().Mutate(ctx, c.Refs(key), func(context.Context) error { return nil })
		},
		"Invalidate": func(ctx context.Context) error { return c.Backend().Invalidate(ctx, c.Refs(key)...) },
		"Changed": func(ctx context.Context) error {
			ctx, change := Begin(ctx)
			return errors.Join(c.Changed(ctx, key), change.End(ctx))
		},
		"Backend.Changed": func(ctx context.Context) error {
			ctx, change := Begin(ctx)
			return errors.Join(c.Backend().Changed(ctx, c.Refs(key)...), change.End(ctx))
		},
		"Keyed.Delete": func(ctx context.Context) error { return Keyed(c, StringKeys[string]()).Delete(ctx, key) },
	}
	for name, remove := range removals {
		require.NoError(e, c.Set(e.as("a"), key, "of a", time.Minute))
		require.NoError(e, c.SetMany(e.as("b"), map[string]string{key: "of b"}, time.Minute))
		for range 2 { // the second read is a near hit
			got, err := c.Get(e.as("a"), key)
			require.NoError(e, err)
			require.Equal(e, "of a", got)
		}
		require.NoError(e, remove(e.as("a")), name)
		_, err := c.Get(e.as("a"), key)
		require.ErrorIs(e, err, ErrMiss, name)
		got, err := c.Get(e.as("b"), key)
		require.NoError(e, err, name)
		require.Equal(e, "of b", got)
	}
	require.NoError(e, c.Set(e.as("a"), key, "of a", time.Minute))
	require.NoError(e, c.Clear(e.Context()), "of all scopes")
	for _, tenant := range []string{"a", "b"} {
		_, err := c.Get(e.as(tenant), key)
		require.ErrorIs(e, err, ErrMiss)
	}
}

func checkScopedFlights(e *env) {
	c := openScoped(e, nil)
	var mu sync.Mutex
	var calls []string
	held := make(chan struct{})
	note := func(ctx context.Context, keys []string) {
		tenant, _ := tenantOf(ctx)
		mu.Lock()
		calls = append(calls, fmt.Sprint(tenant, keys))
		mu.Unlock()
		<-held
	}
	collecting, err := c.BindMany(time.Minute, func(ctx context.Context, keys []string) (map[string]string, error) {
		note(ctx, keys)
		return manyOfTenant(ctx, keys)
	}, Batching{MaxWait: 50 * time.Millisecond})
	require.NoError(e, err)
	var all sync.WaitGroup
	for range 4 {
		for _, tenant := range []string{"a", "b"} {
			all.Go(func() {
				v, err := c.GetWithFetch(e.as(tenant), "one", time.Minute, func(ctx context.Context, key string) (string, error) {
					note(ctx, []string{key})
					return ofTenant(ctx, key)
				})
				if err != nil || v != tenant+"'s one" {
					e.Error(tenant, v, err)
				}
			})
			all.Go(func() {
				v, err := collecting.Get(e.as(tenant), "many")
				if err != nil || v != tenant+"'s many" {
					e.Error(tenant, v, err)
				}
			})
			all.Go(func() {
				values, err := c.GetManyWithFetch(e.as(tenant), []string{"x", "y"}, time.Minute, func(ctx context.Context, keys []string) (map[string]string, error) {
					note(ctx, slices.Sorted(slices.Values(keys)))
					return manyOfTenant(ctx, keys)
				})
				if err != nil || values["x"] != tenant+"'s x" || values["y"] != tenant+"'s y" {
					e.Error(tenant, values, err)
				}
			})
		}
	}
	e.pass(60 * time.Millisecond)
	e.settle(func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(calls) >= 6
	}, "all fetches have begun")
	close(held)
	all.Wait()
	slices.Sort(calls)
	require.Equal(e, []string{"a[many]", "a[one]", "a[x y]", "b[many]", "b[one]", "b[x y]"}, calls)
}

func checkScopedPolicies(e *env) {
	c := openScoped(e, func(cfg *Config) { cfg.StaleFor, cfg.NegativeTTL = time.Minute, time.Minute })
	const ttl = 30 * time.Millisecond
	var version atomic.Int64
	fetch := func(ctx context.Context, key string) (string, error) {
		tenant, err := tenantOf(ctx)
		return fmt.Sprint(tenant, version.Load()), err
	}
	version.Store(1)
	for _, tenant := range []string{"a", "b"} {
		_, err := c.GetWithFetch(e.as(tenant), key, ttl, fetch)
		require.NoError(e, err)
	}
	e.pass(2 * ttl)
	version.Store(2)
	v, err := c.GetWithFetch(e.as("a"), key, time.Minute, fetch)
	require.NoError(e, err)
	require.Equal(e, "a1", v, "stale, and refreshed")
	e.settle(func() bool { v, err := c.Get(e.as("a"), key); return err == nil && v == "a2" }, "the refresh has its scope")
	r, err := c.Lookup(e.as("b"), key, time.Minute, fetch)
	require.NoError(e, err)
	require.Equal(e, SourceStale, r.Source)
	require.Equal(e, "b1", r.Value, "the refresh of one scope leaves the other alone")
	_, err = c.GetWithFetch(e.as("a"), "none", time.Minute, func(context.Context, string) (string, error) { return "", ErrNotFound })
	require.ErrorIs(e, err, ErrNotFound)
	v, err = c.GetWithFetch(e.as("b"), "none", time.Minute, fetch)
	require.NoError(e, err, "that another scope has none says nothing")
	require.Equal(e, "b2", v)
	_, err = c.Get(e.as("a"), "none")
	require.ErrorIs(e, err, ErrNotFound)
	require.NoError(e, c.ClearScope(e.Context(), "a"))
	_, err = c.Get(e.as("a"), "none")
	require.ErrorIs(e, err, ErrMiss)
}

func checkScopesDoNotMeet(e *env) {
	c := openScoped(e, nil)
	pieces := []string{"", "a", ":", `\`, "a:b", `a\`, `:a`, "\x00", "\xff", "scope"}
	seen := make(map[[2]string]string)
	for _, tenant := range pieces[1:] {
		for _, k := range pieces {
			seen[[2]string{tenant, k}] = fmt.Sprint(rand.Int())
			require.NoError(e, c.Set(e.as(tenant), k, seen[[2]string{tenant, k}], time.Minute))
		}
	}
	for at, want := range seen {
		v, err := c.Get(e.as(at[0]), at[1])
		require.NoError(e, err)
		require.Equal(e, want, v, at)
	}
	require.NoError(e, c.ClearScope(e.Context(), "a"))
	for at, want := range seen {
		v, err := c.Get(e.as(at[0]), at[1])
		if at[0] == "a" {
			require.ErrorIs(e, err, ErrMiss)
			continue
		}
		require.NoError(e, err)
		require.Equal(e, want, v, at)
	}
	long := strings.Repeat("x", MaxKeyBytes-1)
	require.NoError(e, c.Set(e.as(long), "", "long", time.Minute))
	v, err := c.Get(e.as(long), "")
	require.NoError(e, err)
	require.Equal(e, "long", v)
	require.NoError(e, c.ClearScope(e.Context(), long))
	_, err = c.Get(e.as(long), "")
	require.ErrorIs(e, err, ErrMiss)
	require.ErrorIs(e, c.Set(e.as(long), "x", "too long", time.Minute), ErrInvalidKey)
	_, err = c.GetWithFetch(e.as("a"), long+"yy", time.Minute, ofTenant)
	require.ErrorIs(e, err, ErrInvalidKey)
}

func checkScopedChanges(e *env) {
	c := openScoped(e, nil)
	for _, tenant := range []string{"a", "b"} {
		require.NoError(e, c.Set(e.as(tenant), key, tenant+" old", time.Minute))
	}
	ctx, change := Begin(e.as("a"))
	require.NoError(e, c.Changed(ctx, key))
	v, fetched := ask1(e, ctx, c, key, "a new")
	require.True(e, fetched)
	require.Equal(e, "a new", v)
	v, fetched = ask1(e, context.WithValue(ctx, scopeKey{}, "b"), c, key, "b new")
	require.False(e, fetched, "it has not changed")
	require.Equal(e, "b old", v)
	require.NoError(e, change.End(ctx))
	_, err := c.Get(e.as("a"), key)
	require.ErrorIs(e, err, ErrMiss)
	served(e, e.as("b"), c, key, "b old")
}

func checkNoScope(e *env) {
	c := openScoped(e, nil)
	require.NoError(e, c.Set(e.as("a"), key, "of a", time.Minute))
	calls := map[string]func(ctx context.Context) error{
		"Set":        func(ctx context.Context) error { return c.Set(ctx, key, "v", time.Minute) },
		"SetMany":    func(ctx context.Context) error { return c.SetMany(ctx, map[string]string{key: "v"}, time.Minute) },
		"Delete":     func(ctx context.Context) error { return c.Delete(ctx, key) },
		"DeleteMany": func(ctx context.Context) error { return c.DeleteMany(ctx, []string{key}) },
		"Changed":    func(ctx context.Context) error { return c.Changed(ctx, key) },
		"Invalidate": func(ctx context.Context) error { return c.Backend().Invalidate(ctx, c.Refs(key)...) },
		"Mutate": func(ctx context.Context) error {
			return c.Mutate(ctx, []string{key}, func(context.Context) error { e.Error("written"); return nil })
		},
	}
	for name, look := range scopedLookups(e, c) {
		calls[name] = func(ctx context.Context) error {
			v, err := look(ctx, key)
			require.Empty(e, v)
			return err
		}
	}
	before := c.Stats()
	for name, call := range calls {
		require.ErrorIs(e, call(e.Context()), ErrNoScope, name)
		require.ErrorIs(e, call(e.as("")), ErrNoScope, name)
		require.ErrorIs(e, call(e.as(errTenant)), errTenant, name)
	}
	for name, look := range scopedLookups(e, c) {
		_, err := look(e.Context(), JoinKey("a", key))
		require.ErrorIs(e, err, ErrNoScope, name)
	}
	require.Equal(e, before.Fetches, c.Stats().Fetches)
	served(e, e.as("a"), c, key, "of a")
	require.ErrorIs(e, c.ClearScope(e.Context(), ""), ErrNoScope)
	require.ErrorIs(e, open[string](e, func(cfg *Config) { cfg.Name = "plain" }).ClearScope(e.Context(), "a"), ErrNoScope)
	_, err := Open[string](e.Context(), e.config, WithScope(nil))
	require.ErrorIs(e, err, ErrInvalidConfig)
	require.NoError(e, c.Close())
	_, err = c.Get(e.as("a"), key)
	require.ErrorIs(e, err, ErrClosed)
	require.ErrorIs(e, c.ClearScope(e.Context(), "a"), ErrClosed)
}

func checkScopeIsStored(e *env) {
	c := openScoped(e, nil)
	require.NoError(e, c.Set(e.as("a"), key, "of a", time.Minute))
	own, others := redisKeyOf(c, JoinKey("a", key)), redisKeyOf(c, JoinKey("b", key))
	stored, ok := e.at(own).Must("GET", own).(string)
	require.True(e, ok)
	e.at(others).Must("SET", others, stored, "PX", "60000")
	v, err := c.GetWithFetch(e.as("b"), key, time.Minute, ofTenant)
	require.NoError(e, err)
	require.Equal(e, "b's "+key, v)
}

func checkScopedFunctions(e *env) {
	var mu sync.Mutex
	var keys []string
	note := func(key string) {
		mu.Lock()
		defer mu.Unlock()
		keys = append(keys, key)
	}
	c := openScoped(e, nil,
		WithTags(func(key, _ string) []string { note(key); return []string{"t"} }),
		WithWeigher(func(key, _ string) int { note(key); return 1 }))
	for _, look := range scopedLookups(e, c) {
		_, err := look(e.as("a"), "k:1")
		if err != nil {
			require.ErrorIs(e, err, ErrMiss)
		}
	}
	require.NoError(e, c.Set(e.as("a"), "k:1", "v", time.Minute))
	require.NotEmpty(e, keys)
	for _, k := range keys {
		require.Contains(e, []string{"k:1", "another"}, k)
	}
	require.NoError(e, c.Set(e.as("b"), "k:1", "v", time.Minute))
	require.NoError(e, c.InvalidateTags(e.Context(), "t"))
	for _, tenant := range []string{"a", "b"} {
		_, err := c.Get(e.as(tenant), "k:1")
		require.ErrorIs(e, err, ErrMiss, "tags are not scoped")
	}
}

func checkClearScope(e *env) {
	c := openScoped(e, nil)
	fill := func() {
		for _, tenant := range []string{"a", "b"} {
			require.NoError(e, c.Set(e.as(tenant), "set", tenant, time.Minute))
			_, err := c.GetWithFetch(e.as(tenant), "fetched", time.Minute, ofTenant)
			require.NoError(e, err)
			_, err = c.GetManyWithFetch(e.as(tenant), []string{"batch", "batch 2"}, time.Minute, manyOfTenant)
			require.NoError(e, err)
		}
	}
	fill()
	s := serve("old")
	release := s.hold()
	early := ask(e.as("a"), c, key, s.fetch)
	e.settle(func() bool { return s.calls.Load() == 1 }, "the fetch has begun")
	require.NoError(e, c.ClearScope(e.Context(), "a"))
	s.set("new", nil)
	late := ask(e.as("a"), c, key, s.fetch)
	e.yield()
	release()
	require.Equal(e, "old", (<-early).value)
	got := <-late
	require.NoError(e, got.err)
	require.Equal(e, "new", got.value, "no result of a fetch from before")
	served(e, e.as("a"), c, key, "new")
	for _, k := range []string{"set", "fetched", "batch", "batch 2"} {
		_, err := c.Get(e.as("a"), k)
		require.ErrorIs(e, err, ErrMiss, k)
		_, err = c.Get(e.as("b"), k)
		require.NoError(e, err, k)
	}
	fill()
	_, err := c.Get(e.as("a"), "set")
	require.NoError(e, err, "it can be filled again")
}

func checkClearScopeEverywhere(e *env) {
	c, other := openScoped(e, nil), openScoped(e, nil)
	for _, tenant := range []string{"a", "b"} {
		require.NoError(e, c.Set(e.as(tenant), key, tenant, time.Minute))
		served(e, e.as(tenant), other, key, tenant)
		served(e, e.as(tenant), other, key, tenant)
	}
	require.NoError(e, c.ClearScope(e.Context(), "a"))
	e.settle(func() bool { _, err := other.Get(e.as("a"), key); return errors.Is(err, ErrMiss) }, "it is gone there")
	served(e, e.as("b"), other, key, "b")
}

func checkScopedRefs(e *env) {
	c := openScoped(e, nil)
	set := func() {
		for _, tenant := range []string{"a", "b"} {
			require.NoError(e, c.Set(e.as(tenant), key, tenant, time.Minute))
		}
	}
	onlyAIsGone := func() {
		e.Helper()
		_, err := c.Get(e.as("a"), key)
		require.ErrorIs(e, err, ErrMiss)
		served(e, e.as("b"), c, key, "b")
	}
	set()
	require.NoError(e, c.Backend().Invalidate(e.Context(), c.RefsIn("a", key)...))
	onlyAIsGone()
	set()
	keyed := Keyed(c, StringKeys[string]())
	require.NoError(e, keyed.Backend().Invalidate(e.Context(), keyed.RefsIn("a", key)...))
	onlyAIsGone()
	set()
	require.NoError(e, keyed.ClearScope(e.Context(), "a"))
	onlyAIsGone()
	set()
	text, err := c.RefsIn("a", key)[0].MarshalText()
	require.NoError(e, err)
	var read Ref
	require.NoError(e, read.UnmarshalText(text))
	require.NoError(e, c.Backend().Mutate(e.Context(), []Ref{read}, func(context.Context) error { return nil }))
	onlyAIsGone()
	_, err = c.Refs(key)[0].MarshalText()
	require.ErrorIs(e, err, ErrNoScope, "text has no context")
	require.ErrorIs(e, c.Backend().Invalidate(e.Context(), c.RefsIn("", key)...), ErrInvalidKey)
	var _ encoding.TextMarshaler = Ref{}
}

func checkScopedFeeds(e *env) {
	c := openScoped(e, nil)
	f := &toldFeed{begun: make(chan Sink, 1)}
	ctx, cancel := context.WithCancel(e.Context())
	defer cancel()
	require.NoError(e, c.Backend().Follow(ctx, f))
	sink := <-f.begun
	sink.Alive()
	for _, tenant := range []string{"a", "b"} {
		require.NoError(e, c.Set(e.as(tenant), key, tenant, time.Minute))
	}
	sink.Invalidate(c.RefsIn("a", key)...)
	e.settle(func() bool { _, err := c.Get(e.as("a"), key); return errors.Is(err, ErrMiss) }, "it is gone")
	served(e, e.as("b"), c, key, "b")
	sink.Invalidate(c.Refs(key)...)
	e.settle(func() bool { _, err := c.Get(e.as("b"), key); return errors.Is(err, ErrMiss) }, "nobody said in which scope")
}

// toldFeed hands out its sink.
type toldFeed struct{ begun chan Sink }

func (f *toldFeed) Run(ctx context.Context, to Sink) error {
	f.begun <- to
	<-ctx.Done()
	return ctx.Err()
}

func checkScopedNames(e *env) {
	c := openScoped(e, func(cfg *Config) { cfg.Name = "scoped" })
	cfg := c.Config()
	cfg.Redis = e.config.Redis
	_, err := Open[string](e.Context(), cfg, e.options...)
	require.ErrorIs(e, err, ErrInvalidConfig)
	require.ErrorContains(e, err, "WithScope")
	require.NoError(e, c.Set(e.as("a"), key, "of a", time.Minute))
	require.NoError(e, c.Close())
	plain := open[string](e, func(cfg *Config) { cfg.Name = "scoped" }) // as another program would
	_, err = plain.Get(e.Context(), JoinKey("a", key))
	require.ErrorIs(e, err, ErrMiss)
}
