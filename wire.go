package cacheaside

import (
	"net"
	"runtime"
	"sync"
	"sync/atomic"
)

// wire is one connection to a node. The client has one goroutine that writes to it and one that reads, and
// what a command costs there is mostly not its own work: it is to ask the system, for each command by
// itself, and to put goroutines to sleep and wake them up. So
//
//   - the reader stays awake for a moment while replies are on their way: it asks for them again and again,
//     and lets others run in between;
//   - while it is awake, commands wait for each other, in batch. They are written when they are a good part
//     of those under way, by the writer, or else when the reader comes by, which is when everybody who could
//     run has run. A part, so that the server has something to do while the others are prepared.
//
// Nothing waits for time to pass, or for somebody who may not come.
type wire struct {
	net.Conn
	direct   *socket      // for reads and writes that do not wait; nil: not possible, nobody stays awake
	underWay func() int64 // how many operations are under way, on all wires

	line  *line
	dog   watchdog
	loads bool // the reader's: it is reading a value that is larger than its buffer

	settle func() // idempotent
	spoken atomic.Bool
	once   sync.Once
	gone   func()
	closed atomic.Bool

	dropped atomic.Bool // it was given up on purpose

	awake   atomic.Bool  // the reader is, and writes what waits before it goes to sleep
	waiting atomic.Int32 // how many writes are in batch, or of it under way
	mu      sync.Mutex   // guards the following; the reader must not wait for it
	batch   []byte
	failed  error // what a write got that nobody has been told of

	// These are the reader's alone.
	vain  int // how often in a row it has stayed awake in vain
	skip  int // how many times more it does not try
	turns int
}

const (
	// manyUnderWay is how many operations keep the reader and the server busy all by themselves. Then it is
	// enough if before a write others get to run: what they ask for goes by one write the next time. The
	// same with fewer, where the reader cannot stay awake.
	manyUnderWay       = 64
	manyUnderWayAsleep = 24

	// parts is how many batches the operations under way make: one is being prepared, others are on their
	// way, with the server, and coming back.
	parts = 4

	// maxBatch bounds what is copied to be written together, in bytes.
	maxBatch = 1 << 14

	// maxPolls is how often the reader asks before it goes to sleep: that takes about as long as a reply of a
	// server nearby, or being woken. After having stayed awake in vain, it goes to sleep at once the next
	// time, twice the next two times, up to maxSkip: for a server far away, it should not try.
	maxPolls = 256
	maxSkip  = 128

	// sleepTurn is how often the reader goes to sleep although it has not waited in vain: only then a
	// processor that has nothing else to do looks after other connections.
	sleepTurn = 64
)

func newWire(c net.Conn, underWay func() int64) *wire {
	w := &wire{Conn: c, underWay: underWay, line: idleLine()}
	if runtime.GOMAXPROCS(0) > 1 {
		w.direct = directly(c)
	}
	return w
}

// Read notes the first byte: until then, the client may be waiting for the answer to its greeting.
func (w *wire) Read(b []byte) (int, error) {
	w.carry(len(b) > w.line.buffer)
	n, err := w.stayAwake(b), error(nil)
	if n == 0 {
		n, err = w.Conn.Read(b)
	}
	if n > 0 {
		w.dog.hears()
		w.line.reads(n)
	}
	if n > 0 && !w.spoken.Load() {
		w.spoken.Store(true)
		w.settle()
	}
	if err != nil {
		w.carry(false)
	}
	return n, w.dog.explain(err)
}

// carry notes whether the reader is reading a large value.
func (w *wire) carry(loads bool) {
	if loads == w.loads {
		return
	}
	w.loads = loads
	if loads {
		w.line.carrying.Add(1)
	} else {
		w.line.carrying.Add(-1)
	}
}

