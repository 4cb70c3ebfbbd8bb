package cacheaside

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// The fault table: what a caller pays, and gets, while Redis is broken in one of these ways. Every call is
// made with a context that never ends, since that is when a client would hang.

const (
	faultOpTimeout = 500 * time.Millisecond // the default

	// hang is far above what any call may take, OpTimeout plus the fetch, and far below for ever. The
	// exact figures are logged: a machine under load would break an exact assertion.
	hang = 5 * time.Second

	// healing is how long the cache may take to work again after the fault has ended.
	healing = 15 * time.Second
)

// fault is a row of the table.
type fault struct {
	name  string
	begin func(*broken)
	end   func(*broken)

	proxied bool   // it is the network's
	atStart bool   // it begins before the cache is opened
	mute    bool   // Redis is not there, or does not answer
	brief   bool   // it is over by itself
	reply   string // what Redis answers, if it does
	cause   error  // what errors.Is finds beside ErrUnavailable
}

var faults = []fault{
	{
		name:  "frozen",
		begin: func(b *broken) { b.server.Freeze() },
		end:   func(b *broken) { b.server.Thaw() },
		mute:  true,
	},
	{
		name:  "refused",
		begin: func(b *broken) { b.server.Kill(); b.awaitDown() },
		end:   func(b *broken) { b.server.Restart() },
		mute:  true,
		cause: syscall.ECONNREFUSED,
	},
	{
		name: "killed in mid-run",
		begin: func(b *broken) {
			b.during(b.server.Kill)
		},
		end:  func(b *broken) { b.server.Restart() },
		mute: true,
	},
	{
		name:    "cut in mid-reply",
		proxied: true,
		begin: func(b *broken) {
			for n := range 12 {
				b.awaitHealth()
				b.proxy.CutAfter(5 * n)
				b.get("warm", "warm")
			}
			b.report("calls that were cut")
		},
		end:   func(*broken) {},
		brief: true,
	},
	{
		name:    "cut in mid-run",
		proxied: true,
		begin:   func(b *broken) { b.during(b.proxy.CutAll) },
		end:     func(*broken) {},
		brief:   true,
	},
	{
		name:    "black hole",
		proxied: true,
		begin:   func(b *broken) { b.proxy.BlackHole(true) },
		end:     func(b *broken) { b.proxy.BlackHole(false) },
		mute:    true,
	},
	{
		name:    "cut in mid-run, and then a black hole",
		proxied: true,
		begin: func(b *broken) {
			b.during(func() {
				b.proxy.BlackHole(true)
				b.proxy.CutAll()
			})
		},
		end:  func(b *broken) { b.proxy.BlackHole(false) },
		mute: true,
	},
	{
		name:  "out of memory",
		begin: func(b *broken) { b.server.FillMemory() },
		end:   func(b *broken) { b.server.FreeMemory() },
		reply: "OOM",
	},
	{
		name:  "read-only",
		begin: func(b *broken) { b.server.ReadOnly(true) },
		end:   func(b *broken) { b.server.ReadOnly(false) },
		reply: "READONLY",
	},
	{
		name:  "no permission",
		begin: func(b *broken) { b.server.Must("ACL", "SETUSER", "app", "-@all") },
		end:   func(b *broken) { b.server.Must("ACL", "SETUSER", "app", "+@all") },
		reply: "NOPERM",
	},
	{
		name:  "no permission to write",
		begin: func(b *broken) { b.server.Must("ACL", "SETUSER", "app", "-@write") },
		end:   func(b *broken) { b.server.Must("ACL", "SETUSER", "app", "+@all") },
		reply: "NOPERM",
	},
	{
		name:  "loading",
		begin: func(b *broken) { b.server.Loading(true); b.awaitDown() },
		end:   func(b *broken) { b.server.Loading(false) },
		reply: "LOADING",
	},
	{
		name:    "down at start",
		begin:   func(b *broken) { b.server.Kill() },
		end:     func(b *broken) { b.server.Restart() },
		atStart: true,
		mute:    true,
	},
	{
		name:    "frozen at start",
		begin:   func(b *broken) { b.server.Freeze() },
		end:     func(b *broken) { b.server.Thaw() },
		atStart: true,
		mute:    true,
	},
	{
		name:    "loading at start",
		begin:   func(b *broken) { b.server.Loading(true) },
		end:     func(b *broken) { b.server.Loading(false) },
		atStart: true,
		reply:   "LOADING",
	},
}

