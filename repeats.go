package cacheaside

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// repeats are removals that have failed and are tried again in the background.
//
// Until one succeeds, its key counts as absent in this process: look-ups do not ask Redis, nothing that they fetch is
// kept, and no near copy is. If more wait than may be remembered, the same holds for all keys, until the whole cache
// has been cleared.
type repeats struct {
	of    removing
	most  int // keys that may wait
	bytes int // of such keys

	ctx    context.Context // ended by stop
	cancel context.CancelFunc
	beat   *reaper

	waits    atomic.Bool // any key counts as absent
	changing sync.Mutex  // held while keys begin or end to be held; before mu

	mu      sync.Mutex
	pending map[string]time.Time // by key: when to give up
	size    int                  // bytes of those keys
	all     time.Time            // when to give up to clear the cache; zero if that is not needed
	added   int                  // how many removals the clearing has been asked for in place of

	suspended bool // all keys count as absent, for another reason
}

// removing is a cache, as its repeats see it.
type removing interface {
	// withhold sees to it that nothing that is fetched for key is kept, and drops what this process holds of it.
	// letPass ends that. withholdAll and letAllPass are the same for every key.
	withhold(key string)
	letPass(key string)
	withholdAll()
	letAllPass()

	// removeNow removes keys, and returns those that it could not, and why.
	removeNow(ctx context.Context, keys []string) (failed []string, err error)
	clearNow(ctx context.Context) error

	// lostRemoval is called when a removal is given up.
	lostRemoval(error)
}

const (
	repeatEvery    = 250 * time.Millisecond
	repeatFor      = 10 * time.Minute
	maxRepeats     = 1 << 16
	maxRepeatBytes = 16 << 20
)

func newRepeats(of removing) *repeats {
	r := &repeats{of: of, most: maxRepeats, bytes: maxRepeatBytes, pending: make(map[string]time.Time)}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.beat = newReaper(repeatEvery, r.run)
	return r
}

// isPending reports whether key counts as absent.
func (r *repeats) isPending(key string) bool {
	if !r.waits.Load() {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.pending[key]
	return ok || !r.all.IsZero() || r.suspended
}

// add has the removal of keys tried again. Their fences are up. They count as absent before their near copies are
// dropped, so that none comes back.
func (r *repeats) add(keys []string) {
	r.changing.Lock()
	defer r.changing.Unlock()
	noted, overflow := r.note(keys)
	for _, key := range noted {
		r.of.withhold(key)
	}
	if overflow {
		r.of.withholdAll()
	}
	r.beat.wake()
}

// note makes keys pending, and returns those that were not. It reports whether there was no room for one, for the first
// time: then the cache is to be cleared.
func (r *repeats) note(keys []string) (noted []string, overflow bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waits.Store(true)
	until := time.Now().Add(repeatFor)
	for _, key := range keys {
		_, ok := r.pending[key]
		switch {
		case ok:
			r.pending[key] = until
		case len(r.pending) < r.most && r.size+len(key) <= r.bytes:
			r.pending[key] = until
			r.size += len(key)
			noted = append(noted, key)
		default:
			overflow = overflow || r.all.IsZero()
			r.all = until
			r.added++
		}
	}
	return noted, overflow
}

// settle ends the wait for the removal of key, which this process has written.
func (r *repeats) settle(key string) {
	if !r.waits.Load() {
		return
	}
	r.changing.Lock()
	defer r.changing.Unlock()
	r.mu.Lock()
	until, ok := r.pending[key]
	r.mu.Unlock()
	if ok {
		r.doneLocked(map[string]time.Time{key: until})
	}
}

// run tries the pending removals, and reports whether any is left.
func (r *repeats) run(now time.Time) (more bool) {
	if !r.clear(now) {
		return true
	}
	r.mu.Lock()
	tried := maps.Clone(r.pending)
	r.mu.Unlock()
	failed, err := r.of.removeNow(r.ctx, slices.Collect(maps.Keys(tried)))
	for _, key := range failed {
		if !now.After(tried[key]) {
			delete(tried, key)
			continue
		}
		r.of.lostRemoval(err)
	}
	r.changing.Lock()
	defer r.changing.Unlock()
	r.doneLocked(tried)
	return r.waits.Load()
}

// clear clears the cache if that is needed, and reports whether it is not any more. A removal that has been added since
// the clearing began is not covered by it.
func (r *repeats) clear(now time.Time) (done bool) {
	r.mu.Lock()
	until, added := r.all, r.added
	r.mu.Unlock()
	if until.IsZero() {
		return true
	}
	err := r.of.clearNow(r.ctx)
	if err != nil && !now.After(until) {
		return false
	}
	if err != nil {
		r.of.lostRemoval(err)
	}
	return r.endClear(added, err != nil)
}

// endClear ends the wait for a clearing, in place of so many removals, unless others have been added and it was not
// given up.
func (r *repeats) endClear(added int, givenUp bool) bool {
	r.changing.Lock()
	defer r.changing.Unlock()
	r.mu.Lock()
	done := givenUp || r.added == added
	if done {
		r.all = time.Time{}
	}
	r.mu.Unlock()
	if done {
		r.of.letAllPass()
	}
	return done
}

// doneLocked takes removals off, but for those that have failed again since. It needs changing.
func (r *repeats) doneLocked(done map[string]time.Time) {
	r.mu.Lock()
	for key, until := range done {
		if !r.pending[key].Equal(until) {
			delete(done, key)
			continue
		}
		delete(r.pending, key)
		r.size -= len(key)
	}
	r.weighLocked()
	r.mu.Unlock()
	for key := range done {
		r.of.letPass(key)
	}
}

func (r *repeats) weighLocked() { r.waits.Store(len(r.pending) > 0 || !r.all.IsZero() || r.suspended) }

// suspend makes all keys count as absent, until resume.
func (r *repeats) suspend() {
	r.changing.Lock()
	defer r.changing.Unlock()
	r.mu.Lock()
	r.suspended = true
	r.weighLocked()
	r.mu.Unlock()
	r.of.withholdAll()
}

func (r *repeats) resume() {
	r.changing.Lock()
	defer r.changing.Unlock()
	r.of.letAllPass()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.suspended = false
	r.weighLocked()
}

// addAll has the cache cleared, and all keys count as absent until that is done.
func (r *repeats) addAll() {
	r.changing.Lock()
	defer r.changing.Unlock()
	r.mu.Lock()
	begins := r.all.IsZero()
	r.all = time.Now().Add(repeatFor)
	r.added++
	r.weighLocked()
	r.mu.Unlock()
	if begins {
		r.of.withholdAll()
	}
	r.beat.wake()
}

// stop gives up what is pending, and returns when nothing is tried any more.
func (r *repeats) stop() {
	r.cancel()
	r.beat.stop()
}
