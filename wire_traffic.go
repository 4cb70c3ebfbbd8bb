package cacheaside

import (
	"math"
	"sync/atomic"
	"time"
)

// line is what the wires of a client have in common.
type line struct {
	lost     func()        // called when one of them is closed
	patience time.Duration // of their watchdogs
	buffer   int           // in bytes: what the client reads at once is larger only when it is one value
	piece    int           // from what size on a piece that was read is noted, in bytes

	carrying atomic.Int32 // wires that are reading a value which is larger than the buffer
	moved    atomic.Int64 // when a piece passed last, in unix nanoseconds
	arrives  atomic.Int64 // until when what was written may be on its way, in unix nanoseconds; zero: nothing large
}

const (
	// readPiece is from what size on a piece that was read tells that something large is on its way: small replies
	// are not to pay for noting it.
	readPiece = 1 << 10

	// writtenPiece is in what pieces something large is written, so that it can be seen how it goes.
	writtenPiece = 1 << 16
)

// leastRate is what a link carries at least, in bytes a second, by which values of MaxValueBytes can be read and written
// within OpTimeout and the time that they take by it.
const leastRate = 4 << 20

// transfer is how long so many bytes take by the slowest link.
func transfer(size int) time.Duration {
	return time.Duration(float64(size) / leastRate * float64(time.Second))
}

// idleLine is a line of which nothing is noted.
func idleLine() *line { return &line{lost: func() {}, buffer: math.MaxInt, piece: math.MaxInt} }

// writes notes that so many bytes of something large were written. They may be in the buffers of the system yet, or
// in others on their way.
func (l *line) writes(size int) {
	now := time.Now().UnixNano()
	l.moved.Store(now)
	l.arrives.Store(max(l.arrives.Load(), now) + int64(transfer(size)))
}

// reads notes that a piece of this size was read.
func (l *line) reads(size int) {
	if size >= l.piece {
		l.moved.Store(time.Now().UnixNano())
	}
	if l.arrives.Load() != 0 {
		l.arrives.Store(0)
	}
}

// flowing reports whether something large has passed not longer ago than that. Then the server is there, and what
// does not answer stands behind it.
func (l *line) flowing(within time.Duration) bool {
	at := l.moved.Load()
	return at != 0 && time.Now().UnixNano()-at < int64(within)
}

// isCarrying reports whether a large value is being read, so that what is asked now has to wait for it.
func (l *line) isCarrying() bool { return l.carrying.Load() > 0 }
