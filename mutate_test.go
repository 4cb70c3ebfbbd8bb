package cacheaside

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// kinds collects the kinds of the events that it observes.
type kinds struct {
	mu   sync.Mutex
	seen map[EventKind]int
}

func (k *kinds) Observe(e Event) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.seen == nil {
		k.seen = make(map[EventKind]int)
	}
	k.seen[e.Kind]++
}

func (k *kinds) count(kind EventKind) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.seen[kind]
}

func TestMutateRepeatsARemovalThatFailed(t *testing.T) {
	redistest.Require(t)
	for _, backend := range []string{BackendRueidis, BackendRueidisAside} {
		t.Run(backend, func(t *testing.T) {
			server := redistest.Start(t)
			cfg, err := ParseConfig(server.URL(backend))
			require.NoError(t, err)
			var events kinds
			c, err := Open[string](t.Context(), cfg, WithObserver(&events))
			require.NoError(t, err)
			defer c.Close()
			require.NoError(t, c.Set(t.Context(), key, "old", time.Minute))

			server.ReadOnly(true)
			wrote := false
			err = c.Mutate(t.Context(), []string{key}, func(context.Context) error {
				wrote = true
				return nil
			})
			require.True(t, wrote)
			require.ErrorIs(t, err, ErrUnavailable)
			require.Equal(t, 1, events.count(EventInvalidationFailed))
			server.ReadOnly(false)
			require.Eventually(t, func() bool {
				_, err := c.Get(t.Context(), key)
				return errors.Is(err, ErrMiss)
			}, 10*time.Second, 10*time.Millisecond)
			require.Zero(t, events.count(EventInvalidationLost))
		})
	}
}

func TestRepeatsAreGivenUpInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries, lost atomic.Int64
		r := newRepeats(
			func(context.Context, string) error { tries.Add(1); return errSource },
			func(error) { lost.Add(1) },
		)
		defer r.stop()
		r.add([]string{"a"})
		<-time.After(repeatFor - repeatEvery)
		synctest.Wait()
		require.Greater(t, tries.Load(), int64(100))
		require.Zero(t, lost.Load())
		<-time.After(4 * repeatEvery)
		synctest.Wait()
		require.EqualValues(t, 1, lost.Load())
		require.Empty(t, r.pending)
		many := make([]string, maxRepeats+7)
		for i := range many {
			many[i] = string(rune(i + 1))
		}
		r.add(many)
		r.add([]string{"kept already is no matter", many[0]})
		require.EqualValues(t, 9, lost.Load(), "their number is bounded")
	})
}

func TestRepeatsEndWithTheCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		removing := make(chan struct{}, 1)
		r := newRepeats(func(ctx context.Context, _ string) error {
			removing <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}, func(error) {})
		r.add([]string{"a"})
		<-removing
		r.stop()
	})
}
