package cacheaside

import (
	"math"
	"regexp"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// goroutines counts those of the bubble that t runs in; others come and go as they like.
func goroutines(t *testing.T) int {
	t.Helper()
	var stacks []byte
	for n := 1 << 16; len(stacks) == 0 || len(stacks) == cap(stacks); n *= 4 {
		stacks = make([]byte, n)
		stacks = stacks[:runtime.Stack(stacks, true)]
	}
	own := regexp.MustCompile(`^goroutine \d+ \[.*(synctest bubble \d+)\b`).FindSubmatch(stacks)
	require.NotNil(t, own, "the first stack is the caller's, and names its bubble")
	return len(regexp.MustCompile(`(?m)^goroutine \d+ \[.*`+string(own[1])+`\b`).FindAll(stacks, -1))
}

func TestTheCoarseTimeFollowsTheExactOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock()
		defer c.stop()
		begun := time.Now()
		require.False(t, c.before(int64(time.Hour)), "an idle clock is certain of nothing")
		require.Zero(t, c.now())
		for range 50 {
			require.True(t, c.before(int64(time.Since(begun))+clockMargin+int64(clockTick)+1))
			require.False(t, c.before(int64(time.Since(begun))+clockMargin-int64(clockTick)))
			require.False(t, c.before(int64(time.Since(begun))))
			time.Sleep(70 * time.Millisecond)
			synctest.Wait()
			require.Equal(t, int64(time.Since(begun)), c.now())
		}
	})
}

func TestAnIdleClockSleepsAndIsWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock()
		defer c.stop()
		before := goroutines(t)
		for range 3 {
			now := c.now()
			require.True(t, c.before(now+int64(time.Hour)))
			require.Equal(t, before+1, goroutines(t), "the ticker runs")
			time.Sleep(clockIdleTicks * clockTick)
			synctest.Wait()
			require.Equal(t, before, goroutines(t), "an idle process has no wake-ups")
			require.False(t, c.before(c.base.Unix()), "and whoever looks asks for the exact time")
			time.Sleep(1000 * time.Hour)
		}
	})
}

func TestAStoppedClockIsCertainOfNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock()
		c.now()
		before := goroutines(t)
		c.stop()
		c.stop()
		synctest.Wait()
		require.Equal(t, before-1, goroutines(t))
		c.now()
		for _, deadline := range []int64{0, int64(time.Hour), never - 1, never} {
			require.False(t, c.before(deadline))
		}
		synctest.Wait()
		require.Equal(t, before-1, goroutines(t), "it is not woken again")
	})
}

func TestDeadlinesDoNotOverflow(t *testing.T) {
	c := newClock()
	defer c.stop()
	for _, now := range []int64{0, int64(time.Hour), never - 2} {
		require.Equal(t, never, c.deadline(now, NoExpiry))
		require.Equal(t, never, c.deadline(now, time.Duration(never)))
		require.Equal(t, now+1, c.deadline(now, 1))
	}
}

func TestWallClockTimesAreConverted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock()
		defer c.stop()
		time.Sleep(time.Hour)
		now := c.now()
		for _, d := range []time.Duration{0, time.Millisecond, time.Hour, -time.Hour, 1000 * 24 * time.Hour} {
			require.Equal(t, time.Now().Add(d).UnixMilli(), c.unixMilli(now+int64(d)))
			require.InDelta(t, now+int64(d), c.at(time.Now().Add(d).UnixMilli()), float64(time.Millisecond))
		}
		require.Equal(t, int64(math.MaxInt64), c.unixMilli(never))
		require.Equal(t, never, c.at(math.MaxInt64))
		require.Equal(t, never, c.at(math.MaxInt64-1))
		for _, long := range []int64{math.MinInt64, math.MinInt64 + 1, math.MinInt64 / 2, math.MinInt64 / 1_000_000, -1, 0} {
			require.Less(t, c.at(long), now, "what is long past is not to come: %d", long)
		}
	})
}
