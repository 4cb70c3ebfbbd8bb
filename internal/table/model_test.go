package table_test

import (
	"math"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/cacheaside/cacheaside/internal/table"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// item is what the tests store. The table does not know weights again, so the model keeps them here.
type item struct {
	id       int
	weight   uint32
	deadline int64
}

func deadlineOf(i *item) int64 { return i.deadline }

// model is a plain map that goes through the same as a [table.Map]. It learns from OnEvict what the policy
// drops, and checks that there was a reason to.
type model struct {
	t        *rapid.T
	real     *table.Map[item]
	want     map[string]item
	capacity int64
	share    int64  // of a shard
	evicted  []item // by the operation under way
	evicts   uint64
	ids      int
	newest   int // the id of what is being put
}

func newModel(t *rapid.T) *model {
	m := &model{t: t, want: make(map[string]item)}
	shards := rapid.SampledFrom([]int64{1, 2, 8}).Draw(t, "shards")
	m.share = rapid.SampledFrom([]int64{0, 1, 2, 7, 40, 300}).Draw(t, "share of a shard")
	m.capacity = m.share * shards
	m.real = table.NewSharded(table.Options[item]{
		Capacity: m.capacity,
		Deadline: deadlineOf,
		OnEvict: func(key string, v *item) {
			if v.id != m.newest {
				require.Equal(t, m.want[key], *v)
			}
			delete(m.want, key)
			m.evicted = append(m.evicted, *v)
			m.evicts++
		},
	}, shards)
	return m
}

func (m *model) weight() (total int64) {
	for _, i := range m.want {
		total += int64(i.weight)
	}
	return total
}

func (m *model) drawKey() string {
	return "key" + strconv.Itoa(rapid.IntRange(0, 60).Draw(m.t, "key"))
}

func (m *model) drawItem() item {
	m.ids++
	deadline := rapid.OneOf(rapid.Int64Range(0, 100), rapid.Just(int64(math.MaxInt64))).Draw(m.t, "deadline")
	return item{m.ids, rapid.OneOf(rapid.Uint32Range(1, 9), rapid.Uint32Range(1, 100)).Draw(m.t, "weight"), deadline}
}

// write does what put does to the real map, and checks what was dropped for it.
func (m *model) write(key string, i item, put func() table.Outcome) {
	before, old := m.weight(), m.want[key]
	m.evicted, m.newest = nil, i.id
	outcome := put()
	if outcome == table.Declined {
		require.Greater(m.t, before-int64(old.weight)+int64(i.weight), m.capacity, "nothing is declined while there is room")
		require.Nil(m.t, m.real.Peek(key), "neither the old value is there nor the new one")
	}
	if outcome != table.Stored {
		return
	}
	m.want[key] = i
	require.Equal(m.t, i, *m.real.Peek(key), "what was just put is there")
	if n := len(m.evicted); n > 0 && int64(i.weight) <= m.share {
		total := before - int64(old.weight) + int64(i.weight)
		for _, e := range m.evicted[:n-1] {
			total -= int64(e.weight)
		}
		require.Greater(m.t, total, m.capacity, "nothing is dropped while there is room")
	}
}

func (m *model) put(key string, i item) {
	m.write(key, i, func() table.Outcome {
		if m.real.Put(key, i, i.weight) {
			return table.Stored
		}
		require.Greater(m.t, int64(i.weight), m.capacity, "only what is too heavy is refused")
		require.NotZero(m.t, m.share)
		return table.TooHeavy
	})
}

// check compares the two maps.
func (m *model) check() {
	require.Equal(m.t, len(m.want), m.real.Len())
	require.Equal(m.t, m.weight(), m.real.Weight())
	require.Equal(m.t, m.evicts, m.real.Evictions())
	if m.capacity > 0 {
		require.LessOrEqual(m.t, m.real.Weight(), m.capacity)
	}
	due := m.real.Due()
	for key, i := range m.want {
		v := m.real.Get(key)
		require.NotNil(m.t, v)
		require.Equal(m.t, i, *v)
		require.LessOrEqual(m.t, due, i.deadline)
	}
}

func TestItDoesWhatAPlainMapDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) { m.check() },
			"put": func(t *rapid.T) {
				m.put(m.drawKey(), m.drawItem())
			},
			"put many": func(t *rapid.T) {
				for n := range rapid.IntRange(1, 900).Draw(t, "many") {
					m.ids++
					m.put("many"+strconv.Itoa(n), item{m.ids, 1, int64(n % 100)})
				}
			},
			"put under a condition": func(t *rapid.T) {
				key, i := m.drawKey(), m.drawItem()
				agree := rapid.Bool().Draw(t, "agree")
				m.write(key, i, func() table.Outcome {
					outcome := m.real.PutIf(key, i, i.weight, func(current *item) bool {
						m.same(key, current)
						return agree
					})
					if outcome != table.TooHeavy {
						require.Equal(t, agree, outcome != table.Refused)
					}
					return outcome
				})
			},
			"get what is not there": func(t *rapid.T) {
				require.Nil(t, m.real.Get("never put"))
				require.Nil(t, m.real.Peek("never put"))
			},
			"delete": func(t *rapid.T) {
				key := m.drawKey()
				_, there := m.want[key]
				require.Equal(t, there, m.real.Delete(key))
				delete(m.want, key)
			},
			"delete many": func(t *rapid.T) {
				for n := range rapid.IntRange(1, 900).Draw(t, "many") {
					key := "many" + strconv.Itoa(n)
					_, there := m.want[key]
					require.Equal(t, there, m.real.Delete(key))
					delete(m.want, key)
				}
			},
			"delete under a condition": func(t *rapid.T) {
				key, agree := m.drawKey(), rapid.Bool().Draw(t, "agree")
				_, there := m.want[key]
				require.Equal(t, there && agree, m.real.DeleteIf(key, func(current *item) bool {
					require.NotNil(t, current)
					m.same(key, current)
					return agree
				}))
				if agree {
					delete(m.want, key)
				}
			},
			"delete what a function picks": func(t *rapid.T) {
				most := rapid.IntRange(1, 20).Draw(t, "one in")
				removed := 0
				for key, i := range m.want {
					if i.id%most == 0 {
						delete(m.want, key)
						removed++
					}
				}
				require.Equal(t, removed, m.real.DeleteFunc(func(_ string, i *item) bool { return i.id%most == 0 }))
			},
			"sweep": func(t *rapid.T) {
				now := rapid.Int64Range(-1, 101).Draw(t, "now")
				expired := 0
				for key, i := range m.want {
					if i.deadline <= now {
						delete(m.want, key)
						expired++
					}
				}
				require.Equal(t, expired, m.real.Sweep(now, nil))
				require.Greater(t, m.real.Due(), now)
			},
			"sweep in vain": func(t *rapid.T) {
				require.Zero(t, m.real.Sweep(math.MaxInt64-1, func() bool { return true }))
			},
			"range": func(t *rapid.T) {
				seen := make(map[string]item)
				m.real.Range(func(key string, v *item, hits uint32) bool {
					require.NotContains(t, seen, key)
					require.LessOrEqual(t, hits, uint32(18))
					seen[key] = *v
					return true
				})
				require.Equal(t, m.want, seen)
			},
			"clear": func(t *rapid.T) {
				m.real.Clear()
				clear(m.want)
				require.Equal(t, int64(math.MaxInt64), m.real.Due())
			},
		})
	})
}

// same checks that current is what the model has under key.
func (m *model) same(key string, current *item) {
	want, ok := m.want[key]
	require.Equal(m.t, ok, current != nil)
	if ok {
		require.Equal(m.t, want, *current)
	}
}
