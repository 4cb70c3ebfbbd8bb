package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

func init() { rigs = append(rigs, busRig()) }

// busRig is memory whose processes hear of each other. What the suite asks of memory is asked of it too.
func busRig() rig {
	var cases atomic.Int64
	var server *redistest.Server
	return rig{
		name:  "memory-bus",
		tells: true,
		start: func(t *testing.T) {
			redistest.Require(t)
			server = redistest.Start(t)
		},
		run: func(t *testing.T, body func(*env)) {
			cfg := Config{Backend: BackendMemory, Bus: "redis://" + server.Addr(), OpTimeout: 3 * time.Second}
			cfg.Prefix = fmt.Sprintf("case%d", cases.Add(1))
			body(&env{T: t, config: cfg})
		},
	}
}

// busProcesses returns caches of two processes on one bus, which hear of each other.
func busProcesses(t *testing.T, cfg Config, opts ...Option) (one, other *Client[string]) {
	t.Helper()
	all := make([]*Client[string], 2)
	for i := range all {
		c, err := Open[string](t.Context(), cfg, opts...)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, c.Close()) })
		all[i] = c
		busAlive(t, c)
	}
	return all[0], all[1]
}

func busAlive(t *testing.T, c *Client[string]) {
	t.Helper()
	require.Eventually(t, func() bool {
		for _, s := range c.Backend().feeds.sources() {
			if s.alives() == 0 {
				return false
			}
		}
		return c.Stats().FeedsLost == 0
	}, 10*time.Second, time.Millisecond)
}

func busConfig(t *testing.T) (Config, *redistest.Server) {
	t.Helper()
	redistest.Require(t)
	s := redistest.Start(t)
	return Config{Backend: BackendMemory, Bus: "redis://" + s.Addr(), OpTimeout: 3 * time.Second, Name: "users"}, s
}

// gone waits until key is not there.
func gone(t *testing.T, c *Client[string], key string) {
	t.Helper()
	require.Eventually(t, func() bool { _, err := c.Get(t.Context(), key); return errors.Is(err, ErrMiss) }, 10*time.Second, 100*time.Microsecond)
}

// hearsAll waits until c has heard of all that was told.
func hearsAll(t *testing.T, c *Client[string]) {
	t.Helper()
	b := c.Backend().bus
	at, err := b.count(t.Context())
	require.NoError(t, err)
	require.Eventually(t, func() bool { return b.place().covers(at) }, 10*time.Second, time.Millisecond)
}

func TestABusTellsTheOtherProcesses(t *testing.T) {
	t.Parallel()
	cfg, _ := busConfig(t)
	one, other := busProcesses(t, cfg, WithTags(func(key, _ string) []string { return []string{"tag:" + key} }))
	ctx := t.Context()
	long := strings.Repeat("k", MaxKeyBytes)
	odd := "a b:\x00\xff\n"
	for name, change := range map[string]func(key string) error{
		"Delete": func(k string) error { return one.Delete(ctx, k) },
		"Set":    func(k string) error { return one.Set(ctx, k, "new", time.Minute) },
		"Mutate": func(k string) error {
			return one.Mutate(ctx, []string{k}, func(context.Context) error { return nil })
		},
		"DeleteMany": func(k string) error { return one.DeleteMany(ctx, []string{"x", k, long}) },
		"SetMany":    func(k string) error { return one.SetMany(ctx, map[string]string{k: "new", "y": "z"}, time.Minute) },
		"Clear":      func(string) error { return one.Clear(ctx) },
		"tag":        func(k string) error { return one.InvalidateTags(ctx, "tag:"+k) },
		"Invalidate": func(k string) error { return one.Backend().Invalidate(ctx, one.Refs(k)...) },
		"Backend.Mutate": func(k string) error {
			return one.Backend().Mutate(ctx, append(one.Refs("x"), Tags("tag:"+k)...), func(context.Context) error { return nil })
		},
	} {
		for _, k := range []string{"k", odd, long[:1000]} {
			t.Log(name)
			require.NoError(t, one.Set(ctx, k, "older", time.Minute))
			hearsAll(t, other)
			require.NoError(t, other.Set(ctx, k, "old", time.Minute))
			gone(t, one, k) // the bus tells one of that too
			s := serve("old")
			v, err := other.Get(ctx, k)
			require.NoError(t, err)
			require.Equal(t, "old", v)
			require.NoError(t, change(k))
			gone(t, other, k)
			v, err = other.GetWithFetch(ctx, k, time.Minute, s.fetch)
			require.NoError(t, err)
			require.Equal(t, "old", v)
			if strings.HasPrefix(name, "Set") {
				v, err := one.Get(ctx, k)
				require.NoError(t, err, "what a process has set it keeps")
				require.Equal(t, "new", v)
			}
		}
	}
	require.Zero(t, one.Stats().FeedGaps)
	require.Zero(t, other.Stats().FeedGaps)
}

