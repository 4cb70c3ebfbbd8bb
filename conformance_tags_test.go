package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

func init() {
	promises = append(promises,
		promise{"G23", "what was fetched, set or remembered under a tag is gone after InvalidateTags", nil, checkTagsRemove},
		promise{"G23", "values of batches and of BindMany have tags", nil, checkTagsOfBatches},
		promise{"G23", "a tag is shared by the caches of a backend", nil, checkTagsAcrossCaches},
		promise{"G23", "what a flight fetches under a tag that was invalidated meanwhile is not kept", nil, checkTagsVoidFlights},
		promise{"G23", "a caller that comes after InvalidateTags does not get what was fetched before it", nil, checkTagsAndJoiners},
		promise{"G23", "nor does one that comes while the tags are being looked at", nil, checkTagsAndLateJoiners},
		promise{"G23", "the same in a batch", nil, checkTagsAndJoinersOfBatches},
		promise{"G23", "an invalidation before a fetch, or of another tag, does no harm", nil, checkTagsLeaveAlone},
		promise{"G23", "under random writes and invalidations nothing old comes back", nil, checkTagsAtRandom},
		promise{"G24", "what another process invalidates is gone", isRemote, checkTagsOfOthers},
		promise{"G24", "nothing is kept on account of a clock or a mark that was lost, or makes no sense", isRemote, checkTagsLost},
		promise{"G24", "an invalidation after a failover that has set the clock back holds", isRemote, checkClockSetBack},
		promise{"G25", "what a tag has voided is absent, and not stale", nil, checkTagsAreNoPolicy},
		promise{"tags", "bad ones are refused, and what they are on is not kept", nil, checkBadTags},
		promise{"tags", "a function of WithTags that panics keeps the value out", nil, checkTagsPanic},
		promise{"tags", "Backend.Invalidate and Mutate remove keys of several caches, and tags", nil, checkRefs},
		promise{"tags", "what Mutate could not invalidate is void here, and is tried again", isRemote, checkTagsRepeated},
		promise{"tags", "after Close all say so", nil, checkTagsClosed},
	)
}

// withTag is a fetch that gives these tags to what it returns.
func withTag(s *source[string], tags ...string) FetchFunc[string] {
	return func(ctx context.Context, key string) (string, error) {
		Tag(ctx, tags...)
		return s.fetch(ctx, key)
	}
}

func checkTagsRemove(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.NegativeTTL = time.Minute }, WithTags(func(_, v string) []string { return []string{"value:" + v} }))
	s := serve("1")
	for name, fill := range map[string]func(k string){
		"fetched": func(k string) {
			_, err := c.GetWithFetch(e.Context(), k, time.Minute, withTag(s, "t", "u"))
			require.NoError(e, err)
		},
		"set": func(k string) { require.NoError(e, c.Set(e.Context(), k, "1", NoExpiry)) },
		"set with others": func(k string) {
			require.NoError(e, c.SetMany(e.Context(), map[string]string{k: "1", k + "2": "2"}, time.Minute))
		},
		"not found": func(k string) {
			_, err := c.GetWithFetch(e.Context(), k, time.Minute, func(ctx context.Context, _ string) (string, error) {
				Tag(ctx, "t")
				return "", ErrNotFound
			})
			require.ErrorIs(e, err, ErrNotFound)
		},
	} {
		for _, tag := range []string{"t", "value:1"} {
			if strings.HasPrefix(name, "set") != (tag == "value:1") {
				continue
			}
			fill(name)
			for range 3 { // by the backend, and by the near copy
				v, err := c.Get(e.Context(), name)
				if name == "not found" {
					require.ErrorIs(e, err, ErrNotFound)
				} else {
					require.NoError(e, err, name)
					require.Equal(e, "1", v)
				}
			}
			calls := s.calls.Load()
			require.NoError(e, c.InvalidateTags(e.Context(), tag))
			_, err := c.Get(e.Context(), name)
			require.ErrorIs(e, err, ErrMiss, name)
			many, err := c.GetMany(e.Context(), []string{name})
			require.NoError(e, err)
			require.Empty(e, many)
			v, err := c.GetWithFetch(e.Context(), name, time.Minute, withTag(s, "t"))
			require.NoError(e, err)
			require.Equal(e, "1", v)
			require.EqualValues(e, calls+1, s.calls.Load(), "fetched anew")
			_, err = c.GetWithFetch(e.Context(), name, time.Minute, withTag(s, "t"))
			require.NoError(e, err)
			require.EqualValues(e, calls+1, s.calls.Load(), "and kept")
			require.NoError(e, c.Delete(e.Context(), name))
		}
	}
	require.NotZero(e, c.Stats().Voided)
	require.EqualValues(e, 4, c.Stats().TagsInvalidated)
}

