package cacheaside

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// laggingSource is a source whose replica is a second behind.
type laggingSource struct {
	mu     sync.Mutex
	writes map[string][]time.Time // of each key: when each of its versions was written

	primary, replica atomic.Int64 // fetches
}

const replicaLag = time.Second

func (s *laggingSource) write(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes[key] = append(s.writes[key], time.Now())
}

// version is how often key had been written at a time.
func (s *laggingSource) version(key string, at time.Time) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n < len(s.writes[key]) && !s.writes[key][n].After(at) {
		n++
	}
	return n
}

func (s *laggingSource) written(key string, version int) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes[key][version-1]
}

// lagged is what readers of a source that lags have seen.
type lagged struct {
	lookups, stale, primary, replica int64
	longest                          time.Duration // after the last write of its key that an older value was returned
}

// readLagging has 50 readers look up 100 keys, ten of which are written in a second, for two minutes. A fetch that heeds asks the
// primary while its key settles.
func readLagging(t *testing.T, settle time.Duration, heeds bool) (seen lagged) {
	synctest.Test(t, func(t *testing.T) {
		c, err := Open[int](t.Context(), Config{Settle: settle})
		require.NoError(t, err)
		defer func() { require.NoError(t, c.Close()) }()
		s := &laggingSource{writes: make(map[string][]time.Time)}
		fetch := func(ctx context.Context, key string) (int, error) {
			if _, ok := Settling(ctx); ok && heeds {
				s.primary.Add(1)
				return s.version(key, time.Now()), nil
			}
			s.replica.Add(1)
			return s.version(key, time.Now().Add(-replicaLag)), nil
		}
		end := time.Now().Add(2 * time.Minute)
		anyKey := func() string { return strconv.Itoa(rand.IntN(100)) }
		var mu sync.Mutex
		var all sync.WaitGroup
		all.Go(func() {
			for time.Now().Before(end) {
				<-time.After(100 * time.Millisecond)
				k := anyKey()
				if err := c.Mutate(t.Context(), []string{k}, func(context.Context) error { s.write(k); return nil }); err != nil {
					t.Error(err)
				}
			}
		})
		for range 50 {
			all.Go(func() {
				for time.Now().Before(end) {
					<-time.After(time.Duration(rand.IntN(500)) * time.Millisecond)
					k := anyKey()
					newest := s.version(k, time.Now())
					got, err := c.GetWithFetch(t.Context(), k, time.Minute, fetch)
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					seen.lookups++
					if got < newest {
						seen.stale++
						seen.longest = max(seen.longest, time.Since(s.written(k, newest)))
					}
					mu.Unlock()
				}
			})
		}
		all.Wait()
		seen.primary, seen.replica = s.primary.Load(), s.replica.Load()
	})
	return seen
}

func TestAReplicaThatLags(t *testing.T) {
	const settle = 2 * time.Second
	without, heeding, deaf := readLagging(t, 0, false), readLagging(t, settle, true), readLagging(t, settle, false)
	for name, seen := range map[string]lagged{"without Settle": without, "with it": heeding, "with fetches that do not ask": deaf} {
		t.Logf("%s: of %d lookups %.2f%% stale, up to %v after the write; %d fetches from the primary, %d from the replica",
			name, seen.lookups, 100*float64(seen.stale)/float64(seen.lookups), seen.longest.Round(time.Millisecond), seen.primary, seen.replica)
	}
	require.Greater(t, without.longest, 10*settle, "otherwise the test shows nothing")
	require.Zero(t, heeding.stale)
	require.Positive(t, heeding.primary)
	require.Positive(t, deaf.stale)
	require.LessOrEqual(t, deaf.longest, settle)
}
