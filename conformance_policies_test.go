package cacheaside

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"
)

func init() {
	promises = append(promises,
		promise{"ErrorCooldown", "a failed key is not asked again until it ends, and its error is found", nil, checkCooldownBoundaries},
		promise{"ErrorCooldown", "a hanging source costs FetchTimeout once", nil, checkCooldownHanging},
		promise{"ErrorCooldown", "a slow source, a Set and another key are not held up", nil, checkCooldownOthers},
		promise{"ErrorCooldown", "a stale value is returned meanwhile without asking the source", nil, checkCooldownStale},
		promise{"ErrorCooldown", "what is remembered is bounded", nil, checkCooldownBounded},
		promise{"ErrorCooldown", "a write of the key ends it", nil, checkCooldownEndsByWrite},
		promise{"ErrorCooldown", "a fetch that nobody joins any more says nothing about the next", nil, checkCooldownOfAVoidFlight},
		promise{"Jitter", "spreads ttls downwards by up to its fraction", nil, checkJitter},
		promise{"NegativeTTL", "remembers ErrNotFound in Get, Lookup and GetWithFetch until it ends", nil, checkNegativeBoundaries},
		promise{"NegativeTTL", "a WithNotFound sentinel matches fresh and from the cache", nil, checkNegativeSentinel},
		promise{"NegativeTTL", "a failing, slow or hanging source after it is seen as such", nil, checkNegativeSources},
		promise{"NegativeTTL", "a Set, a Delete and a fetched value replace it", nil, checkNegativeReplaced},
		promise{"TTL", "a caller with one has kept what it joins, though the fetch was begun without", nil, checkJoinedTTL},
		promise{"OverrideTTL", "sets the ttl from inside a fetch", nil, checkOverrideTTL},
		promise{"SkipStore", "gives the value to those who wait and keeps nothing", nil, checkSkipStore},
		promise{"Previous", "is the stale value that a fetch replaces", nil, checkPrevious},
		promise{"Lookup", "tells where a value came from and how old it is", nil, checkLookup},
		promise{"Lookup", "tells who fetched and who joined", nil, checkLookupJoined},
		promise{"G2", "a look-up that its caller cuts short leaves nothing behind", nil, checkCutShort},
		promise{"Bind", "gets as GetWithFetch does", nil, checkBind},
	)
}

func checkCooldownBoundaries(e *env) {
	const cooldown = 300 * time.Millisecond // some look-ups must fit in
	c := open[string](e, func(cfg *Config) { cfg.ErrorCooldown = cooldown })
	s := serve("")
	cause := fmt.Errorf("row 7: %w", errSource)
	s.set("", cause)
	begun := time.Now()
	_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.Same(e, cause, err, "the fetch's own callers get its error as it is")
	for range 5 {
		_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
		require.ErrorIs(e, err, cause)
		require.ErrorIs(e, err, errSource)
		require.NotSame(e, cause, err, "that the source was not asked is told")
		require.ErrorContains(e, err, "ErrorCooldown")
	}
	require.EqualValues(e, 1, s.calls.Load())
	require.EqualValues(e, 6, c.Stats().Misses)
	_, err = c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss, "an error is not cached")
	e.boundary(begun, cooldown, func() {
		_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
		require.ErrorIs(e, err, errSource)
		require.EqualValues(e, 1, s.calls.Load())
	}, func() {
		s.set("recovered", nil)
		v, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
		require.NoError(e, err)
		require.Equal(e, "recovered", v)
	})
	require.EqualValues(e, 2, s.calls.Load())
}

func checkCooldownHanging(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.ErrorCooldown, cfg.FetchTimeout = time.Hour, short })
	s := serve("never")
	s.deaf = true
	release := s.hold()
	defer release()
	for range 3 {
		_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
		require.ErrorIs(e, err, ErrFetchTimeout)
		require.ErrorIs(e, err, context.DeadlineExceeded)
	}
	require.EqualValues(e, 1, s.calls.Load())
}