func checkTagsOfBatches(e *env) {
	c := open[string](e, nil)
	fetch := func(ctx context.Context, keys []string) (map[string]string, error) {
		Tag(ctx, "t")
		all := make(map[string]string)
		for _, k := range keys {
			all[k] = "v"
		}
		return all, nil
	}
	bound, err := c.BindMany(time.Minute, fetch, Batching{})
	require.NoError(e, err)
	keys := []string{"a", "b", "c"}
	for _, fill := range []func(){
		func() {
			got, err := c.GetManyWithFetch(e.Context(), keys, time.Minute, fetch)
			require.NoError(e, err)
			require.Len(e, got, 3)
		},
		func() {
			for _, k := range keys {
				_, err := bound.Get(e.Context(), k)
				require.NoError(e, err)
			}
		},
	} {
		fill()
		got, err := c.GetMany(e.Context(), keys)
		require.NoError(e, err)
		require.Len(e, got, 3)
		require.NoError(e, c.InvalidateTags(e.Context(), "t"))
		got, err = c.GetMany(e.Context(), keys)
		require.NoError(e, err)
		require.Empty(e, got)
	}
}

func checkTagsAcrossCaches(e *env) {
	b, err := Connect(e.Context(), e.config, e.options...)
	require.NoError(e, err)
	defer func() { require.NoError(e, b.Close()) }()
	users, err := New[string](b, "users")
	require.NoError(e, err)
	lists, err := New[int](b, "lists", WithTags(func(string, int) []string { return []string{"org:7"} }))
	require.NoError(e, err)
	require.Same(e, b, lists.Backend())
	s := serve("u")
	_, err = users.GetWithFetch(e.Context(), key, time.Minute, withTag(s, "org:7", "user:1"))
	require.NoError(e, err)
	require.NoError(e, lists.Set(e.Context(), key, 1, time.Minute))
	require.NoError(e, users.InvalidateTags(e.Context(), "org:7"))
	_, err = users.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss)
	_, err = lists.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss)
}

func checkTagsVoidFlights(e *env) {
	c := open[string](e, nil)
	for i, tag := range []string{"t", "u", "t"} { // nothing is known of tags; nothing of this one; all is known
		s := serve("old")
		release := s.hold()
		first := ask(e.Context(), c, key, withTag(s, tag))
		e.settle(func() bool { return s.calls.Load() == 1 }, "it fetches")
		require.NoError(e, c.InvalidateTags(e.Context(), tag))
		release()
		require.Equal(e, answer[string]{"old", nil}, <-first, "it asked before")
		_, err := c.Get(e.Context(), key)
		require.ErrorIs(e, err, ErrMiss, "it is not kept")
		require.EqualValues(e, i+1, c.Stats().Discarded)
	}
}

// checkTagsAndJoiners has a caller come after InvalidateTags to a flight that nobody can know yet to have the tag.
func checkTagsAndJoiners(e *env) {
	c := open[string](e, nil)
	s := serve("old")
	release := s.hold()
	fetch := withTag(s, "t")
	first := ask(e.Context(), c, key, fetch)
	e.settle(func() bool { return s.calls.Load() == 1 }, "it fetches")
	joined := ask(e.Context(), c, key, fetch)
	e.settle(func() bool { return c.Stats().Joined == 1 }, "it is joined")
	require.NoError(e, c.InvalidateTags(e.Context(), "t"))
	late := ask(e.Context(), c, key, fetch)
	e.settle(func() bool { return c.Stats().Joined == 2 }, "it is joined again")
	s.set("new", nil)
	release()
	require.Equal(e, answer[string]{"old", nil}, <-first)
	<-joined // either is right
	require.Equal(e, answer[string]{"new", nil}, <-late, "it came after the invalidation")
	require.EqualValues(e, 2, s.calls.Load(), "all that look again share a fetch")
	stats := c.Stats()
	require.EqualValues(e, 3, stats.Hits+stats.Misses+stats.Joined, "each lookup counts once")
	require.EqualValues(e, 2, stats.LookedAgain)
}

