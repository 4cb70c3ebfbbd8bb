package cacheaside

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// place is where a Redis can be other than on a port of its own, open to everybody.
type place struct {
	name  string
	start func(t *testing.T, backend string) *env // with a configuration and what belongs to it
}

var places = []place{
	{"a cluster of three masters", func(t *testing.T, backend string) *env {
		cluster := redistest.StartCluster(t, 3)
		return &env{config: config(t, cluster.URL(backend)), owner: cluster.Owner}
	}},
	{"sentinels, after a failover", func(t *testing.T, backend string) *env {
		sentinel := redistest.StartSentinel(t)
		sentinel.Failover()
		return &env{config: config(t, sentinel.URL(backend)), server: sentinel.Master()}
	}},
	{"a unix socket", func(t *testing.T, backend string) *env {
		server := redistest.Start(t, redistest.UnixSocket())
		return &env{config: config(t, server.URL(backend)), server: server}
	}},
	{"TLS", func(t *testing.T, backend string) *env {
		server := redistest.Start(t, redistest.TLS())
		trust := WithRueidisOption(func(o *rueidis.ClientOption) { o.TLSConfig = server.TLSConfig() })
		return &env{config: config(t, server.URL(backend)), server: server, options: []Option{trust}}
	}},
	{"a user with the least permissions", func(t *testing.T, backend string) *env {
		rules := slices.Concat(minimalRules(backend), clearRules, []string{"resetkeys", "~case*", "~other:*"})
		server := redistest.Start(t, redistest.User("app", rules...))
		return &env{config: config(t, server.URL(backend)), server: server}
	}},
}

// isCore reports whether a promise is to be seen to hold wherever Redis is: those that depend on what is
// sent, and none that is about time passing.
func isCore(p promise) bool {
	core := []string{"G1", "G2", "G4", "G5", "G6", "G7", "G8", "G9", "G10", "G15", "G12", "G13", "G14", "G18", "G19", "G20", "G21", "Mutate", "batch"}
	slow := []string{"a ttl is honoured to the millisecond", "a value of 100 MB is a miss, and is overwritten", "reading takes one round trip"}
	return slices.Contains(core, p.id) && !slices.Contains(slow, p.title)
}

func TestConformanceWhereverRedisIs(t *testing.T) {
	redistest.Require(t)
	for _, p := range places {
		for _, backend := range []string{BackendRueidis, BackendRueidisAside} {
			t.Run(p.name+"/"+backend, func(t *testing.T) {
				t.Parallel()
				conformAt(t, p, backend)
			})
		}
	}
}

func conformAt(t *testing.T, p place, backend string) {
	at := p.start(t, backend)
	at.config.OpTimeout = 3 * time.Second
	r := rig{name: backend, remote: true, shared: true}
	for i, promise := range promises {
		if !isCore(promise) || promise.on != nil && !promise.on(r) {
			continue
		}
		t.Run(promise.id+" "+promise.title, func(t *testing.T) {
			e := *at
			e.T = t
			e.config.Prefix = fmt.Sprint("case", i)
			promise.check(&e)
		})
	}
}

func TestACacheGoesOnThroughAFailover(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		sentinel := redistest.StartSentinel(t)
		seen := newWatcher()
		c, err := Open[string](t.Context(), config(t, sentinel.URL(backend)), WithObserver(seen))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, c.Close()) })
		b := &broken{T: t, server: sentinel.Master(), cache: c, seen: seen}
		b.get("warm", "warm")
		old := sentinel.Master()
		var stop atomic.Bool
		done := make(chan struct{})
		go func() {
			defer close(done)
			for !stop.Load() {
				b.getNew()
				<-time.After(time.Millisecond)
			}
		}()
		sentinel.Failover()
		stop.Store(true)
		<-done
		b.report("calls during the failover")
		require.NotEqual(t, old, sentinel.Master())
		b.server = sentinel.Master()
		b.recover()
	})
}

func TestClearLeavesReplicasToTheirMasters(t *testing.T) {
	redistest.Require(t)
	sentinel := redistest.StartSentinel(t)
	c, err := Open[string](t.Context(), config(t, sentinel.URL(BackendRueidis)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	replica, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{sentinel.Replica().Addr()}, ForceSingleClient: true, DisableCache: true})
	require.NoError(t, err)
	t.Cleanup(replica.Close)
	require.NoError(t, c.Set(t.Context(), key, "v", time.Minute))
	store := c.store.(*remote[string])
	require.Eventually(t, func() bool {
		_, err := replica.Do(t.Context(), replica.B().Get().Key(store.redisKey(key)).Build()).ToString()
		return err == nil
	}, healing, time.Millisecond, "the replica has it too")
	require.NoError(t, store.clearNode(t.Context(), replica), "a replica refuses, and need not be asked")
	v, err := c.Get(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, "v", v)
	require.NoError(t, c.Clear(t.Context()))
	_, err = c.Get(t.Context(), key)
	require.ErrorIs(t, err, ErrMiss)
}

