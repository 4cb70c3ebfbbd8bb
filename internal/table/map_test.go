package table

import (
	"math"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

type item struct {
	value    uint64
	deadline int64
	meta     uint64
}

func deadlineOf(i *item) int64 { return i.deadline }

func TestSmoke(t *testing.T) {
	for _, c := range []int64{0, 1, 5, 100, 10000, 100000} {
		m := New(Options[item]{Capacity: c, Deadline: deadlineOf})
		for i := range 200000 {
			k := strconv.Itoa(i)
			require.True(t, m.Put(k, item{uint64(i), int64(i), 0}, 1))
			g := m.Get(k)
			require.NotNil(t, g)
			require.Equal(t, uint64(i), g.value)
			if c > 0 && i%100 == 0 {
				require.LessOrEqual(t, m.Weight(), c)
			}
		}
		if c > 0 {
			require.EqualValues(t, c, m.Len())
		}
		for _, s := range []int64{0, 1000, 150000, 199998} {
			m.Sweep(s, nil)
			m.Range(func(k string, v *item, hits uint32) bool {
				require.Greater(t, v.deadline, s)
				return true
			})
			require.Greater(t, m.Due(), s)
		}
		m.Sweep(199999, nil)
		require.Zero(t, m.Len())
		require.EqualValues(t, math.MaxInt64, m.Due())
	}
}

func TestSmokeConc(t *testing.T) {
	for _, c := range []int64{0, 1000, 100000} {
		m := New(Options[item]{Capacity: c, Deadline: deadlineOf})
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 20000 {
					k := strconv.Itoa(i * (g%4 + 1) % 30011)
					switch i % 8 {
					case 0, 1, 2:
						m.Put(k, item{uint64(i), int64(i), 0}, uint32(i%7))
					case 3:
						m.Delete(k)
					default:
						m.Get(k)
					}
					if i%5000 == 0 {
						m.Sweep(int64(i/2), nil)
						m.DeleteFunc(func(_ string, v *item) bool { return v.value%13 == 0 })
					}
				}
			})
		}
		wg.Wait()
	}
}
