package table_test

import (
	"math"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/table"
)

func fill(m *table.Map[item], from, to int) {
	for i := from; i < to; i++ {
		m.Put(strconv.Itoa(i), item{id: i, deadline: int64(i)}, 1)
	}
}

func TestALookUpAllocatesNothing(t *testing.T) {
	m := table.New(table.Options[item]{Capacity: 1000, Deadline: deadlineOf})
	fill(m, 0, 500)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		for _, key := range []string{"0", "77", "499", "absent"} {
			m.Get(key)
			m.Peek(key)
		}
	}))
}

func TestNothingIsDroppedUntilTheMapIsFull(t *testing.T) {
	const capacity = 40_000
	m := table.New(table.Options[item]{Capacity: capacity, Deadline: deadlineOf})
	fill(m, 0, capacity)
	require.Equal(t, capacity, m.Len())
	require.Zero(t, m.Evictions())

	fill(m, capacity, 2*capacity)
	require.Equal(t, capacity, m.Len(), "and full it stays")
	require.EqualValues(t, capacity, m.Evictions())
}

func TestAnEntryHeavierThanTheCapacityIsRefusedAndChangesNothing(t *testing.T) {
	m := table.NewSharded(table.Options[item]{Capacity: 80}, 8)
	require.True(t, m.Put("key", item{id: 1}, 80))
	require.False(t, m.Put("key", item{id: 2}, 81))
	require.Equal(t, table.TooHeavy, m.PutIf("key", item{id: 2}, 81, func(*item) bool { panic("not asked") }))
	require.Equal(t, 1, m.Get("key").id)
}

func TestTheHeaviestEntryDoesNotDependOnTheShards(t *testing.T) {
	const capacity = 1 << 16
	for _, shards := range []int64{1, 4, 256} {
		m := table.NewSharded(table.Options[item]{Capacity: capacity, Weighted: true}, shards)
		fill(m, 0, capacity)
		require.Equal(t, capacity, m.Len())
		require.True(t, m.Put("quarter", item{id: -1}, capacity/4))
		require.NotNil(t, m.Get("quarter"))
		require.LessOrEqual(t, m.Weight(), int64(capacity))
		require.Greater(t, m.Len(), capacity/2, "only as much is dropped as it needs, by all shards alike")
		require.True(t, m.Put("whole", item{id: -2}, capacity))
		require.NotNil(t, m.Get("whole"))
		require.Equal(t, 1, m.Len())
	}
}

// TestHeavyOneOffsDoNotCostTheHotEntries plays lookups of small hot entries, with a large value now and then
// that no caller asks for again. Were each let in, it would drop a quarter of the hot ones.
func TestHeavyOneOffsDoNotCostTheHotEntries(t *testing.T) {
	const capacity, hot, lookups = 1 << 20, 1000, 200_000
	m := table.New(table.Options[item]{Capacity: capacity, Weighted: true})
	yes := func(*item) bool { return true }
	hits, asked := 0, 0
	for i := range lookups {
		if i%2000 == 1999 {
			m.PutIf("once"+strconv.Itoa(i), item{}, capacity/4, yes)
		}
		key := strconv.Itoa(i * 7919 % hot)
		asked++
		if m.Get(key) != nil {
			hits++
			continue
		}
		m.PutIf(key, item{}, 1000, yes)
	}
	require.Greater(t, float64(hits)/float64(asked), 0.98)
}

func TestAHeavyEntryThatIsAskedForIsLetIn(t *testing.T) {
	const capacity = 1 << 20
	m := table.New(table.Options[item]{Capacity: capacity, Weighted: true})
	yes := func(*item) bool { return true }
	for i := range 2000 {
		m.PutIf(strconv.Itoa(i), item{}, 1000, yes)
	}
	for i := 0; m.Get("heavy") == nil; i++ {
		require.Less(t, i, 16, "it is declined again and again")
		m.PutIf("heavy", item{}, capacity/4, yes)
	}
}

func TestAPanicInAConditionLeavesTheMapUsable(t *testing.T) {
	m := table.New(table.Options[item]{})
	fill(m, 0, 1)
	require.Panics(t, func() { m.PutIf("0", item{}, 1, func(*item) bool { panic("on purpose") }) })
	require.Panics(t, func() { m.DeleteIf("0", func(*item) bool { panic("on purpose") }) })
	require.Panics(t, func() { m.DeleteFunc(func(string, *item) bool { panic("on purpose") }) })
	require.Equal(t, 0, m.Get("0").id)
	require.Equal(t, 1, m.Len())
}

func TestASweepThatIsStoppedGoesOnTheNextTime(t *testing.T) {
	m := table.NewSharded(table.Options[item]{Deadline: deadlineOf}, 1)
	fill(m, 0, 10_000)
	steps := 0
	first := m.Sweep(math.MaxInt64-1, func() bool { steps++; return steps > 3 })
	require.Positive(t, first)
	require.Less(t, first, 10_000)
	require.Zero(t, m.Due(), "what is left may be due as early as ever")
	require.Equal(t, 10_000-first, m.Sweep(math.MaxInt64-1, nil))
}

func TestWhatIsAskedForOftenSurvivesAScan(t *testing.T) {
	m := table.New(table.Options[item]{Capacity: 1000})
	fill(m, 0, 1000)
	for range 3 {
		for i := range 500 {
			m.Get(strconv.Itoa(i))
		}
	}
	fill(m, 1000, 20_000)
	kept := 0
	for i := range 500 {
		if m.Peek(strconv.Itoa(i)) != nil {
			kept++
		}
	}
	require.Greater(t, kept, 450)
}