// What a fetch failed for may be what was written since: a row that was incomplete, say.
func checkCooldownEndsByWrite(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.ErrorCooldown = time.Hour })
	s := serve("")
	fail := func(key string) {
		s.set("", errSource)
		_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
		require.ErrorIs(e, err, errSource)
		s.set("v", nil)
	}
	isAsked := func(key string) {
		e.Helper()
		v, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
		require.NoError(e, err)
		require.Equal(e, "v", v)
	}
	fail("a")
	require.NoError(e, c.Delete(e.Context(), "a"))
	isAsked("a")
	fail("b")
	require.NoError(e, c.Mutate(e.Context(), []string{"b"}, func(context.Context) error { return nil }))
	isAsked("b")
	require.NoError(e, c.Mutate(e.Context(), []string{"c"}, func(context.Context) error {
		fail("c") // "it is locked"
		return nil
	}))
	isAsked("c")
	fail("d")
	require.NoError(e, c.Set(e.Context(), "d", "set", short))
	require.NoError(e, c.Delete(e.Context(), "d"))
	isAsked("d")
	fail("e")
	fail("f")
	require.NoError(e, c.Clear(e.Context()))
	isAsked("e")
	isAsked("f")
	fail("g")
	_, err := c.GetWithFetch(e.Context(), "g", time.Minute, s.fetch)
	require.ErrorIs(e, err, errSource, "that of another key goes on")
}

func checkCooldownOfAVoidFlight(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.ErrorCooldown = time.Hour })
	failing := serve("")
	failing.set("", errSource)
	release := failing.hold()
	defer release()
	waiting := askMany(e, 1, c, key, failing)
	require.NoError(e, c.Delete(e.Context(), key))
	release()
	require.ErrorIs(e, (<-waiting[0]).err, errSource)
	v, err := c.GetWithFetch(e.Context(), key, time.Minute, serve("new").fetch)
	require.NoError(e, err, "what was asked before the Delete")
	require.Equal(e, "new", v)

	c = open[string](e, func(cfg *Config) {
		cfg.Name, cfg.FetchTimeout, cfg.ErrorCooldown = "abandoned", short, 2*short
	})
	failing.deaf = true
	release = failing.hold()
	defer release()
	_, err = c.GetWithFetch(e.Context(), key, time.Minute, failing.fetch)
	require.ErrorIs(e, err, ErrFetchTimeout)
	e.pass(4 * short) // the cooldown is over
	release()         // and only then does the fetch fail
	e.settle(func() bool { return failing.returned.Load() == 2 }, "the fetch has returned")
	v, err = c.GetWithFetch(e.Context(), key, time.Minute, serve("new").fetch)
	require.NoError(e, err, "it is as it was when its time was over")
	require.Equal(e, "new", v)
}

func checkCooldownOthers(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.ErrorCooldown = time.Hour })
	s := serve("")
	s.set("", errSource)
	_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.ErrorIs(e, err, errSource)
	s.set("slow", nil)
	release := s.hold()
	waiting := askMany(e, 3, c, "another key", s)
	release()
	for _, a := range waiting {
		require.Equal(e, answer[string]{"slow", nil}, <-a)
	}
	require.NoError(e, c.Set(e.Context(), key, "set", time.Minute))
	v, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.NoError(e, err, "a value is returned, whatever the source did before")
	require.Equal(e, "set", v)
	for _, answer := range []error{ErrNotFound, fmt.Errorf("user: %w", ErrNotFound)} {
		s.set("", answer)
		before := s.calls.Load()
		for range 2 {
			_, err = c.GetWithFetch(e.Context(), "missing", time.Minute, s.fetch)
			require.Equal(e, answer, err)
		}
		require.EqualValues(e, 2, s.calls.Load()-before, "not found is an answer, and no failure to recover from")
	}
}

func checkCooldownStale(e *env) {
	c := openStale(e, func(cfg *Config) { cfg.ErrorCooldown, cfg.StaleIfError = time.Hour, time.Hour })
	s := serve("")
	s.set("", errSource)
	for range 5 {
		r, err := c.Lookup(e.Context(), key, time.Minute, s.fetch)
		require.NoError(e, err)
		require.Equal(e, "old", r.Value)
		require.Equal(e, SourceStale, r.Source)
	}
	require.EqualValues(e, 1, s.calls.Load())
	require.EqualValues(e, 5, c.Stats().StaleHits)
}

