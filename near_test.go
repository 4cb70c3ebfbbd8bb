package cacheaside

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// message makes a reply, which the client has no constructor for, from the form in which it may be stored.
func message(t *testing.T, text string) (m rueidis.RedisMessage) {
	t.Helper()
	form := append(make([]byte, 7), '$')
	form = binary.BigEndian.AppendUint64(form, uint64(len(text)))
	require.NoError(t, m.CacheUnmarshalView(append(form, text...)))
	return m
}

// heard is a near cache that remembers what its hub tells it.
type heard struct {
	kept  map[string]string
	watch map[string]*watch
}

func (h *heard) arrived(w *watch, key, data string) { h.kept[key], h.watch[key] = data, w }
func (h *heard) invalidated(_ *watch, key string)   { delete(h.kept, key) }

func (h *heard) invalidatedAll(ended *watch) {
	for key, w := range h.watch {
		if w == ended {
			delete(h.kept, key)
		}
	}
}

// hear returns a hub with one connection, and one cache "n" that remembers what it hears.
func hear(t *testing.T) (*nearHub, *nearConn, *heard) {
	h := newNearHub("p", time.Minute)
	cache := &heard{kept: make(map[string]string), watch: make(map[string]*watch)}
	require.NoError(t, h.add("n", cache))
	c := h.connect(rueidis.CacheStoreOption{}).(*nearConn)
	c.beats.end() // they come at any time, and the fixture has no lock
	t.Cleanup(func() { c.Close(nil) })
	return h, c, cache
}

const wireKey = "p:n:" + key

func (c *nearConn) send() { c.Flight(wireKey, "GET", time.Minute, time.Now()) }

// A reply is kept if, and only if, its key was not poisoned since the read was sent, in whatever order reads,
// replies and poison come.
func TestRepliesFromBeforeAPoisonAreNotKept(t *testing.T) {
	for seed := range uint64(500) {
		random := rand.New(rand.NewPCG(seed, 0))
		h, c, cache := hear(t)
		var pending []bool // reads under way, in order: was it poisoned?
		for step := range 60 {
			switch random.IntN(5) {
			case 0, 1:
				c.send()
				pending = append(pending, false)
			case 2:
				if random.IntN(4) == 0 {
					h.poisonAll()
				} else {
					h.poison(wireKey)
				}
				for i := range pending {
					pending[i] = true
				}
			default:
				if len(pending) == 0 {
					continue
				}
				reply := strconv.Itoa(step)
				if random.IntN(4) == 0 {
					c.Cancel(wireKey, "GET", errSource)
				} else {
					c.Update(wireKey, "GET", message(t, reply))
					require.Equal(t, !pending[0], cache.kept[key] == reply, "seed %d, step %d", seed, step)
				}
				pending = pending[1:]
			}
		}
	}
}

// What a cluster redirects comes without having been announced, and could not be poisoned.
func TestAReplyThatWasNotAnnouncedIsNotKept(t *testing.T) {
	_, c, cache := hear(t)
	c.Update(wireKey, "GET", message(t, "v"))
	require.Empty(t, cache.kept)
}

func TestALateReplyEndsTheWatch(t *testing.T) {
	_, c, cache := hear(t)
	c.send()
	c.Update(wireKey, "GET", message(t, "timely"))
	require.Equal(t, "timely", cache.kept[key])
	before := c.watch.Load()

	late := func() {
		c.Flight(wireKey, "GET", time.Minute, time.Now().Add(-lateAfter))
		c.Update(wireKey, "GET", message(t, "late"))
	}
	late()
	require.True(t, before.over.Load())
	require.Empty(t, cache.kept)
	during := c.watch.Load()
	late()
	require.Same(t, during, c.watch.Load(), "there is nothing more to drop")
	require.Empty(t, cache.kept)

	c.send()
	c.Update(wireKey, "GET", message(t, "timely again"))
	require.Equal(t, "timely again", cache.kept[key])
	require.False(t, cache.watch[key].over.Load())
}

