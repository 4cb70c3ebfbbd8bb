package cacheaside

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
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

// withSlowDetection makes the client take long to notice that a server is silent, so that what does not
// wait for that is told from what does.
func withSlowDetection() Option {
	return WithRueidisOption(func(o *rueidis.ClientOption) {
		o.ConnWriteTimeout, o.Dialer.Timeout = time.Minute, time.Minute
	})
}

// openOn opens a cache on a server, or on what is in front of it.
func openOn(t *testing.T, server *redistest.Server, addr, backend string, opTimeout time.Duration, opts ...Option) *Client[string] {
	t.Helper()
	cfg, err := ParseConfig(server.URL(backend))
	require.NoError(t, err)
	cfg.Redis.Addrs, cfg.OpTimeout = []string{addr}, opTimeout
	c, err := Open[string](t.Context(), cfg, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func onBothRedisBackends(t *testing.T, test func(t *testing.T, backend string)) {
	redistest.Require(t)
	for _, backend := range []string{BackendRueidis, BackendRueidisAside} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			test(t, backend)
		})
	}
}

func TestMoreCallersThanTheQueueHoldsLeaveAFrozenServerInTime(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		server := redistest.Start(t)
		c := openOn(t, server, server.Addr(), backend, 200*time.Millisecond, withSlowDetection())
		server.Freeze()
		begun := time.Now()
		var callers sync.WaitGroup
		var wrong atomic.Int64
		for i := range 3000 {
			callers.Go(func() {
				k := strconv.Itoa(i)
				if v, err := c.GetWithFetch(context.Background(), k, time.Minute, serve(k).fetch); err != nil || v != k {
					wrong.Add(1)
				}
			})
		}
		callers.Wait()
		t.Logf("3000 callers returned within %v", time.Since(begun).Round(time.Millisecond))
		require.Zero(t, wrong.Load())
		require.Less(t, time.Since(begun), hang)
		server.Thaw()
	})
}

func TestCallersWithShortDeadlinesLeaveAFrozenServerInTime(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		server := redistest.Start(t)
		seen := newWatcher()
		c := openOn(t, server, server.Addr(), backend, 2*time.Second, withSlowDetection(), WithObserver(seen))
		server.Freeze()
		var callers sync.WaitGroup
		var worst atomic.Int64
		for g := range 100 {
			callers.Go(func() {
				for i := range 30 { // together three times what the queue holds
					ctx, cancel := context.WithTimeout(context.Background(), 2*time.Millisecond)
					begun := time.Now()
					_, _ = c.Get(ctx, strconv.Itoa(100*i+g))
					for took := int64(time.Since(begun)); ; {
						old := worst.Load()
						if took <= old || worst.CompareAndSwap(old, took) {
							break
						}
					}
					cancel()
				}
			})
		}
		callers.Wait()
		t.Logf("deadline 2ms: the worst of 3000 callers took %v", time.Duration(worst.Load()).Round(time.Millisecond))
		require.Less(t, time.Duration(worst.Load()), hang)
		require.Eventually(t, func() bool { return seen.count(EventBackendDown) > 0 }, healing, time.Millisecond,
			"that nobody gets an answer is noticed, though nobody waits for OpTimeout")
		server.Thaw()
		require.Eventually(t, func() bool { return c.Health(context.Background()) == nil }, healing, time.Millisecond)
	})
}

func TestACallersCancellationIsNoOutage(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		server := redistest.Start(t)
		proxy := redistest.NewProxy(t, server.Addr())
		seen := newWatcher()
		c := openOn(t, server, proxy.Addr(), backend, 3*time.Second, WithObserver(seen))
		require.NoError(t, c.Set(t.Context(), key, "v", time.Minute))
		proxy.Delay(200 * time.Millisecond)
		for range 10 {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(2*suspectAfter, cancel)
			_, err := c.Get(ctx, key)
			require.ErrorIs(t, err, context.Canceled)
			require.NotErrorIs(t, err, ErrUnavailable)
			ctx, cancel = context.WithTimeout(context.Background(), 10*time.Millisecond)
			require.ErrorIs(t, c.Set(ctx, key, "v", time.Minute), context.DeadlineExceeded)
			cancel()
			ctx, cancel = context.WithCancel(context.Background())
			cancel()
			require.ErrorIs(t, c.Delete(ctx, key), context.Canceled)
		}
		proxy.Delay(0)
		require.Eventually(t, func() bool { return c.Health(context.Background()) == nil }, healing, time.Millisecond)
		require.Zero(t, seen.count(EventBackendDown))
		require.Zero(t, seen.count(EventBackendError))
		require.Zero(t, c.Stats().BackendErrors)
	})
}