func checkCooldownBounded(e *env) {
	const keys = 20_000
	if !e.bubble {
		e.Skip("the memory of failures is the same on every backend")
	}
	c := open[string](e, func(cfg *Config) { cfg.ErrorCooldown = time.Minute })
	s := serve("")
	s.set("", errSource)
	ask := func(from, keys int, suffix string) (remembered int) {
		for i := from; i < from+keys; i++ {
			for range 2 {
				_, err := c.GetWithFetch(e.Context(), strconv.Itoa(i)+suffix, time.Minute, s.fetch)
				require.ErrorIs(e, err, errSource)
			}
		}
		return 2*keys - int(s.calls.Swap(0))
	}
	held := func() (bytes int) {
		for i := range c.flights.shards {
			s := &c.flights.shards[i]
			s.mu.Lock()
			bytes += s.failures.bytes
			s.mu.Unlock()
		}
		return bytes
	}
	require.Equal(e, keys, ask(0, keys, ""), "a source that is down altogether")
	require.Positive(e, held())
	e.pass(time.Minute)
	require.Zero(e, held(), "what has ended is let go, though no caller asks")

	long := strings.Repeat("x", MaxKeyBytes-10)
	require.Equal(e, 1000, ask(0, 1000, long), "the newest are remembered")
	require.LessOrEqual(e, held(), flightShards*maxFailureBytes, "long keys cost no more memory")
	require.NoError(e, c.Close())
	require.Zero(e, held())
}

func checkJitter(e *env) {
	const ttl, n = 1000 * time.Second, 200
	c := open[string](e, func(cfg *Config) { cfg.Jitter = 0.5 })
	for i := range n {
		if i%2 == 0 {
			require.NoError(e, c.Set(e.Context(), strconv.Itoa(i), "v", ttl))
			continue
		}
		_, err := c.GetWithFetch(e.Context(), strconv.Itoa(i), ttl, serve("v").fetch)
		require.NoError(e, err)
	}
	require.NoError(e, c.Set(e.Context(), "for ever", "v", NoExpiry))
	if !e.bubble {
		most := open[string](e, func(cfg *Config) { cfg.Name, cfg.Jitter = "most", 1 })
		for range 20 {
			require.NoError(e, most.Set(e.Context(), "for ever", "v", NoExpiry))
			require.Negative(e, e.timeLeft(most, "for ever"), "what does not expire is left alone")
		}
		seen := make(map[int64]bool)
		for i := range n {
			left := e.timeLeft(c, strconv.Itoa(i))
			require.Greater(e, left, ttl/2-time.Minute, "by no more than its fraction")
			require.LessOrEqual(e, left, ttl, "never longer")
			seen[int64(left/(25*time.Second))] = true
		}
		require.Greater(e, len(seen), 15, "over the whole range")
		return
	}
	alive := func() (alive int) {
		for i := range n {
			if _, err := c.Get(e.Context(), strconv.Itoa(i)); err == nil {
				alive++
			}
		}
		return alive
	}
	e.pass(ttl/2 - time.Nanosecond)
	require.Equal(e, n, alive(), "by no more than its fraction")
	last := n
	for range 8 { // over the whole range: some leave in each eighth of it
		e.pass(ttl / 16)
		now := alive()
		require.Less(e, now, last)
		last = now
	}
	require.Zero(e, last, "never longer")
	_, err := c.Get(e.Context(), "for ever")
	require.NoError(e, err, "what does not expire is left alone")
}

// timeLeft is what Redis, or this process, has left for key; negative: it does not expire.
func (e *env) timeLeft(c *Client[string], key string) time.Duration {
	e.Helper()
	if c.instant {
		kept := c.store.peek(key)
		require.NotNil(e, kept)
		if kept.deadline == never {
			return -1
		}
		return time.Duration(kept.deadline - c.clock.now())
	}
	left, ok := e.server.Must("PTTL", c.cfg.Prefix+":"+c.cfg.Name+":"+key).(int64)
	require.True(e, ok)
	require.NotEqual(e, int64(-2), left, "the key is there")
	return time.Duration(left) * time.Millisecond
}

