package table_test

import (
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/table"
)

// readUntil runs read on some goroutines, over and over, until the returned function is called.
func readUntil(read func()) (stop func()) {
	var stopped atomic.Bool
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for !stopped.Load() {
				read()
			}
		})
	}
	return func() {
		stopped.Store(true)
		wg.Wait()
	}
}

// churn makes the table grow and shrink, by everything that writes, and leaves alone keys that do not begin
// with churn.
func churn(m *table.Map[item], rounds int) {
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			name := func(i int) string { return "churn" + strconv.Itoa(w) + "." + strconv.Itoa(i) }
			for round := range rounds {
				for i := range 4000 {
					m.Put(name(i), item{id: i, deadline: int64(round)}, 1)
				}
				switch round % 3 {
				case 0:
					m.Sweep(int64(round), nil)
				case 1:
					m.DeleteFunc(func(key string, _ *item) bool { return strings.HasPrefix(key, "churn") })
				default:
					for i := range 4000 {
						m.Delete(name(i))
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestAnEntryThatStaysIsFoundWhileTheTableGrowsAndShrinks(t *testing.T) {
	m := table.NewSharded(table.Options[item]{Deadline: deadlineOf}, 2)
	keys := make([]string, 300)
	for i := range keys {
		keys[i] = "stays" + strconv.Itoa(i)
		m.Put(keys[i], item{id: i, deadline: math.MaxInt64}, 1)
	}
	var missed atomic.Int64
	stop := readUntil(func() {
		for i, key := range keys {
			if v := m.Get(key); v == nil || v.id != i {
				missed.Add(1)
			}
		}
		seen := make(map[string]bool)
		m.Range(func(key string, _ *item, _ uint32) bool {
			seen[key] = true
			return true
		})
		for _, key := range keys {
			if !seen[key] {
				missed.Add(1)
			}
		}
	})
	churn(m, 9)
	stop()
	require.Zero(t, missed.Load())
	require.Equal(t, len(keys), m.Len())
}

// One writer a key counts up; where a count is a multiple of 4 it deletes instead. It publishes what it is
// about to do, and what it has done, so that a reader knows what it may see.
func TestReadersSeeTheWritesOfAKeyInTheirOrder(t *testing.T) {
	for _, capacity := range []int64{0, 600} {
		m := table.NewSharded(table.Options[item]{Capacity: capacity, Deadline: deadlineOf}, 2)
		const keys, writes = 20, 1000
		var begun, done [keys]atomic.Int64
		var wrong atomic.Int64
		var next atomic.Int64
		stop := readUntil(func() {
			k := int(next.Add(1) % keys)
			atLeast := done[k].Load()
			v := m.Get(strconv.Itoa(k))
			atMost := begun[k].Load()
			switch {
			case v != nil:
				if id := int64(v.id); id < atLeast || id > atMost || id%4 == 0 {
					wrong.Add(1)
				}
			case capacity == 0 && atLeast%4 != 0 && atLeast/4 == atMost/4:
				wrong.Add(1) // there was no deletion meanwhile
			}
		})
		var wg sync.WaitGroup
		for k := range keys {
			wg.Go(func() {
				for i := int64(1); i <= writes; i++ {
					begun[k].Store(i)
					switch i % 4 {
					case 0:
						m.Delete(strconv.Itoa(k))
					case 3:
						m.PutIf(strconv.Itoa(k), item{id: int(i), deadline: math.MaxInt64}, 1, func(*item) bool { return true })
					default:
						m.Put(strconv.Itoa(k), item{id: int(i), deadline: math.MaxInt64}, 1)
					}
					done[k].Store(i)
				}
			})
		}
		wg.Go(func() { churn(m, 3) })
		wg.Wait()
		stop()
		require.Zero(t, wrong.Load(), "capacity %d", capacity)
	}
}

func TestTheBoundHoldsAtEveryMoment(t *testing.T) {
	const capacity = 1000
	m := table.NewSharded(table.Options[item]{Capacity: capacity, Deadline: deadlineOf}, 8)
	var over atomic.Int64
	stop := readUntil(func() {
		if m.Weight() > capacity || m.Len() > capacity {
			over.Add(1)
		}
	})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 20_000 {
				key := strconv.Itoa(i * (w + 1) % 3001)
				m.Put(key, item{deadline: int64(i)}, uint32(i%50))
				if i%7 == 0 {
					m.Delete(key)
				}
				if i%3000 == 0 {
					m.Sweep(int64(i/2), nil)
				}
			}
		})
	}
	wg.Wait()
	stop()
	require.Zero(t, over.Load())

	m.Clear()
	evictions := m.Evictions()
	for i := range capacity {
		m.Put(strconv.Itoa(i), item{}, 1)
	}
	require.Equal(t, capacity, m.Len(), "all that was claimed has been given back")
	require.Equal(t, evictions, m.Evictions())
}

func TestDueIsALowerBoundWhileEntriesAreWrittenAndSwept(t *testing.T) {
	m := table.NewSharded(table.Options[item]{Deadline: deadlineOf}, 2)
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			for i := range 15_000 {
				m.Put(strconv.Itoa(i%4999), item{deadline: int64(1000 + i*7%500 + w)}, 1)
			}
		})
	}
	stop := readUntil(func() { m.Sweep(1300, nil) })
	wg.Wait()
	stop()
	earliest := func() int64 {
		least := int64(math.MaxInt64)
		m.Range(func(_ string, v *item, _ uint32) bool {
			least = min(least, v.deadline)
			return true
		})
		return least
	}
	require.LessOrEqual(t, m.Due(), earliest())
	m.Sweep(1400, nil)
	require.Greater(t, earliest(), int64(1400))
	require.Greater(t, m.Due(), int64(1400))
	require.LessOrEqual(t, m.Due(), earliest())
}
