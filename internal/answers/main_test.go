// Package answers_test has tests of the Redis backends with servers that answer otherwise than a server should:
// they refuse a connection, have become replicas, send a client to and fro, or are no servers of the kind that
// was meant. They use the public API only, and stand apart from the others so that they are compiled in a moment.
package answers_test

import (
	"bytes"
	"context"
	"strconv"
	"strings"
	"sync"
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
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient).redirectOrNew.func1"),
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"))
}

const (
	key    = "key"
	secret = "s3cret-pass"

	// healing is how long a test waits for what should take a second or two.
	healing = 15 * time.Second
)

func onBothBackends(t *testing.T, test func(t *testing.T, backend string)) {
	redistest.Require(t)
	for _, backend := range []string{cacheaside.BackendRueidis, cacheaside.BackendRueidisAside} {
		t.Run(backend, func(t *testing.T) { test(t, backend) })
	}
}

func config(t *testing.T, line string) cacheaside.Config {
	t.Helper()
	cfg, err := cacheaside.ParseConfig(line)
	require.NoError(t, err)
	cfg.Name = "answers"
	return cfg
}

func open(t *testing.T, cfg cacheaside.Config, opts ...cacheaside.Option) *cacheaside.Client[string] {
	t.Helper()
	c, err := cacheaside.Open[string](t.Context(), cfg, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// give returns a fetch of this value.
func give(v string) func(context.Context, string) (string, error) {
	return func(context.Context, string) (string, error) { return v, nil }
}

// underLoad runs do while four callers look keys up, each key once.
func underLoad(t *testing.T, c *cacheaside.Client[string], do func()) {
	t.Helper()
	done := make(chan struct{})
	var callers sync.WaitGroup
	var wrong atomic.Int64
	for g := range 4 {
		callers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				case <-time.After(time.Millisecond):
				}
				k := strconv.Itoa(g) + "-" + strconv.Itoa(i)
				if v, err := c.GetWithFetch(context.Background(), k, time.Minute, give(k)); err != nil || v != k {
					wrong.Add(1)
				}
			}
		})
	}
	do()
	close(done)
	callers.Wait()
	require.Zero(t, wrong.Load())
}

// watcher counts events.
type watcher struct {
	mu    sync.Mutex
	kinds map[cacheaside.EventKind]int
}

func newWatcher() *watcher { return &watcher{kinds: make(map[cacheaside.EventKind]int)} }

func (w *watcher) Observe(e cacheaside.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kinds[e.Kind]++
}

func (w *watcher) count(kind cacheaside.EventKind) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.kinds[kind]
}

// journal is a log that a test can read.
type journal struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buffer.Write(p)
}

// lines returns the lines that tell of the state of Redis.
func (j *journal) lines() (lines []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for line := range strings.Lines(j.buffer.String()) {
		if strings.Contains(line, "Redis") {
			lines = append(lines, line)
		}
	}
	return lines
}