func checkNegativeBoundaries(e *env) {
	const ttl = 100 * time.Millisecond
	c := open[string](e, func(cfg *Config) { cfg.NegativeTTL, cfg.StaleFor, cfg.StaleIfError = ttl, time.Hour, time.Hour })
	s := serve("")
	answer := fmt.Errorf("no user: %w", ErrNotFound)
	s.set("", answer)
	begun := time.Now()
	_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.Same(e, answer, err, "the fetch's own error, if it matches by itself")
	remembered := func() {
		e.Helper()
		_, err := c.Get(e.Context(), key)
		require.ErrorIs(e, err, ErrNotFound)
		require.NotErrorIs(e, err, ErrMiss)
		_, err = c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
		require.ErrorIs(e, err, ErrNotFound)
		r, err := c.Lookup(e.Context(), key, time.Minute, s.fetch)
		require.ErrorIs(e, err, ErrNotFound)
		require.Equal(e, SourceNegative, r.Source)
		require.Zero(e, r.Staleness)
		require.EqualValues(e, 1, s.calls.Load())
	}
	if e.bubble {
		remembered()
		require.EqualValues(e, 3, c.Stats().Negatives)
		require.Zero(e, c.Stats().FetchErrors, "not found is no failure")
	}
	e.boundary(begun, ttl, remembered, func() {
		_, err := c.Get(e.Context(), key)
		require.ErrorIs(e, err, ErrMiss, "it is never stale")
		s.set("here now", nil)
		v, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
		require.NoError(e, err)
		require.Equal(e, "here now", v)
	})

	long := open[string](e, func(cfg *Config) { cfg.Name, cfg.NegativeTTL = "long", time.Hour })
	s = serve("")
	s.set("", ErrNotFound)
	_, err = long.Lookup(e.Context(), key, time.Minute, s.fetch)
	require.ErrorIs(e, err, ErrNotFound)
	c = long
	remembered()
}

func checkNegativeSentinel(e *env) {
	for _, ttl := range []time.Duration{0, time.Hour} {
		c := open[string](e, func(cfg *Config) { cfg.Name, cfg.NegativeTTL = ttl.String(), ttl },
			WithNotFound(sql.ErrNoRows), WithNotFound(sql.ErrTxDone))
		s := serve("")
		s.set("", fmt.Errorf("users: %w", sql.ErrNoRows))
		get := func() error {
			_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
			return err
		}
		lookup := func() error {
			_, err := c.Lookup(e.Context(), key, time.Minute, s.fetch)
			return err
		}
		for range 2 {
			for _, err := range []error{get(), lookup()} {
				require.ErrorIs(e, err, ErrNotFound)
				require.ErrorIs(e, err, sql.ErrNoRows)
			}
		}
		_, err := c.Get(e.Context(), key)
		if ttl == 0 {
			require.EqualValues(e, 4, s.calls.Load())
			require.Equal(e, ErrMiss, err)
			continue
		}
		require.EqualValues(e, 1, s.calls.Load())
		require.ErrorIs(e, err, ErrNotFound)
		require.ErrorIs(e, err, sql.ErrNoRows)
	}
}

func checkNegativeSources(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.NegativeTTL, cfg.FetchTimeout = time.Millisecond, 2*short })
	s := serve("")
	s.set("", ErrNotFound)
	_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.ErrorIs(e, err, ErrNotFound)
	e.pass(10 * time.Millisecond)
	s.set("", errSource)
	_, err = c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.Same(e, errSource, err, "failing")
	release := s.hold()
	_, err = c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.ErrorIs(e, err, ErrFetchTimeout, "hanging")
	release()
	s.set("", ErrNotFound)
	release = s.hold()
	waiting := askMany(e, 3, c, key, s)
	release()
	for _, a := range waiting {
		require.ErrorIs(e, (<-a).err, ErrNotFound, "slow")
	}
}

func checkNegativeReplaced(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.NegativeTTL = time.Hour })
	s := serve("")
	forget := func() {
		s.set("", ErrNotFound)
		_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
		require.ErrorIs(e, err, ErrNotFound)
		_, err = c.Get(e.Context(), key)
		require.ErrorIs(e, err, ErrNotFound)
	}
	forget()
	require.NoError(e, c.Set(e.Context(), key, "set", time.Minute))
	v, err := c.Get(e.Context(), key)
	require.NoError(e, err)
	require.Equal(e, "set", v)
	require.NoError(e, c.Delete(e.Context(), key))
	forget()
	require.NoError(e, c.Delete(e.Context(), key))
	s.set("fetched", nil)
	v, err = c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.NoError(e, err)
	require.Equal(e, "fetched", v)
}

