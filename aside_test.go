package cacheaside

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// forgetful leaves it to Redis to tell a process of its own writes.
type forgetful[T any] struct{ *aside[T] }

func (f forgetful[T]) set(ctx context.Context, key string, e entry[T], tags *tagging) error {
	return f.remote.set(ctx, key, e, tags)
}

func (f forgetful[T]) delete(ctx context.Context, key string) error {
	return f.remote.delete(ctx, key)
}

// unpoisoned keeps replies to reads from before a write.
type unpoisoned struct{ *nearConn }

func (u unpoisoned) Update(key, command string, reply rueidis.RedisMessage) int64 {
	s := u.shard(key)
	s.mu.Lock()
	if n := s.reads[key]; n != nil {
		n.poison = 0
	}
	s.mu.Unlock()
	return u.nearConn.Update(key, command, reply)
}

// ownWrites has writers that set or delete, and then read, each a key of its own, while others read some of
// the same keys from Redis all the time. It returns how many reads were behind the write.
func ownWrites(t *testing.T, c *Client[int64], a *aside[int64], writers, writes int) (stale int) {
	t.Helper()
	var wrong atomic.Int64
	var versions [64]atomic.Int64
	fetch := func(_ context.Context, key string) (int64, error) {
		i, err := strconv.Atoi(key)
		return versions[i].Load(), err
	}
	ctx, stop := context.WithCancel(t.Context())
	var writing, reading sync.WaitGroup
	for i := range writers {
		k := strconv.Itoa(i)
		if i%4 == 0 {
			reading.Go(func() {
				for ctx.Err() == nil {
					a.detachRead(k)
					_, _ = a.read(ctx, k) // the writer looks at what it gets
				}
			})
		}
		writing.Go(func() {
			for range writes {
				v := versions[i].Add(1)
				var err error
				if rand.IntN(2) == 0 {
					err = c.Set(ctx, k, v, time.Hour)
				} else {
					err = c.Delete(ctx, k)
				}
				got, err2 := c.GetWithFetch(ctx, k, time.Hour, fetch)
				if err != nil || err2 != nil || got != v {
					wrong.Add(1)
				}
			}
		})
	}
	writing.Wait()
	stop()
	reading.Wait()
	return int(wrong.Load())
}

// lateToHear is now and then late to hear what Redis tells.
type lateToHear struct{ rueidis.CacheStore }

func (s lateToHear) Delete(keys []rueidis.RedisMessage) {
	if rand.IntN(32) == 0 {
		time.Sleep(100 * time.Microsecond)
	}
	s.CacheStore.Delete(keys)
}

func makeLateToHear(o *rueidis.ClientOption) {
	whole := o.NewCacheStoreFn
	o.NewCacheStoreFn = func(o rueidis.CacheStoreOption) rueidis.CacheStore { return lateToHear{whole(o)} }
}

func TestAProcessReadsItsOwnWrites(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	cfg := asideConfig(t, s, BackendRueidisAside)
	c := openAside[int64](t, cfg, WithRueidisOption(makeLateToHear))
	writes := 400
	if *coherenceDuration >= coherenceFull {
		writes = 1500
	}
	require.Zero(t, ownWrites(t, c, storeOf(c), 16, writes))

	cfg.Name = "forgetful"
	c = openAside[int64](t, cfg, WithRueidisOption(makeLateToHear))
	a := storeOf(c)
	c.store = forgetful[int64]{a}
	stale := 0
	for try := 0; stale == 0 && try < 10; try++ {
		stale = ownWrites(t, c, a, 16, 100)
	}
	t.Logf("%d reads behind own writes, if it is left to Redis to tell of them", stale)
	require.NotZero(t, stale, "otherwise the test shows nothing")
}

// stalling lets a test hold a connection's goroutine before and after it takes a reply.
type stalling struct {
	rueidis.CacheStore
	armed       *atomic.Bool
	came, take  chan struct{}
	taken, goOn chan struct{}
}