// stayAwake reads what comes soon. It returns 0 when the reader should go to sleep.
func (w *wire) stayAwake(b []byte) int {
	if !w.mayStayAwake() {
		w.fallAsleep()
		return 0
	}
	w.awake.Store(true)
	for range maxPolls {
		runtime.Gosched()
		w.flushAside()
		switch n, err := w.direct.readNow(b); {
		case n > 0:
			w.vain = 0
			return n
		case err != nil, !w.isPolling():
			w.fallAsleep()
			return 0
		}
	}
	w.vain++
	w.skip = min(1<<min(w.vain-1, 16), maxSkip) - 1
	w.fallAsleep()
	return 0
}

func (w *wire) mayStayAwake() bool {
	if w.direct == nil || !w.spoken.Load() || !w.isPolling() {
		return false
	}
	if w.skip > 0 {
		w.skip--
		return false
	}
	w.turns++
	return w.turns%sleepTurn != 0
}

// isPolling reports whether there is something to stay awake for, and not so much that it comes anyway.
func (w *wire) isPolling() bool {
	n := w.underWay()
	return n > 0 && n < manyUnderWay
}

func (w *wire) fallAsleep() {
	if w.awake.Load() {
		w.awake.Store(false)
		w.flushAside()
	}
}

// Write writes b, or keeps it for the next who writes.
func (w *wire) Write(b []byte) (int, error) {
	w.dog.asks()
	gathering, n := w.isGathering(), w.underWay()
	size := n / parts
	if !gathering || size <= 1 || n >= manyUnderWay {
		size = 0
		if n >= manyUnderWay || n >= manyUnderWayAsleep && !gathering {
			runtime.Gosched()
		}
		if w.waiting.Load() == 0 {
			return w.send(b)
		}
	}
	err := w.gather(b, size)
	if err == nil && w.waiting.Load() > 0 && !w.isGathering() { // the reader went to sleep meanwhile
		err = w.flush()
	}
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// send writes b, what is large in pieces, each of which is noted.
func (w *wire) send(b []byte) (n int, err error) {
	if len(b) <= writtenPiece {
		return w.Conn.Write(b)
	}
	for n < len(b) && err == nil {
		var m int
		m, err = w.Conn.Write(b[n:min(n+writtenPiece, len(b))])
		n += m
		w.dog.passed.Add(1)
		w.line.writes(m)
	}
	return n, err
}

// isGathering reports whether somebody is sure to come by and write what waits.
func (w *wire) isGathering() bool { return w.awake.Load() && !w.closed.Load() }

// gather adds b to the batch, and writes it if it is complete.
func (w *wire) gather(b []byte, size int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.batch = append(w.batch, b...)
	if int64(w.waiting.Add(1)) < size && len(w.batch) < maxBatch {
		return nil
	}
	return w.write(w.batch)
}

// flush writes what waits.
func (w *wire) flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.write(w.batch)
}

// write writes the batch, of which rest has not been written. It needs mu.
func (w *wire) write(rest []byte) error {
	if w.failed != nil {
		return w.failed
	}
	if len(rest) > 0 {
		if _, w.failed = w.send(rest); w.failed != nil {
			return w.failed
		}
	}
	if w.batch = w.batch[:0]; cap(w.batch) > 4*maxBatch {
		w.batch = nil
	}
	w.waiting.Store(0)
	return nil
}

// flushAside is flush for the reader, who does not wait: neither for the writer, who is about to write
// himself, nor for a server that takes nothing more before its replies are read.
func (w *wire) flushAside() {
	if w.waiting.Load() == 0 || !w.mu.TryLock() {
		return
	}
	rest := w.batch
	if w.failed == nil {
		rest = rest[w.direct.writeNow(rest):]
	}
	if len(rest) == 0 {
		_ = w.write(nil) // nothing is left that could fail
		w.mu.Unlock()
		return
	}
	go func() { // ends when all is written, or the connection is closed
		defer w.mu.Unlock()
		if w.write(rest) != nil {
			_ = w.Conn.Close() // so that the reader hears of it too
		}
	}()
}

// Close calls gone once, before it closes the connection.
func (w *wire) Close() error {
	w.closed.Store(true)
	w.once.Do(w.gone)
	return w.Conn.Close()
}
