package cacheaside

import (
	"context"
	"crypto/rand"
	"sync"
	"sync/atomic"
	"time"
)

// aside keeps entries in Redis, as remote does, and in this process a near copy of what it has read: a hit
// there asks nobody, decodes nothing and allocates nothing. Redis tells of every change of what was read
// (client tracking), so the copy is never stale for longer than a message takes, or than it takes to
// notice that the connection is dead. A cold key is fetched by one process: see lease.go.
type aside[T any] struct {
	remote[T]
	hub   *nearHub
	near  *expiring[nearEntry[T]]
	clock *clock
	ttl   time.Duration // LocalTTL
	lease time.Duration // LeaseTTL
	wait  time.Duration // LeaseWait
	id    string        // begins the text of each token of ours
	held  *holdings     // its leases

	weigh     func(key string, value T) int // nil: every entry weighs 1
	unweighed func(error)                   // called when weigh has failed

	keepsStale bool // entries are replaced in place: they are given out when stale, or refreshed ahead
	settles    bool // so are markers, and what was fetched while they stood

	unhook func() // takes the cache off the hub
	told   func() // called when a key that was kept has changed, not by this process
	closed atomic.Bool

	clearing atomic.Int64 // Clears of this process under way

	valid     func(context.Context, *entry[T]) (bool, error) // as far as its tags are concerned
	isPending func(key string) bool                          // what is removed as soon as Redis answers again: nothing of it is kept

	shards [nearShards]asideShard[T]
}

var (
	_ store[struct{}] = (*aside[struct{}])(nil)
	_ nearCache       = (*aside[struct{}])(nil)
)

// nearEntry is the near copy of what a read has returned.
type nearEntry[T any] struct {
	watch   *watch // that it came under: while it lasts, we learn of changes
	until   int64  // LocalTTL from when it came
	decoded atomic.Pointer[entry[T]]
	raw     *undecoded
}

// undecoded is what has come for a near copy, until its first reader has decoded it. The others wait for that:
// a large value that many callers have asked for is decoded once.
type undecoded struct {
	mu   sync.Mutex             // held while it is being decoded
	data atomic.Pointer[string] // nil once that is done
}

type asideShard[T any] struct {
	mu      sync.Mutex
	reading map[string]*nearRead[T] // the read of each key that others may join
	changes map[string]*change      // by keys whose change somebody waits for, or may
	writing map[string]int          // this process' writes under way, whose invalidations are its own
}

// change is the next change of a key.
type change struct {
	happens chan struct{} // closed then
	token   string        // the lease that the key holds, as far as is known; "" if none
	waiters int           // those who watch it
}

func newAside[T any](r remote[T], hub *nearHub, cfg Config, weigh func(string, T) int, told, evicted func()) (*aside[T], error) {
	a := &aside[T]{remote: r, hub: hub, clock: r.form.clock, ttl: cfg.LocalTTL, weigh: weigh, told: told}
	a.lease, a.wait, a.id = cfg.LeaseTTL, cfg.LeaseWait, rand.Text()[:tokenHolder]
	a.held = newHoldings(r.conn, a.lease)
	a.keepsStale, a.settles = keepsStale(cfg), cfg.Settle > 0
	until := func(n *nearEntry[T]) int64 { return n.until }
	a.near = newExpiring(cfg.MaxEntries, weigh != nil, cfg.ReapInterval, a.clock, until, evicted)
	for i := range a.shards {
		a.shards[i].reading = make(map[string]*nearRead[T])
		a.shards[i].changes = make(map[string]*change)
		a.shards[i].writing = make(map[string]int)
	}
	if err := hub.add(cfg.Name, a); err != nil {
		return nil, err
	}
	a.unhook = sync.OnceFunc(func() { hub.remove(cfg.Name) })
	return a, nil
}

// keepsStale reports whether an entry may be of use while it is being replaced.
func keepsStale(cfg Config) bool {
	return cfg.StaleFor > 0 || cfg.StaleIfError > 0 || cfg.RefreshAhead > 0
}

// leasesBeside reports whether leases may stand beside what they replace.
func leasesBeside(cfg Config) bool { return keepsStale(cfg) || cfg.Settle > 0 }

func (a *aside[T]) shard(key string) *asideShard[T] { return &a.shards[hashKey(key)%nearShards] }

