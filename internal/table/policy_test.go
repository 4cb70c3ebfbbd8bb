package table

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestALoopIsHitAsOftenAsItCanBe plays a loop that is longer than the cache, to maps with many seeds, since
// it depends on the seed whether something falls into step with it. The optimum is the cache's part of the
// loop: some of the keys are kept for good.
func TestALoopIsHitAsOftenAsItCanBe(t *testing.T) {
	const keys, capacity, passes, settling = 1010, 252, 60, 20
	names := make([]string, keys)
	for i := range names {
		names[i] = "key:" + strconv.Itoa(i)
	}
	for range 60 {
		m := newMap[int](Options[int]{Capacity: capacity}, 1)
		hits := 0
		for pass := range passes {
			for _, name := range names {
				switch {
				case m.Get(name) == nil:
					m.Put(name, 0, 1)
				case pass >= settling:
					hits++
				}
			}
		}
		optimum := capacity * (passes - settling)
		require.Greater(t, hits, optimum*8/10, "of %d", optimum)
	}
}