func checkTagsAndJoinersOfBatches(e *env) {
	c := open[string](e, nil)
	var version atomic.Int64
	gate := make(chan struct{})
	var calls atomic.Int64
	fetch := func(ctx context.Context, keys []string) (map[string]string, error) {
		v := fmt.Sprint(version.Load())
		if calls.Add(1) == 1 {
			<-gate
		}
		Tag(ctx, "t")
		all := make(map[string]string)
		for _, k := range keys {
			all[k] = v
		}
		return all, nil
	}
	keys := []string{"a", "b"}
	get := func() <-chan map[string]string {
		got := make(chan map[string]string, 1)
		go func() {
			all, err := c.GetManyWithFetch(e.Context(), keys, time.Minute, fetch)
			if err != nil {
				all = map[string]string{"error": err.Error()}
			}
			got <- all
		}()
		return got
	}
	first := get()
	e.settle(func() bool { return calls.Load() == 1 }, "it fetches")
	version.Store(1)
	require.NoError(e, c.InvalidateTags(e.Context(), "t"))
	late := get()
	e.settle(func() bool { return c.Stats().Joined == 2 }, "it is joined")
	close(gate)
	require.Equal(e, map[string]string{"a": "0", "b": "0"}, <-first)
	require.Equal(e, map[string]string{"a": "1", "b": "1"}, <-late)
}

func checkTagsLeaveAlone(e *env) {
	c := open[string](e, nil)
	s := serve("v")
	require.NoError(e, c.InvalidateTags(e.Context(), "t"))
	require.NoError(e, c.InvalidateTags(e.Context()))
	for i := range 3 {
		_, err := c.GetWithFetch(e.Context(), key, time.Minute, withTag(s, "t", "t", "u"))
		require.NoError(e, err)
		require.EqualValues(e, 1, s.calls.Load(), i)
		require.NoError(e, c.InvalidateTags(e.Context(), "another"))
	}
	_, err := c.GetWithFetch(e.Context(), "untagged", time.Minute, s.fetch)
	require.NoError(e, err)
	require.NoError(e, c.InvalidateTags(e.Context(), "t"))
	v, err := c.Get(e.Context(), "untagged")
	require.NoError(e, err)
	require.Equal(e, "v", v)
}

// checkTagsAtRandom has several callers look up, set and invalidate at once. What a lookup returns is at least as new as
// what the last invalidation that had ended before it was about.
func checkTagsAtRandom(e *env) {
	c := open[int64](e, func(cfg *Config) { cfg.MaxEntries = 64 })
	const rows, each = 3, 150
	var source, done [rows]atomic.Int64 // versions: of the row, and of what was invalidated
	fetch := func(ctx context.Context, key string) (int64, error) {
		row := int(key[0] - '0')
		v := source[row].Load()
		e.yield()
		Tag(ctx, "row:"+key[:1], "all")
		return v, nil
	}
	var all sync.WaitGroup
	var failed atomic.Pointer[string]
	for worker := range 8 {
		all.Go(func() {
			for i := range each {
				row := (worker + i*7) % rows
				if i%10 == worker {
					v := source[row].Add(1)
					if err := c.InvalidateTags(e.Context(), fmt.Sprint("row:", row)); err == nil {
						raise(&done[row], v)
					}
					continue
				}
				least := done[row].Load()
				v, err := c.GetWithFetch(e.Context(), fmt.Sprint(row, "/", i%4), time.Minute, fetch)
				if err != nil || v < least {
					text := fmt.Sprintf("row %d: got %d, %v; want %d or more", row, v, err, least)
					failed.Store(&text)
					return
				}
				e.yield()
			}
		})
	}
	all.Wait()
	if text := failed.Load(); text != nil {
		require.Fail(e, *text)
	}
}

