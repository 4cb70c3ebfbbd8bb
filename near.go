package cacheaside

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// nearHub is what the near caches of a backend share: it stands between them and the connections, which
// tell it of replies and invalidations in the order of the wire. docs/coherence.md argues why a near
// cache is never stale for longer than it takes to notice that a connection is dead.
//
// Locks are taken in this order: mu, then a wireShard's, then those of a cache.
type nearHub struct {
	prefix string // of all keys
	ttl    time.Duration
	beat   func(redisKey string) // sends a beat, see beats

	mu     sync.RWMutex
	caches map[string]nearCache   // by name
	conns  map[*nearConn]struct{} // those that are alive
}

// nearCache is a near cache as its hub sees it, whatever its type of values. Keys are the caller's.
type nearCache interface {
	arrived(w *watch, key, data string) // a reply that may be kept for as long as w lasts
	invalidated(w *watch, key string)   // the key has changed, or may have; told during w
	invalidatedAll(ended *watch)        // the same for all keys that came under this watch
}

// watch is a time during which Redis tells of every change of what a connection has read, and does so
// soon. When it is over, what was read during it counts for nothing, from that moment on.
type watch struct {
	over     atomic.Bool
	bySecond bool // it is of the second connection
}

func newNearHub(prefix string, ttl time.Duration) *nearHub {
	return &nearHub{
		prefix: prefix + ":",
		ttl:    ttl,
		beat:   func(string) {},
		caches: make(map[string]nearCache),
		conns:  make(map[*nearConn]struct{}),
	}
}

// add lets the cache of this name hear of changes. There must be one only: a second one would take the
// changes away from the first.
func (h *nearHub) add(name string, c nearCache) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.caches[name] != nil {
		return nameTaken(name)
	}
	h.caches[name] = c
	return nil
}

func (h *nearHub) remove(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.caches, name)
}