func TestCallersDoNotPayForABrokenRedis(t *testing.T) {
	redistest.Require(t)
	for _, f := range faults {
		for _, backend := range []string{BackendRueidis, BackendRueidisAside} {
			t.Run(f.name+"/"+backend, func(t *testing.T) {
				t.Parallel()
				breakRedis(t, f, backend)
			})
		}
	}
}

// broken is a Redis that is about to break, and a cache on it.
type broken struct {
	*testing.T
	server *redistest.Server
	owner  func(key string) *redistest.Server // in a cluster; nil otherwise
	proxy  *redistest.Proxy                   // nil if the cache is connected to the server itself
	cache  *Client[string]
	seen   *watcher
	slowly bool // the client takes a minute to find its connection dead, so that it is not that which helps

	keys atomic.Int64
	mu   sync.Mutex
	took []time.Duration // by each look-up, since the last report
}

func breakRedis(t *testing.T, f fault, backend string) {
	server := redistest.Start(t, redistest.User("app", ">secret", "~*", "&*", "+@all"))
	b := &broken{T: t, server: server, seen: newWatcher()}
	if f.proxied {
		b.proxy = redistest.NewProxy(t, server.Addr())
	}
	b.slowly = !f.atStart
	if f.atStart {
		f.begin(b)
	}
	b.open(backend)
	if !f.atStart {
		b.get("warm", "warm")
		v, err := b.cache.Get(t.Context(), "warm")
		require.NoError(t, err)
		require.Equal(t, "warm", v)
		b.report("healthy")
		f.begin(b)
	}
	b.use(f)
	f.end(b)
	b.recover()
}

func (b *broken) open(backend string) { b.openAt(b.server.URL(backend)) }

func (b *broken) openAt(line string) {
	cfg := config(b.T, line)
	if b.proxy != nil {
		cfg.Redis.Addrs = []string{b.proxy.Addr()}
	}
	opts := []Option{WithObserver(b.seen)}
	if b.slowly {
		opts = append(opts, withSlowDetection())
	}
	var err error
	begun := time.Now()
	b.cache, err = Open[string](b.Context(), cfg, opts...)
	require.NoError(b, err, "Redis being down is no error")
	require.Less(b, time.Since(begun), hang)
	b.Logf("opened in %v", time.Since(begun).Round(time.Millisecond))
	b.Cleanup(func() {
		begun := time.Now()
		require.NoError(b, b.cache.Close())
		require.Less(b, time.Since(begun), hang)
	})
}

// use makes calls of all kinds while Redis is broken.
func (b *broken) use(f fault) {
	before := b.cache.Stats()
	b.get("warm", "warm")
	b.report("first call")
	begun := time.Now()
	for range 20 {
		b.getNew()
	}
	require.Less(b, time.Since(begun), hang, "not every call waits for OpTimeout")
	b.report("calls one after another")
	var callers sync.WaitGroup
	for range 50 {
		callers.Go(func() {
			for range 5 {
				b.getNew()
			}
		})
	}
	callers.Wait()
	b.report("calls of 50 goroutines")
	if f.brief {
		return
	}
	b.fails("Set", f, func() error { return b.cache.Set(context.Background(), "set", "v", time.Minute) })
	b.getMany()
	b.fails("SetMany", f, func() error { return b.cache.SetMany(context.Background(), valuesOf("a", "b", "c"), time.Minute) })
	b.fails("Health", f, func() error { return b.cache.Health(context.Background()) })
	if f.mute {
		b.fails("GetMany", f, func() error {
			_, err := b.cache.GetMany(context.Background(), []string{"x", "y"})
			return err
		})
	}
	after := b.cache.Stats()
	require.Greater(b, after.BackendErrors, before.BackendErrors, "what failed is counted")
	require.Positive(b, b.seen.count(EventBackendError), "and observed")
	if f.mute {
		require.Positive(b, b.seen.count(EventBackendDown))
	}
}

// fails expects a call to say that Redis does not answer, soon.
func (b *broken) fails(what string, f fault, call func() error) {
	b.Helper()
	begun := time.Now()
	err := call()
	took := time.Since(begun)
	b.Logf("%s: %v: %v", what, took.Round(10*time.Microsecond), err)
	require.ErrorIs(b, err, ErrUnavailable, what)
	require.Contains(b, err.Error(), f.reply, what)
	if f.cause != nil {
		require.ErrorIs(b, err, f.cause, what)
	}
	require.Less(b, took, hang, what)
}