func checkTagsOfOthers(e *env) {
	c, other := open[string](e, nil), open[string](e, nil)
	s := serve("1")
	for i := range 3 {
		s.set(fmt.Sprint(i), nil)
		if i > 0 {
			require.NoError(e, other.InvalidateTags(e.Context(), "t"))
		}
		if e.config.Backend == BackendRueidis {
			_, err := c.Get(e.Context(), key)
			require.ErrorIs(e, err, ErrMiss, "at once")
		}
		e.settle(func() bool {
			v, err := c.GetWithFetch(e.Context(), key, time.Minute, withTag(s, "t"))
			return err == nil && v == fmt.Sprint(i)
		}, "it is fetched anew")
		e.settle(func() bool {
			calls := s.calls.Load()
			v, err := other.GetWithFetch(e.Context(), key, time.Minute, withTag(s, "t"))
			return err == nil && v == fmt.Sprint(i) && s.calls.Load() == calls
		}, "and shared")
	}
}

func checkTagsLost(e *env) {
	c := open[string](e, nil)
	s := serve("v")
	redisTags, ok := c.tags.(*redisTags)
	require.True(e, ok)
	clock, mark := redisTags.clockKey(), redisTags.markKey("t")
	fetch := withTag(s, "t")
	for name, lose := range map[string]func(){
		"no mark":                func() { e.at(mark).Must("DEL", mark) },
		"neither clock nor mark": func() { e.at(mark).Must("DEL", mark, clock) },
		"no clock":               func() { e.at(mark).Must("DEL", clock) },
		"garbage in the mark":    func() { e.at(mark).Must("SET", mark, "garbage") },
		"another type":           func() { e.at(mark).Must("DEL", mark); e.at(mark).Must("LPUSH", mark, "x") },
		"all of another type": func() {
			e.at(mark).Must("DEL", mark, clock)
			e.at(mark).Must("LPUSH", mark, "x")
			e.at(mark).Must("LPUSH", clock, "x")
		},
		"garbage in both": func() { e.at(mark).Must("MSET", mark, "ff:1", clock, "\xff:") },
		"all is flushed":  func() { e.at(mark).Must("FLUSHALL") },
	} {
		for range 5 { // so that a clock that begins anew is behind
			require.NoError(e, c.InvalidateTags(e.Context(), "another"))
		}
		_, err := c.GetWithFetch(e.Context(), key, time.Minute, fetch)
		require.NoError(e, err, name)
		lose()
		require.NoError(e, c.InvalidateTags(e.Context(), "t"), name)
		_, err = c.Get(e.Context(), key)
		require.ErrorIs(e, err, ErrMiss, name)
		e.settle(func() bool { // it works again
			_, err := c.GetWithFetch(e.Context(), key, time.Minute, fetch)
			require.NoError(e, err, name)
			calls := s.calls.Load()
			_, err = c.GetWithFetch(e.Context(), key, time.Minute, fetch)
			require.NoError(e, err, name)
			return calls == s.calls.Load()
		}, name)
		if lose(); name == "no clock" {
			continue // what is there goes on to count, until its tag is invalidated
		}
		e.settle(func() bool {
			_, err := c.Get(e.Context(), key)
			return errors.Is(err, ErrMiss)
		}, name)
	}
}

// checkClockSetBack has a failover come that loses the last invalidations, while a fetch is under way.
func checkClockSetBack(e *env) {
	c := open[string](e, nil)
	book, ok := c.tags.(*redisTags)
	require.True(e, ok)
	s := serve("v")
	fetch := withTag(s, "t")
	_, err := c.GetWithFetch(e.Context(), key, time.Minute, fetch)
	require.NoError(e, err)
	before, _ := e.at(book.clockKey()).Must("GET", book.clockKey()).(string)
	for range 3 {
		require.NoError(e, c.InvalidateTags(e.Context(), "another"))
	}
	require.NoError(e, c.Delete(e.Context(), key))
	release := s.hold()
	first := ask(e.Context(), c, key, fetch)
	e.settle(func() bool { return s.calls.Load() == 2 }, "it fetches")
	moment, _, _ := strings.Cut(before, ":0:")
	e.at(book.clockKey()).Must("SET", book.clockKey(), moment+":0:ffff")
	release()
	require.Equal(e, answer[string]{"v", nil}, <-first)
	_, err = c.Get(e.Context(), key)
	require.NoError(e, err, "it is kept")
	require.NoError(e, c.InvalidateTags(e.Context(), "t"))
	_, err = c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss)
}

// sealing holds a flight up that has read what is known of its tags, until the test lets it go on.
type sealing struct {
	tagBook
	read, goOn chan struct{}
}

func (s *sealing) tag(ctx context.Context, lists [][]string, at stamp, ttl time.Duration) ([]*tagging, error) {
	all, err := s.tagBook.tag(ctx, lists, at, ttl)
	s.read <- struct{}{}
	<-s.goOn
	return all, err
}

