package cacheaside

import (
	"context"
	"hash/maphash"
	"runtime/debug"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"
)

// flights are the fetches under way: at most one a key that new callers may join.
//
// They are what a Group of golang.org/x/sync/singleflight is, and what that is not. Its DoChan crashes the
// process when a fetch panics, leaves everybody waiting after a Goexit, lets a fetch that ignores its
// context block its key for ever, and gives a caller who asks after a Delete what was fetched before it. So
// each flight has a record whose end is told to everybody who waits, whatever became of the fetch; and the
// records are the in-process lease: a Delete or Set of a key voids its flight, and a voided one stores
// nothing. With that, a Group beneath would be a second map of the same keys, at twice the cost of a miss;
// docs/design.md has the figures.
type flights[T any] struct {
	flightRules
	clock  *clock
	crew   *crew
	run    func(*flight[T])        // what a flight does; it must end it
	failed func(*flight[T])        // called when flights end by a fetch's failure, or by its time, under a lock
	lost   func(*flight[T], error) // called after that
	spares func(found[T]) bool     // which look-ups a failure counts for; nil: all; see cooldown.go
	seed   maphash.Seed
	shards [flightShards]flightShard[T]
}

// flightRules are what does not change about flights.
type flightRules struct {
	timeout  time.Duration                         // when a flight ends; zero or less: when its fetch does
	cooldown time.Duration                         // how long the error of a failed fetch stands for the next one; zero or less: not
	derive   func(context.Context) context.Context // WithFetchContext's, or nil
	instant  bool                                  // storing a result takes no time: it is done under the shard's lock
	traced   bool                                  // somebody wants to follow each fetch
	moment   func() stamp                          // the clock of tags, in memory; nil where flights note it themselves
}

const flightShards = 16

type flightShard[T any] struct {
	// active counts the flights that have not ended, for writers to pass by when there is none. It is
	// raised before a flight's fetch begins.
	active atomic.Int32

	failing atomic.Bool // failures is not empty

	// ended counts the flights that have ended. A look-up that found nothing is still true when the
	// count has not changed since.
	ended atomic.Uint64

	mu       sync.Mutex
	joinable map[string]*flight[T] // the flight of each key that new callers join
	most     int                   // how many joinable has held since it was made
	filling  map[string]*flight[T] // the flight of each key that is storing its result
	failures failures              // see cooldown.go
	cooler   *time.Timer           // removes those whose time has ended; nil until needed
	cooling  bool                  // cooler is set
	fences   map[string]int        // writes under way of each key; flights that begin meanwhile are void
	first    *flight[T]            // those that have not ended, in the order of their deadlines
	last     *flight[T]
	timer    *time.Timer // fires at first's deadline or before; nil until needed
	timing   bool        // the timer is set
	clearing int         // Clears under way: flights that begin meanwhile are void if they know an older value
	withheld int         // reasons for which all flights that begin meanwhile are void
	closed   bool
}

// flight is one fetch and those who wait for it.
type flight[T any] struct {
	request[T]
	flights *flights[T]
	context *flightContext // what the fetch runs under; a batch's flights share one
	own     flightContext  // where context points to for a flight of its own
	done    chan struct{}  // closed when result and err are set
	result  Result[T]      // set before done is closed, not changed after
	err     error

	under      *flightContext            // what its fetch runs under: context, but for a batch that had to wait
	background bool                      // nobody waits for it
	born       int64                     // on the clock; its fetch begins later
	spared     bool                      // that it fails is remembered
	call       atomic.Pointer[fetchCall] // of the source, once it is made; nil if nobody observes
	lease      *lease[T]                 // the right to fill the key, where that is more than to be its flight
	allowance  allowance                 // of the backend's time

	asOf    stamp    // before its fetch began; zero if that is not known
	looked  bool     // its tags were looked at, and the next are their outcome
	tags    *tagging // of its result; nil if it has none, or cannot be kept with them
	badTags error    // why the result can have no such tags

	// Guarded by shard.mu.
	fetching   bool          // its fetch may have begun
	void       bool          // what it fetches must not be stored
	overtaken  bool          // its key was written since it began, or just then; it is void, too
	deadline   int64         // on the clock, when its time is over
	waiting    bool          // it may wait for another process: its time has not begun
	stop       func()        // ends that; nil if nothing does
	giveUp     func()        // releases what the fetch holds outside of this process, without waiting; nil if nothing
	over       bool          // done is closed, or about to be
	sealed     bool          // its tags are being looked at: those that join from now on look again when it has ended
	doubtful   bool          // a tag was invalidated since its fetch began, or may have been; set before done is closed
	joinedTTL  time.Duration // of the first caller that joined with a ttl a flight that was begun without
	filled     chan struct{} // closed when it has stored its result; made by who waits for that
	prev, next *flight[T]
}

func newFlights[T any](rules flightRules, clock *clock, run, failed func(*flight[T]), lost func(*flight[T], error)) *flights[T] {
	g := &flights[T]{flightRules: rules, clock: clock, crew: newCrew(), run: run, failed: failed, lost: lost, seed: maphash.MakeSeed()}
	for i := range g.shards {
		g.shards[i].filling = make(map[string]*flight[T])
		g.shards[i].joinable = make(map[string]*flight[T])
		g.shards[i].fences = make(map[string]int)
	}
	return g
}