// get looks a key up, which must give the fetch's value, whatever becomes of Redis.
func (b *broken) get(key, value string) {
	begun := time.Now()
	v, err := b.cache.GetWithFetch(context.Background(), key, time.Minute, serve(value).fetch)
	took := time.Since(begun)
	if err != nil || v != value || took > hang {
		b.Errorf("look-up of %s: %q, %v, after %v", key, v, err, took)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.took = append(b.took, took)
}

// getMany looks several keys up at once, as get does one.
func (b *broken) getMany() {
	begun := time.Now()
	s := new(manySource)
	got, err := b.cache.GetManyWithFetch(context.Background(), []string{"many 1", "many 2"}, time.Minute, s.get)
	require.NoError(b, err)
	require.Equal(b, valuesOf("many 1", "many 2"), got)
	require.Len(b, s.asked(), 1)
	require.Less(b, time.Since(begun), hang)
}

// getNew looks up a key that nobody has asked for yet.
func (b *broken) getNew() {
	k := strconv.FormatInt(b.keys.Add(1), 10)
	b.get(k, "of "+k)
}

// during runs what happens while many look-ups are under way.
func (b *broken) during(happens func()) {
	var stop atomic.Bool
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			for !stop.Load() {
				b.getNew()
			}
		})
	}
	require.Eventually(b, func() bool { return b.keys.Load() > 200 }, healing, time.Millisecond)
	happens()
	before := b.keys.Load()
	require.Eventually(b, func() bool { return b.keys.Load() > before+200 }, healing, time.Millisecond)
	stop.Store(true)
	callers.Wait()
	b.report("calls while it happened")
}

// awaitDown waits until the cache has noticed that it has lost its connection.
func (b *broken) awaitDown() {
	require.Eventually(b, func() bool { return b.seen.count(EventBackendDown) > 0 }, healing, time.Millisecond)
}

// awaitHealth waits until Redis answers again.
func (b *broken) awaitHealth() {
	b.Helper()
	require.Eventually(b, func() bool { return b.cache.Health(context.Background()) == nil }, healing, 5*time.Millisecond)
}

// report logs what look-ups have taken since the last report.
func (b *broken) report(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.took) == 0 {
		return
	}
	slices.Sort(b.took)
	b.Logf("%s: %d look-ups, median %v, worst %v", what, len(b.took),
		b.took[len(b.took)/2].Round(time.Microsecond), b.took[len(b.took)-1].Round(10*time.Microsecond))
	b.took = nil
}

// recover expects the cache to work again: what is fetched is stored, and seen by everybody.
func (b *broken) recover() {
	begun := time.Now()
	require.Eventually(b, func() bool {
		b.getNew()
		k := strconv.FormatInt(b.keys.Load(), 10)
		k = "cache:default:" + k
		server := b.server
		if b.owner != nil {
			server = b.owner(k)
		}
		stored, err := server.Command("GET", k)
		text, _ := stored.(string)
		return err == nil && strings.Contains(text, "of ")
	}, healing, 5*time.Millisecond, "what is fetched is stored again")
	b.Logf("stored again %v after the fault", time.Since(begun).Round(time.Millisecond))
	b.report("calls until then")
	b.awaitHealth()
	require.NoError(b, b.cache.Set(context.Background(), "after", "v", time.Minute))
	v, err := b.cache.Get(context.Background(), "after")
	require.NoError(b, err)
	require.Equal(b, "v", v)
	require.NoError(b, b.cache.Delete(context.Background(), "after"))
	_, err = b.cache.Get(context.Background(), "after")
	require.ErrorIs(b, err, ErrMiss)
}

