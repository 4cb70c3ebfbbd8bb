package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

func TestMain(m *testing.M) {
	thisProcess = nil // tests open a second backend where they want another process
	// A cluster's client, closed as it may be, has goroutines left that sleep: to close, after five seconds,
	// the connections that a change of the topology has made superfluous, and to space such changes.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2"),
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"))
}

// The conformance suite: every promise against every backend. A promise is a case, a backend is a rig.
// Cases are in the conformance_*_test.go files; a case that a backend does not promise names those that do.

// rig is a backend under test.
type rig struct {
	name   string
	remote bool // values live outside this process
	shared bool // several clients can be opened on the same values, as other processes would
	tells  bool // a write tells others, which takes a round trip

	// start prepares what all cases share; nil: nothing.
	start func(t *testing.T)

	// run runs body with what it needs: memory in a bubble with a clock of its own, Redis with a server.
	run func(t *testing.T, body func(*env))
}

// promise is a case of the suite.
type promise struct {
	id    string // of the design's list of guarantees
	title string
	on    func(rig) bool // nil: every backend
	check func(*env)
}

// promises is filled by the conformance_*_test.go files.
var promises []promise

func isRemote(r rig) bool { return r.remote }
func isLeased(r rig) bool { return r.name == BackendRueidisAside }

// redisKeyOf is where a cache keeps what it is asked for by k.
func redisKeyOf[T any](c *Client[T], k string) string {
	return c.cfg.Prefix + ":" + c.cfg.Name + ":" + k
}

func TestConformance(t *testing.T) {
	for _, r := range rigs {
		t.Run(r.name, func(t *testing.T) {
			if r.start != nil {
				r.start(t)
			}
			for _, p := range promises {
				if p.on != nil && !p.on(r) {
					continue
				}
				t.Run(p.id+" "+p.title, func(t *testing.T) {
					r.run(t, func(e *env) { p.check(e) })
				})
			}
		})
	}
}

var rigs = []rig{memoryRig, redisRig(BackendRueidis), redisRig(BackendRueidisAside)}

var memoryRig = rig{
	name: "memory",
	run: func(t *testing.T, body func(*env)) {
		synctest.Test(t, func(t *testing.T) {
			body(&env{T: t, config: Config{Backend: BackendMemory}, bubble: true})
		})
	},
}

// redisRig runs each case on one server, in a namespace of its own.
func redisRig(backend string) rig {
	var cases atomic.Int64
	var server *redistest.Server
	return rig{
		name:   backend,
		remote: true,
		shared: true,
		start: func(t *testing.T) {
			redistest.Require(t)
			server = redistest.Start(t)
		},
		run: func(t *testing.T, body func(*env)) {
			cfg, err := ParseConfig(server.URL(backend))
			require.NoError(t, err)
			cfg.Prefix = fmt.Sprintf("case%d", cases.Add(1))
			cfg.Name = "conformance"
			cfg.OpTimeout = 3 * time.Second // a machine under load must not look like a server that is down
			cfg.LeaseWait = time.Minute     // a lease that is left behind must not go unnoticed
			body(&env{T: t, config: cfg, server: server})
		},
	}
}

// env is what a case works with.
type env struct {
	*testing.T
	config Config
	bubble bool              // time is synctest's
	server *redistest.Server // nil for a backend in this process, and for a cluster

	options []Option                           // of every cache
	owner   func(key string) *redistest.Server // in a cluster; nil otherwise
}

// at returns the server that holds a key of Redis.
func (e *env) at(key string) *redistest.Server {
	if e.owner != nil {
		return e.owner(key)
	}
	return e.server
}

// open opens a cache on the backend under test, with changes to its configuration, and closes it in the
// end.
func open[T any](e *env, change func(*Config), opts ...Option) *Client[T] {
	e.Helper()
	cfg := e.config
	if change != nil {
		change(&cfg)
	}
	c, err := Open[T](e.Context(), cfg, append(slices.Clip(e.options), opts...)...)
	require.NoError(e, err)
	e.Cleanup(func() { require.NoError(e, c.Close()) })
	return c
}