func checkOverrideTTL(e *env) {
	OverrideTTL(e.Context(), time.Second) // outside of a fetch it does nothing
	c := open[string](e, func(cfg *Config) { cfg.NegativeTTL = time.Hour })
	override := func(ttl time.Duration, err error) *source[string] {
		s := serve("v")
		s.set("v", err)
		s.inside = func(ctx context.Context, _ string) { OverrideTTL(ctx, ttl) }
		return s
	}
	get := func(key string, ttl time.Duration, s *source[string]) error {
		_, err := c.GetWithFetch(e.Context(), key, ttl, s.fetch)
		return err
	}
	longer, shorter, none := override(time.Hour, nil), override(short, nil), override(0, nil)
	negative, unkept := override(-1, nil), override(time.Hour, nil)
	goneSoon, goneLater := override(short, ErrNotFound), override(100*time.Hour, ErrNotFound)
	begun := time.Now()
	require.NoError(e, get("longer", short, longer))
	require.NoError(e, get("shorter", time.Hour, shorter))
	require.NoError(e, get("none", time.Hour, none))
	require.NoError(e, get("negative", time.Hour, negative))
	require.NoError(e, get("unkept", 0, unkept)) // the caller has asked that nothing be kept
	require.ErrorIs(e, get("gone soon", time.Hour, goneSoon), ErrNotFound)
	require.ErrorIs(e, get("gone later", time.Hour, goneLater), ErrNotFound)
	for _, k := range []string{"none", "negative", "unkept"} {
		_, err := c.Get(e.Context(), k)
		require.Equal(e, ErrMiss, err, k)
	}
	e.boundary(begun, short, func() {
		_, err := c.Get(e.Context(), "shorter")
		require.NoError(e, err)
	}, func() {
		_, err := c.Get(e.Context(), "shorter")
		require.Equal(e, ErrMiss, err)
		_, err = c.Get(e.Context(), "gone soon")
		require.Equal(e, ErrMiss, err)
		_, err = c.Get(e.Context(), "longer")
		require.NoError(e, err)
		_, err = c.Get(e.Context(), "gone later")
		require.ErrorIs(e, err, ErrNotFound)
	})
	if e.bubble {
		e.pass(time.Hour)
		_, err := c.Get(e.Context(), "gone later")
		require.Equal(e, ErrMiss, err, "it does not outlive NegativeTTL")
	}
	forever := override(math.MaxInt64, nil)
	require.NoError(e, get("forever", short, forever))
	e.pass(short + 10*time.Millisecond)
	_, err := c.Get(e.Context(), "forever")
	require.NoError(e, err)
}

func checkSkipStore(e *env) {
	SkipStore(e.Context()) // outside of a fetch it does nothing
	c := openStale(e, func(cfg *Config) { cfg.StaleIfError, cfg.NegativeTTL = time.Hour, time.Hour })
	s := serve("not for keeping")
	s.inside = func(ctx context.Context, _ string) { SkipStore(ctx) }
	release := s.hold()
	waiting := append(askMany(e, 3, c, key, s), askMany(e, 3, c, "cold", s)...)
	release()
	for _, a := range waiting {
		require.Equal(e, answer[string]{"not for keeping", nil}, <-a)
	}
	require.EqualValues(e, 2, s.calls.Load())
	for _, k := range []string{key, "cold"} {
		_, err := c.Get(e.Context(), k)
		require.Equal(e, ErrMiss, err)
	}
	s.set("", errSource)
	v, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.NoError(e, err)
	require.Equal(e, "old", v, "what was kept before is still there")
	s.set("", ErrNotFound)
	_, err = c.GetWithFetch(e.Context(), "gone", time.Minute, s.fetch)
	require.ErrorIs(e, err, ErrNotFound)
	_, err = c.Get(e.Context(), "gone")
	require.Equal(e, ErrMiss, err, "not found is not kept either")
	s = serve("v")
	for range 2 { // the lease of the key is free
		_, err = c.GetWithFetch(e.Context(), "cold", time.Minute, s.fetch)
		require.NoError(e, err)
	}
	require.EqualValues(e, 1, s.calls.Load())
}

