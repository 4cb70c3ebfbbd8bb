package cacheaside_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
)

// fleet opens n caches of one name, each with a connection of its own, as the processes of a fleet do.
func fleet(t *testing.T, n int, change func(*cacheaside.Config)) []*cacheaside.Client[string] {
	_, all := fleetOn(t, n, change)
	return all
}

func fleetOn(t *testing.T, n int, change func(*cacheaside.Config)) (*redistest.Server, []*cacheaside.Client[string]) {
	redistest.Require(t)
	server := redistest.Start(t)
	cfg, err := cacheaside.ParseConfig(server.URL(cacheaside.BackendRueidisAside))
	require.NoError(t, err)
	cfg.Name = "fleet"
	if change != nil {
		change(&cfg)
	}
	all := make([]*cacheaside.Client[string], n)
	for i := range all {
		all[i], err = cacheaside.Open[string](t.Context(), cfg, cacheaside.WithCodec(cacheaside.StringCodec()))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, all[i].Close()) })
	}
	return server, all
}

// patience is how long something is waited for that must happen.
const patience = 10 * time.Second

// slowly is a source that takes a while, and counts its calls and how many there were at a time.
type slowly struct {
	takes      time.Duration
	answer     func(ctx context.Context) (string, error)
	calls      atomic.Int64
	under, top atomic.Int64
}