func (g *flights[T]) time() *clock { return g.clock }

func (g *flights[T]) shard(key string) *flightShard[T] {
	return &g.shards[maphash.String(g.seed, key)%flightShards]
}

// join returns the flight of q.key, and starts one if there is none. ctx lends the flight its values.
// inside is the fetch that the caller is, if it is one: if that fetches the key, join returns ErrReentrant. If the
// last fetch of the key has failed a moment ago, join returns a cooldownError. All that keeps a fetch from
// beginning is looked at under the lock under which it begins.
func (g *flights[T]) join(ctx context.Context, inside *flightContext, q *request[T], background bool) (f *flight[T], started bool, err error) {
	if inside.runs(g, q.key) {
		return nil, false, ErrReentrant
	}
	var values lent
	if g.derive != nil { // code of the user, so not under the lock, and only if it is likely to be of use
		s := q.shard
		s.mu.Lock()
		f, err := g.joinLocked(q)
		s.mu.Unlock()
		if f != nil || err != nil {
			return f, false, err
		}
	}
	if values, err = lend(ctx, !background, g.derive); err != nil {
		return nil, false, err
	}
	if f, started, err = g.startUnlessUnderWay(values, inside, q, background); !started {
		values.giveBack()
	}
	return f, started, err
}

// startUnlessUnderWay is the part of join that holds the lock.
func (g *flights[T]) startUnlessUnderWay(values lent, inside *flightContext, q *request[T], background bool) (f *flight[T], started bool, err error) {
	s := q.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, err := g.joinLocked(q); f != nil || err != nil {
		return f, false, err
	}
	f = &flight[T]{flights: g, request: *q, background: background, done: make(chan struct{})}
	f.context, f.under = &f.own, &f.own
	g.open(values, f.context, inside)
	f.context.key, f.context.background = q.key, background
	f.context.flights.Store(1)
	if !background {
		f.context.footing.first()
	}
	g.addLocked(s, f)
	if inside != nil {
		inside.waits.add(f.context) // before it begins; the caller takes it back
	}
	g.crew.run(f)
	return f, true, nil
}

// joinLocked returns the flight of q.key, which the caller joins, or the error for which none may begin.
func (g *flights[T]) joinLocked(q *request[T]) (*flight[T], error) {
	s := q.shard
	if s.closed {
		return nil, ErrClosed
	}
	if f := s.joinable[q.key]; f != nil && f.context.footing.attend() {
		q.late, q.outdated = f.sealed, q.aged && f.born < q.notBefore
		if f.ttl <= 0 && f.joinedTTL <= 0 {
			f.joinedTTL = q.ttl
		}
		return f, nil
	}
	return nil, g.recentFailureLocked(q)
}

// open makes c the context of a fetch that is started from within parent, or from none.
func (g *flights[T]) open(l lent, c, parent *flightContext) {
	c.lent, c.owner, c.parent = l, g, parent
	c.ttl.Store(ttlUnset)
	if limitsMade.Load() {
		c.footing = new(footing)
	}
	if g.traced {
		c.trace = &flightTrace{starter: l.starter}
	}
	g.start(c)
}

// addLocked makes f the flight of its key.
func (g *flights[T]) addLocked(s *flightShard[T], f *flight[T]) {
	f.overtaken = s.fences[f.key] > 0 || s.withheld > 0 || f.outdatedLocked()
	f.void = f.overtaken
	f.spared = g.isSpared(f.found)
	s.active.Add(1)
	s.joinable[f.key] = f
	s.most = max(s.most, len(s.joinable))
	f.deadline, f.born = f.context.deadline, f.context.begun
	s.linkLocked(f)
	if g.timeout > 0 && !s.timing {
		g.setTimerLocked(s, g.timeout)
	}
}

// run runs the flight, on a goroutine of the crew, and sees to it that it ends: with a PanicError if run panics, with ErrGoexit
// if it ends the goroutine.
func (f *flight[T]) run() {
	returned := false
	defer func() {
		if !returned {
			f.end(Result[T]{}, abnormal(recover()))
		}
	}()
	pprof.SetGoroutineLabels(f.context) // the caller's, and not those of the last flight of this goroutine
	f.flights.run(f)
	returned = true
}

// abnormal returns the error that stands for a function that did not return, given what recover returned.
// If that is such an error already, handed on from another goroutine, it is returned as it is.
func abnormal(recovered any) error {
	switch r := recovered.(type) {
	case nil:
		return ErrGoexit
	case *PanicError:
		return r
	case goexit:
		return ErrGoexit
	}
	return &PanicError{Value: recovered, Stack: debug.Stack()}
}

// goexit is what another goroutine's Goexit is handed on as.
type goexit struct{}

// fail ends f with the error of its fetch, and remembers that for ErrorCooldown.
func (g *flights[T]) fail(f *flight[T], err error) {
	err = f.isUnder().explain(err)
	g.noteFailure(f, err)
	if f.finish(Result[T]{}, err, g.failed) {
		g.lost(f, err)
	}
}