func checkTagsAndLateJoiners(e *env) {
	c := open[string](e, nil)
	held := &sealing{c.tags, make(chan struct{}, 10), make(chan struct{})}
	c.tags = held
	s := serve("old")
	fetch := withTag(s, "t")
	first := ask(e.Context(), c, key, fetch)
	<-held.read
	s.set("new", nil)
	require.NoError(e, c.InvalidateTags(e.Context(), "t"))
	late := ask(e.Context(), c, key, fetch)
	e.settle(func() bool { return c.Stats().Joined == 1 }, "it is joined")
	close(held.goOn)
	require.Equal(e, answer[string]{"old", nil}, <-first)
	require.Equal(e, answer[string]{"new", nil}, <-late)
}

func checkTagsAreNoPolicy(e *env) {
	c := open[string](e, func(cfg *Config) {
		cfg.StaleFor, cfg.StaleIfError, cfg.SoftTimeout = time.Hour, time.Hour, time.Nanosecond
	})
	s := serve("old")
	_, err := c.GetWithFetch(e.Context(), key, time.Millisecond, withTag(s, "t"))
	require.NoError(e, err)
	e.pass(20 * time.Millisecond)
	_, err = c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss, "it is stale")
	require.NoError(e, c.InvalidateTags(e.Context(), "t"))
	s.set("", errSource)
	_, err = c.GetWithFetch(e.Context(), key, time.Minute, func(ctx context.Context, key string) (string, error) {
		_, ok := Previous[string](ctx)
		require.False(e, ok)
		return s.fetch(ctx, key)
	})
	require.ErrorIs(e, err, errSource)
	require.EqualValues(e, 2, s.calls.Load())
}

func checkBadTags(e *env) {
	var told []string
	c := open[string](e, nil, WithTags(func(string, string) []string { return told }))
	many := make([]string, MaxTags+1)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	for name, tags := range map[string][]string{
		"empty": {"good", ""}, "long": {strings.Repeat("x", MaxTagBytes+1)}, "many": many,
	} {
		told = nil
		require.NoError(e, c.Set(e.Context(), key, "before", time.Minute))
		told = tags
		require.ErrorIs(e, c.Set(e.Context(), key, "v", time.Minute), ErrInvalidTag, name)
		_, err := c.Get(e.Context(), key)
		require.ErrorIs(e, err, ErrMiss, "the older value does not outlive the newer one")
		before := c.Stats().Unstorable
		v, err := c.GetWithFetch(e.Context(), key, time.Minute, serve("v").fetch)
		require.NoError(e, err)
		require.Equal(e, "v", v)
		require.Equal(e, before+1, c.Stats().Unstorable)
		_, err = c.Get(e.Context(), key)
		require.ErrorIs(e, err, ErrMiss)
		if name == "many" {
			require.NoError(e, c.InvalidateTags(e.Context(), tags...), "any number at once")
		} else {
			require.ErrorIs(e, c.InvalidateTags(e.Context(), tags...), ErrInvalidTag)
			require.ErrorIs(e, c.Backend().Invalidate(e.Context(), Tags(tags...)...), ErrInvalidTag)
		}
	}
	for _, good := range [][]string{{strings.Repeat("x", MaxTagBytes)}, many[1:], {"\x00\xff:{}"}, append(many[1:], many[1:]...)} {
		told = good
		require.NoError(e, c.Set(e.Context(), key, "v", time.Minute))
		v, err := c.Get(e.Context(), key)
		require.NoError(e, err)
		require.Equal(e, "v", v)
		require.NoError(e, c.InvalidateTags(e.Context(), good[0]))
		_, err = c.Get(e.Context(), key)
		require.ErrorIs(e, err, ErrMiss)
	}
	Tag(e.Context(), "outside of a fetch")
}

func checkTagsPanic(e *env) {
	c := open[string](e, nil, WithTags(func(string, string) []string { panic("no") }))
	var panicked *PanicError
	err := c.Set(e.Context(), key, "v", time.Minute)
	require.ErrorIs(e, err, ErrInvalidValue)
	require.ErrorAs(e, err, &panicked)
	v, err := c.GetWithFetch(e.Context(), key, time.Minute, serve("v").fetch)
	require.NoError(e, err)
	require.Equal(e, "v", v)
	require.EqualValues(e, 1, c.Stats().Unstorable)
}

