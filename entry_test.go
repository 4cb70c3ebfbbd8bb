package cacheaside

import (
	"math"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

func TestAnEntryIsPacked(t *testing.T) {
	require.Equal(t, 16+unsafe.Sizeof(uintptr(0)), unsafe.Sizeof(entry[*record]{}))
	require.EqualValues(t, 16, unsafe.Sizeof(entry[struct{}]{}))
}

func TestAnEntryKeepsItsTimes(t *testing.T) {
	const ms = int64(time.Millisecond)
	for _, now := range []int64{0, 1, ms, int64(time.Hour), int64(365 * 24 * time.Hour), math.MaxInt64 / 4} {
		for _, window := range []int64{0, int64(time.Minute), maxWindow} {
			for _, early := range []time.Duration{0, time.Millisecond, time.Hour, 1 << 14 * time.Hour} {
				e := newEntry("v", now, now+int64(time.Hour), window, early)
				require.False(t, e.negative())
				require.Equal(t, now+int64(time.Hour), e.freshUntil(window))
				require.Equal(t, now+int64(time.Hour)+window, e.deadline)
				require.Equal(t, int64(early), e.early())
				require.Zero(t, e.age(now))
				for _, age := range []time.Duration{5 * time.Hour, 398 * 24 * time.Hour, 8 * 365 * 24 * time.Hour} {
					require.Equal(t, age, e.age(now+int64(age)))
				}
			}
		}
	}
}

func TestAnEntryThatDoesNotExpire(t *testing.T) {
	e := newEntry("v", 5, never, int64(time.Hour), 0)
	require.Equal(t, never, e.deadline)
	require.Equal(t, never, e.freshUntil(int64(time.Hour)))
	late := newEntry("v", 5, never-1, int64(time.Hour), 0)
	require.Equal(t, never-1, late.deadline, "a long ttl and a window do not make it one")
}

func TestWhatDoesNotFitIntoAnEntryIsClamped(t *testing.T) {
	require.EqualValues(t, maxEarly<<(maxExponent*exponentStep)*int64(time.Millisecond), func() int64 {
		e := newEntry("v", 0, never-1, 0, math.MaxInt64)
		return e.early()
	}())
	days := 10*24*time.Hour + time.Millisecond
	e := newEntry("v", 0, never-1, 0, days)
	require.InDelta(t, int64(days), e.early(), float64(days)/maxEarly, "it is less exact")
	e = newEntry("v", 0, 1, 0, -time.Hour)
	require.Zero(t, e.early())
	require.False(t, e.negative())
}

func TestANegativeEntryHasNoWindow(t *testing.T) {
	e := negativeEntry[string](0, int64(time.Minute))
	require.True(t, e.negative())
	require.Zero(t, e.early())
	require.Equal(t, int64(time.Minute), e.freshUntil(int64(time.Hour)))
	require.Equal(t, time.Second, e.age(int64(time.Second)))
}
