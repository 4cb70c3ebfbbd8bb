package cacheaside

import (
	"sync"
	"time"
)

// crew are the goroutines that flights run on. A fetch is a deep call, and most of the cost of a goroutine
// of its own would be to grow a new stack; so one that has ended a flight waits a little for the next.
// Those that nobody needs end within two seconds, and all end with stop.
//
// It knows nothing of the cache: a cache that was dropped without Close is not kept by it.
type crew struct {
	trim *reaper

	mu      sync.Mutex
	idle    []*hand // the last one was busy most recently
	least   int     // how many were idle all the time since the last trim
	trimmed bool    // trim is awake, or being woken
	stopped bool
}

// hand is a goroutine that runs what it is given.
type hand struct {
	work chan task
}

const (
	maxIdle   = 64 // hands that wait for work; the others end
	trimEvery = time.Second
)

func newCrew() *crew {
	c := new(crew)
	c.trim = newReaper(trimEvery, c.sweep)
	return c
}

// task is what a crew runs. It must not panic; if it ends the goroutine, the crew is one less.
type task interface{ run() }

// run runs t on a goroutine of the crew, and does not wait for it.
func (c *crew) run(t task) {
	c.mu.Lock()
	n := len(c.idle)
	if n == 0 {
		c.mu.Unlock()
		h := &hand{work: make(chan task, 1)}
		go c.serve(h, t) // ends when it is idle for too long, or at stop
		return
	}
	h := c.idle[n-1]
	c.idle[n-1] = nil
	c.idle = c.idle[:n-1]
	c.least = min(c.least, n-1)
	c.mu.Unlock()
	h.work <- t
}

func (c *crew) serve(h *hand, t task) {
	for t != nil {
		t.run()
		t = nil // nothing of it stays with a hand that waits
		if !c.rest(h) {
			return
		}
		t = <-h.work
	}
}

// rest makes h wait for work, and reports whether it may.
func (c *crew) rest(h *hand) bool {
	c.mu.Lock()
	if c.stopped || len(c.idle) >= maxIdle {
		c.mu.Unlock()
		return false
	}
	c.idle = append(c.idle, h)
	wake := !c.trimmed
	c.trimmed = true
	c.mu.Unlock()
	if wake {
		c.trim.wake()
	}
	return true
}

// sweep ends those that were idle ever since the last sweep.
func (c *crew) sweep(time.Time) (more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range min(c.least, len(c.idle)) {
		c.idle[0].work <- nil // there is room: it waits
		c.idle = c.idle[1:]
	}
	c.least = len(c.idle)
	c.trimmed = len(c.idle) > 0
	return c.trimmed
}

// stop ends those that wait now; the others end with what they run.
func (c *crew) stop() {
	c.mu.Lock()
	c.stopped = true
	for _, h := range c.idle {
		h.work <- nil
	}
	c.idle = nil
	c.mu.Unlock()
	c.trim.stop()
}
