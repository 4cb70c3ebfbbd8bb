package cacheaside

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// holdings are the leases of a cache whose flights are under way. A lease is lost when another
// process writes its key, and then callers who ask after that write must not join its flight: it
// may have asked the source before.
//
// Redis tells. Behind the SET that takes a lease goes a read of the key, on the same connection, so
// that Redis tells of the next change. Of what it tells, some is no loss: a renewal of ours, an
// expiry that was set, a key that it does not track any more for want of room. So the key is read
// once more, which is tracked too, and if something else stands there, the flight is overtaken. A
// stale entry stays where it is while it is replaced: then the lease is lost when the entry is
// another.
//
// Where Redis does not answer, no process can write, and what one has written before that is heard
// of afterwards.
type holdings struct {
	conn  *conn
	lease time.Duration // LeaseTTL

	ctx    context.Context // ended by close
	cancel context.CancelFunc
	beat   *reaper // renews them

	many atomic.Int64 // len(byKey), to be read without mu

	mu       sync.Mutex
	byKey    map[string]*holding // by the caller's key; several of one key are linked
	suspects []*holding          // that are to be looked at
	looking  bool                // a goroutine does so
}

// leasePlace is where a lease stands.
type leasePlace struct {
	key      string // the caller's
	entryAt  string // the key in Redis
	tokenAt  string // the key in Redis that holds the token: the same, or one beside it
	replaces string // the first bytes of the stale entry that is to be replaced; "" for a missing key
	length   int    // and its length
}

// holding is a lease, from before it is asked for.
type holding struct {
	leasePlace
	token string
	ours  bool // it is to be renewed; otherwise it is another process's, and its flight fetches beside that
	of    *holdings

	// Guarded by of.mu.
	heard   bool                    // what Redis tells is no longer of the write that has taken the lease
	flight  interface{ overtake() } // nil until it is known
	own     bool                    // Redis is about to tell of a renewal
	suspect bool                    // it is to be looked at
	lost    bool                    // something else stands in its place
	ended   bool                    // it is not to be looked after any more
	renewed time.Time               // when it was taken, or renewed last
	next    *holding
}

func newHoldings(c *conn, lease time.Duration) *holdings {
	h := &holdings{conn: c, lease: lease, byKey: make(map[string]*holding)}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.beat = newReaper(lease/renewalTicks, h.renew)
	return h
}

// add begins to look after a lease.
func (hs *holdings) add(p leasePlace, token string, ours bool) *holding {
	h := &holding{leasePlace: p, token: token, ours: ours, of: hs, renewed: time.Now(), heard: p.replaces != ""}
	hs.mu.Lock()
	h.next = hs.byKey[h.key]
	hs.byKey[h.key] = h
	hs.many.Store(int64(len(hs.byKey)))
	hs.mu.Unlock()
	if ours {
		hs.beat.wake()
	}
	return h
}

// rest ends that. It may be called twice.
func (h *holding) rest() {
	if h == nil {
		return
	}
	hs := h.of
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if h.ended {
		return
	}
	h.ended = true
	if first := hs.byKey[h.key]; first != h {
		for first.next != h {
			first = first.next
		}
		first.next = h.next
	} else if hs.byKey[h.key] = h.next; h.next == nil {
		delete(hs.byKey, h.key)
	}
	hs.many.Store(int64(len(hs.byKey)))
}

// follow has f overtaken when the lease is lost, and at once if it is.
func (h *holding) follow(f interface{ overtake() }) {
	if h == nil {
		return
	}
	h.of.mu.Lock()
	h.flight = f
	lost := h.lost
	h.of.mu.Unlock()
	if lost {
		f.overtake()
	}
}

// isHeard reports whether Redis is known to tell of changes.
func (h *holding) isHeard() bool {
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	return h.heard
}

