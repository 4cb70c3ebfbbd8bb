package cacheaside

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// inFetch runs body inside a fetch of a cache with this configuration, started with ctx, and returns what
// GetWithFetch returned.
func inFetch(t *testing.T, ctx context.Context, cfg Config, body func(ctx context.Context, c *Client[int])) error {
	t.Helper()
	c := newTestCache[int](t, cfg)
	_, err := c.GetWithFetch(ctx, key, time.Minute, func(ctx context.Context, _ string) (int, error) {
		body(ctx, c)
		return 1, ctx.Err()
	})
	return err
}

func TestAFetchsContextHasTheFetchsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		err := inFetch(t, ctx, Config{FetchTimeout: time.Minute}, func(ctx context.Context, _ *Client[int]) {
			deadline, ok := ctx.Deadline()
			require.True(t, ok)
			require.Equal(t, time.Now().Add(time.Minute), deadline)
			require.NoError(t, ctx.Err())
			time.Sleep(time.Minute - 1)
			require.NoError(t, ctx.Err())
			select {
			case <-ctx.Done():
				t.Error("ended too early")
			default:
			}
			begun := time.Now()
			child, cancel := context.WithCancel(ctx)
			defer cancel()
			<-child.Done()
			require.EqualValues(t, 1, time.Since(begun))
			require.Equal(t, context.DeadlineExceeded, child.Err(), "what is derived from it ends for the same reason")
			require.Equal(t, context.DeadlineExceeded, ctx.Err())
			require.Equal(t, context.DeadlineExceeded, context.Cause(ctx))
		})
		require.ErrorIs(t, err, ErrFetchTimeout)
	})
}

func TestAFetchWithoutATimeoutHasNoDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10000*time.Hour)
		defer cancel()
		for _, timeout := range []time.Duration{-1, NoExpiry} {
			require.NoError(t, inFetch(t, ctx, Config{FetchTimeout: timeout}, func(ctx context.Context, _ *Client[int]) {
				_, ok := ctx.Deadline()
				require.False(t, ok)
				require.NotNil(t, ctx.Done())
				time.Sleep(1000 * time.Hour)
				require.NoError(t, ctx.Err())
			}))
		}
	})
}

func TestContextsDerivedInAFetchEndWithIt(t *testing.T) {
	type tag struct{}
	synctest.Test(t, func(t *testing.T) {
		var kept []context.Context
		ended := make(chan struct{})
		outer := context.WithValue(t.Context(), tag{}, "outer")
		require.NoError(t, inFetch(t, outer, Config{}, func(ctx context.Context, _ *Client[int]) {
			before := goroutines(t)
			a, cancelA := context.WithCancel(ctx)
			b, cancelB := context.WithTimeout(context.WithValue(a, tag{}, "inner"), time.Second)
			context.AfterFunc(ctx, func() { close(ended) })
			require.Equal(t, before, goroutines(t), "they attach without a goroutine each")
			require.Equal(t, "outer", a.Value(tag{}))
			require.Equal(t, "inner", b.Value(tag{}))
			require.Nil(t, b.Value("another"))
			time.Sleep(time.Second)
			<-b.Done()
			require.Equal(t, context.DeadlineExceeded, b.Err())
			require.NoError(t, a.Err())
			cancelA()
			require.Equal(t, context.Canceled, a.Err())
			require.NoError(t, ctx.Err())
			c, cancelC := context.WithCancel(ctx)
			kept = append(kept, ctx, c)
			t.Cleanup(func() { cancelB(); cancelC() })
		}))
		<-ended
		for _, ctx := range kept {
			<-ctx.Done()
			require.Equal(t, context.Canceled, ctx.Err(), "a fetch's context ends with the fetch")
		}
	})
}

func TestAContextThatNobodyWaitedForHasEndedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kept context.Context
		require.NoError(t, inFetch(t, t.Context(), Config{}, func(ctx context.Context, _ *Client[int]) { kept = ctx }))
		require.Equal(t, context.Canceled, kept.Err())
		select {
		case <-kept.Done():
		default:
			t.Fatal("Done, asked for after the end, must be closed")
		}
		require.Equal(t, context.Canceled, context.Cause(kept))
		child, cancel := context.WithCancel(kept)
		defer cancel()
		require.Equal(t, context.Canceled, child.Err())
	})
}

func TestCloseEndsAFetchsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen atomic.Pointer[error]
		err := inFetch(t, t.Context(), Config{}, func(ctx context.Context, c *Client[int]) {
			context.AfterFunc(ctx, func() {
				err := ctx.Err()
				seen.Store(&err)
			})
			require.NoError(t, c.Close())
			<-ctx.Done()
		})
		require.Equal(t, ErrClosed, err)
		synctest.Wait()
		require.Equal(t, context.Canceled, *seen.Load())
	})
}

func TestAFetchThatNeverWaitsLeavesNoTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCache[int](t, Config{ReapInterval: -1})
		before := goroutines(t)
		for i := range 100 {
			_, err := c.GetWithFetch(t.Context(), string(rune(i)), time.Minute, func(ctx context.Context, _ string) (int, error) {
				return 1, ctx.Err()
			})
			require.NoError(t, err)
		}
		time.Sleep(time.Hour) // FetchTimeout, and the clock
		synctest.Wait()
		require.Equal(t, before, goroutines(t))
		require.Zero(t, c.Stats().FetchErrors, "a fetch that has ended does not time out")
	})
}

func TestFlightsOfDifferentAgesTimeOutEachAtItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCache[int](t, Config{FetchTimeout: 10 * time.Second})
		type end struct {
			key   string
			after time.Duration
			err   error
		}
		ends := make(chan end, 100)
		begun := time.Now()
		for i := range 100 { // many keys to a shard of the flights
			go func() {
				asked := time.Now()
				k := string(rune('a' + i))
				_, err := c.GetWithFetch(t.Context(), k, time.Minute, func(ctx context.Context, _ string) (int, error) {
					if i%3 == 0 {
						return 1, nil
					}
					<-ctx.Done()
					return 0, ctx.Err()
				})
				ends <- end{k, time.Since(asked), err}
			}()
			time.Sleep(50 * time.Millisecond)
		}
		failed := 0
		for range 100 {
			e := <-ends
			if e.err == nil {
				continue
			}
			failed++
			require.ErrorIs(t, e.err, ErrFetchTimeout)
			require.Equal(t, 10*time.Second, e.after, e.key)
		}
		require.Equal(t, 66, failed)
		require.Less(t, time.Since(begun), 20*time.Second)
	})
}