func (s *slowly) fetch(ctx context.Context, _ string) (string, error) {
	s.calls.Add(1)
	n := s.under.Add(1)
	defer s.under.Add(-1)
	for top := s.top.Load(); n > top; top = s.top.Load() {
		if s.top.CompareAndSwap(top, n) {
			break
		}
	}
	select {
	case <-time.After(s.takes):
		return s.answer(ctx)
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// all asks every cache for the key at once.
func all(t *testing.T, caches []*cacheaside.Client[string], fetch cacheaside.FetchFunc[string]) (values []string, errs []error) {
	values, errs = make([]string, len(caches)), make([]error, len(caches))
	var wg sync.WaitGroup
	for i, c := range caches {
		wg.Go(func() { values[i], errs[i] = c.GetWithFetch(t.Context(), "key", time.Minute, fetch) })
	}
	wg.Wait()
	return values, errs
}

func TestAProcessWhoseFetchHangsDoesNotTakeAKeyFromTheFleet(t *testing.T) {
	caches := fleet(t, 4, func(cfg *cacheaside.Config) {
		cfg.FetchTimeout, cfg.LeaseTTL = 3*time.Second, 200*time.Millisecond
	})
	hangs := make(chan struct{})
	sick := make(chan error, 1)
	go func() {
		_, err := caches[0].GetWithFetch(t.Context(), "key", time.Minute, func(ctx context.Context, _ string) (string, error) {
			close(hangs)
			<-ctx.Done()
			return "", ctx.Err()
		})
		sick <- err
	}()
	<-hangs
	source := &slowly{takes: 50 * time.Millisecond, answer: func(context.Context) (string, error) { return "good", nil }}
	values, errs := all(t, caches[1:], source.fetch)
	for i := range values {
		require.NoError(t, errs[i])
		require.Equal(t, "good", values[i])
	}
	require.Empty(t, sick, "it hangs still")
	v, err := caches[1].Get(t.Context(), "key")
	require.NoError(t, err, "what was fetched without the lease is kept")
	require.Equal(t, "good", v)
	require.ErrorIs(t, <-sick, cacheaside.ErrFetchTimeout)
	v, err = caches[0].Get(t.Context(), "key")
	require.NoError(t, err)
	require.Equal(t, "good", v)
}

func TestALeaseThatEndsWithoutAValueKeepsNoConvoyWaiting(t *testing.T) {
	errDown := errors.New("the source is down")
	for name, c := range map[string]struct {
		answer func(context.Context) (string, error)
		given  error // to those who wait for another process' fetch; nil: they fetch side by side
	}{
		"not found": {func(context.Context) (string, error) { return "", cacheaside.ErrNotFound }, cacheaside.ErrNotFound},
		"an error":  {func(context.Context) (string, error) { return "", errDown }, cacheaside.ErrFetchFailed},
		"a panic":   {func(context.Context) (string, error) { panic("broken") }, cacheaside.ErrFetchFailed},
		"not to be stored": {func(ctx context.Context) (string, error) {
			cacheaside.SkipStore(ctx)
			return "v", nil
		}, nil},
		"a TTL of zero": {func(ctx context.Context) (string, error) {
			cacheaside.OverrideTTL(ctx, 0)
			return "v", nil
		}, nil},
		"too large": {func(context.Context) (string, error) { return strings.Repeat("v", 2000), nil }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			caches := fleet(t, 8, func(cfg *cacheaside.Config) { cfg.MaxValueBytes = 1000 })
			source := &slowly{takes: 400 * time.Millisecond, answer: c.answer}
			_, errs := all(t, caches, source.fetch)
			if c.given == nil {
				require.EqualValues(t, 8, source.calls.Load())
				require.GreaterOrEqual(t, source.top.Load(), int64(6), "they fetch at the same time")
				for _, err := range errs {
					require.NoError(t, err)
				}
				return
			}
			require.LessOrEqual(t, source.calls.Load(), int64(2), "one asks for all who wait")
			given := 0
			for _, err := range errs {
				require.Error(t, err)
				if errors.Is(err, c.given) {
					given++
				}
			}
			require.GreaterOrEqual(t, given, 6)
		})
	}
}

// An outcome is for those who have waited for it. A lookup that comes later asks the source.
func TestAnOutcomeIsForThoseWhoHaveWaited(t *testing.T) {
	server, caches := fleetOn(t, 2, nil)
	for i, answer := range []func(context.Context) (string, error){
		func(context.Context) (string, error) { return "", cacheaside.ErrNotFound },
		func(context.Context) (string, error) { return "", errors.New("the source is down") },
		func(ctx context.Context) (string, error) { cacheaside.SkipStore(ctx); return "v", nil },
	} {
		key := fmt.Sprint("key", i)
		_, _ = caches[0].GetWithFetch(t.Context(), key, time.Minute, (&slowly{answer: answer}).fetch)
		require.Eventually(t, func() bool { // its lease is given up in the background
			stands, _ := server.Must("GET", "cache:fleet:"+key).(string)
			return strings.HasPrefix(stands, "\xca\x14")
		}, patience, time.Millisecond)
		for _, c := range []*cacheaside.Client[string]{caches[1], caches[0]} {
			_, err := c.Get(t.Context(), key)
			require.ErrorIs(t, err, cacheaside.ErrMiss)
			require.NotErrorIs(t, err, cacheaside.ErrInvalidValue)
		}
		good := &slowly{answer: func(context.Context) (string, error) { return "good", nil }}
		v, err := caches[1].GetWithFetch(t.Context(), key, time.Minute, good.fetch)
		require.NoError(t, err)
		require.Equal(t, "good", v)
		v, err = caches[0].Get(t.Context(), key)
		require.NoError(t, err, "it is stored")
		require.Equal(t, "good", v)
	}
}

func TestAStaleEntrysLeaseHasAnOutcomeToo(t *testing.T) {
	caches := fleet(t, 6, func(cfg *cacheaside.Config) {
		cfg.StaleIfError, cfg.LeaseTTL, cfg.ErrorCooldown = time.Hour, 20*time.Second, -1
	})
	require.NoError(t, caches[0].Set(t.Context(), "key", "stale", time.Millisecond))
	require.Eventually(t, func() bool {
		_, err := caches[0].Get(t.Context(), "key")
		return errors.Is(err, cacheaside.ErrMiss)
	}, patience, time.Millisecond, "it is stale")
	source := &slowly{takes: 300 * time.Millisecond, answer: func(context.Context) (string, error) { return "", errors.New("down") }}
	values, errs := all(t, caches, source.fetch)
	for i := range caches {
		require.NoError(t, errs[i])
		require.Equal(t, "stale", values[i])
	}
	require.LessOrEqual(t, source.calls.Load(), int64(2))

	source = &slowly{takes: 300 * time.Millisecond, answer: func(ctx context.Context) (string, error) { cacheaside.SkipStore(ctx); return "new", nil }}
	values, errs = all(t, caches, source.fetch)
	for i := range caches {
		require.NoError(t, errs[i])
		require.Equal(t, "new", values[i])
	}
	require.GreaterOrEqual(t, source.top.Load(), int64(4), "they fetch at the same time")
}

func TestABatchThatWaitsForAnotherStaysOne(t *testing.T) {
	const n = 300
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprint("key", i)
	}
	for name, end := range map[string]func(c *cacheaside.Client[string]) (map[string]string, error){
		"fails":      func(*cacheaside.Client[string]) (map[string]string, error) { return nil, errors.New("down") },
		"finds none": func(*cacheaside.Client[string]) (map[string]string, error) { return nil, nil },
		"closes": func(c *cacheaside.Client[string]) (map[string]string, error) {
			_ = c.Close()
			return nil, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			caches := fleet(t, 2, nil)
			fetching, release := make(chan struct{}), make(chan struct{})
			var first sync.WaitGroup
			first.Go(func() {
				_, _ = caches[0].GetManyWithFetch(t.Context(), keys, time.Minute, func(context.Context, []string) (map[string]string, error) {
					close(fetching)
					<-release
					return end(caches[0])
				})
			})
			<-fetching
			var queries, asked atomic.Int64
			var second sync.WaitGroup
			second.Go(func() {
				_, _ = caches[1].GetManyWithFetch(t.Context(), keys, time.Minute, func(_ context.Context, keys []string) (map[string]string, error) {
					queries.Add(1)
					asked.Add(int64(len(keys)))
					found := make(map[string]string, len(keys))
					for _, k := range keys {
						found[k] = "v"
					}
					return found, nil
				})
			})
			require.Eventually(t, func() bool { return caches[1].Stats().Flights == n }, patience, time.Millisecond)
			close(release)
			first.Wait()
			second.Wait()
			require.LessOrEqual(t, queries.Load(), int64(2))
			require.LessOrEqual(t, asked.Load(), int64(n))
		})
	}
}