func (s stalling) Update(key, command string, reply rueidis.RedisMessage) int64 {
	if !s.armed.Swap(false) {
		return s.CacheStore.Update(key, command, reply)
	}
	s.came <- struct{}{}
	<-s.take
	at := s.CacheStore.Update(key, command, reply)
	s.taken <- struct{}{}
	<-s.goOn
	return at
}

// Where a client has several connections to a node, as it has to several nodes, the reply to a read may be
// overtaken by that to a later write. It must not be kept.
func TestAReplyThatAWriteHasOvertakenIsNotKept(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 1)
	t.Run("whole", func(t *testing.T) {
		kept := overtaken(t, cluster, func(c *nearConn) rueidis.CacheStore { return c })
		require.Nil(t, kept)
	})
	t.Run("unpoisoned", func(t *testing.T) {
		kept := overtaken(t, cluster, func(c *nearConn) rueidis.CacheStore { return unpoisoned{c} })
		require.NotNil(t, kept, "otherwise the test shows nothing")
		require.Equal(t, "old", kept.value)
	})
}

// overtaken has a write overtake the reply to a read, and returns what is kept then. It tries again when that
// took so long that the reply would not be kept for being late.
func overtaken(t *testing.T, cluster *redistest.Cluster, wrap func(*nearConn) rueidis.CacheStore) *entry[string] {
	t.Helper()
	for try := range 20 {
		cfg, err := ParseConfig(cluster.URL(BackendRueidisAside, fmt.Sprintf("name=try-%d", try), "op_timeout=100ms"))
		require.NoError(t, err)
		stall := stalling{armed: new(atomic.Bool), came: make(chan struct{}), take: make(chan struct{}), taken: make(chan struct{}), goOn: make(chan struct{})}
		c := openAside[string](t, cfg, WithRueidisOption(func(o *rueidis.ClientOption) {
			o.PipelineMultiplex = 2
			whole := o.NewCacheStoreFn
			o.NewCacheStoreFn = func(o rueidis.CacheStoreOption) rueidis.CacheStore {
				s := stall
				s.CacheStore = wrap(whole(o).(*nearConn))
				return s
			}
		}))
		require.Eventually(t, func() bool { return c.Set(t.Context(), key, "old", time.Hour) == nil }, 20*time.Second, time.Millisecond)
		stall.armed.Store(true)
		begun := time.Now()
		reading := make(chan error, 1)
		go func() {
			_, err := c.Get(t.Context(), key)
			reading <- err
		}()
		<-stall.came
		// The write goes by any of four connections, and one of them is held.
		require.Eventually(t, func() bool { return c.Set(t.Context(), key, "new", time.Hour) == nil }, 20*time.Second, time.Millisecond)
		stall.take <- struct{}{}
		<-stall.taken
		inTime := time.Since(begun) < lateAfter
		kept := storeOf(c).peek(key)
		stall.goOn <- struct{}{}
		<-reading
		if inTime {
			return kept
		}
	}
	require.Fail(t, "the write was always late")
	return nil
}

// Who joined a read from before a change could get a lease, and wait for a change that has been.
func TestNobodyJoinsAReadFromBeforeAChange(t *testing.T) {
	s := redistest.Start(t)
	c := openAside[string](t, asideConfig(t, s, BackendRueidisAside))
	a := storeOf(c)
	w := new(watch)
	for name, change := range map[string]func(){
		"an invalidation":         func() { a.invalidated(w, key) },
		"an invalidation of all":  func() { a.invalidatedAll(w) },
		"a write of this process": func() { require.NoError(t, c.Set(t.Context(), key, "v", time.Hour)) },
		"a Clear":                 func() { require.NoError(t, c.Clear(t.Context())) },
		"having waited for too long": func() {
			next, _ := a.watch(key)
			_ = a.waitFor(t.Context(), key, next, new(sight))
			a.unwatch(key, next)
		},
	} {
		first, begun := a.joinRead(key, false)
		require.True(t, begun)
		joined, begun := a.joinRead(key, false)
		require.False(t, begun)
		require.Same(t, first, joined)
		change()
		_, begun = a.joinRead(key, false)
		require.True(t, begun, name)
		a.detachRead(key)
	}
}