func TestAnInvalidationOfAllEndsTheWatch(t *testing.T) {
	h, c, cache := hear(t)
	other := h.connect(rueidis.CacheStoreOption{}).(*nearConn)
	defer other.Close(nil)
	c.send()
	c.Update(wireKey, "GET", message(t, "v"))
	other.Delete(nil)
	require.Equal(t, "v", cache.kept[key], "that is the affair of another connection")
	before := c.watch.Load()
	c.Delete(nil)
	require.True(t, before.over.Load())
	require.Empty(t, cache.kept)
	c.send()
	c.Update(wireKey, "GET", message(t, "w"))
	require.Equal(t, "w", cache.kept[key])
}

func TestADeadConnectionKeepsNothing(t *testing.T) {
	h, c, cache := hear(t)
	c.send()
	c.Update(wireKey, "GET", message(t, "v"))
	before := c.watch.Load()
	c.send()
	c.Close(errSource)
	require.True(t, before.over.Load())
	require.Empty(t, cache.kept)
	c.Update(wireKey, "GET", message(t, "v"))
	require.Empty(t, cache.kept)
	require.Empty(t, h.conns)
}

func TestKeysOfOthersAreNobodysBusiness(t *testing.T) {
	h, _, _ := hear(t)
	for _, k := range []string{"", "p", "p:", "p:m:k", "q:n:k", "p::n:k", "pn:k"} {
		cache, _ := h.route(k)
		require.Nil(t, cache, k)
	}
	_, k := h.route("p:n:a:b")
	require.Equal(t, "a:b", k)
}

// awaitNear reads key until this process holds a near copy of it.
func awaitNear(t *testing.T, c *Client[string], k string) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, _ = c.Get(t.Context(), k) // the server may be coming back just now
		return storeOf(c).peek(k) != nil
	}, 20*time.Second, time.Millisecond)
}

// awaitValue waits until c returns want for k.
func awaitValue(t *testing.T, c *Client[string], k, want string) {
	t.Helper()
	require.Eventually(t, func() bool {
		v, err := c.Get(t.Context(), k)
		return v == want && (err == nil) == (want != "")
	}, 20*time.Second, time.Millisecond)
}

func pair(t *testing.T, cfg Config, opts ...Option) (reader, writer *Client[string]) {
	t.Helper()
	return openAside[string](t, cfg, opts...), openAside[string](t, cfg)
}

func TestANameInUseDoesNotHearForTheOther(t *testing.T) {
	s := redistest.Start(t)
	cfg := asideConfig(t, s, BackendRueidisAside)
	b, err := Connect(t.Context(), cfg)
	require.NoError(t, err)
	defer b.Close()
	first, err := New[string](b, "n")
	require.NoError(t, err)
	_, err = New[string](b, "n")
	require.ErrorIs(t, err, ErrInvalidConfig)

	cfg.Name = "n"
	writer := openAside[string](t, cfg)
	require.NoError(t, writer.Set(t.Context(), key, "old", time.Hour))
	awaitNear(t, first, key)
	require.NoError(t, writer.Set(t.Context(), key, "new", time.Hour))
	awaitValue(t, first, key, "new")
	awaitNear(t, first, key)

	require.NoError(t, first.Close())
	second, err := New[string](b, "n")
	require.NoError(t, err)
	awaitNear(t, second, key)
	require.NoError(t, first.Close()) // again: it must not take the name from the second
	require.NoError(t, writer.Set(t.Context(), key, "newer", time.Hour))
	awaitValue(t, second, key, "newer")
	awaitNear(t, second, key)
}