// pass lets time pass.
func (e *env) pass(d time.Duration) {
	if e.bubble {
		<-time.After(d)
		synctest.Wait()
		return
	}
	<-time.After(d)
}

// passInside is pass for a fetch: it does not wait for the other goroutines.
func (e *env) passInside(d time.Duration) { <-time.After(d) }

// yield lets others run: in a bubble a little time passes.
func (e *env) yield() {
	if e.bubble {
		<-time.After(time.Duration(rand.IntN(50)) * time.Microsecond)
		return
	}
	runtime.Gosched()
}

// settle waits until condition holds, which it must soon.
func (e *env) settle(condition func() bool, what string) {
	e.Helper()
	if e.bubble {
		synctest.Wait()
		require.True(e, condition(), what)
		return
	}
	require.Eventually(e, condition, 10*time.Second, time.Millisecond, what)
}

// settleInside waits until condition holds, on a goroutine other than the test's.
func (e *env) settleInside(condition func() bool) {
	for deadline := time.Now().Add(10 * time.Second); !condition() && time.Now().Before(deadline); {
		<-time.After(time.Millisecond)
	}
}

// source is a source of values under the test's control.
type source[T any] struct {
	calls, returned atomic.Int64

	mu     sync.Mutex
	value  T
	err    error
	gate   chan struct{} // if not nil, a fetch waits until it is closed
	deaf   bool          // a fetch ignores its context while it waits
	inside func(ctx context.Context, key string)
}

func serve[T any](value T) *source[T] { return &source[T]{value: value} }

// hold makes fetches wait until release is called.
func (s *source[T]) hold() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gate := make(chan struct{})
	s.gate = gate
	return sync.OnceFunc(func() { close(gate) })
}

func (s *source[T]) set(value T, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value, s.err = value, err
}

// fetch is the FetchFunc. It takes the value when it begins, as a database's snapshot would.
func (s *source[T]) fetch(ctx context.Context, key string) (T, error) {
	s.mu.Lock()
	value, err, gate, deaf, inside := s.value, s.err, s.gate, s.deaf, s.inside
	s.mu.Unlock()
	s.calls.Add(1)
	defer s.returned.Add(1)
	if inside != nil {
		inside(ctx, key)
	}
	if gate != nil {
		if deaf {
			<-gate
		} else {
			select {
			case <-gate:
			case <-ctx.Done():
				return value, ctx.Err()
			}
		}
	}
	return value, err
}

// answer is what a caller got.
type answer[T any] struct {
	value T
	err   error
}

// ask calls GetWithFetch on a goroutine of its own.
func ask[T any](ctx context.Context, c *Client[T], key string, fetch FetchFunc[T]) <-chan answer[T] {
	got := make(chan answer[T], 1)
	go func() {
		v, err := c.GetWithFetch(ctx, key, time.Minute, fetch)
		got <- answer[T]{v, err}
	}()
	return got
}

// askMany calls ask n times and waits until all of them wait for one flight, which has called s.
func askMany[T any](e *env, n int, c *Client[T], key string, s *source[T]) []<-chan answer[T] {
	e.Helper()
	e.settle(func() bool {
		now := c.Stats()
		return now.Misses+now.Refreshes >= now.Fetches
	}, "whoever has started a flight before is counted")
	before := c.Stats()
	var all []<-chan answer[T]
	for range n {
		all = append(all, ask(e.Context(), c, key, s.fetch))
	}
	e.settle(func() bool {
		now := c.Stats()
		return now.Joined+now.Misses == before.Joined+before.Misses+uint64(n) && s.calls.Load() > 0
	}, "all callers wait for a fetch that has begun")
	return all
}

var errSource = errors.New("the source is down")

const key = "some key"

// userCache is an interface as a consumer of the cache would define it, without the types of this package.
type userCache interface {
	GetWithFetch(ctx context.Context, key string, ttl time.Duration, fetch func(context.Context, string) (string, error)) (string, error)
	GetManyWithFetch(ctx context.Context, keys []string, ttl time.Duration, fetch func(context.Context, []string) (map[string]string, error)) (map[string]string, error)
}

var _ userCache = (*Client[string])(nil)