func TestSetAndDeleteSurviveALostConnection(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		server := redistest.Start(t)
		proxy := redistest.NewProxy(t, server.Addr())
		c := openOn(t, server, proxy.Addr(), backend, 3*time.Second)
		for i := range 10 {
			v := strconv.Itoa(i)
			proxy.CutAfter(0)
			require.NoError(t, c.Set(context.Background(), key, v, time.Minute))
			got, err := c.GetWithFetch(context.Background(), key, time.Minute, serve(v).fetch)
			require.NoError(t, err)
			require.Equal(t, v, got)
			proxy.CutAfter(2)
			require.NoError(t, c.Delete(context.Background(), key))
			stored, err := server.Command("EXISTS", "cache:default:"+key)
			require.NoError(t, err)
			require.Zero(t, stored)
			proxy.CutAll()
			require.NoError(t, c.Health(context.Background()))
		}
	})
}

// A connection that is cut while Redis is well is back at once, and whoever reads just then does not notice.
func TestReadsSurviveALostConnection(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		server := redistest.Start(t)
		proxy := redistest.NewProxy(t, server.Addr())
		c := openOn(t, server, proxy.Addr(), backend, 10*time.Second)
		n := 0
		key := func() string { // one that no near cache holds
			n++
			k := strconv.Itoa(n)
			server.Must("SET", redisKeyOf(c, k), `"`+k+`"`)
			return k
		}
		for _, cut := range []func(){proxy.CutAll, func() { proxy.CutAfter(0) }, func() { proxy.CutAfter(2) }} {
			for range 5 {
				k := key()
				cut()
				v, err := c.Get(context.Background(), k)
				require.NoError(t, err)
				require.Equal(t, k, v)
				k = key()
				cut()
				r, err := c.Lookup(context.Background(), k, time.Minute, serve("fetched").fetch)
				require.NoError(t, err)
				require.Equal(t, Result[string]{Value: k, Source: SourceHit}, Result[string]{Value: r.Value, Source: r.Source})
				many := []string{key(), key()}
				cut()
				got, err := c.GetMany(context.Background(), many)
				require.NoError(t, err)
				require.Equal(t, map[string]string{many[0]: many[0], many[1]: many[1]}, got)
			}
		}
		require.Zero(t, c.Stats().BackendErrors)
	})
}

func TestCloseEndsADialUnderWay(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		dialing := make(chan struct{}, 100)
		never := func(ctx context.Context, _ string, _ *net.Dialer, _ *tls.Config) (net.Conn, error) {
			dialing <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		c, err := Open[string](ctx, Config{Backend: backend}, withSlowDetection(),
			WithRueidisOption(func(o *rueidis.ClientOption) { o.DialCtxFn = never }))
		require.NoError(t, err, "not being there in time is no error")
		<-dialing
		v, err := c.GetWithFetch(context.Background(), key, time.Minute, serve("v").fetch)
		require.NoError(t, err)
		require.Equal(t, "v", v)
		require.ErrorIs(t, c.Set(context.Background(), key, "v", time.Minute), ErrUnavailable)
		begun := time.Now()
		require.NoError(t, c.Close())
		require.Less(t, time.Since(begun), hang)
	})
}

// DialFn is older than DialCtxFn, which wins, and has no context.
func TestADialFunctionWithoutAContextIsUsed(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		server := redistest.Start(t)
		var dials atomic.Int64
		hung := make(chan struct{}) // closed when dials are to return
		defer close(hung)
		var hangs atomic.Bool
		dial := func(address string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
			if dials.Add(1); hangs.Load() {
				<-hung
			}
			return d.Dial("tcp", address)
		}
		c := openOn(t, server, server.Addr(), backend, 3*time.Second, WithRueidisOption(func(o *rueidis.ClientOption) {
			o.DialFn = dial
		}))
		require.NoError(t, c.Set(t.Context(), key, "v", time.Minute))
		require.Positive(t, dials.Load())

		hangs.Store(true)
		before := dials.Load()
		server.KillClients()
		require.Eventually(t, func() bool { return dials.Load() > before }, healing, time.Millisecond)
		begun := time.Now()
		require.NoError(t, c.Close(), "which leaves the dial behind")
		require.Less(t, time.Since(begun), hang)
	})
}