// The permission to ask for the tracking of single reads is not needed, and its loss must not make a near
// cache deaf.
func TestTrackingDoesNotHangOnASinglePermission(t *testing.T) {
	s := redistest.Start(t, redistest.User("app", ">secret", "~*", "&*", "+@all", "-client|caching"))
	reader, writer := pair(t, asideConfig(t, s, BackendRueidisAside))
	require.NoError(t, writer.Set(t.Context(), key, "old", time.Hour))
	awaitNear(t, reader, key)
	require.NoError(t, writer.Set(t.Context(), key, "new", time.Hour))
	awaitValue(t, reader, key, "new")
}

func TestOptionsThatBreakCoherenceAreRefused(t *testing.T) {
	for name, change := range map[string]func(*rueidis.ClientOption){
		"DisableCache":          func(o *rueidis.ClientOption) { o.DisableCache = true },
		"AlwaysRESP2":           func(o *rueidis.ClientOption) { o.AlwaysRESP2 = true },
		"ClientTrackingOptions": func(o *rueidis.ClientOption) { o.ClientTrackingOptions = []string{"OPTIN"} },
		"ReplicaOnly":           func(o *rueidis.ClientOption) { o.ReplicaOnly = true },
		"SendToReplicas":        func(o *rueidis.ClientOption) { o.SendToReplicas = func(rueidis.Completed) bool { return true } },
	} {
		_, err := Open[string](t.Context(), Config{Backend: BackendRueidisAside}, WithRueidisOption(change))
		require.ErrorIs(t, err, ErrInvalidConfig, name)
		require.ErrorContains(t, err, name)
	}
}

// What makes Redis forget what it tracks, or the values themselves, makes near copies go as well.
func TestNearCopiesGoWhenRedisForgets(t *testing.T) {
	s := redistest.Start(t)
	reader, writer := pair(t, asideConfig(t, s, BackendRueidisAside))
	a := storeOf(reader)
	set := func(k, v string) { require.NoError(t, writer.Set(t.Context(), k, v, time.Hour)) }

	t.Run("FLUSHALL", func(t *testing.T) {
		set(key, "v")
		awaitNear(t, reader, key)
		s.Must("FLUSHALL")
		awaitValue(t, reader, key, "")
		set(key, "after")
		awaitValue(t, reader, key, "after")
	})
	t.Run("killed connections", func(t *testing.T) {
		set(key, "old")
		awaitNear(t, reader, key)
		s.KillClients()
		require.Eventually(t, func() bool { return writer.Set(t.Context(), key, "new", time.Hour) == nil }, 10*time.Second, time.Millisecond)
		awaitValue(t, reader, key, "new")
	})
	t.Run("a full tracking table", func(t *testing.T) {
		s.Must("CONFIG", "SET", "tracking-table-max-keys", "10")
		defer s.Must("CONFIG", "SET", "tracking-table-max-keys", "1000000")
		const n = 100
		for i := range n {
			set(fmt.Sprint("tracked ", i), "old")
		}
		for i := range n {
			_, err := reader.Get(t.Context(), fmt.Sprint("tracked ", i))
			require.NoError(t, err)
		}
		held := func() (count int) {
			for i := range n {
				if a.peek(fmt.Sprint("tracked ", i)) != nil {
					count++
				}
			}
			return count
		}
		require.Eventually(t, func() bool { return held() <= 10 }, 20*time.Second, time.Millisecond)
	})
	t.Run("eviction", func(t *testing.T) {
		set(key, "v")
		awaitNear(t, reader, key)
		s.Must("CONFIG", "SET", "maxmemory-policy", "allkeys-lru", "maxmemory", "1")
		require.Eventually(t, func() bool { return a.peek(key) == nil }, 20*time.Second, 10*time.Millisecond)
		s.FreeMemory()
	})
	t.Run("expiry", func(t *testing.T) {
		require.NoError(t, writer.Set(t.Context(), key, "v", 50*time.Millisecond))
		awaitValue(t, reader, key, "")
		require.Eventually(t, func() bool { return a.peek(key) == nil }, 20*time.Second, 10*time.Millisecond)
	})
}