func TestAReplyThatComesAfterCloseIsNotKept(t *testing.T) {
	s := redistest.Start(t)
	c := openAside[string](t, asideConfig(t, s, BackendRueidisAside))
	a := storeOf(c)
	require.NoError(t, c.Close())
	a.arrived(new(watch), key, "v")
	require.Zero(t, c.Stats().Entries)
}

// A lease is noted and not kept; nothing that a caller can call returns it.
func TestALeaseReachesNobody(t *testing.T) {
	s := redistest.Start(t)
	cfg := asideConfig(t, s, BackendRueidisAside)
	holder, other := openAside[[]byte](t, cfg, WithCodec(BytesCodec())), openAside[[]byte](t, cfg, WithCodec(BytesCodec()))
	slow := serve([]byte("v"))
	release := slow.hold()
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ask(ctx, holder, key, slow.fetch)
	require.Eventually(t, func() bool { return slow.calls.Load() == 1 }, 10*time.Second, time.Millisecond)
	for range 3 {
		_, err := other.Get(t.Context(), key)
		require.ErrorIs(t, err, ErrMiss)
		got, err := other.GetMany(t.Context(), []string{key})
		require.NoError(t, err)
		require.Empty(t, got)
	}
	require.Zero(t, other.Stats().Entries)
	_, leased := storeOf(other).watch(key)
	require.NotEmpty(t, leased)
}

// TestOwnWritesAreReadThoughRedisNeverTellsOfThem has a connection that is deaf to invalidations: what is
// left is what a process does about its own near copies by itself.
func TestOwnWritesAreReadThoughRedisNeverTellsOfThem(t *testing.T) {
	c := openAside[string](t, asideConfig(t, redistest.Start(t), BackendRueidisAside), WithRueidisOption(func(o *rueidis.ClientOption) {
		whole := o.NewCacheStoreFn
		o.NewCacheStoreFn = func(o rueidis.CacheStoreOption) rueidis.CacheStore { return deaf{whole(o).(*nearConn)} }
	}))
	for name, remove := range map[string]func() error{
		"Delete":     func() error { return c.Delete(t.Context(), key) },
		"DeleteMany": func() error { return c.DeleteMany(t.Context(), []string{key}) },
		"Mutate":     func() error { return c.Mutate(t.Context(), []string{key}, func(context.Context) error { return nil }) },
		"Clear":      func() error { return c.Clear(t.Context()) },
	} {
		for _, set := range []func(value string) error{
			func(value string) error { return c.Set(t.Context(), key, value, time.Minute) },
			func(value string) error { return c.SetMany(t.Context(), map[string]string{key: value}, time.Minute) },
		} {
			for _, value := range []string{"one", "two"} {
				require.NoError(t, set(value))
				for range 2 { // the second time it is a near copy
					v, err := c.Get(t.Context(), key)
					require.NoError(t, err)
					require.Equal(t, value, v)
				}
			}
			require.NoError(t, remove(), name)
			_, err := c.Get(t.Context(), key)
			require.ErrorIs(t, err, ErrMiss, name)
		}
	}
	require.Positive(t, c.Stats().NearHits)
}

func TestANearCopyThatCannotBeWeighedIsDropped(t *testing.T) {
	s := redistest.Start(t)
	weigh := WithWeigher(func(string, string) int { panic("no scales") })
	c := openAside[string](t, asideConfig(t, s, BackendRueidisAside), weigh)
	require.NoError(t, c.Set(t.Context(), key, "v", time.Minute))
	v, err := c.Get(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, "v", v)
	require.Eventually(t, func() bool { return c.Stats().Unstorable > 0 && c.store.peek(key) == nil }, healing, time.Millisecond)
}