func (a *aside[T]) peek(key string) *entry[T] {
	n := a.near.Get(key)
	if n == nil || !a.counts(n) {
		return nil
	}
	if e := n.decoded.Load(); e != nil {
		return e
	}
	return a.decodeNear(n, key)
}

// counts reports whether Redis tells of changes of what n is a copy of, and LocalTTL is not over.
func (a *aside[T]) counts(n *nearEntry[T]) bool {
	return !n.watch.over.Load() && (a.clock.before(n.until) || a.clock.now() < n.until)
}

// decodeNear decodes what has come for n, or waits for another reader that does so. It returns nil for what cannot
// be decoded: a look-up says why.
func (a *aside[T]) decodeNear(n *nearEntry[T], key string) *entry[T] {
	n.raw.mu.Lock()
	defer n.raw.mu.Unlock()
	data := n.raw.data.Load()
	if data == nil {
		return n.decoded.Load()
	}
	e, err := a.form.decode(a.redisKey(key), []byte(*data))
	if err != nil {
		a.near.DeleteIf(key, func(current *nearEntry[T]) bool { return current == n })
	}
	n.decoded.Store(e) // nil if there was an error
	n.raw.data.Store(nil)
	return e
}

func (a *aside[T]) lookup(ctx context.Context, key string) (*entry[T], error) {
	r, err := a.ask(ctx, key, true)
	return a.answer(ctx, key, r, err)
}

// answer is what a look-up makes of the read r, or of the error that it ended with.
func (a *aside[T]) answer(ctx context.Context, key string, r *nearRead[T], err error) (*entry[T], error) {
	switch {
	case err == errNothing:
		return nil, nil
	case err != nil:
		return nil, err
	}
	e, err := a.decodeRead(key, r)
	switch {
	case err == errLease:
		return nil, nil // somebody fetches it; acquire waits for that
	case e == nil && err == nil: // the near copy that would do cannot be decoded, and is gone: Redis says why
		return a.lookup(ctx, key)
	}
	return e, err
}

// decodeRead decodes what r has brought, once for all look-ups that have waited for it and all that find the near
// copy of it. What is a near hit now, whichever read has brought it, is as good an answer to a look-up that has
// begun before.
func (a *aside[T]) decodeRead(key string, r *nearRead[T]) (*entry[T], error) {
	if e := a.peek(key); e != nil {
		return e, nil
	}
	if r.near != nil {
		return a.decodeNear(r.near, key), nil
	}
	r.decoding.Do(func() { r.entry, r.undecodable = a.form.decode(a.redisKey(key), []byte(r.data)) })
	return r.entry, r.undecodable
}

// decode decodes what a read has returned. If that is what the near copy holds, the two are decoded once.
func (a *aside[T]) decode(key, data string) (*entry[T], error) {
	if n := a.near.Peek(key); n != nil {
		if raw := n.raw.data.Load(); raw != nil && *raw == data { // comparing is quick: it is the same memory
			if e := a.decodeNear(n, key); e != nil {
				return e, nil
			}
		}
	}
	return a.form.decode(a.redisKey(key), []byte(data))
}

// arrived keeps a reply, on the goroutine that reads the connection. A lease is not kept, but that there
// is one is noted until Redis tells that it has changed.
func (a *aside[T]) arrived(w *watch, key, data string) {
	if isLease(data) {
		if !w.bySecond {
			a.held.stands(key, data)
		}
		s := a.shard(key)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changeLocked(key).token = data
		return
	}
	if isMark(data) || isSettling(data) { // a marker, and what was fetched while it stood, is asked for again
		return
	}
	if payloadBytes(data) > a.form.maxBytes || a.isPending(key) { // nobody could decode it, or may see it
		return
	}
	raw := new(undecoded)
	raw.data.Store(&data)
	until := a.clock.deadline(a.clock.now(), a.ttl)
	if a.near.Put(key, nearEntry[T]{watch: w, until: until, raw: raw}, 1) {
		a.near.stored(until)
	}
	if a.closed.Load() { // close sets this before it clears, so one of the two sees the other
		a.near.Delete(key)
	}
}

