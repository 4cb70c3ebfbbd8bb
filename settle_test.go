package cacheaside

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// A process of a version that knows no markers reads the mark of a lease that has ended in a way that says nothing about the
// source, and what was fetched while a marker stood as a value: these bytes must not change.
func TestAnOlderProcessTakesAMarkerForAbsent(t *testing.T) {
	m := newMarker(1_700_000_000_123, 2*time.Second)
	require.Len(t, m, 19)
	require.Equal(t, "\xCA\x14S", m[:3])
	require.True(t, isMark(m))
	require.NotContains(t, []outcome{notFound, failed, notStored}, outcomeOf(m))
	require.NotEqual(t, m, newMarker(1_700_000_000_123, 2*time.Second), "two removals at one time are two")
	require.False(t, isMarker(newMark(failed)))

	f := formOf(t, Config{}, StringCodec())
	now := f.clock.now()
	e := entry[string]{value: "v", deadline: now + int64(time.Second), meta: stored(now) | shortMeta}
	b, err := f.encode("k", &e, nil, 0, &settling{now, now + int64(time.Second)})
	require.NoError(t, err)
	require.Equal(t, []byte{magic, version | kindValue, f.codec.ID(), settlingFlag}, b[:4])
	b[flagAt] = 0 // what an older process does not look at
	read, err := f.decode("k", b)
	require.NoError(t, err)
	require.Equal(t, "v", read.value)
	require.LessOrEqual(t, read.freshUntil(0), e.deadline+int64(5*time.Millisecond))
}

func TestWhatIsStoredTellsOfItsMarker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := formOf(t, Config{StaleFor: time.Hour, RefreshAhead: 0.5}, StringCodec())
		defer f.clock.stop()
		<-time.After(time.Hour)
		since := f.clock.now()
		s := &settling{since, since + int64(maxSettle)}
		<-time.After(300 * time.Millisecond)
		marker, err := f.decode("k", []byte(newMarker(time.Now().UnixMilli()-300, maxSettle)))
		require.NoError(t, err)
		require.True(t, marker.isMarker())
		require.Equal(t, s, marker.settling())
		require.LessOrEqual(t, marker.deadline, f.clock.now(), "it is no value")

		tags := &tagging{tags: []string{"a", "b"}, asOf: stamp{1, 2}}
		for _, tags := range []*tagging{nil, tags} {
			for _, of := range []func(now int64) entry[string]{
				func(now int64) entry[string] {
					return entry[string]{value: "v", deadline: now + int64(time.Second), meta: stored(now) | shortMeta}
				},
				func(now int64) entry[string] {
					return entry[string]{value: "v", deadline: s.until, meta: stored(now) | shortMeta}
				},
				func(now int64) entry[string] { return negativeEntry[string](now, now+int64(time.Second)) },
			} {
				now := f.clock.now()
				e := of(now)
				b, err := f.encode("k", &e, tags, time.Minute, s)
				require.NoError(t, err)
				left, ok := f.millisecondsLeft(&e, s)
				require.True(t, ok)
				require.EqualValues(t, (s.until-now)/1e6, left, "it stays as long as its marker would")
				<-time.After(100 * time.Millisecond)
				read, err := f.decode("k", b)
				require.NoError(t, err)
				require.Equal(t, e.value, read.value)
				require.Equal(t, e.negative(), read.negative())
				require.False(t, read.isMarker())
				require.Equal(t, e.deadline, read.deadline)
				require.Equal(t, e.deadline, read.freshUntil(f.window), "it is of no use past its time")
				require.Zero(t, read.early())
				require.Equal(t, s, read.settling())
				require.Equal(t, 100*time.Millisecond, read.age(f.clock.now()))
				if tags == nil {
					require.Nil(t, read.tagging())
				} else {
					require.Equal(t, tags.tags, read.tagging().tags)
				}
			}
		}
	})
}

// Where another process' clock differs, a marker that stands is neither in the future nor over.
func TestAMarkerByAnotherClock(t *testing.T) {
	f := formOf(t, Config{}, StringCodec())
	for _, off := range []time.Duration{-time.Hour, -time.Second, 0, time.Second, time.Hour} {
		e, err := f.decode("k", []byte(newMarker(time.Now().Add(off).UnixMilli(), 500*time.Millisecond)))
		require.NoError(t, err)
		now, s := f.clock.now(), e.settling()
		require.LessOrEqual(t, s.since, now, off)
		require.LessOrEqual(t, s.until-now, int64(501*time.Millisecond), off)
		require.EqualValues(t, 500*time.Millisecond, s.until-s.since)
	}
	odd := []byte(newMarker(math.MaxInt64, maxSettle))
	for i := markerAt; i < markBytes; i++ {
		odd[i] = '7'
	}
	e, err := f.decode("k", odd)
	require.NoError(t, err)
	require.LessOrEqual(t, e.settling().until-f.clock.now(), int64(2*maxSettle))
}

// No time before a refresh is packed as one of the two marks.
func TestMarksOfEntriesAreNoTimes(t *testing.T) {
	for early := time.Duration(1); early > 0; early *= 3 {
		for _, d := range []time.Duration{early, early - 1, early * 2, math.MaxInt64 - early} {
			e := newEntry("v", 0, never, 0, d)
			require.False(t, e.isShort(), d)
			require.Nil(t, e.settling())
		}
	}
}

func TestMarkersGoByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const lasts = 2 * time.Second
		c := newClock()
		defer c.stop()
		m := newMarkers(lasts, c)
		defer m.close()
		for i := range 100 {
			m.lay("a", "b")
			since := c.now()
			require.Equal(t, &settling{since, since + int64(lasts)}, m.of("a"))
			<-time.After(time.Duration(i) * 37 * time.Millisecond % lasts)
			require.Equal(t, since, m.of("b").since, i)
			m.turn() // a tick that comes as it likes
			m.turn()
			require.NotNil(t, m.of("b"))
		}
		<-time.After(lasts)
		require.Nil(t, m.of("a"))
		<-time.After(3 * lasts)
		synctest.Wait()
		m.mu.Lock()
		defer m.mu.Unlock()
		require.Empty(t, m.young)
		require.Empty(t, m.old)
		require.False(t, m.any.Load())
	})
}

// A full Redis refuses what needs memory. Then a removal is what it is without markers.
func TestARemovalNeedsNoMemory(t *testing.T) {
	s := redistest.Start(t)
	for _, backend := range []string{BackendRueidis, BackendRueidisAside} {
		cfg := asideConfig(t, s, backend)
		cfg.Settle = 30 * time.Second
		c := openAside[string](t, cfg)
		keys := []string{"a", "b", "c"}
		for _, k := range keys {
			require.NoError(t, c.Set(t.Context(), k, "v", time.Hour))
		}
		s.Must("CONFIG", "SET", "maxmemory", "1")
		require.Error(t, c.Set(t.Context(), "d", "v", time.Hour))
		require.NoError(t, c.Delete(t.Context(), "a"))
		require.NoError(t, c.Mutate(t.Context(), keys[1:], func(context.Context) error { return nil }))
		s.Must("CONFIG", "SET", "maxmemory", "0")
		for _, k := range keys {
			_, err := c.Get(t.Context(), k)
			require.ErrorIs(t, err, ErrMiss)
			require.Zero(t, s.Must("EXISTS", cfg.Prefix+":"+c.cfg.Name+":"+k))
		}
	}
}