func checkPrevious(e *env) {
	_, ok := Previous[string](e.Context())
	require.False(e, ok, "outside of a fetch there is none")
	c := openStale(e, func(cfg *Config) {
		cfg.StaleIfError, cfg.NegativeTTL, cfg.RefreshAhead = time.Hour, time.Millisecond, 0.001
	})
	type previous struct {
		value string
		ok    bool
		other bool // there is one of another type
	}
	seen := make(chan previous, 1)
	s := serve("new")
	s.inside = func(ctx context.Context, _ string) {
		child, cancel := context.WithCancel(ctx)
		defer cancel()
		v, ok := Previous[string](child)
		_, other := Previous[int](ctx)
		seen <- previous{v, ok, other}
	}
	v, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.NoError(e, err)
	require.Equal(e, "new", v)
	require.Equal(e, previous{"old", true, false}, <-seen, "stale")
	e.pass(70 * time.Millisecond)
	_, err = c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.NoError(e, err)
	require.Equal(e, previous{"new", true, false}, <-seen, "refreshed ahead")
	_, err = c.GetWithFetch(e.Context(), "cold", time.Minute, s.fetch)
	require.NoError(e, err)
	require.Equal(e, previous{}, <-seen, "cold")

	s.set("", ErrNotFound)
	for range 2 {
		_, err = c.GetWithFetch(e.Context(), "gone", time.Minute, s.fetch)
		require.ErrorIs(e, err, ErrNotFound)
		require.Equal(e, previous{}, <-seen, "negative")
		e.pass(10 * time.Millisecond)
	}

	// A source that learns that nothing has changed returns what there was.
	tagged := openStale(e, func(cfg *Config) { cfg.Name, cfg.StaleIfError = "tagged", time.Hour })
	v, err = tagged.GetWithFetch(e.Context(), key, time.Minute, func(ctx context.Context, _ string) (string, error) {
		if old, ok := Previous[string](ctx); ok {
			return old, nil
		}
		return "", errSource
	})
	require.NoError(e, err)
	require.Equal(e, "old", v)
	v, err = tagged.Get(e.Context(), key)
	require.NoError(e, err, "and it is fresh again")
	require.Equal(e, "old", v)
}

func checkLookup(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.StaleFor, cfg.NegativeTTL = time.Hour, time.Hour })
	s := serve("v")
	lookup := func(key string, ttl time.Duration) Result[string] {
		e.Helper()
		r, err := c.Lookup(e.Context(), key, ttl, s.fetch)
		require.NoError(e, err)
		return r
	}
	require.Equal(e, Result[string]{Value: "v", Source: SourceFetched}, lookup(key, time.Minute))
	require.Equal(e, Result[string]{Value: "v", Source: SourceFetched}, lookup("unkept", 0))
	e.pass(20 * time.Millisecond)
	hit, near := SourceHit, SourceHit
	if c.local == SourceNearHit {
		near = SourceNearHit
	}
	for _, want := range []Source{hit, near, near} {
		r := lookup(key, time.Minute)
		require.Equal(e, want, r.Source)
		require.GreaterOrEqual(e, r.Age, 20*time.Millisecond)
		require.Less(e, r.Age, time.Minute)
		require.Zero(e, r.Staleness)
		if e.bubble {
			require.Equal(e, 20*time.Millisecond, r.Age)
		}
	}
	stats := c.Stats()
	require.EqualValues(e, 3, stats.Hits)
	require.EqualValues(e, 2, stats.Misses)
	if near == SourceNearHit {
		require.EqualValues(e, 2, stats.NearHits)
	} else {
		require.Zero(e, stats.NearHits)
	}

	s.set("", ErrNotFound)
	r, err := c.Lookup(e.Context(), "gone", time.Minute, s.fetch)
	require.ErrorIs(e, err, ErrNotFound)
	require.Zero(e, r.Age)
	e.pass(20 * time.Millisecond)
	r, err = c.Lookup(e.Context(), "gone", time.Minute, s.fetch)
	require.ErrorIs(e, err, ErrNotFound)
	require.Equal(e, SourceNegative, r.Source)
	require.GreaterOrEqual(e, r.Age, 20*time.Millisecond)

	s.set("", errSource)
	r, err = c.Lookup(e.Context(), "failing", time.Minute, s.fetch)
	require.Same(e, errSource, err)
	require.Equal(e, Result[string]{}, r)

	require.NoError(e, c.Set(e.Context(), "stale", "old", short))
	e.pass(2 * short)
	r = lookup("stale", time.Minute)
	require.Equal(e, SourceStale, r.Source)
	require.GreaterOrEqual(e, r.Age, 2*short)
	require.Less(e, r.Age, time.Minute)
	require.InDelta(e, r.Age-short, r.Staleness, float64(2*time.Millisecond), "measured from the end of its ttl")
}