func (a *aside[T]) invalidated(w *watch, key string) {
	kept := a.near.Delete(key)
	s := a.shard(key)
	s.mu.Lock()
	s.tellLocked(key)
	own := s.writing[key] > 0 || a.clearing.Load() > 0
	s.mu.Unlock()
	if !w.bySecond { // leases are read by the first
		a.held.changed(key)
	}
	if kept && !own {
		a.told()
	}
}

func (a *aside[T]) invalidatedAll(ended *watch) {
	a.near.DeleteFunc(func(_ string, n *nearEntry[T]) bool { return n.watch == ended })
	for i := range a.shards {
		s := &a.shards[i]
		s.mu.Lock()
		for key := range s.changes {
			s.tellLocked(key)
		}
		clear(s.reading)
		s.mu.Unlock()
	}
	if !ended.bySecond {
		a.held.allChanged()
	}
}

// changeLocked returns the next change of key. tellLocked takes it off again, and sees to it that nobody
// joins a read from before it: who did would get what has changed since, and if that is a lease, wait for a
// change that has been.
func (s *asideShard[T]) changeLocked(key string) *change {
	c := s.changes[key]
	if c == nil {
		c = &change{happens: make(chan struct{})}
		s.changes[key] = c
	}
	return c
}

func (s *asideShard[T]) tellLocked(key string) {
	delete(s.reading, key)
	if c := s.changes[key]; c != nil {
		close(c.happens)
		delete(s.changes, key)
	}
}

func (a *aside[T]) set(ctx context.Context, key string, e entry[T], tags *tagging) error {
	a.write(key)
	defer a.forget(key)
	return a.remote.set(ctx, key, e, tags)
}

func (a *aside[T]) delete(ctx context.Context, key string) error {
	a.write(key)
	defer a.forget(key)
	return a.remote.delete(ctx, key)
}

func (a *aside[T]) deleteMany(ctx context.Context, keys []string) ([]string, error) {
	for _, key := range keys {
		a.write(key)
		defer a.forget(key)
	}
	return a.remote.deleteMany(ctx, keys)
}

func (a *aside[T]) dropNear(key string) {
	a.write(key)
	a.forget(key)
}

func (a *aside[T]) dropKept(key string, _ *entry[T]) { a.dropNear(key) }

func (a *aside[T]) dropAllNear() {
	for i := range a.shards {
		s := &a.shards[i]
		s.mu.Lock()
		clear(s.reading)
		s.mu.Unlock()
	}
	a.hub.poisonAll()
	a.near.Clear()
}

// overwritten drops the near copy of a key that another cache of this process has written, sooner than Redis
// tells of that.
func (a *aside[T]) overwritten(key string) {
	kept := a.near.Peek(key) != nil
	a.dropNear(key)
	if kept {
		a.told()
	}
}

// write notes that this process is about to write key, so that what Redis tells of that is not taken for
// somebody else's change. It may do so before the writer has learned the outcome. forget must follow.
func (a *aside[T]) write(key string) {
	s := a.shard(key)
	s.mu.Lock()
	s.writing[key]++
	s.mu.Unlock()
}

// forget drops the near copy of key, and sees to it that what was read before now does not come back: nor
// does a later look-up join a read that was begun before. It is called after each write of this process,
// also after one whose outcome is not known.
func (a *aside[T]) forget(key string) {
	s := a.shard(key)
	s.mu.Lock()
	s.tellLocked(key)
	s.mu.Unlock()
	a.hub.poison(a.redisKey(key))
	a.near.Delete(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writing[key]--; s.writing[key] <= 0 {
		delete(s.writing, key)
	}
}

func (a *aside[T]) clear(ctx context.Context) error {
	a.clearing.Add(1)
	defer a.clearing.Add(-1)
	defer a.dropAllNear()
	return a.remote.clear(ctx)
}

// ping asks for what a fill needs besides: it is made by scripts, and of an entry that stays where it is under a
// lease with a key of its own.
func (a *aside[T]) ping(ctx context.Context) error {
	err := a.conn.works(ctx, a.name, needsOfAside)
	if err == nil && (a.keepsStale || a.settles) {
		err = a.conn.works(ctx, leaseName(a.name), needsOfAside)
	}
	return err
}

func (a *aside[T]) figures() (entries int, evictions, expirations uint64) { return a.near.figures() }

func (a *aside[T]) close() {
	a.closed.Store(true)
	a.held.close()
	a.unhook()
	a.near.close()
}