func TestALocalTTLBoundsANearCopy(t *testing.T) {
	s := redistest.Start(t)
	cfg := asideConfig(t, s, BackendRueidisAside)
	cfg.LocalTTL = 50 * time.Millisecond
	reader, writer := pair(t, cfg)
	require.NoError(t, writer.Set(t.Context(), key, "v", time.Hour))
	awaitNear(t, reader, key)
	require.Eventually(t, func() bool { return storeOf(reader).peek(key) == nil }, 20*time.Second, time.Millisecond)
	awaitValue(t, reader, key, "v")
	require.Eventually(t, func() bool { return reader.Stats().Entries == 0 }, 20*time.Second, time.Millisecond, "the reaper removes it")
}

func TestTheNearCacheIsBounded(t *testing.T) {
	s := redistest.Start(t)
	cfg := asideConfig(t, s, BackendRueidisAside)
	cfg.MaxEntries = 50
	reader, writer := pair(t, cfg)
	for i := range 300 {
		k := strconv.Itoa(i)
		require.NoError(t, writer.Set(t.Context(), k, k, time.Hour))
		awaitValue(t, reader, k, k)
	}
	require.LessOrEqual(t, reader.Stats().Entries, 50)
	require.NotZero(t, reader.Stats().Evictions)
}

// silence measures for how long near hits go on after a connection fell silent at from.
func silence(t *testing.T, c *Client[string], from time.Time) {
	t.Helper()
	require.Eventually(t, func() bool { return storeOf(c).peek(key) == nil }, 30*time.Second, time.Millisecond)
	took := time.Since(from)
	t.Logf("near hits stopped after %v", took)
	require.Less(t, took, 5*time.Second, "about 2 s, and more on a loaded machine")
}

func TestAFrozenServerStopsNearHits(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	reader, writer := pair(t, asideConfig(t, s, BackendRueidisAside))
	require.NoError(t, writer.Set(t.Context(), key, "v", time.Hour))
	awaitNear(t, reader, key)
	s.Freeze()
	silence(t, reader, time.Now())
	s.Thaw()
	awaitNear(t, reader, key)
}

// The server is well, and tells of a change, but the network has swallowed it.
func TestASilentNetworkStopsNearHits(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	proxy := redistest.NewProxy(t, s.Addr())
	cfg := asideConfig(t, s, BackendRueidisAside)
	writer := openAside[string](t, cfg)
	cfg.Redis.Addrs = []string{proxy.Addr()}
	cfg.Redis.URL = ""
	reader := openAside[string](t, cfg)
	require.NoError(t, writer.Set(t.Context(), key, "old", time.Hour))
	awaitNear(t, reader, key)
	proxy.BlackHole(true)
	require.NoError(t, writer.Set(t.Context(), key, "new", time.Hour))
	silence(t, reader, time.Now())
	proxy.BlackHole(false)
	awaitValue(t, reader, key, "new")
}

// A connection that does not come to life leaves nothing behind in the hub.
func TestFailedHandshakesLeaveNoConnections(t *testing.T) {
	s := redistest.Start(t, redistest.User("app", ">secret", "~*", "&*", "+@all"))
	cfg := asideConfig(t, s, BackendRueidisAside)
	cfg.OpTimeout = 50 * time.Millisecond
	b, err := Connect(t.Context(), cfg)
	require.NoError(t, err)
	defer b.Close()
	open := func() int {
		b.hub.mu.RLock()
		defer b.hub.mu.RUnlock()
		return len(b.hub.conns)
	}
	require.Equal(t, 1, open())
	s.Must("ACL", "SETUSER", "app", "resetpass", ">changed")
	s.KillClients()
	require.Eventually(t, func() bool {
		_ = b.Health(t.Context()) // each one tries to connect
		text, _ := s.Must("ACL", "LOG").([]any)
		return len(text) > 0
	}, 10*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return open() == 0 }, 10*time.Second, time.Millisecond)
	s.Must("ACL", "SETUSER", "app", "resetpass", ">secret")
	require.Eventually(t, func() bool { return b.Health(t.Context()) == nil }, 10*time.Second, time.Millisecond)
	require.Equal(t, 1, open())
}

func TestNearCopiesInACluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 2)
	cfg, err := ParseConfig(cluster.URL(BackendRueidisAside, "prefix=app"))
	require.NoError(t, err)
	cfg.OpTimeout = 3 * time.Second
	reader, writer := pair(t, cfg)
	moved := "" // a key of the first node
	for i := range 40 {
		k := fmt.Sprint("key ", i)
		if cluster.Owner("app:default:"+k) == cluster.Nodes()[0] {
			moved = k
		}
		require.NoError(t, writer.Set(t.Context(), k, "old", time.Hour))
		awaitNear(t, reader, k)
		require.NoError(t, writer.Set(t.Context(), k, "new", time.Hour))
		awaitValue(t, reader, k, "new")
		require.NoError(t, reader.Delete(t.Context(), k))
		v, err := reader.GetWithFetch(t.Context(), k, time.Hour, serve("fetched").fetch)
		require.NoError(t, err)
		require.Equal(t, "fetched", v)
	}

	// Its slot moves to the other node, with the key, while the reader has a near copy.
	awaitNear(t, reader, moved)
	migrate(t, cluster, "app:default:"+moved)
	require.NoError(t, writer.Set(t.Context(), moved, "after", time.Hour))
	awaitValue(t, reader, moved, "after")
	awaitNear(t, reader, moved)
	require.NoError(t, writer.Set(t.Context(), moved, "later", time.Hour))
	awaitValue(t, reader, moved, "later")
}

// migrate moves the slot of a key from the first node to the second, as redis-cli does.
func migrate(t *testing.T, c *redistest.Cluster, redisKey string) {
	t.Helper()
	from, to := c.Nodes()[0], c.Nodes()[1]
	slot := fmt.Sprint(from.Must("CLUSTER", "KEYSLOT", redisKey))
	fromID, toID := fmt.Sprint(from.Must("CLUSTER", "MYID")), fmt.Sprint(to.Must("CLUSTER", "MYID"))
	to.Must("CLUSTER", "SETSLOT", slot, "IMPORTING", fromID)
	from.Must("CLUSTER", "SETSLOT", slot, "MIGRATING", toID)
	host, port, err := net.SplitHostPort(to.Addr())
	require.NoError(t, err)
	keys, _ := from.Must("CLUSTER", "GETKEYSINSLOT", slot, "1000").([]any)
	for _, k := range keys {
		from.Must("MIGRATE", host, port, fmt.Sprint(k), "0", "5000")
	}
	to.Must("CLUSTER", "SETSLOT", slot, "NODE", toID)
	from.Must("CLUSTER", "SETSLOT", slot, "NODE", toID)
}

// While a slot is on its way, a read is sent on with ASKING; what it returns is not kept, but right.
func TestAReadThatIsRedirectedIsNotKept(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 2)
	cfg, err := ParseConfig(cluster.URL(BackendRueidisAside, "prefix=app"))
	require.NoError(t, err)
	cfg.OpTimeout = 3 * time.Second
	reader, writer := pair(t, cfg)
	k := ""
	for i := 0; k == "" || cluster.Owner("app:default:"+k) != cluster.Nodes()[0]; i++ {
		k = fmt.Sprint("key ", i)
	}
	from, to := cluster.Nodes()[0], cluster.Nodes()[1]
	slot := fmt.Sprint(from.Must("CLUSTER", "KEYSLOT", "app:default:"+k))
	to.Must("CLUSTER", "SETSLOT", slot, "IMPORTING", fmt.Sprint(from.Must("CLUSTER", "MYID")))
	from.Must("CLUSTER", "SETSLOT", slot, "MIGRATING", fmt.Sprint(to.Must("CLUSTER", "MYID")))
	for i := range 20 {
		v := strconv.Itoa(i)
		require.NoError(t, writer.Set(t.Context(), k, v, time.Hour))
		awaitValue(t, reader, k, v)
		got, err := reader.Get(t.Context(), k)
		require.NoError(t, err)
		require.Equal(t, v, got)
		require.Nil(t, storeOf(reader).peek(k))
	}
	from.Must("CLUSTER", "SETSLOT", slot, "STABLE")
	to.Must("CLUSTER", "SETSLOT", slot, "STABLE")
}