func checkLookupJoined(e *env) {
	c := open[string](e, nil)
	s := serve("v")
	release := s.hold()
	results := make(chan Result[string])
	const callers = 5
	for range callers {
		go func() {
			r, _ := c.Lookup(e.Context(), key, time.Minute, s.fetch)
			results <- r
		}()
	}
	e.settle(func() bool { return c.Stats().Joined == callers-1 && s.calls.Load() == 1 }, "all callers wait")
	release()
	count := make(map[Source]int)
	for range callers {
		r := <-results
		require.Equal(e, "v", r.Value)
		require.Zero(e, r.Age)
		require.Zero(e, r.Staleness)
		count[r.Source]++
	}
	require.Equal(e, map[Source]int{SourceFetched: 1, SourceJoined: callers - 1}, count)
}

// checkCutShort is for the race detector too: an answer may come when nobody waits for it any more.
func checkCutShort(e *env) {
	c := open[string](e, nil)
	for i := range 300 {
		k := strconv.Itoa(i)
		ctx, cancel := context.WithTimeout(e.Context(), time.Duration(i)*time.Microsecond)
		_, err := c.Get(ctx, k)
		cancel()
		if err != ErrMiss {
			require.ErrorIs(e, err, context.DeadlineExceeded)
		}
	}
	_, err := c.Get(e.Context(), key)
	require.Equal(e, ErrMiss, err)
	require.NoError(e, c.Set(e.Context(), key, "v", time.Minute))
	v, err := c.Get(e.Context(), key)
	require.NoError(e, err)
	require.Equal(e, "v", v)
}

func checkBind(e *env) {
	c := open[string](e, nil)
	s := serve("v")
	kept, unkept := c.Bind(time.Minute, s.fetch), c.Bind(0, s.fetch)
	for range 2 {
		v, err := unkept.Get(e.Context(), key)
		require.NoError(e, err)
		require.Equal(e, "v", v)
	}
	require.EqualValues(e, 2, s.calls.Load())
	for range 3 {
		v, err := kept.Get(e.Context(), key)
		require.NoError(e, err)
		require.Equal(e, "v", v)
	}
	require.EqualValues(e, 3, s.calls.Load())
	_, err := c.Bind(time.Minute, nil).Get(e.Context(), key)
	require.ErrorIs(e, err, ErrInvalidValue)
	require.NoError(e, c.Close())
	_, err = kept.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrClosed)
}

// checkJoinedTTL begins fetches that are to keep nothing, alone and in a batch, and lets callers with a TTL join them.
func checkJoinedTTL(e *env) {
	c := open[string](e, nil)
	s := serve("v")
	release := s.hold()
	defer release()
	var begun sync.WaitGroup
	begun.Go(func() { _, _ = c.GetWithFetch(e.Context(), key, 0, s.fetch) })
	begun.Go(func() {
		_, _ = c.GetManyWithFetch(e.Context(), []string{"many"}, -1, func(ctx context.Context, keys []string) (map[string]string, error) {
			v, err := s.fetch(ctx, keys[0])
			return map[string]string{keys[0]: v}, err
		})
	})
	e.settle(func() bool { return s.calls.Load() == 2 }, "both fetches have begun")
	begun.Go(func() { _, _ = c.GetWithFetch(e.Context(), key, 0, s.fetch) })
	e.settle(func() bool { return c.Stats().Joined == 1 }, "a caller that wants nothing kept, too")
	joined := append(askMany(e, 2, c, key, s), askMany(e, 1, c, "many", s)...)
	release()
	for _, a := range joined {
		require.Equal(e, answer[string]{value: "v"}, <-a)
	}
	begun.Wait()
	require.EqualValues(e, 2, s.calls.Load())
	kept, err := c.GetMany(e.Context(), []string{key, "many"})
	require.NoError(e, err)
	if c.Config().Backend == BackendRueidisAside {
		require.Empty(e, kept, "without a lease nothing may be kept")
		return
	}
	require.Equal(e, map[string]string{key: "v", "many": "v"}, kept)
}
