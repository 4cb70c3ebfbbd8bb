package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestVersions has a source that knows the version of each key, writers who raise it and then delete or set
// the key, and readers, none of whom may get a version that is older than what the last write which had
// returned before they asked was about.
//
// It does not see what has become of one particular value, or of a fetch too many; for that, see
// TestLinearizability.
func TestVersions(t *testing.T) {
	for _, r := range rigs {
		t.Run(r.name, func(t *testing.T) {
			histories(t, r, func(e *env, plan *rand.Rand) error {
				w := newWorld()
				c := open[int64](e, noLeaseIsLost)
				w.run(e, plan, member{reads: []*Client[int64]{c, c, c}, writes: c})
				require.NoError(e, c.Close())
				return w.failure()
			})
		})
	}
}

// TestVersionsOfTwoProcesses is the same with the caches of two backends, as two processes would have them.
// A process reads its own writes at once, and nothing from before any process' write is stored after it: a
// third one, which has no near cache, looks at that. That a near cache learns of another's writes takes a
// moment, for which TestCoherence has a bound; here it is enough that it does.
func TestVersionsOfTwoProcesses(t *testing.T) {
	r := redisRig(BackendRueidisAside)
	histories(t, r, func(e *env, plan *rand.Rand) error {
		w := newWorld()
		var caches []*Client[int64]
		for range 2 {
			caches = append(caches, open[int64](e, noLeaseIsLost))
		}
		plain := open[int64](e, func(cfg *Config) { cfg.Backend = BackendRueidis })
		w.run(e, plan,
			member{reads: []*Client[int64]{caches[0], caches[0]}, writes: caches[0], looks: plain},
			member{reads: []*Client[int64]{caches[1], caches[1]}, writes: caches[1], looks: plain})
		for _, c := range caches {
			e.settle(func() bool { return w.isUpToDate(e, c) }, "every process learns of the last write")
		}
		for _, c := range append(caches, plain) {
			require.NoError(e, c.Close())
		}
		return w.failure()
	})
}

// noLeaseIsLost changes a configuration so that a busy machine looks like no dead process.
func noLeaseIsLost(cfg *Config) { cfg.LeaseTTL = time.Minute }

// world is a source with versions, and what is known of those who use it.
type world struct {
	keys [versionKeys]versionedKey

	mu  sync.Mutex
	err error // the first thing that must not be
}

const versionKeys = 2

type versionedKey struct {
	version atomic.Int64 // in the source

	// writing holds an element while somebody raises the version, so that versions are set in their order. It
	// is no mutex, since time does not pass in a bubble for as long as somebody waits for one.
	writing chan struct{}

	// floors are by member, and the last one is for who sees Redis itself: the least version that a look-up
	// may return which begins now.
	floors []atomic.Int64
}

// member is a process, or the part of this one that shares a cache.
type member struct {
	reads  []*Client[int64] // one for each reader
	writes *Client[int64]
	looks  *Client[int64] // a cache that sees what is stored, at once; nil: none
}

func newWorld() *world {
	w := new(world)
	for i := range w.keys {
		w.keys[i].writing = make(chan struct{}, 1)
	}
	return w
}

func versionKey(i int) string { return fmt.Sprintf("key %d", i) }

// run has everybody do what the plan says.
func (w *world) run(e *env, plan *rand.Rand, members ...member) {
	for i := range w.keys {
		w.keys[i].floors = make([]atomic.Int64, len(members)+1)
	}
	last := len(members)
	var playing sync.WaitGroup
	play := func(steps int, turn func(own *rand.Rand)) {
		own := rand.New(rand.NewPCG(plan.Uint64(), 0))
		playing.Go(func() {
			for range steps {
				pauseFor(own)
				turn(own)
			}
		})
	}
	for me, m := range members {
		for _, c := range m.reads {
			play(12, func(own *rand.Rand) { w.read(e, c, me, own) })
		}
		for range 2 {
			play(6, func(own *rand.Rand) { w.write(e, m.writes, me, own) })
		}
		if m.looks != nil {
			play(12, func(own *rand.Rand) { w.get(e, m.looks, last, own) })
		}
	}
	playing.Wait()
	e.pass(2 * time.Millisecond) // more than any fetch takes, where time is exact
	for me, m := range members {
		for i := range w.keys {
			w.expect(e, m.writes, me, i)
		}
	}
}

// pauseFor lets some time pass, or none.
func pauseFor(plan *rand.Rand) {
	if d := time.Duration(plan.IntN(4)) * 100 * time.Microsecond; d > 0 {
		<-time.After(d)
	}
}

