package cacheaside

import (
	"sync"
	"sync/atomic"
	"time"
)

// load knows how busy the client's queue is, and for how long nothing has been answered. The queue holds a
// thousand commands, those included that their callers have given up, and whoever comes when it is full
// waits without regard to its context.
type load struct {
	underWay atomic.Int64
	fullTo   atomic.Int64 // unix nanoseconds until which the queue may be full of what was given up
	heard    atomic.Bool  // something was answered since an operation was last given up

	slots chan struct{} // held by the operations that began in a crowd; see leavable

	mu      sync.Mutex
	since   time.Time // when the first was begun of those that were given up since anything was answered
	window  time.Time // when the count of givenUp began
	givenUp int
}

const (
	// crowd is how many operations may be under way before the queue is taken for full. Together with
	// maxLeft and maxGivenUp it is somewhat less than the queue holds.
	crowd = 512

	// maxLeft is how many of those that begin in a crowd may stand in the queue, left by their callers or
	// not.
	maxLeft = 384

	// What was given up leaves the queue when it is answered, or when the connection is found dead.
	maxGivenUp  = 64
	queueMemory = dialTimeout + writeTimeout + keepAlive

	// suspectAfter is how long callers must have waited in vain, until their own contexts ended, for Redis
	// to be asked whether it is still there: callers with short deadlines must not go on waiting for a
	// server that is gone.
	suspectAfter = 50 * time.Millisecond
)

// begin counts an operation, and reports whether the queue may be full.
func (l *load) begin(now time.Time) (crowded bool) {
	return l.underWay.Add(1) > crowd || now.UnixNano() < l.fullTo.Load()
}

// answered ends an operation that got its answer.
func (l *load) answered() {
	l.underWay.Add(-1)
	if !l.heard.Load() { // reading is cheap when all do it, writing is not
		l.heard.Store(true)
	}
}

// failed ends an operation, begun at that time, that got no answer. It reports whether there has been none
// for a suspiciously long time.
func (l *load) failed(begun time.Time) (silent bool) {
	l.underWay.Add(-1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.heard.Swap(false) || l.since.IsZero() {
		l.since = begun
	}
	now := time.Now()
	if now.Sub(l.window) > queueMemory {
		l.window, l.givenUp = now, 0
	}
	if l.givenUp++; l.givenUp > maxGivenUp {
		l.fullTo.Store(now.Add(queueMemory).UnixNano())
	}
	return now.Sub(l.since) > suspectAfter
}
