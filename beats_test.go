package cacheaside

import (
	"context"
	"crypto/tls"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// A process that writes and reads near copies alone sees no tracked read that is late. Replies trickle in, later and
// later, so no PING of the client's is due either.
func TestNearCopiesEndInTimeWhereNothingElseIsRead(t *testing.T) {
	redistest.Require(t)
	for name, opTimeout := range map[string]time.Duration{"2s": 2 * time.Second, "20s": 20 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t)
			proxy := redistest.NewProxy(t, s.Addr())
			cfg := asideConfig(t, s, BackendRueidisAside)
			writer := openAside[string](t, cfg)
			reader := openOn(t, s, proxy.Addr(), BackendRueidisAside, opTimeout)
			require.NoError(t, writer.Set(t.Context(), key, "old", time.Hour))
			awaitNear(t, reader, key)
			proxy.Rate(0, 200) // the replies to 40 writes a second
			var writers sync.WaitGroup
			stop, cancel := context.WithCancel(t.Context())
			defer writers.Wait()
			defer cancel()
			for i := range 200 {
				writers.Go(func() {
					for stop.Err() == nil {
						_ = reader.Set(stop, strconv.Itoa(i), "v", time.Hour) // it may be given up
					}
				})
			}
			time.Sleep(300 * time.Millisecond) // replies queue up
			require.NoError(t, writer.Set(t.Context(), key, "new", time.Hour))
			requireStaleNoLonger(t, reader, time.Now())
		})
	}
}

// requireStaleNoLonger reads until the value "old" of key is not returned any more, and fails if that takes too long.
func requireStaleNoLonger(t *testing.T, c *Client[string], since time.Time) {
	t.Helper()
	for time.Since(since) < 30*time.Second {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		v, _ := c.Get(ctx, key)
		cancel()
		if v != "old" {
			break
		}
		time.Sleep(time.Millisecond)
	}
	took := time.Since(since)
	t.Logf("the old value was returned for %v", took.Round(time.Millisecond))
	require.Less(t, took, staleBound, "2 s, and more on a loaded machine")
}

// What the user sets on the client does not change how long a near copy may be stale.
func TestOptionsOfTheClientDoNotUndoTheBound(t *testing.T) {
	redistest.Require(t)
	for name, change := range map[string]func(*rueidis.ClientOption){
		"ConnWriteTimeout":  func(o *rueidis.ClientOption) { o.ConnWriteTimeout = 8 * time.Second },
		"KeepAlive":         func(o *rueidis.ClientOption) { o.Dialer.KeepAlive = -1 },
		"KeepAlive of 20 s": func(o *rueidis.ClientOption) { o.Dialer.KeepAlive = 20 * time.Second },
		"Dialer":            func(o *rueidis.ClientOption) { o.Dialer = net.Dialer{Timeout: 10 * time.Second} },
		"DialCtxFn": func(o *rueidis.ClientOption) {
			o.DialCtxFn = func(ctx context.Context, address string, _ *net.Dialer, _ *tls.Config) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", address)
			}
			o.ConnWriteTimeout, o.Dialer.KeepAlive = time.Minute, time.Minute
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t)
			proxy := redistest.NewProxy(t, s.Addr())
			cfg := asideConfig(t, s, BackendRueidisAside)
			writer := openAside[string](t, cfg)
			reader := openOn(t, s, proxy.Addr(), BackendRueidisAside, 20*time.Second, WithRueidisOption(change))
			require.NoError(t, writer.Set(t.Context(), key, "old", time.Hour))
			awaitNear(t, reader, key)
			proxy.BlackHole(true)
			require.NoError(t, writer.Set(t.Context(), key, "new", time.Hour))
			requireStaleNoLonger(t, reader, time.Now())
			proxy.BlackHole(false)
			awaitValue(t, reader, key, "new")
		})
	}
}

// Beats that are answered keep the near copies of an idle process, and of one that only hits.
func TestNearCopiesLastWhileBeatsAreAnswered(t *testing.T) {
	redistest.Require(t)
	s := redistest.Start(t)
	c := openAside[string](t, asideConfig(t, s, BackendRueidisAside))
	require.NoError(t, c.Set(t.Context(), key, "v", time.Hour))
	awaitNear(t, c, key)
	first := storeOf(c).near.Peek(key)
	for begun := time.Now(); time.Since(begun) < 2*beatBound; time.Sleep(10 * time.Millisecond) {
		require.Same(t, first, storeOf(c).near.Peek(key))
		require.False(t, first.watch.over.Load())
	}
}

func TestBeatsBegunWithWhatIsKeptEndWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b beats
		var answered atomic.Int64
		b.send = func(k string) {
			require.Equal(t, "k", k)
			b.leaves(time.Now())
			time.Sleep(10 * time.Millisecond)
			b.confirm(time.Now().Add(-b.returns(time.Now())))
			answered.Add(1)
		}
		b.expired = func() { t.Error("it is confirmed") }
		now := time.Now()
		b.confirm(now)
		b.kept("k", now, now.Add(10*time.Second))
		time.Sleep(time.Minute)
		require.InDelta(t, 20, answered.Load(), 1, "two a second, as long as needed")
		require.Zero(t, b.returns(time.Now()), "none is under way")
		b.end()
		b.kept("k", now, now.Add(time.Hour))
		time.Sleep(time.Minute)
		require.InDelta(t, 20, answered.Load(), 1)
	})
}

func TestBeatsThatAreNotAnsweredExpire(t *testing.T) {
	for name, send := range map[string]func(stop chan struct{}){
		"not answered": func(stop chan struct{}) { <-stop },
		"redirected":   func(chan struct{}) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stop := make(chan struct{})
				defer close(stop)
				expired := make(chan time.Time, 1)
				var sent atomic.Int64
				b := beats{expired: func() { expired <- time.Now() }}
				b.send = func(string) { sent.Add(1); send(stop) }
				now := time.Now()
				b.confirm(now)
				b.kept("k", now, now.Add(time.Hour))
				require.Equal(t, beatBound, (<-expired).Sub(now))
				require.EqualValues(t, 3, sent.Load())
				time.Sleep(time.Hour)
				require.EqualValues(t, 3, sent.Load(), "nothing is kept")
				b.kept("k", time.Now(), time.Now().Add(time.Hour)) // not confirmed meanwhile
				require.WithinDuration(t, time.Now(), <-expired, time.Millisecond)
			})
		})
	}
}

func TestNothingUnknownIsKeptWhileRepliesAreLate(t *testing.T) {
	_, c, cache := hear(t)
	c.send()
	c.send()
	c.lapse()
	c.Update(wireKey, "GET", message(t, "in time"))
	require.Equal(t, "in time", cache.kept[key])
	c.lapse()
	c.Update(wireKey, "GET", message(t, "nothing tells how long it took"))
	require.Empty(t, cache.kept)
	c.Flight(wireKey, beatCommand, time.Minute, time.Now())
	c.Update(wireKey, beatCommand, message(t, "1"))
	require.False(t, c.late.Load(), "a beat is a reply in time too")
	require.Empty(t, cache.kept)
}
