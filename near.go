package cacheaside

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// nearHub is what the near caches of a backend share: it stands between them and the connections, which
// tell it of replies and invalidations in the order of the wire. docs/coherence.md argues why a near
// cache is never stale for longer than it takes to notice that a connection is dead.
type nearHub struct {
	prefix string // of all keys
	ttl    time.Duration

	mu     sync.RWMutex
	caches map[string]nearCache   // by name
	conns  map[*nearConn]struct{} // those that are alive
}

// nearCache is a near cache as its hub sees it, whatever its type of values. Keys are the caller's.
type nearCache interface {
	arrived(c *nearConn, key, data string)          // a reply that may be kept
	invalidated(key string)                         // the key has changed, or c no longer learns when it does
	invalidatedAll(lost func(owner *nearConn) bool) // the same for all keys that came by such a connection
}

func newNearHub(prefix string, ttl time.Duration) *nearHub {
	return &nearHub{prefix: prefix + ":", ttl: ttl, caches: make(map[string]nearCache), conns: make(map[*nearConn]struct{})}
}

func (h *nearHub) add(name string, c nearCache) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.caches[name] = c
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

// nearConn is the cache store of one connection: rueidis calls Flight before it sends a tracked read, and
// then, on the one goroutine that reads the connection, Update or Cancel for each reply and Delete for
// each invalidation.
//
// It keeps no values. It counts, for each key, the reads that were sent and the replies that came. When
// a key is poisoned, as many replies as reads had been sent by then may be older than the poison; since
// replies come in the order in which reads went out, those are the next ones, and any later one is not.
type nearConn struct {
	hub    *nearHub
	dead   atomic.Bool // what came by this connection counts for nothing
	shards [nearShards]wireShard
}

const nearShards = 16

type wireShard struct {
	mu    sync.Mutex
	reads map[string]*wireCount // by key in Redis; those with replies to come
}

type wireCount struct {
	sent, received uint64
	poison         uint64 // replies up to this one are not kept
}

var _ rueidis.CacheStore = (*nearConn)(nil)

func (c *nearConn) shard(key string) *wireShard { return &c.shards[hashKey(key)%nearShards] }

// Flight counts a read that is about to be sent. Whether somebody waits for another read of the key has
// been looked at already (see aside.go), so it never joins one.
func (c *nearConn) Flight(key, _ string, _ time.Duration, _ time.Time) (rueidis.RedisMessage, rueidis.CacheEntry) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.reads[key]
	if n == nil {
		n = new(wireCount)
		s.reads[key] = n
	}
	n.sent++
	return rueidis.RedisMessage{}, nil
}

// Update takes a reply. The shard's lock is held until the reply is kept, so that poison either comes
// before, and prevents that, or after, and the poisoner removes it.
func (c *nearConn) Update(key, _ string, reply rueidis.RedisMessage) (expireAt int64) {
	data, err := reply.ToString() // an error for a missing key
	cache, k := c.hub.route(key)  // before the lock: poison takes the two the other way round
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.arrivedLocked(key) && err == nil && cache != nil && !c.dead.Load() {
		cache.arrived(c, k, data)
	}
	return time.Now().Add(c.hub.ttl).UnixMilli()
}

// Cancel counts a reply that is an error. For a read that was never sent, the connection is dead.
func (c *nearConn) Cancel(key, _ string, _ error) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrivedLocked(key)
}

// arrivedLocked counts a reply, and reports whether it may be kept.
func (s *wireShard) arrivedLocked(key string) (clean bool) {
	n := s.reads[key]
	if n == nil {
		return false
	}
	n.received++
	if n.received == n.sent {
		delete(s.reads, key)
	}
	return n.received > n.poison
}

// Delete takes an invalidation: of some keys, or of all that were read by this connection.
func (c *nearConn) Delete(keys []rueidis.RedisMessage) {
	if keys == nil {
		c.forget()
		return
	}
	for i := range keys {
		key, err := keys[i].ToString()
		if err != nil {
			continue // not a key
		}
		if cache, k := c.hub.route(key); cache != nil {
			cache.invalidated(k)
		}
	}
}

// Close marks the connection as dead, before anything else: hits on what came by it stop here.
func (c *nearConn) Close(error) {
	c.dead.Store(true)
	c.hub.mu.Lock()
	delete(c.hub.conns, c)
	c.hub.mu.Unlock()
	c.forget()
}

// forget drops what came by this connection from every cache.
func (c *nearConn) forget() {
	c.hub.mu.RLock()
	defer c.hub.mu.RUnlock()
	for _, cache := range c.hub.caches {
		cache.invalidatedAll(func(owner *nearConn) bool { return owner == c })
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