// slowCodec tells that it has begun to encode, and ends when it is told to.
type slowCodec struct {
	cacheaside.Codec[string]
	begun, ends chan struct{}
}

func (s slowCodec) Append(b []byte, v string) ([]byte, error) {
	s.begun <- struct{}{}
	<-s.ends
	return s.Codec.Append(b, v)
}

// Close waits for a value that is being stored: its lease would be left behind.
func TestCloseLeavesNoLeaseOfWhatIsBeingStored(t *testing.T) {
	redistest.Require(t)
	server := redistest.Start(t)
	cfg, err := cacheaside.ParseConfig(server.URL(cacheaside.BackendRueidisAside))
	require.NoError(t, err)
	cfg.Name = "closing"
	for range 3 {
		codec := slowCodec{cacheaside.StringCodec(), make(chan struct{}, 1), make(chan struct{})}
		c, err := cacheaside.Open[string](t.Context(), cfg, cacheaside.WithCodec[string](codec))
		require.NoError(t, err)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = c.GetWithFetch(context.Background(), "key", time.Minute, func(context.Context, string) (string, error) { return "v", nil })
		}()
		<-codec.begun
		closed := make(chan error, 1)
		go func() { closed <- c.Close() }()
		<-done // Close has ended the flight, and its caller has returned
		close(codec.ends)
		require.NoError(t, <-closed)
		stored, _ := server.Must("GET", "cache:closing:key").(string)
		require.False(t, strings.HasPrefix(stored, "\xca\x13"), "no lease is left: %q", stored)
		server.Must("FLUSHALL")
	}
}
