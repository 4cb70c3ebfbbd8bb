package cacheaside

import (
	"sync"
	"time"
)

// A reaper calls a function at an interval, on a goroutine of its own, for as long as there is something
// to do. It owns the ticker and the goroutine. The goroutine ends when the function says that there is
// nothing left, and [reaper.wake] starts another, so that an idle cache costs no wake-ups.
//
// The function must not hold on to what is reaped but by a weak pointer: then a cache that was dropped
// without Close is collected, and its reaper ends at the next tick.
type reaper struct {
	interval time.Duration
	work     func(now time.Time) (more bool)

	mu      sync.Mutex
	awake   bool          // a goroutine runs, and will look again at whether there is work
	rewoken bool          // wake was called while it ran
	stopped bool          // for good
	quit    chan struct{} // closed by stop; made by wake
	done    chan struct{} // closed by the goroutine when it returns
}

// newReaper returns a reaper that sleeps until wake is called.
func newReaper(interval time.Duration, work func(now time.Time) (more bool)) *reaper {
	return &reaper{interval: interval, work: work}
}

// wake makes sure that the function is called at the interval from now on, until it says that there is
// no more to do. A wake during the last call is not lost: it leads to another.
func (r *reaper) wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rewoken = true
	if r.awake || r.stopped {
		return
	}
	r.awake = true
	r.quit, r.done = make(chan struct{}), make(chan struct{})
	go r.run(r.quit, r.done) // stop ends it and waits for it
}

// stop ends the reaper for good and returns when the function no longer runs. It may be called twice,
// and on a reaper that never ran; it must not be called by the function.
func (r *reaper) stop() {
	r.mu.Lock()
	if !r.stopped && r.awake {
		close(r.quit)
	}
	r.stopped = true
	done := r.done
	r.mu.Unlock()
	if done != nil {
		<-done
	}
}

// stopping reports whether stop was called, for long work to end early.
func (r *reaper) stopping() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stopped
}

func (r *reaper) run(quit <-chan struct{}, done chan<- struct{}) {
	defer close(done)
	ticker := time.NewTicker(r.interval)
	defer ticker.Stop()
	for {
		select {
		case <-quit:
			return
		case now := <-ticker.C:
			if !r.tick(now) {
				return
			}
		}
	}
}

// tick calls the function once and reports whether to go on. Falling asleep is decided under the lock,
// so a wake either comes before and is seen here, or after and starts another goroutine.
func (r *reaper) tick(now time.Time) bool {
	r.mu.Lock()
	r.rewoken = false
	r.mu.Unlock()
	more := r.work(now)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.awake = more || r.rewoken
	return r.awake && !r.stopped
}
