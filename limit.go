package cacheaside

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// ErrOverloaded is what a caller gets whose fetch found no place under [Config.MaxFetches]: none came free within
// [Config.FetchQueue], or none could be expected before the caller's deadline. The source was not asked.
var ErrOverloaded = errors.New("cacheaside: too many fetches are under way")

// limit bounds the fetches of a backend that run at once. A fetch that a caller waits for queues for a place, in the
// order of coming. One in the background takes a place that is free while no caller waits, and there are never more of
// those than half of the places: a caller finds the others.
type limit struct {
	max        int64
	queue      time.Duration
	places     *semaphore.Weighted
	background *semaphore.Weighted // how many places may be taken in the background

	held    atomic.Int64 // places
	waiting atomic.Int64 // fetches that queue
	mean    atomic.Int64 // how long a place is held, in nanoseconds, the latest counting most; zero: not known
	moved   atomic.Int64 // when a place was last taken or given back, in unix nanoseconds
	freed   chan struct{}
}

// limitsMade says that some backend of the process has a limit.
var limitsMade atomic.Bool

// newLimit returns nil for no limit.
func newLimit(most int, queue time.Duration) *limit {
	if most <= 0 {
		return nil
	}
	limitsMade.Store(true)
	return &limit{
		max: int64(most), queue: queue, freed: make(chan struct{}, 1),
		places:     semaphore.NewWeighted(int64(most)),
		background: semaphore.NewWeighted(int64(most+1) / 2),
	}
}

// ticket is the place of one fetch.
type ticket struct {
	of         *limit
	begun      time.Time
	background bool
	over       atomic.Bool
}

// try takes a place if one is free and no fetch queues.
func (l *limit) try(background bool) *ticket {
	if background && !l.background.TryAcquire(1) {
		return nil
	}
	if l.places.TryAcquire(1) {
		return l.taken(background)
	}
	if background {
		l.background.Release(1)
	}
	return nil
}

// wait queues for a place until ctx ends, and returns nil if it has none by then.
func (l *limit) wait(ctx context.Context) *ticket {
	l.waiting.Add(1)
	defer l.waiting.Add(-1)
	if l.places.Acquire(ctx, 1) != nil {
		l.tellFreed() // it may have been granted, and put back
		return nil
	}
	return l.taken(false)
}

func (l *limit) taken(background bool) *ticket {
	l.held.Add(1)
	p := &ticket{of: l, begun: time.Now(), background: background}
	l.moved.Store(p.begun.UnixNano())
	return p
}

// giveBack ends the right, once. A nil place is none.
func (p *ticket) giveBack() {
	if p == nil || p.over.Swap(true) {
		return
	}
	l := p.of
	now := time.Now()
	took := int64(now.Sub(p.begun))
	if mean := l.mean.Load(); mean > 0 { // of two at once one is lost, which does no harm
		took = mean + (took-mean)/meanOf
	}
	l.mean.Store(max(took, 1))
	l.moved.Store(now.UnixNano())
	l.held.Add(-1)
	l.places.Release(1)
	if p.background {
		l.background.Release(1)
	}
	l.tellFreed()
}

// meanOf is how many fetches the mean is made of, about.
const meanOf = 8

// tellFreed wakes one that waits for room in the background.
func (l *limit) tellFreed() {
	select {
	case l.freed <- struct{}{}:
	default:
	}
}

// isFull reports whether a fetch that begins now has to queue.
func (l *limit) isFull() bool { return l.held.Load() >= l.max || l.waiting.Load() > 0 }

// expected is how long a fetch that begins to queue now will wait, most likely: a place comes free each mean time of a
// fetch, divided by their number; or not for longer than none has, if that is more.
func (l *limit) expected(now time.Time) time.Duration {
	each := max(l.mean.Load()/l.max, now.UnixNano()-l.moved.Load())
	return time.Duration(each * min(l.waiting.Load()+1, maxExpected))
}

// maxExpected keeps the product of expected within its bounds.
const maxExpected = 1 << 16

// isTooLate reports whether a fetch that begins to queue now finds no place before the deadline of ctx.
func (l *limit) isTooLate(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	if !ok {
		return false
	}
	now := time.Now()
	return now.Add(l.expected(now)).After(deadline)
}

// awaitRoom waits until a fetch in the background would find a place, most likely.
func (l *limit) awaitRoom(ctx context.Context, closed <-chan struct{}) error {
	for l.isFull() || !l.hasBackgroundRoom() {
		select {
		case <-l.freed:
		case <-closed:
			return ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	l.tellFreed() // there may be room for another one
	return nil
}

func (l *limit) hasBackgroundRoom() bool {
	ok := l.background.TryAcquire(1)
	if ok {
		l.background.Release(1)
	}
	return ok
}
