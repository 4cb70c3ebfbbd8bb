package cacheaside

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// formOf returns the stored form of a cache's values, as it is on a backend that processes share.
func formOf[T any](t *testing.T, cfg Config, codec Codec[T]) form[T] {
	t.Helper()
	c, err := NewMemory[T](cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	c.spread = true
	return c.form(codec)
}

func TestRefreshAheadIsSpreadOverProcesses(t *testing.T) {
	const ttl, took, processes, rounds = time.Minute, 100 * time.Millisecond, 50, 40
	f := formOf(t, Config{RefreshAhead: 0.5}, StringCodec())
	now := f.clock.now()
	e := newEntry("v", now, f.clock.deadline(now, ttl), f.window, 0)
	stored, err := f.encode(key, &e, took)
	require.NoError(t, err)
	together := 0
	for range rounds {
		var first int64
		all := make([]int64, processes)
		for i := range all { // each process draws for itself when it has read the entry
			read, err := f.decode(key, stored)
			require.NoError(t, err)
			require.GreaterOrEqual(t, read.early(), int64(ttl/2), "never later than the fraction")
			require.LessOrEqual(t, read.early(), int64(ttl*3/4), "never before half of the fraction")
			all[i] = read.early()
			first = max(first, all[i])
		}
		for _, early := range all {
			if first-early < int64(took) {
				together++
			}
		}
	}
	require.Less(t, together, 6*rounds, "most processes find the value refreshed by the first")
}

func TestRefreshAheadOfAnExpensiveFetchIsNotAtOnce(t *testing.T) {
	f := formOf(t, Config{RefreshAhead: 0.5}, StringCodec())
	now := f.clock.now()
	e := newEntry("v", now, f.clock.deadline(now, time.Second), f.window, 0)
	stored, err := f.encode(key, &e, time.Hour)
	require.NoError(t, err)
	for range 100 {
		read, err := f.decode(key, stored)
		require.NoError(t, err)
		require.LessOrEqual(t, read.early(), int64(750*time.Millisecond))
	}
}