// What a program stores as soon as the cache is open is kept.
func TestABusKeepsWhatIsSetAtOnce(t *testing.T) {
	t.Parallel()
	cfg, _ := busConfig(t)
	for range 200 {
		c, err := Open[string](t.Context(), cfg)
		require.NoError(t, err)
		require.NoError(t, c.Set(t.Context(), key, "v", time.Minute))
		_, err = c.Get(t.Context(), key)
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
}

func TestABusVoidsFetches(t *testing.T) {
	t.Parallel()
	cfg, _ := busConfig(t)
	one, other := busProcesses(t, cfg)
	s := serve("old")
	release := s.hold()
	got := ask(t.Context(), other, key, s.fetch)
	require.Eventually(t, func() bool { return s.calls.Load() == 1 }, 10*time.Second, time.Millisecond)
	require.NoError(t, one.Delete(t.Context(), key))
	require.Eventually(t, func() bool { return other.Stats().FeedRefs == 1 }, 10*time.Second, time.Millisecond)
	release()
	require.Equal(t, "old", (<-got).value)
	_, err := other.Get(t.Context(), key)
	require.ErrorIs(t, err, ErrMiss)
}

// A message that does not come, for whatever reason, is noticed.
func TestABusNoticesWhatItMisses(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(s *redistest.Server, cfg Config){
		"a message that Redis counts and does not deliver": func(s *redistest.Server, cfg Config) {
			s.Must("EVAL", "local a, n = string.match(redis.call('GET', KEYS[1]), '(.*):(.*)') redis.call('SET', KEYS[1], a .. ':' .. n + 1)", "1", cfg.Prefix+"::{"+cfg.Prefix+"}:bus")
		},
		"a count that is set back": func(s *redistest.Server, cfg Config) {
			s.Must("EVAL", "local a, n = string.match(redis.call('GET', KEYS[1]), '(.*):(.*)') redis.call('SET', KEYS[1], a .. ':' .. n - 1)", "1", cfg.Prefix+"::{"+cfg.Prefix+"}:bus")
		},
		"a flush":     func(s *redistest.Server, _ Config) { s.Must("FLUSHALL") },
		"a reconnect": func(s *redistest.Server, _ Config) { s.Must("CLIENT", "KILL", "TYPE", "pubsub") },
		"a bad message": func(s *redistest.Server, cfg Config) {
			s.Must("PUBLISH", cfg.Prefix+"::{"+cfg.Prefix+"}:bus", "nonsense")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, s := busConfig(t)
			cfg.Prefix = "app"
			one, other := busProcesses(t, cfg)
			require.NoError(t, one.Delete(t.Context(), "any"))
			require.NoError(t, one.Delete(t.Context(), "any"))
			require.NoError(t, other.Set(t.Context(), key, "old", time.Minute))
			lose(s, cfg)
			if name != "a flush" { // what was counted before it may not have come
				require.NoError(t, one.Delete(t.Context(), "another"))
			}
			gone(t, other, key)
			require.Eventually(t, func() bool { return other.Stats().FeedGaps > 0 }, 10*time.Second, time.Millisecond)
			busAlive(t, other)
			require.NoError(t, other.Set(t.Context(), key, "new", time.Minute))
			_, err := other.Get(t.Context(), key)
			require.NoError(t, err)
		})
	}
}

// While the bus is down a process keeps nothing, fetches, and says that it could not tell.
func TestABusThatIsDown(t *testing.T) {
	t.Parallel()
	cfg, s := busConfig(t)
	proxy := redistest.NewProxy(t, s.Addr())
	cfg.Bus, cfg.OpTimeout = "redis://"+proxy.Addr(), 200*time.Millisecond
	for name, fault := range map[string]func(on bool){
		"black hole": proxy.BlackHole,
		"refused": func(on bool) {
			proxy.Refuse(on)
			if on {
				proxy.CutAll()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Open[string](t.Context(), cfg)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, c.Close()) })
			busAlive(t, c)
			require.NoError(t, c.Set(t.Context(), key, "v", time.Minute))
			fault(true)
			gone(t, c, key)
			require.ErrorIs(t, c.Health(t.Context()), ErrUnavailable)
			require.ErrorIs(t, c.Delete(t.Context(), key), ErrUnavailable)
			require.ErrorIs(t, c.Set(t.Context(), key, "v", time.Minute), ErrUnavailable)
			src := serve("fetched")
			for range 2 {
				v, err := c.GetWithFetch(t.Context(), key, time.Minute, src.fetch)
				require.NoError(t, err)
				require.Equal(t, "fetched", v)
			}
			require.EqualValues(t, 2, src.calls.Load())
			err = c.Mutate(t.Context(), []string{"other"}, func(context.Context) error { return nil })
			require.ErrorIs(t, err, ErrUnavailable, "and it is told later")
			fault(false)
			busAlive(t, c)
			require.Eventually(t, func() bool { return c.Health(t.Context()) == nil && !c.repeats.isPending("other") }, 20*time.Second, time.Millisecond)
		})
	}
}

func TestBadBuses(t *testing.T) {
	t.Parallel()
	for _, cfg := range []Config{
		{Bus: "http://localhost"},
		{Bus: "redis://user:secret@local host"},
	} {
		_, err := Open[string](t.Context(), cfg)
		require.ErrorIs(t, err, ErrInvalidConfig)
		require.ErrorContains(t, err, "Bus")
		require.NotContains(t, err.Error(), "secret")
	}
	_, err := Open[string](t.Context(), Config{Bus: "redis://localhost"}, WithBus(RedisConfig{}))
	require.ErrorIs(t, err, ErrInvalidConfig)
	cfg, err := ParseConfig("memory://?bus=redis://user:secret@host:6379/1")
	require.NoError(t, err)
	require.Equal(t, "redis://user:secret@host:6379/1", cfg.Bus)
	require.NotContains(t, cfg.String(), "secret")
}