func TestOpenEndsWhenItsContextIsCancelled(t *testing.T) {
	never := func(ctx context.Context, _ string, _ *net.Dialer, _ *tls.Config) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err := NewRueidis[string](ctx, Config{}, withSlowDetection(),
		WithRueidisOption(func(o *rueidis.ClientOption) { o.DialCtxFn = never }))
	require.ErrorIs(t, err, context.Canceled)
}

func TestCloseInAFrozenServerEndsSoon(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		server := redistest.Start(t)
		c := openOn(t, server, server.Addr(), backend, time.Minute, withSlowDetection())
		fetching := serve("v")
		defer fetching.hold()()
		asked := ask(t.Context(), c, "leased", fetching.fetch)
		require.Eventually(t, func() bool { return fetching.calls.Load() == 1 }, healing, time.Millisecond)
		server.Freeze()
		var callers sync.WaitGroup
		for range 10 {
			callers.Go(func() { _, _ = c.Get(context.Background(), key) })
			callers.Go(func() { _ = c.Set(context.Background(), key, "v", time.Minute) })
		}
		require.Eventually(t, func() bool { return busy(c) > 0 }, healing, time.Millisecond)
		begun := time.Now()
		require.NoError(t, c.Close())
		callers.Wait()
		require.ErrorIs(t, (<-asked).err, ErrClosed)
		t.Logf("closed within %v", time.Since(begun).Round(time.Millisecond))
		require.Less(t, time.Since(begun), hang)
		server.Thaw()
	})
}

func TestBreakerProbesUntilTheBackendAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("down")
		var answer atomic.Pointer[error]
		answer.Store(&down)
		var probes, brisk atomic.Int64
		seen := newWatcher()
		b := newBreaker(func(_ context.Context, isBrisk bool) error {
			probes.Add(1)
			if isBrisk {
				brisk.Add(1)
			}
			return *answer.Load()
		}, seen.Observe)
		require.NoError(t, b.wait(t.Context(), true))
		b.trip(down)
		b.trip(errors.New("another"))
		require.True(t, b.isDown())
		require.ErrorIs(t, b.wait(t.Context(), false), down)
		time.Sleep(time.Minute)
		require.EqualValues(t, 1, brisk.Load(), "only the first probe may stand in an operation's way")
		require.InDelta(t, 120, probes.Load(), 20, "two a second")
		patience, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		begun := time.Now()
		require.ErrorIs(t, b.wait(patience, true), down)
		require.EqualValues(t, 10*time.Second, time.Since(begun), "it waits for more than one probe")
		var up error
		answer.Store(&up)
		require.NoError(t, b.wait(t.Context(), true))
		synctest.Wait()
		require.False(t, b.isDown())
		require.Equal(t, 1, seen.count(EventBackendDown))
		require.Equal(t, 1, seen.count(EventBackendUp))
		b.stop()
		b.probing.Wait()
	})
}

func TestALostConnectionIsWaitedForBriefly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := make(chan error)
		b := newBreaker(func(ctx context.Context, _ bool) error {
			select {
			case err := <-answers:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}, newWatcher().Observe)
		b.brief = 100 * time.Millisecond
		waits := func() time.Duration {
			begun := time.Now()
			require.Error(t, b.wait(t.Context(), false))
			return time.Since(begun)
		}
		b.trip(errConnectionLost)
		require.Equal(t, b.brief, waits())
		time.AfterFunc(10*time.Millisecond, func() { answers <- nil })
		require.NoError(t, b.wait(t.Context(), false), "it is back")
		synctest.Wait()

		b.trip(errConnectionLost)
		time.AfterFunc(10*time.Millisecond, func() { answers <- errConnectionLost })
		require.Equal(t, 10*time.Millisecond, waits(), "a refusal is known at once")
		require.Zero(t, waits(), "after the first probe nobody waits")
		time.Sleep(time.Second)
		answers <- nil
		synctest.Wait()
		require.False(t, b.isDown())

		b.trip(context.DeadlineExceeded)
		require.Zero(t, waits(), "nor for what does not answer")
		b.stop()
		b.probing.Wait()
	})
}

func TestASuspicionOpensTheBreakerOnlyIfItIsTrue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fails atomic.Bool
		seen := newWatcher()
		b := newBreaker(func(context.Context, bool) error {
			if fails.Load() {
				return errConnectionLost
			}
			return nil
		}, seen.Observe)
		b.suspect()
		synctest.Wait()
		require.False(t, b.isDown())
		require.Empty(t, seen.kinds)
		fails.Store(true)
		b.suspect()
		synctest.Wait()
		require.True(t, b.isDown())
		require.Equal(t, 1, seen.count(EventBackendDown))
		b.stop()
		b.probing.Wait()
		b.suspect()
		b.trip(errConnectionLost)
		require.Equal(t, 1, seen.count(EventBackendDown), "nothing is reported after stop")
	})
}

func TestOperationsOfASliceOfTimeShareADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOpTimeouts(800 * time.Millisecond)
		contexts := func() map[context.Context]bool {
			all := make(map[context.Context]bool)
			for range 100 {
				ctx, cancel := o.bound(context.Background(), time.Now())
				require.Nil(t, cancel)
				all[ctx] = true
			}
			return all
		}
		first := contexts()
		require.LessOrEqual(t, len(first), deadlineStripes)
		for ctx := range first {
			deadline, ok := ctx.Deadline()
			require.True(t, ok)
			require.Equal(t, 800*time.Millisecond, time.Until(deadline))
		}
		time.Sleep(100 * time.Millisecond)
		second := contexts()
		require.LessOrEqual(t, len(second), deadlineStripes)
		for ctx := range second {
			require.NotContains(t, first, ctx)
		}

		short, cancelShort := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancelShort()
		same, cancel := o.bound(short, time.Now())
		require.Nil(t, cancel)
		require.Equal(t, short, same, "what ends earlier is taken as it is")
		long, cancelLong := context.WithTimeout(context.Background(), time.Hour)
		bounded, cancel := o.bound(long, time.Now())
		defer cancel()
		deadline, _ := bounded.Deadline()
		require.Equal(t, 800*time.Millisecond, time.Until(deadline))
		cancelLong()
		<-bounded.Done()
		time.Sleep(time.Second)
		for ctx := range first {
			require.Error(t, ctx.Err())
		}
	})
}

// busy counts the operations under way on a cache's connection.
func busy(c *Client[string]) int64 {
	switch s := c.store.(type) {
	case *remote[string]:
		return s.conn.load.underWay.Load()
	case *aside[string]:
		return s.conn.load.underWay.Load()
	}
	return 0
}

// lateTimer is a context whose timer has not noticed yet that the deadline has passed.
type lateTimer struct{ context.Context }

func (lateTimer) Deadline() (time.Time, bool) { return time.Now().Add(-time.Millisecond), true }

func TestWhatEndsAtTheCallersDeadlineIsNoOutage(t *testing.T) {
	o := op{caller: lateTimer{context.Background()}}
	dial := &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
	for _, err := range []error{context.DeadlineExceeded, dial} {
		require.Equal(t, context.DeadlineExceeded, o.callerGone(err), err)
	}
	require.NoError(t, o.callerGone(io.EOF))
	o.caller = context.Background()
	require.NoError(t, o.callerGone(dial))
}

func TestWhatARefusedCommandQuotesIsNotShown(t *testing.T) {
	redistest.Require(t)
	server := redistest.Start(t)
	c := openOn(t, server, server.Addr(), BackendRueidis, time.Second)
	err := c.store.(*remote[string]).conn.attempt(t.Context(), false, "", func(o *op) error {
		return o.Do(o.ctx, o.B().Arbitrary("NOSUCHCOMMAND").Keys("user:42").Build()).Error()
	})
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorContains(t, err, "unknown command 'NOSUCHCOMMAND'")
	require.NotContains(t, err.Error(), "user:42")
	var reply *rueidis.RedisError
	require.ErrorAs(t, err, &reply)
	require.Contains(t, reply.Error(), "user:42")
	require.Equal(t, "cacheaside: backend unavailable: Redis replied an error", describeError(err))
}

func TestAWriteThatWaitsForTheConnectionIsNotSentAfterClose(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		server := redistest.Start(t)
		proxy := redistest.NewProxy(t, server.Addr())
		cfg := config(t, server.URL(backend))
		cfg.Redis.Addrs, cfg.OpTimeout = []string{proxy.Addr()}, hang
		b, err := Connect(t.Context(), cfg)
		require.NoError(t, err)
		defer b.Close()
		c, err := New[string](b, "c")
		require.NoError(t, err)
		require.NoError(t, c.Set(t.Context(), key, "v", time.Minute))
		proxy.BlackHole(true)
		proxy.CutAll()
		require.Eventually(t, func() bool { return c.down() }, healing, time.Millisecond)
		waiting := make(chan error, 3)
		go func() { waiting <- c.Set(t.Context(), key, "late", time.Minute) }()
		go func() { waiting <- c.Delete(t.Context(), key) }()
		go func() {
			waiting <- c.Mutate(t.Context(), []string{key}, func(context.Context) error { return nil })
		}()
		s := c.flights.shard(key)
		require.Eventually(t, func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.fences[key] == 3
		}, healing, time.Millisecond)
		require.NoError(t, c.Close())
		proxy.BlackHole(false)
		proxy.CutAll()
		for range 3 {
			require.ErrorIs(t, <-waiting, ErrClosed)
		}
		other, err := New[string](b, "c")
		require.NoError(t, err)
		v, err := other.Get(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, "v", v)
	})
}