// route finds the cache that a key in Redis belongs to, and the caller's key; nil if it is none of ours.
func (h *nearHub) route(redisKey string) (nearCache, string) {
	rest, ok := strings.CutPrefix(redisKey, h.prefix)
	if !ok {
		return nil, ""
	}
	name, key, ok := strings.Cut(rest, ":")
	if !ok {
		return nil, ""
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.caches[name], key
}

// connect is the rueidis.NewCacheStoreFn.
func (h *nearHub) connect(rueidis.CacheStoreOption) rueidis.CacheStore {
	c := &nearConn{hub: h}
	c.watch.Store(new(watch))
	c.beats.send, c.beats.expired = h.beat, c.lapse
	for i := range c.shards {
		c.shards[i].reads = make(map[string]*wireCount)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns[c] = struct{}{}
	return c
}

// poison makes sure that no reply to a read of redisKey that was sent before now is kept. Redis sends a
// writer its own invalidation after the reply to its write, so this is what lets a process read its own
// writes at once.
func (h *nearHub) poison(redisKey string) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for c := range h.conns {
		c.poison(redisKey)
	}
}

// poisonAll is poison for every key.
func (h *nearHub) poisonAll() {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for c := range h.conns {
		c.poisonAll()
	}
}

// trackEverything makes Redis track whatever a connection reads. The client's own way is to ask for each
// read, by a command of its own before it; but nobody looks whether that one was refused, or, when a
// cluster sends a read elsewhere, was forgotten before the read came. Then a near cache would not hear of
// changes. Tracking a whole connection is settled when it is made, or else it is not.
var trackEverything = []string{"OPTOUT"}

// checkTracking returns an error for options of the client under which near caches would not be coherent.
func checkTracking(o *rueidis.ClientOption) error {
	switch {
	case o.DisableCache || o.AlwaysRESP2:
		return fieldError("WithRueidisOption", "DisableCache or AlwaysRESP2", "neither, nor protocol=2 in a URL, with the backend rueidis-aside, which needs the client tracking of RESP3; without it use the backend rueidis")
	case !slices.Equal(o.ClientTrackingOptions, trackEverything):
		return fieldError("WithRueidisOption", "ClientTrackingOptions", "left alone with the backend rueidis-aside, which needs them as they are")
	case o.ReplicaOnly || o.SendToReplicas != nil || o.ReadNodeSelector != nil:
		return fieldError("WithRueidisOption", "ReplicaOnly, SendToReplicas or ReadNodeSelector", "none with the backend rueidis-aside: a replica lags behind the leases and the writes")
	}
	return nil
}

// nearConn is the cache store of one connection: rueidis calls Flight before it sends a tracked read, and
// then, on the one goroutine that reads the connection, Update or Cancel for each reply and Delete for
// each invalidation.
//
// It keeps no values. It counts, for each key, the reads that were sent and the replies that came. When
// a key is poisoned, as many replies as reads had been sent by then may be older than the poison; since
// replies come in the order in which reads went out, those are the next ones, and any later one is not.
type nearConn struct {
	hub *nearHub

	bySecond bool // it is of the second connection

	dead   atomic.Bool           // nothing that comes is kept
	late   atomic.Bool           // replies take longer than lateAfter, and so do invalidations
	watch  atomic.Pointer[watch] // the present one
	beats  beats
	shards [nearShards]wireShard
}

const nearShards = 16

// lateAfter is how long a reply may take until what it brings, and what came before it, is no longer
// believed: invalidations wait in the same queue. A connection may be silent, or replies may come later and later,
// since the network or this process cannot keep up. If no tracked read is answered, beats find out.
const lateAfter = time.Second

type wireShard struct {
	mu    sync.Mutex
	reads map[string]*wireCount // by key in Redis; those with replies to come
}

type wireCount struct {
	sent, received uint64
	poison         uint64    // replies up to this one are not kept
	first          time.Time // when the first of the reads was sent
}

var _ rueidis.CacheStore = (*nearConn)(nil)

func (c *nearConn) shard(key string) *wireShard { return &c.shards[hashKey(key)%nearShards] }

// Flight counts a read that is about to be sent. Whether somebody waits for another read of the key has
// been looked at already (see aside.go), so it never joins one.
func (c *nearConn) Flight(key, command string, _ time.Duration, now time.Time) (rueidis.RedisMessage, rueidis.CacheEntry) {
	if command == beatCommand {
		c.beats.leaves(now)
		return rueidis.RedisMessage{}, nil
	}
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.reads[key]
	if n == nil {
		n = &wireCount{first: now}
		s.reads[key] = n
	}
	n.sent++
	return rueidis.RedisMessage{}, nil
}

// Update takes a reply. The shard's lock is held until the reply is kept, so that poison either comes
// before, and prevents that, or after, and the poisoner removes it. The watch is looked up before it is known
// whether replies are late, so that nothing comes under the watch that begins when they are.
func (c *nearConn) Update(key, command string, reply rueidis.RedisMessage) (expireAt int64) {
	now := time.Now()
	until := now.Add(c.hub.ttl)
	if command == beatCommand {
		c.judge(now, c.beats.returns(now))
		return until.UnixMilli()
	}
	if command == standingCommand {
		c.standing(key, reply, now, until)
		return until.UnixMilli()
	}
	data, err := reply.ToString() // an error for a missing key
	cache, k := c.hub.route(key)  // before the lock, as the order of locks demands
	w := c.watch.Load()
	late := c.late.Load()
	s := c.shard(key)
	s.mu.Lock()
	clean, took := s.arrivedLocked(key, now)
	timely := took < lateAfter && (took > 0 || !late)
	keep := clean && timely && err == nil && cache != nil && !c.dead.Load()
	if keep {
		cache.arrived(w, k, data)
	}
	s.mu.Unlock()
	c.judge(now, took)
	if keep {
		c.beats.kept(key, now, until)
	}
	return until.UnixMilli()
}

// judge notes that a read was answered after it took so long, and ends the watch when replies begin to be late. A
// duration of zero says nothing.
func (c *nearConn) judge(now time.Time, took time.Duration) {
	if took == 0 {
		return
	}
	c.beats.confirm(now.Add(-took))
	if took < lateAfter {
		c.late.Store(false)
	} else {
		c.lapse()
	}
}

// lapse ends the watch, once until replies are in time again.
func (c *nearConn) lapse() {
	if !c.late.Swap(true) {
		c.startOver()
	}
}

// standing takes the reply to a read that is not counted: one that stands behind a SET (see holdings). No entry is
// kept of it, and that there is a lease only until Redis tells of its change, which comes later.
func (c *nearConn) standing(key string, reply rueidis.RedisMessage, now, until time.Time) {
	data, err := reply.ToString()
	if cache, k := c.hub.route(key); err == nil && cache != nil && isLease(data) {
		cache.arrived(c.watch.Load(), k, data)
		c.beats.kept(key, now, until)
	}
}

// Cancel counts a reply that is an error. For a read that was never sent, the connection is dead.
func (c *nearConn) Cancel(key, command string, err error) {
	if command == beatCommand {
		if _, answer := rueidis.IsRedisErr(err); answer {
			now := time.Now()
			c.judge(now, c.beats.returns(now))
		}
		return
	}
	if command == standingCommand {
		return
	}
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrivedLocked(key, time.Time{})
}

// arrivedLocked counts a reply, and reports whether it may be kept and how long it took; zero: not known.
func (s *wireShard) arrivedLocked(key string, now time.Time) (clean bool, took time.Duration) {
	n := s.reads[key]
	if n == nil {
		return false, 0 // of a read that a cluster has redirected here, uncounted
	}
	n.received++
	if n.received == n.sent {
		delete(s.reads, key)
	}
	if n.received == 1 {
		took = max(now.Sub(n.first), 1)
	}
	return n.received > n.poison, took
}

// Delete takes an invalidation: of some keys, or of all that were read by this connection.
func (c *nearConn) Delete(keys []rueidis.RedisMessage) {
	if keys == nil {
		c.startOver()
		return
	}
	for i := range keys {
		key, err := keys[i].ToString()
		if err != nil {
			continue // not a key
		}
		if cache, k := c.hub.route(key); cache != nil {
			cache.invalidated(c.watch.Load(), k)
		}
	}
}

// Close ends the watch for good, before anything else: hits on what came by this connection stop here.
func (c *nearConn) Close(error) {
	c.dead.Store(true)
	c.beats.end()
	c.hub.mu.Lock()
	delete(c.hub.conns, c)
	c.hub.mu.Unlock()
	c.startOver()
}

// startOver ends the watch, begins another one, and then drops what had come under the old one.
func (c *nearConn) startOver() {
	old := c.watch.Swap(&watch{bySecond: c.bySecond})
	old.over.Store(true)
	c.hub.mu.RLock()
	defer c.hub.mu.RUnlock()
	for _, cache := range c.hub.caches {
		cache.invalidatedAll(old)
	}
}

func (c *nearConn) poison(key string) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.reads[key]; n != nil {
		n.poison = n.sent
	}
}

func (c *nearConn) poisonAll() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for _, n := range s.reads {
			n.poison = n.sent
		}
		s.mu.Unlock()
	}
}
