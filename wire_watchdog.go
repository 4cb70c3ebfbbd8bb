package cacheaside

import (
	"os"
	"sync/atomic"
	"time"
)

// watchdog closes a connection by which nothing comes for a while though something was written. The client's own PING
// does not do for that: it takes a value for dead behind which it has to wait for too long.
//
// The PING has something written when there is nothing else to write.
type watchdog struct {
	patience time.Duration // zero: it is not watched
	bark     func()        // closes the connection

	passed  atomic.Uint32 // pieces that were read, or are a part of what is being written
	waiting atomic.Bool   // something was written since anything was read
	running atomic.Bool   // look will be called
	barked  atomic.Bool

	seen  uint32 // passed at the last look; this and the next are of the goroutine that has set running
	quiet int    // looks since anything has passed
}

// looks is how many times in its patience the watchdog looks.
const looks = 4

// asks is called before something is written.
func (d *watchdog) asks() {
	if d.patience <= 0 || d.waiting.Load() {
		return
	}
	d.waiting.Store(true)
	if d.running.CompareAndSwap(false, true) {
		d.seen, d.quiet = d.passed.Load(), 0
		time.AfterFunc(d.patience/looks, d.look)
	}
}

// hears is called when something was read.
func (d *watchdog) hears() {
	d.passed.Add(1)
	if d.waiting.Load() {
		d.waiting.Store(false)
	}
}

func (d *watchdog) look() {
	passed, waiting := d.passed.Load(), d.waiting.Load()
	switch {
	case passed != d.seen:
		d.seen, d.quiet = passed, 0
	case waiting:
		d.quiet++
	default:
		d.running.Store(false)
		if !d.waiting.Load() || !d.running.CompareAndSwap(false, true) {
			return // what is written from now on starts it again
		}
	}
	if d.quiet >= looks {
		d.barked.Store(true)
		d.bark()
		return
	}
	time.AfterFunc(d.patience/looks, d.look)
}

// explain is the error of a read from a connection that was closed for being silent.
func (d *watchdog) explain(err error) error {
	if err != nil && d.barked.Load() {
		return os.ErrDeadlineExceeded
	}
	return err
}
