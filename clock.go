package cacheaside

import (
	"math"
	"sync/atomic"
	"time"
)

// A clock tells the time since it was made, in nanoseconds, monotonically. It has two levels, since
// asking the system for the time costs several times what the rest of a hit does: a coarse time, one
// atomic load, which a ticker moves on; and the exact time for whoever is near a deadline.
//
// Nothing outlives its deadline unless the ticker is late by more than clockMargin. The ticker sleeps
// when nobody has needed it for clockIdleTicks, and whoever next looks at the clock wakes it.
type clock struct {
	base   time.Time
	coarse atomic.Int64
	ticker *reaper
	ticks  int // since the ticker was last woken; only the ticker's function uses it
}

const (
	clockTick      = 100 * time.Millisecond
	clockIdleTicks = 100

	// clockMargin is the distance to a deadline from which on the exact time decides.
	clockMargin = int64(time.Second)

	// never is the deadline of what does not expire, about 146 years after a clock's start. It leaves
	// room to add or subtract a window without overflow.
	never = int64(1) << 62

	// asleep, as the coarse time, makes every deadline look near; ended does so for good.
	asleep = never
	ended  = never + 1
)

func newClock() *clock {
	c := &clock{base: time.Now()}
	c.coarse.Store(asleep)
	c.ticker = newReaper(clockTick, c.tick)
	return c
}

// before reports whether the clock is before t for certain, by the coarse time alone. False means: ask
// for the exact time.
func (c *clock) before(t int64) bool { return t-c.coarse.Load() > clockMargin }

// now returns the exact time, and wakes the ticker for those who come after.
func (c *clock) now() int64 {
	now := int64(time.Since(c.base))
	if c.coarse.Load() == asleep && c.coarse.CompareAndSwap(asleep, now) {
		c.ticker.wake()
	}
	return now
}

// deadline returns now + ttl, or never.
func (c *clock) deadline(now int64, ttl time.Duration) int64 {
	if int64(ttl) >= never-now {
		return never
	}
	return now + int64(ttl)
}

// at converts a wall-clock time in unix milliseconds to this clock. A time further away than never, before
// or after, is taken to be that far.
func (c *clock) at(unixMilli int64) int64 { return c.atFrom(time.Now(), unixMilli) }

// atFrom is at for a caller who has asked for the present time already.
func (c *clock) atFrom(present time.Time, unixMilli int64) int64 {
	wall := present.UnixMilli()
	now := int64(present.Sub(c.base))
	most := (never - now) / int64(time.Millisecond)
	if unixMilli >= wall+most {
		return never
	}
	return now + (max(unixMilli, wall-most)-wall)*int64(time.Millisecond)
}

// unixMilli converts a time of this clock to the wall clock, to the nearest millisecond.
func (c *clock) unixMilli(t int64) int64 {
	if t >= never {
		return math.MaxInt64
	}
	return time.Now().Add(time.Duration(t - int64(time.Since(c.base)))).Round(time.Millisecond).UnixMilli()
}

// stop puts the clock to sleep for good: from now on no deadline looks far.
func (c *clock) stop() {
	c.ticker.stop()
	c.coarse.Store(ended)
}

// tick moves the coarse time on. It goes to sleep after a while without asking whether anybody still
// looks: telling that would cost every reader a write, and being woken costs one reader little.
func (c *clock) tick(time.Time) (more bool) {
	if c.ticks++; c.ticks >= clockIdleTicks {
		c.ticks = 0
		c.coarse.Store(asleep)
		return false
	}
	c.coarse.Store(int64(time.Since(c.base)))
	return true
}