// source returns a fetch that takes the version when it begins, as a database's snapshot would, and some
// time after that.
func (w *world) source(plan *rand.Rand) FetchFunc[int64] {
	pause := time.Duration(plan.IntN(4)) * 100 * time.Microsecond
	return func(_ context.Context, key string) (int64, error) {
		v := w.keys[int(key[len(key)-1]-'0')].version.Load()
		if pause > 0 {
			<-time.After(pause)
		}
		return v, nil
	}
}

// read looks a key up in one of the ways there are.
func (w *world) read(e *env, c *Client[int64], me int, plan *rand.Rand) {
	i := plan.IntN(versionKeys)
	switch plan.IntN(4) {
	case 0:
		w.get(e, c, me, plan)
	case 1:
		w.getMany(e, c, me, plan)
	default:
		least := w.keys[i].floors[me].Load()
		v, err := c.GetWithFetch(e.Context(), versionKey(i), historyTTL, w.source(plan))
		w.judge("GetWithFetch", least, v, err)
	}
}

func (w *world) get(e *env, c *Client[int64], me int, plan *rand.Rand) {
	i := plan.IntN(versionKeys)
	least := w.keys[i].floors[me].Load()
	v, err := c.Get(e.Context(), versionKey(i))
	if errors.Is(err, ErrMiss) {
		return
	}
	w.judge("Get", least, v, err)
}

func (w *world) getMany(e *env, c *Client[int64], me int, plan *rand.Rand) {
	var least [versionKeys]int64
	var keys []string
	for i := range w.keys {
		least[i] = w.keys[i].floors[me].Load()
		keys = append(keys, versionKey(i))
	}
	one := w.source(plan)
	all, err := c.GetManyWithFetch(e.Context(), keys, historyTTL, func(ctx context.Context, keys []string) (map[string]int64, error) {
		got := make(map[string]int64)
		for _, k := range keys {
			got[k], _ = one(ctx, k) // it does not fail
		}
		return got, nil
	})
	for i, k := range keys {
		w.judge("GetManyWithFetch", least[i], all[k], err)
	}
}

// judge notes an answer that must not be.
func (w *world) judge(what string, least, got int64, err error) {
	if err == nil && got >= least {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = fmt.Errorf("%s returned version %d and the error %v, after a write of version %d had returned", what, got, err, least)
	}
}

func (w *world) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// write raises the version of a key and then tells the cache, in one of the ways there are.
func (w *world) write(e *env, c *Client[int64], me int, plan *rand.Rand) {
	i := plan.IntN(versionKeys)
	if plan.IntN(8) == 0 {
		w.clear(e, c, me)
		return
	}
	k := &w.keys[i]
	k.writing <- struct{}{}
	defer func() { <-k.writing }()
	if plan.IntN(3) == 0 {
		require.NoError(e, c.Mutate(e.Context(), []string{versionKey(i)}, func(context.Context) error {
			pauseFor(plan)
			k.version.Add(1)
			pauseFor(plan)
			return nil
		}))
		k.raise(me, k.version.Load())
		return
	}
	v := k.version.Add(1)
	if plan.IntN(2) == 0 {
		require.NoError(e, c.Set(e.Context(), versionKey(i), v, historyTTL))
	} else {
		require.NoError(e, c.Delete(e.Context(), versionKey(i)))
	}
	k.raise(me, v)
}

func (w *world) clear(e *env, c *Client[int64], me int) {
	for i := range w.keys { // in this order, and never two the other way round
		w.keys[i].writing <- struct{}{}
		defer func() { <-w.keys[i].writing }()
	}
	require.NoError(e, c.Clear(e.Context()))
	for i := range w.keys {
		w.keys[i].raise(me, w.keys[i].version.Load())
	}
}

// raise notes that a write of this version has returned. writing must be held.
func (k *versionedKey) raise(me int, version int64) {
	k.floors[me].Store(version)
	k.floors[len(k.floors)-1].Store(version)
}

// expect looks a key up once everything has come to rest.
func (w *world) expect(e *env, c *Client[int64], me, i int) {
	least := w.keys[i].floors[me].Load()
	v, err := c.GetWithFetch(e.Context(), versionKey(i), historyTTL, w.source(rand.New(rand.NewPCG(0, 0))))
	w.judge("the last GetWithFetch", least, v, err)
}

// isUpToDate reports whether c returns the last version of every key.
func (w *world) isUpToDate(e *env, c *Client[int64]) bool {
	versions := slices.Collect(func(yield func(bool) bool) {
		for i := range w.keys {
			v, err := c.GetWithFetch(e.Context(), versionKey(i), historyTTL, w.source(rand.New(rand.NewPCG(0, 0))))
			yield(err == nil && v == w.keys[i].version.Load())
		}
	})
	return !slices.Contains(versions, false)
}