func TestNearCopiesSurviveNoFailover(t *testing.T) {
	t.Parallel()
	s := redistest.StartSentinel(t)
	cfg, err := ParseConfig(s.URL(BackendRueidisAside))
	require.NoError(t, err)
	cfg.OpTimeout = 3 * time.Second
	reader, writer := pair(t, cfg)
	require.Eventually(t, func() bool { return writer.Set(t.Context(), key, "old", time.Hour) == nil }, 10*time.Second, time.Millisecond)
	awaitNear(t, reader, key)
	s.Failover()
	require.Eventually(t, func() bool { return writer.Set(t.Context(), key, "new", time.Hour) == nil }, 20*time.Second, time.Millisecond)
	awaitValue(t, reader, key, "new")
	awaitNear(t, reader, key)
	require.NoError(t, writer.Set(t.Context(), key, "newer", time.Hour))
	awaitValue(t, reader, key, "newer")
}

// counting counts how often values are decoded.
type counting struct {
	Codec[string]
	decoded *atomic.Int64
}

func (c counting) Decode(data []byte) (string, error) {
	c.decoded.Add(1)
	return c.Codec.Decode(data)
}

func TestANearCopyIsDecodedOnceAndNotByTheConnection(t *testing.T) {
	s := redistest.Start(t)
	var decoded atomic.Int64
	reader, _ := pair(t, asideConfig(t, s, BackendRueidisAside), WithCodec[string](counting{StringCodec(), &decoded}))
	codec := WithCodec(StringCodec())
	writer := openAside[string](t, asideConfig(t, s, BackendRueidisAside), codec)
	require.NoError(t, writer.Set(t.Context(), key, "v", time.Hour))

	// Nobody waits for this read.
	a := storeOf(reader)
	r, begun := a.joinRead(key, false)
	require.True(t, begun)
	a.runRead(*a.conn.client.Load(), key, r)
	require.Zero(t, decoded.Load())
	for range 5 {
		v, err := reader.Get(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, "v", v)
	}
	require.EqualValues(t, 1, decoded.Load())

	// What a look-up has decoded is kept too.
	require.NoError(t, writer.Set(t.Context(), key, "w", time.Hour))
	awaitValue(t, reader, key, "w")
	for range 5 {
		awaitValue(t, reader, key, "w")
	}
	require.EqualValues(t, 2, decoded.Load())
}

// notes is an observer that counts.
type notes struct{ invalidated atomic.Int64 }

func (n *notes) Observe(e Event) {
	if e.Kind == EventInvalidated {
		n.invalidated.Add(1)
	}
}

func TestAnInvalidationIsReportedForWhatWasKept(t *testing.T) {
	s := redistest.Start(t)
	n := new(notes)
	cfg := asideConfig(t, s, BackendRueidisAside)
	reader, writer := openAside[string](t, cfg, WithObserver(n)), openAside[string](t, cfg)
	_, err := reader.Get(t.Context(), key) // Redis tracks what is missing too
	require.ErrorIs(t, err, ErrMiss)
	require.NoError(t, writer.Set(t.Context(), key, "v", time.Hour))
	awaitNear(t, reader, key)
	require.Zero(t, n.invalidated.Load())
	require.NoError(t, writer.Set(t.Context(), key, "w", time.Hour))
	awaitValue(t, reader, key, "w")
	require.EqualValues(t, 1, n.invalidated.Load())
}