// end gives everybody who waits for f its outcome, unless it has ended.
func (f *flight[T]) end(result Result[T], err error) { f.finish(result, err, nil) }

// finish is end, and reports whether f had not ended. It calls counted, if that is not nil, before anybody who
// waits can look at what it counts.
func (f *flight[T]) finish(result Result[T], err error, counted func(*flight[T])) bool {
	s := f.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.over {
		return false
	}
	f.over = true
	if s.joinable[f.key] == f {
		s.detachLocked(f.key)
	}
	s.unlinkLocked(f)
	s.ended.Add(1)
	s.active.Add(-1)
	f.result, f.err = result, err
	if counted != nil {
		counted(f)
	}
	f.context.done()
	if f.under != f.context {
		f.under.done()
	}
	close(f.done)
	if f.stop != nil {
		f.stop()
	}
	if f.giveUp != nil {
		f.giveUp()
		f.giveUp = nil
	}
	return true
}

// begins reports whether the fetch of f may begin, under c: not if f has ended, by Close for instance. Close takes
// the same lock, so that no fetch begins after it. The time of a flight that has waited begins now.
func (f *flight[T]) begins(c *flightContext) bool {
	g, s := f.flights, f.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	f.fetching = true
	if g.moment != nil {
		f.asOf = g.moment()
		if c.asOf == (stamp{}) {
			c.asOf = f.asOf
		}
	}
	if f.outdatedLocked() {
		f.void, f.overtaken = true, true
	}
	if f.over {
		return false
	}
	if f.under = c; c != f.context {
		c.flights.Add(1)
	}
	if !f.waiting {
		return true
	}
	f.waiting = false
	if c == &f.own {
		g.start(c)
	}
	s.postponeLocked(f, c.deadline)
	return true
}

// isUnder is what the fetch of f runs under, or will most likely. The timer may ask while the fetch begins.
func (f *flight[T]) isUnder() *flightContext {
	f.shard.mu.Lock()
	defer f.shard.mu.Unlock()
	return f.under
}

// isOver reports whether f has ended, so that its outcome can be read.
func (f *flight[T]) isOver() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// holds notes what must be given up when f ends before it has settled that itself by holds(nil). It
// reports false if f has ended already: then nothing may be held.
func (f *flight[T]) holds(giveUp func()) bool {
	f.shard.mu.Lock()
	defer f.shard.mu.Unlock()
	f.giveUp = giveUp
	return !f.over
}

// seal makes those that join f from now on look again when it has ended.
func (f *flight[T]) seal() {
	f.shard.mu.Lock()
	defer f.shard.mu.Unlock()
	f.sealed = true
}

// doubt makes those that have joined f look again, too.
func (f *flight[T]) doubt() {
	f.shard.mu.Lock()
	defer f.shard.mu.Unlock()
	f.doubtful = true
}

// mayBeOld reports whether the result of f, which has ended, may be from before an invalidation that had ended when the
// caller of q joined it.
func (f *flight[T]) mayBeOld(q *request[T]) bool { return !q.again && (q.late || f.doubtful) }

// isVoid reports whether what f fetches must not be stored.
func (f *flight[T]) isVoid() bool {
	f.shard.mu.Lock()
	defer f.shard.mu.Unlock()
	return f.void
}

// isTimedOut reports whether f has ended by its time, and its key was not written since it began.
func (f *flight[T]) isTimedOut() bool {
	f.shard.mu.Lock()
	defer f.shard.mu.Unlock()
	return f.over && !f.overtaken
}

// held is the right to fill the key.
func (f *flight[T]) held() lease[T] {
	l := lease[T]{seen: f.found.entry}
	if f.lease != nil {
		l = *f.lease
	}
	l.settling = f.found.settling
	return l
}

// detachLocked makes the next caller of key start a flight of its own.
func (s *flightShard[T]) detachLocked(key string) {
	delete(s.joinable, key)
	if len(s.joinable) == 0 && s.most > roomKept {
		s.joinable, s.most = make(map[string]*flight[T]), 0
	}
}

// roomKept is the number of flights whose room a shard keeps when they have ended. A map never gives room back,
// and a batch may have had a million keys.
const roomKept = 1 << 10

// close ends every flight with ErrClosed, and lets none begin.
func (g *flights[T]) close() {
	for i := range g.shards {
		s := &g.shards[i]
		s.mu.Lock()
		s.closed = true
		for _, t := range []*time.Timer{s.timer, s.cooler} {
			if t != nil {
				t.Stop()
			}
		}
		s.failures = failures{}
		var all []*flight[T]
		for f := s.first; f != nil; f = f.next {
			all = append(all, f)
		}
		s.mu.Unlock()
		for _, f := range all {
			f.end(Result[T]{}, ErrClosed)
		}
	}
	g.crew.stop()
}

// underWay counts the flights that have not ended.
func (g *flights[T]) underWay() (n int) {
	for i := range g.shards {
		n += int(g.shards[i].active.Load())
	}
	return n
}