func checkRefs(e *env) {
	b, err := Connect(e.Context(), e.config, e.options...)
	require.NoError(e, err)
	defer func() { require.NoError(e, b.Close()) }()
	users, err := New[string](b, "users")
	require.NoError(e, err)
	counts, err := New[int64](b, "counts")
	require.NoError(e, err)
	s := serve("v")
	fill := func() {
		require.NoError(e, users.Set(e.Context(), "1", "v", time.Minute))
		require.NoError(e, counts.Set(e.Context(), "a:b", 1, time.Minute))
		_, err := users.GetWithFetch(e.Context(), "list", time.Minute, withTag(s, "org:7"))
		require.NoError(e, err)
	}
	gone := func() {
		e.Helper()
		for _, k := range []string{"1", "list"} {
			_, err := users.Get(e.Context(), k)
			require.ErrorIs(e, err, ErrMiss, k)
		}
		_, err := counts.Get(e.Context(), "a:b")
		require.ErrorIs(e, err, ErrMiss)
	}
	refs := slices.Concat(users.Refs("1"), counts.Refs("a:b", "a:b"), Tags("org:7"))
	fill()
	require.NoError(e, b.Invalidate(e.Context(), refs...))
	gone()
	fill()
	require.NoError(e, b.Mutate(e.Context(), refs, func(ctx context.Context) error {
		_, err := users.GetWithFetch(ctx, "1", time.Minute, serve("during").fetch)
		return err
	}))
	gone()
	fill()
	require.ErrorIs(e, b.Mutate(e.Context(), refs, func(context.Context) error { return errSource }), errSource)
	gone()
	fill()
	require.Panics(e, func() { _ = b.Mutate(e.Context(), refs, func(context.Context) error { panic("no") }) })
	gone()
	require.NoError(e, b.Invalidate(e.Context(), Ref{}.of("strangers", "k")), "of a cache that is not open here")
	require.ErrorIs(e, b.Invalidate(e.Context(), Ref{}), ErrInvalidKey)
	require.ErrorIs(e, b.Mutate(e.Context(), refs, nil), ErrInvalidValue)
}

// of is the Ref of a key of a cache that need not be open.
func (Ref) of(cache, key string) (r Ref) {
	if err := r.UnmarshalText([]byte("key:" + cache + ":" + key)); err != nil {
		panic(err)
	}
	return r
}

func checkTagsRepeated(e *env) {
	if e.owner != nil {
		return // a proxy stands before one server only
	}
	proxy := redistest.NewProxy(e, e.server.Addr())
	other := open[string](e, nil)
	c := open[string](e, func(cfg *Config) {
		cfg.OpTimeout = 200 * time.Millisecond
		cfg.Redis = RedisConfig{Addrs: []string{proxy.Addr()}}
	})
	s := serve("old")
	fetch := withTag(s, "t")
	e.settle(func() bool {
		_, err := c.GetWithFetch(e.Context(), key, time.Minute, fetch)
		calls := s.calls.Load()
		_, err2 := c.Get(e.Context(), key)
		return err == nil && err2 == nil && s.calls.Load() == calls
	}, "it is kept")
	err := c.Backend().Mutate(e.Context(), Tags("t"), func(context.Context) error {
		s.set("new", nil)
		proxy.Refuse(true)
		proxy.CutAll()
		return nil
	})
	require.ErrorIs(e, err, ErrUnavailable)
	v, err := c.GetWithFetch(e.Context(), key, time.Minute, fetch)
	require.NoError(e, err)
	require.Equal(e, "new", v)
	proxy.Refuse(false)
	e.settle(func() bool {
		_, err := other.Get(e.Context(), key)
		return errors.Is(err, ErrMiss)
	}, "it is tried again")
}

func checkTagsClosed(e *env) {
	c := open[string](e, nil)
	b := c.Backend()
	require.NoError(e, c.Close())
	require.ErrorIs(e, c.InvalidateTags(e.Context(), "t"), ErrClosed)
	require.ErrorIs(e, b.Invalidate(e.Context(), Tags("t")...), ErrClosed)
	require.ErrorIs(e, b.Mutate(e.Context(), Tags("t"), func(context.Context) error { return nil }), ErrClosed)
}