// One operation of each key would wait for OpTimeout, and a few at a time.
func TestManyKeysPayOneOpTimeoutForAFrozenServer(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		const many = 8 * maxConcurrent
		server := redistest.Start(t)
		c := openOn(t, server, server.Addr(), backend, 200*time.Millisecond)
		values := make(map[string]string)
		for i := range many {
			values[strconv.Itoa(i)] = "v"
		}
		keys := slices.Collect(maps.Keys(values))
		for what, do := range map[string]func() error{
			"SetMany":    func() error { return c.SetMany(t.Context(), values, time.Minute) },
			"DeleteMany": func() error { return c.DeleteMany(t.Context(), keys) },
			"Mutate":     func() error { return c.Mutate(t.Context(), keys, func(context.Context) error { return nil }) },
		} {
			server.Freeze()
			before := c.Stats().BackendErrors
			err := do()
			require.ErrorIs(t, err, ErrUnavailable, what)
			require.ErrorContains(t, err, fmt.Sprintf("%d of %d", many, many), what)
			require.LessOrEqual(t, c.Stats().BackendErrors-before, uint64(2*maxConcurrent), "%s: how many have waited", what)
			server.Thaw()
			require.Eventually(t, func() bool { return c.Health(context.Background()) == nil }, healing, time.Millisecond)
		}
	})
}

// There is no time to store all of a large batch within OpTimeout. What there is time for is stored, and the
// next look-up goes on from there.
func TestALargeBatchIsStoredInParts(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		const many = 30 * maxConcurrent
		server := redistest.Start(t)
		proxy := redistest.NewProxy(t, server.Addr())
		c := openOn(t, server, proxy.Addr(), backend, 400*time.Millisecond)
		keys := make([]string, many)
		for i := range keys {
			keys[i] = strconv.Itoa(i)
		}
		proxy.Delay(20 * time.Millisecond)
		s := new(manySource)
		asked := func() int {
			before := len(s.asked())
			errs := c.Stats().BackendErrors
			got, err := c.GetManyWithFetch(t.Context(), keys, time.Hour, s.get)
			require.NoError(t, err)
			require.Len(t, got, many)
			errs = c.Stats().BackendErrors - errs
			require.LessOrEqual(t, errs, uint64(1+2*maxConcurrent), "what there is no time for is not tried")
			stored, err := server.Command("DBSIZE")
			require.NoError(t, err)
			if stored.(int64) < many {
				require.Positive(t, errs, "it is told that some are not stored")
			}
			n := 0
			for _, call := range s.asked()[before:] {
				n += len(call)
			}
			return n
		}
		require.Equal(t, many, asked())
		require.Eventually(t, func() bool { return asked() == 0 }, 3*healing, time.Millisecond)
	})
}

// TestAPatientWriteOutlastsProbesThatFail has a server come back after several probes have been refused.
func TestAPatientWriteOutlastsProbesThatFail(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		server := redistest.Start(t)
		proxy := redistest.NewProxy(t, server.Addr())
		c := openOn(t, server, proxy.Addr(), backend, healing)
		for name, write := range map[string]func() error{
			"Set":    func() error { return c.Set(t.Context(), key, "v", time.Minute) },
			"Delete": func() error { return c.Delete(t.Context(), key) },
			"Mutate": func() error {
				return c.Mutate(t.Context(), []string{key}, func(context.Context) error { return nil })
			},
			"Health": func() error { return c.Health(t.Context()) },
		} {
			proxy.Refuse(true)
			proxy.CutAll()
			require.Eventually(t, c.down, healing, time.Millisecond)
			ended := make(chan error, 1)
			go func() { ended <- write() }()
			select {
			case err := <-ended:
				require.NoError(t, err, "%s does not wait", name)
				t.Fatal("it cannot have been done")
			case <-time.After(300 * time.Millisecond): // several probes fail
			}
			proxy.Refuse(false)
			require.NoError(t, <-ended, name)
		}
	})
}