func TestAnUnknownMasterSetIsAnError(t *testing.T) {
	redistest.Require(t)
	sentinel := redistest.StartSentinel(t)
	cfg := config(t, sentinel.URL(BackendRueidis))
	cfg.Redis.SentinelMaster = "another"
	_, err := Open[string](t.Context(), cfg)
	require.ErrorIs(t, err, ErrInvalidConfig)
	require.ErrorContains(t, err, `"another"`)
}

func TestSentinelsDownAtTheStartAreNoError(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		sentinel := redistest.StartSentinel(t)
		sentinel.Node().Kill()
		b := &broken{T: t, server: sentinel.Master(), seen: newWatcher()}
		b.openAt(sentinel.URL(backend))
		b.use(fault{mute: true})
		sentinel.Node().Restart()
		b.recover()
	})
}

func TestAClusterDownAtTheStartIsNoError(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		cluster := redistest.StartCluster(t, 3)
		for _, node := range cluster.Nodes() {
			node.Kill()
		}
		b := &broken{T: t, seen: newWatcher(), owner: cluster.Owner}
		b.openAt(cluster.URL(backend))
		b.use(fault{mute: true})
		for _, node := range cluster.Nodes() {
			node.Restart()
		}
		cluster.AwaitOK()
		b.recover()
	})
}

func TestAClusterGoesOnWithoutAFrozenNode(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		cluster := redistest.StartCluster(t, 3)
		b := &broken{T: t, seen: newWatcher(), owner: cluster.Owner}
		b.openAt(cluster.URL(backend))
		for range 10 {
			b.getNew()
		}
		b.report("healthy")
		frozen := cluster.Nodes()[0]
		frozen.Freeze()
		for range 30 {
			b.getNew()
		}
		b.report("calls with a frozen node")
		frozen.Thaw()
		cluster.AwaitOK()
		for range 3 {
			b.recover()
		}
		require.NoError(t, b.cache.Clear(context.Background()))
		for _, node := range cluster.Nodes() {
			require.EqualValues(t, 0, node.Must("DBSIZE"), "Clear reaches every node")
		}
	})
}

func TestManyCachesShareOneConnection(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		const caches = 50
		server := redistest.Start(t)
		b, err := Connect(t.Context(), config(t, server.URL(backend)))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Close()) })
		var texts []*Client[string]
		var numbers []*Client[int]
		for i := range caches {
			text, err := New[string](b, fmt.Sprint("text", i))
			require.NoError(t, err)
			number, err := New[int](b, fmt.Sprint("number", i))
			require.NoError(t, err)
			texts, numbers = append(texts, text), append(numbers, number)
		}
		for i := range caches {
			require.NoError(t, texts[i].Set(t.Context(), key, strconv.Itoa(i), time.Minute))
			require.NoError(t, numbers[i].Set(t.Context(), key, i, time.Minute))
		}
		require.NoError(t, texts[0].Clear(t.Context()))
		require.NoError(t, numbers[1].Close())
		for i := range caches {
			text, err := texts[i].Get(t.Context(), key)
			if i == 0 {
				require.ErrorIs(t, err, ErrMiss)
			} else {
				require.NoError(t, err)
				require.Equal(t, strconv.Itoa(i), text)
			}
			number, err := numbers[i].Get(t.Context(), key)
			if i == 1 {
				require.ErrorIs(t, err, ErrClosed)
			} else {
				require.NoError(t, err)
				require.Equal(t, i, number)
			}
		}
		require.Equal(t, 1, server.Clients())
		_, err = New[string](b, "text5")
		require.ErrorIs(t, err, ErrInvalidConfig, "a name is in use once")
		again, err := New[int](b, "number1")
		require.NoError(t, err)
		number, err := again.Get(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, 1, number)
		require.NoError(t, b.Health(t.Context()))
		require.NoError(t, b.Close())
		require.ErrorIs(t, b.Health(t.Context()), ErrClosed)
		_, err = texts[2].Get(t.Context(), key)
		require.ErrorIs(t, err, ErrClosed)
		_, err = New[string](b, "late")
		require.True(t, err != nil && strings.Contains(err.Error(), "closed"), "%v", err)
	})
}