// A Redis that answers, but slowly, costs a caller one OpTimeout, and not one an operation: the look-up, the
// lease and the fill share it.
func TestASlowRedisCostsOneOpTimeout(t *testing.T) {
	redistest.Require(t)
	const opTimeout = time.Second
	gone := serve("")
	gone.set("", ErrNotFound)
	for name, call := range map[string]func(c *Client[string]) error{
		"a fill": func(c *Client[string]) error {
			_, err := c.GetWithFetch(context.Background(), key, time.Minute, serve("new").fetch)
			return err
		},
		"a removal": func(c *Client[string]) error {
			_, err := c.GetWithFetch(context.Background(), "stale", time.Minute, gone.fetch)
			return err
		},
		"a batch": func(c *Client[string]) error {
			_, err := c.GetManyWithFetch(context.Background(), []string{"a", "b", "c"}, time.Minute, new(manySource).get)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			onBothRedisBackends(t, func(t *testing.T, backend string) {
				server := redistest.Start(t)
				proxy := redistest.NewProxy(t, server.Addr())
				cfg := config(t, server.URL(backend))
				cfg.Redis.Addrs, cfg.OpTimeout, cfg.StaleIfError = []string{proxy.Addr()}, opTimeout, time.Hour
				c := openAside[string](t, cfg)
				require.NoError(t, c.Set(t.Context(), "stale", "stale", time.Millisecond))
				awaitStale(t, c, "stale")
				_, err := c.GetWithFetch(t.Context(), "warm", time.Minute, serve("warm").fetch) // Redis knows the scripts
				require.NoError(t, err)

				proxy.Delay(opTimeout * 6 / 10)
				begun := time.Now()
				if err := call(c); err != nil {
					require.ErrorIs(t, err, ErrNotFound)
				}
				took := time.Since(begun)
				t.Logf("%v of an OpTimeout", took.Seconds()/opTimeout.Seconds())
				require.Less(t, took, opTimeout*3/2)
				proxy.Delay(0)
			})
		})
	}
}

// The last request of a flight is sent, though its answer comes after the flight's OpTimeout. On a loaded
// machine a lookup may spend the whole of it, and then a flight asks for nothing more: so there are several.
func TestTheLastRequestOfAFlightIsSent(t *testing.T) {
	const opTimeout = time.Second
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		server := redistest.Start(t)
		proxy := redistest.NewProxy(t, server.Addr())
		c := openOn(t, server, proxy.Addr(), backend, opTimeout)
		_, err := c.GetWithFetch(t.Context(), "warm", time.Minute, serve("warm").fetch) // Redis knows the scripts
		require.NoError(t, err)
		stored := func(key string) bool {
			proxy.Delay(opTimeout * 6 / 10)
			_, err := c.GetWithFetch(t.Context(), key, time.Minute, serve("new").fetch)
			require.NoError(t, err)
			proxy.Delay(0)
			for range 2000 {
				stored, _ := server.Must("GET", redisKeyOf(c, key)).(string)
				if strings.Contains(stored, "new") {
					return true
				}
				time.Sleep(time.Millisecond)
			}
			return false
		}
		require.True(t, stored("a") || stored("b") || stored("c") || stored("d"))
	})
}

// Who waits for a fetch does not wait for its lease to be given up.
func TestGivingUpALeaseKeepsNobodyWaiting(t *testing.T) {
	redistest.Require(t)
	server := redistest.Start(t)
	c := openOn(t, server, server.Addr(), BackendRueidisAside, time.Minute, withSlowDetection())
	for name, fetch := range map[string]FetchFunc[string]{
		"not to be stored": func(ctx context.Context, _ string) (string, error) { SkipStore(ctx); return "", nil },
		"a failure":        func(context.Context, string) (string, error) { return "", errSource },
		"a panic":          func(context.Context, string) (string, error) { panic(errSource) },
	} {
		asked := ask(t.Context(), c, name, func(ctx context.Context, k string) (string, error) {
			server.Freeze()
			return fetch(ctx, k)
		})
		select {
		case <-asked:
		case <-time.After(hang):
			t.Error(name)
		}
		server.Thaw()
		require.Eventually(t, func() bool { return server.Must("EXISTS", redisKeyOf(c, name)) == int64(0) }, healing, time.Millisecond, name)
	}
}

// watcher counts what a cache reports.
type watcher struct {
	mu    sync.Mutex
	kinds map[EventKind]int
	errs  []error
}

func newWatcher() *watcher { return &watcher{kinds: make(map[EventKind]int)} }

func (w *watcher) Observe(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kinds[e.Kind]++
	if e.Err != nil {
		w.errs = append(w.errs, e.Err)
	}
}

func (w *watcher) count(kind EventKind) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.kinds[kind]
}
