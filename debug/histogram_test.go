package debug

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestQuantilesAreWithinATenthOrSo(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var h, half histogram
	var all []time.Duration
	for i := range 20_000 {
		d := time.Duration(random.ExpFloat64() * float64(20*time.Millisecond))
		d = max(d, time.Microsecond)
		all = append(all, d)
		if i%2 == 0 {
			half.add(d)
		} else {
			h.add(d)
		}
	}
	h.merge(&half)
	slices.Sort(all)
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 0.999} {
		exact := all[int(q*float64(len(all)))]
		require.InEpsilon(t, exact.Seconds(), h.quantile(q).Seconds(), 0.14, q)
	}
}

func TestBucketsAreInOrderAndHoldTheirMiddle(t *testing.T) {
	last := 0
	for d := time.Microsecond; d < 100*time.Hour; d += d/16 + 1 {
		b := bucketOf(d)
		require.GreaterOrEqual(t, b, last)
		require.Less(t, b, buckets)
		last = b
	}
	for b := 4 * steps; b < buckets; b++ {
		require.Equal(t, b, bucketOf(middle(b)))
	}
	require.Zero(t, bucketOf(0))
	require.Equal(t, buckets-1, bucketOf(1<<62))
}

func TestQuantileOfNothingIsNothing(t *testing.T) {
	var h histogram
	require.Zero(t, h.quantile(0.5))
	h.add(time.Second)
	require.InEpsilon(t, 1, h.quantile(0).Seconds()+1, 0.01, "the fraction 0 is not above any")
	require.InEpsilon(t, 1, h.quantile(1).Seconds(), 0.13)
}
