package cacheaside

import (
	"context"
	"fmt"
	"time"

	"github.com/stretchr/testify/require"
)

func init() {
	promises = append(promises,
		promise{"ErrorCooldown", "is a second by default for callers with a stale value", nil, checkDefaultCooldown},
		promise{"ErrorCooldown", "is a second by default for the keys of a batch with a stale value", nil, checkDefaultCooldownOfABatch},
		promise{"ErrorCooldown", "is none by default for callers without a stale value", nil, checkDefaultCooldownCold},
		promise{"ErrorCooldown", "is none if it is negative", nil, checkNegativeCooldown},
	)
}

// stalePolicies are those that let a caller go on with a stale value for d, or with one that is due.
func stalePolicies(d time.Duration) map[string]func(*Config) {
	return map[string]func(*Config){
		"stale for":      func(cfg *Config) { cfg.StaleFor = d },
		"stale if error": func(cfg *Config) { cfg.StaleIfError = d },
		"ahead":          func(cfg *Config) { cfg.RefreshAhead = 0.001 },
	}
}

// underEachStalePolicy runs check with a cache that holds "old" under "a" and "b", which is stale or due, and a source that
// fails.
func underEachStalePolicy(e *env, d time.Duration, more func(*Config), check func(c *Client[string], s *source[string])) {
	for name, policy := range stalePolicies(d) {
		c := open[string](e, func(cfg *Config) {
			cfg.Name = name
			policy(cfg)
			more(cfg)
		})
		ttl := short
		if name == "ahead" {
			ttl = time.Minute
		}
		require.NoError(e, c.SetMany(e.Context(), map[string]string{"a": "old", "b": "old"}, ttl))
		e.pass(short + 10*time.Millisecond) // a thousandth of a minute, too
		s := serve("")
		s.set("", errSource)
		check(c, s)
	}
}

// requireOld looks "a" up, which gives the old value, and waits until as many fetches have failed.
func requireOld(e *env, c *Client[string], s *source[string], failed uint64) {
	e.Helper()
	v, err := c.GetWithFetch(e.Context(), "a", time.Minute, s.fetch)
	require.NoError(e, err)
	require.Equal(e, "old", v)
	e.settle(func() bool { return c.Stats().FetchErrors == failed && c.flights.underWay() == 0 }, "the fetch fails")
}

func checkDefaultCooldown(e *env) {
	underEachStalePolicy(e, time.Hour, func(*Config) {}, func(c *Client[string], s *source[string]) {
		begun := time.Now()
		for range 10 {
			requireOld(e, c, s, 1)
		}
		e.boundary(begun, time.Second, func() { requireOld(e, c, s, 1) }, func() { requireOld(e, c, s, 2) })
		require.EqualValues(e, 2, s.calls.Load())

		require.NoError(e, c.Delete(e.Context(), "a"))
		s.set("new", nil)
		v, err := c.GetWithFetch(e.Context(), "a", time.Minute, s.fetch)
		require.NoError(e, err, "a write ends it")
		require.Equal(e, "new", v)
	})
}

func checkDefaultCooldownOfABatch(e *env) {
	underEachStalePolicy(e, time.Hour, func(*Config) {}, func(c *Client[string], _ *source[string]) {
		s := &manySource{fetch: func(context.Context, []string) (map[string]string, error) { return nil, errSource }}
		begun := time.Now()
		look := func(calls int) {
			got, err := c.GetManyWithFetch(e.Context(), []string{"a", "b"}, time.Minute, s.get)
			require.NoError(e, err)
			require.Equal(e, map[string]string{"a": "old", "b": "old"}, got)
			e.settle(func() bool { return len(s.asked()) == calls && c.flights.underWay() == 0 }, "the fetch fails")
		}
		for range 10 {
			look(1)
		}
		e.boundary(begun, time.Second, func() { look(1) }, func() { look(2) })
	})
}

func checkDefaultCooldownCold(e *env) {
	const d = 300 * time.Millisecond // some look-ups must fit in
	underEachStalePolicy(e, d, func(*Config) {}, func(c *Client[string], s *source[string]) {
		requireFailing := func(key string, calls int64) {
			cause := fmt.Errorf("try %d: %w", calls, errSource)
			s.set("", cause)
			_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
			require.Same(e, cause, err, "what the source says now, and nothing that was remembered")
			require.Equal(e, calls, s.calls.Load())
		}
		for i := range int64(3) {
			requireFailing("cold", i+1)
		}
		require.Zero(e, remembered(c), "what counts for no caller takes no memory")
		if c.cfg.RefreshAhead > 0 || !e.bubble { // the one ends with the ttl only, and elsewhere the time is not exact
			return
		}
		requireOld(e, c, s, 4)
		e.pass(d)
		for i := range int64(3) {
			requireFailing("a", 5+i)
		}
	})
}

// remembered counts the failures that a cache remembers.
func remembered(c *Client[string]) (n int) {
	for i := range c.flights.shards {
		s := &c.flights.shards[i]
		s.mu.Lock()
		n += len(s.failures.byKey)
		s.mu.Unlock()
	}
	return n
}

func checkNegativeCooldown(e *env) {
	underEachStalePolicy(e, time.Hour, func(cfg *Config) { cfg.ErrorCooldown = -1 }, func(c *Client[string], s *source[string]) {
		for i := range uint64(3) {
			requireOld(e, c, s, i+1)
		}
		require.EqualValues(e, 3, s.calls.Load())
	})
	c := open[string](e, func(cfg *Config) { cfg.ErrorCooldown = -time.Hour })
	s := serve("")
	s.set("", errSource)
	for i := range int64(3) {
		_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
		require.ErrorIs(e, err, errSource)
		require.Equal(e, i+1, s.calls.Load())
	}
}