// stands takes note that the token was under key when that was read: what Redis tells from here on
// is news. It is called on the goroutine that reads the connection.
func (hs *holdings) stands(key, token string) {
	if hs.many.Load() == 0 {
		return
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for h := hs.byKey[key]; h != nil; h = h.next {
		if h.token == token {
			h.heard = true
		}
	}
}

// changed is called when Redis tells that key has changed, on the goroutine that reads the
// connection.
func (hs *holdings) changed(key string) {
	if hs.many.Load() == 0 {
		return
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for h := hs.byKey[key]; h != nil; h = h.next {
		switch {
		case !h.heard: // the write that has taken it, most likely
		case h.own:
			h.own = false
		default:
			hs.suspectLocked(h)
		}
	}
}

// allChanged is called when any key may have changed, and Redis does not tell of changes any more.
func (hs *holdings) allChanged() {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for _, h := range hs.byKey {
		for ; h != nil; h = h.next {
			hs.suspectLocked(h)
		}
	}
}

// look has the leases looked at, in the background.
func (hs *holdings) look(these ...*holding) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for _, h := range these {
		hs.suspectLocked(h)
	}
}

func (hs *holdings) suspectLocked(h *holding) {
	if h.suspect || h.lost || h.ended {
		return
	}
	h.heard, h.own, h.suspect = true, false, true
	hs.suspects = append(hs.suspects, h)
	if !hs.looking {
		hs.looking = true
		go hs.lookAtSuspects() // ends when there are none, or with close
	}
}

const (
	// A server that is to track more than it has room for tells of each key at once that it has
	// changed. So the pause from one look to the next grows, as long as there is always something
	// to look at.
	shortestPause = 10 * time.Millisecond
	longestPause  = 320 * time.Millisecond

	// maxLooks is how many keys are read in one go.
	maxLooks = 512
)

// lookAtSuspects looks at them until there are none for a moment.
func (hs *holdings) lookAtSuspects() {
	for pause := shortestPause; ; pause = min(2*pause, longestPause) {
		these := hs.takeSuspects()
		if len(these) == 0 {
			return
		}
		for some := range slices.Chunk(these, maxLooks) {
			hs.lookAt(some)
		}
		select {
		case <-time.After(pause):
		case <-hs.ctx.Done():
			return
		}
	}
}

func (hs *holdings) takeSuspects() []*holding {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	these := slices.DeleteFunc(hs.suspects, func(h *holding) bool { return h.ended })
	for _, h := range these {
		h.suspect = false
	}
	hs.suspects = nil
	hs.looking = len(these) > 0
	return these
}

// lookAt reads what stands in the place of each lease. Where there is no answer, it is to be looked
// at again.
func (hs *holdings) lookAt(these []*holding) {
	o, err := hs.conn.begin(hs.ctx, true, "")
	if err != nil {
		hs.look(these...)
		return
	}
	commands := make(rueidis.Commands, len(these))
	for i, h := range these {
		commands[i] = rueidis.Completed(o.readStanding(h.entryAt))
	}
	for i, reply := range o.DoMulti(o.ctx, commands...) {
		h := these[i]
		now, err := reply.ToString()
		switch {
		case err == nil && h.isIn(now):
		case err == nil, isWrongType(err):
			h.lose()
		case !isRefusal(err):
			hs.look(h)
		}
		_ = hs.conn.end(&o, err) // no caller waits for it
	}
}

// isIn reports whether data, the first bytes of what stands under the key, says that the lease is
// as good as ever.
func (h *holding) isIn(data string) bool {
	if h.replaces != "" {
		return identity(data) == h.replaces
	}
	return data == h.token
}

// lose has the flight overtaken. The lease of a stale entry, which stands beside it, is given up.
func (h *holding) lose() {
	h.of.mu.Lock()
	first := !h.lost && !h.ended
	h.lost = true
	f := h.flight
	h.of.mu.Unlock()
	if !first {
		return
	}
	if f != nil {
		f.overtake()
	}
	if h.ours && h.replaces != "" {
		_ = h.of.conn.attempt(h.of.ctx, false, h.tokenAt, func(o *op) error { // if that fails, it expires
			_, err := o.run(&releaseScript, h.tokenAt, h.token)
			return err
		})
	}
}

func (hs *holdings) close() {
	hs.cancel()
	hs.beat.stop()
}

// standingCommand is how a connection's cache store knows the read of readStanding: the command
// without the key.
const standingCommand = "GETRANGE036"

// readStanding reads the first bytes of what stands under a key: a token as a whole, and no more of
// an entry than tells it from others.
func (o *op) readStanding(redisKey string) rueidis.Cacheable {
	return o.B().Getrange().Key(redisKey).Start(0).End(tokenBytes).Cache()
}
