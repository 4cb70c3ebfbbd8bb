// Package leases_test has tests of what processes of rueidis-aside do to each other's leases. They
// use the public API only, and stand apart from the others so that they are compiled in a moment.
package leases_test

import (
	"context"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
)

// The client of a cluster leaves goroutines that sleep for some seconds.
func TestMain(m *testing.M) {
	if line := os.Getenv(otherPlace); line != "" {
		playOther(line)
		return
	}
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient).redirectOrNew.func1"),
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2"),
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"))
}

const (
	key = "key"

	// patience is how long a test waits for what must happen.
	patience = 15 * time.Second
)

// config is the configuration of a cache at this place, in the one-line form. With the LeaseTTL of
// a minute no lease is renewed during a test: what a process hears of its lease, Redis has told it.
func config(t *testing.T, line string, change func(*cacheaside.Config)) cacheaside.Config {
	t.Helper()
	cfg, err := cacheaside.ParseConfig(line)
	require.NoError(t, err)
	cfg.Name, cfg.OpTimeout, cfg.FetchTimeout, cfg.LeaseTTL = "fleet", 3*time.Second, time.Minute, time.Minute
	if change != nil {
		change(&cfg)
	}
	return cfg
}

// open opens the cache of this process.
func open(t *testing.T, cfg cacheaside.Config) *cacheaside.Client[string] {
	t.Helper()
	c, err := cacheaside.Open[string](t.Context(), cfg, cacheaside.WithCodec(cacheaside.StringCodec()))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// start starts a server, and a process beside this one.
func start(t *testing.T, change func(*cacheaside.Config)) (server *redistest.Server, p *cacheaside.Client[string], q *other) {
	t.Helper()
	redistest.Require(t)
	server = redistest.Start(t)
	cfg := config(t, server.URL(cacheaside.BackendRueidisAside), change)
	return server, open(t, cfg), startOther(t, cfg)
}

// source returns a value, once it is released, and counts its calls.
type source struct {
	value   string
	release chan struct{} // nil: at once
	calls   atomic.Int64
}

func held(value string) *source { return &source{value: value, release: make(chan struct{})} }

func (s *source) fetch(ctx context.Context, _ string) (string, error) {
	s.calls.Add(1)
	if s.release != nil {
		select {
		case <-s.release:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	return s.value, nil
}

func (s *source) fetchMany(ctx context.Context, keys []string) (map[string]string, error) {
	all := make(map[string]string, len(keys))
	for _, k := range keys {
		all[k] = s.value
	}
	_, err := s.fetch(ctx, "")
	return all, err
}

// answer is what a caller got.
type answer struct {
	value string
	err   error
}

// ask asks for key, on a goroutine of its own.
func ask(t *testing.T, c *cacheaside.Client[string], s *source) <-chan answer {
	got := make(chan answer, 1)
	go func() {
		v, err := c.GetWithFetch(t.Context(), key, time.Hour, s.fetch)
		got <- answer{v, err}
	}()
	return got
}

// awaitCalls waits until the source has been called n times.
func (s *source) awaitCalls(t *testing.T, n int64) {
	t.Helper()
	require.Eventually(t, func() bool { return s.calls.Load() >= n }, patience, time.Millisecond)
}

// asksAnew waits until a new caller does not join the fetch that is under way: it gives up soon,
// and asks again.
func asksAnew(t *testing.T, c *cacheaside.Client[string], s *source) {
	t.Helper()
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		v, err := c.GetWithFetch(ctx, key, time.Hour, s.fetch)
		return err == nil && v == s.value
	}, patience, time.Millisecond, "new callers join the fetch from before the write")
}

// stands returns what Redis has under key, or under that of its lease.
func stands(server *redistest.Server) string {
	v, _ := server.Must("GET", "cache:fleet:"+key).(string)
	return v
}

func isMark(data string) bool { return strings.HasPrefix(data, "\xca\x14") }

func isToken(data string) bool { return strings.HasPrefix(data, "\xca\x13") }
