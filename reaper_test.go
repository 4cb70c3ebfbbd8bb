package cacheaside

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAReaperWorksWhileThereIsWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		left := 3
		r := newReaper(time.Second, func(time.Time) bool {
			calls.Add(1)
			left--
			return left > 0
		})
		before := goroutines(t)
		time.Sleep(time.Hour)
		require.Zero(t, calls.Load(), "it sleeps until it is woken")
		r.wake()
		r.wake()
		require.Equal(t, before+1, goroutines(t), "it has one goroutine")
		time.Sleep(time.Second - 1)
		synctest.Wait()
		require.Zero(t, calls.Load())
		time.Sleep(1)
		synctest.Wait()
		require.EqualValues(t, 1, calls.Load())
		time.Sleep(time.Hour)
		synctest.Wait()
		require.EqualValues(t, 3, calls.Load())
		require.Equal(t, before, goroutines(t), "without work it has none")
		left = 1
		r.wake()
		time.Sleep(time.Hour)
		synctest.Wait()
		require.EqualValues(t, 4, calls.Load(), "it can be woken again")
		r.stop()
	})
}

func TestAWakeDuringTheLastCallIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		var r *reaper
		r = newReaper(time.Second, func(time.Time) bool {
			if calls.Add(1) == 1 {
				r.wake()
			}
			return false
		})
		defer r.stop()
		r.wake()
		time.Sleep(time.Hour)
		synctest.Wait()
		require.EqualValues(t, 2, calls.Load())
	})
}

func TestStopWaitsForTheCallThatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended atomic.Bool
		var sawStop atomic.Bool
		var r *reaper
		r = newReaper(time.Second, func(time.Time) bool {
			time.Sleep(10 * time.Second)
			sawStop.Store(r.stopping())
			ended.Store(true)
			return true
		})
		r.wake()
		time.Sleep(5 * time.Second)
		require.False(t, r.stopping())
		begun := time.Now()
		r.stop()
		require.True(t, ended.Load())
		require.True(t, sawStop.Load(), "long work can tell, and end early")
		require.Equal(t, 6*time.Second, time.Since(begun))
		r.stop()
		r.wake()
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Equal(t, 6*time.Second+time.Hour, time.Since(begun))
	})
}

func TestStopOfAReaperThatNeverRanReturns(t *testing.T) {
	r := newReaper(time.Hour, func(time.Time) bool { return true })
	r.stop()
	r.wake()
	r.stop()
	asleep := newReaper(time.Nanosecond, func(time.Time) bool { return false })
	asleep.wake()
	require.Eventually(t, func() bool {
		asleep.mu.Lock()
		defer asleep.mu.Unlock()
		return !asleep.awake
	}, 10*time.Second, time.Millisecond)
	asleep.stop()
}

func TestCloseWaitsForTheReaper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := goroutines(t)
		c := newTestCache[int](t, Config{ReapInterval: time.Second})
		require.NoError(t, c.Set(t.Context(), key, 1, time.Hour))
		time.Sleep(10*time.Second + time.Second/2) // between two ticks: at one, the reaper may find the table cleared and end by itself
		require.Greater(t, goroutines(t), before)
		begun := time.Now()
		require.NoError(t, c.Close())
		require.Zero(t, time.Since(begun))
		synctest.Wait() // for those that have told of their end to be gone
		require.Equal(t, before, goroutines(t), "at once, and not when the next interval is over")
	})
}

func TestTheReaperSleepsWhenNothingExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCache[int](t, Config{ReapInterval: time.Second})
		time.Sleep(time.Hour) // the clock is asleep by then
		synctest.Wait()
		before := goroutines(t)
		require.NoError(t, c.Set(t.Context(), "for ever", 1, NoExpiry))
		require.NoError(t, c.Set(t.Context(), key, 1, time.Minute))
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Equal(t, before, goroutines(t))
		require.Equal(t, 1, c.Stats().Entries)
		require.NoError(t, c.Set(t.Context(), key, 1, time.Minute))
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Equal(t, 1, c.Stats().Entries, "and is woken by what will expire")
		require.EqualValues(t, 2, c.Stats().Expirations)
	})
}
