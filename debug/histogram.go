package debug

import (
	"math"
	"math/bits"
	"time"
)

// histogram counts durations in buckets that grow with them, four to each doubling, so that a quantile is
// told to within a tenth: from a microsecond to over an hour.
type histogram struct {
	counts [buckets]uint32
	total  uint64
}

const (
	stepBits = 2
	steps    = 1 << stepBits
	buckets  = 32 * steps
)

func (h *histogram) add(d time.Duration) {
	h.counts[bucketOf(d)]++
	h.total++
}

// merge adds what other has counted.
func (h *histogram) merge(other *histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.total += other.total
}

// bucketOf returns the bucket of d: how often a microsecond was doubled, and how far it is to the next time.
func bucketOf(d time.Duration) int {
	us := uint64(max(d/time.Microsecond, 1))
	doublings := bits.Len64(us) - 1
	step := int(us<<stepBits>>doublings) - steps
	return min(doublings*steps+step, buckets-1)
}

// middle returns a duration in the middle of a bucket.
func middle(bucket int) time.Duration {
	low := math.Ldexp(1+float64(bucket%steps)/steps, bucket/steps)
	high := math.Ldexp(1+float64(bucket%steps+1)/steps, bucket/steps)
	return time.Duration((low + high) / 2 * float64(time.Microsecond))
}

// quantile returns the duration that the fraction q of all is not above, or 0 if there is none.
func (h *histogram) quantile(q float64) time.Duration {
	rank := uint64(math.Ceil(q * float64(h.total)))
	for i, n := range h.counts {
		if rank <= uint64(n) && rank > 0 {
			return middle(i)
		}
		rank -= min(rank, uint64(n))
	}
	return 0
}
