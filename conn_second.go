package cacheaside

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// second is a second connection, for what would keep everything behind it waiting until it has passed: large values,
// and batches of many keys. It is made when it is needed.
//
// What is written to a key must be done in the order in which it was asked for, also where a caller has given up. So a key
// whose value is large once, as it is read or written here, is read and written by the second connection from then on.
// The first write there waits until Redis has done what had been sent by the first connection.
type second struct {
	make  func() (rueidis.Client, error)
	line  line
	slots chan struct{} // as those of load
	quiet time.Duration // how long an operation waits while nothing passes
	most  time.Duration // and how long in any case

	making sync.Mutex // held while client is being made
	client atomic.Pointer[rueidis.Client]
	closed atomic.Bool

	used atomic.Bool // some key is known to be large

	mu     sync.RWMutex         // guards the following
	keys   map[string]*largeKey // in Redis; those used since turned
	older  map[string]*largeKey // those used before
	turned time.Time            // when keys became older
}

// largeKey is a key whose value is large, or was.
type largeKey struct {
	settled atomic.Bool // nothing that was written by the first connection is on its way
}

const (
	// largeBytes is from what size on a value is large: what a link of 100 MB/s carries in less than three milliseconds.
	largeBytes = 256 << 10

	// A large key is forgotten when it was not used for a while, and there were many others: by then all that was
	// written to it is done.
	manyLarge   = 4096
	forgetAfter = 2 * time.Minute
)

// openSecond sets up the second connection, without making it.
func (n *conn) openSecond(dial dialFunc) {
	s := &n.second
	s.quiet, s.most = n.cfg.OpTimeout, n.cfg.OpTimeout+transfer(n.cfg.MaxValueBytes)
	n.part.Store(batchPart)
	s.slots = make(chan struct{}, maxLeft)
	s.line.lost, s.line.buffer = func() {}, n.line.buffer
	if n.line.patience > 0 {
		s.line.patience = n.line.patience + transfer(n.cfg.MaxValueBytes) // what was written is a while in the buffers of the system
	}
	option := n.option
	option.ConnWriteTimeout = max(option.ConnWriteTimeout, pingPatience)
	option.DialCtxFn = n.wires.watch(dial, func(string) *line { return &s.line })
	if near := option.NewCacheStoreFn; near != nil {
		option.NewCacheStoreFn = func(o rueidis.CacheStoreOption) rueidis.CacheStore {
			store := near(o)
			if c, ok := store.(*nearConn); ok {
				c.bySecond = true
				c.watch.Store(&watch{bySecond: true})
				c.beats.send = func(redisKey string) { n.beatBy(s.client.Load(), redisKey) }
			}
			return store
		}
	}
	s.make = func() (rueidis.Client, error) {
		if n.isPlain() {
			return rueidis.NewClient(plainOption(option))
		}
		return rueidis.NewClient(option)
	}
}

// get returns the client, which it makes if there is none.
func (s *second) get() (rueidis.Client, error) {
	if c := s.client.Load(); c != nil {
		return *c, nil
	}
	s.making.Lock()
	defer s.making.Unlock()
	if c := s.client.Load(); c != nil {
		return *c, nil
	}
	if s.closed.Load() {
		return nil, rueidis.ErrClosing
	}
	c, err := s.make()
	if c == nil {
		return nil, err
	}
	s.client.Store(&c) // that of a single node connects later by itself
	return c, nil
}

// renew closes the client. Another one is made when it is needed.
func (s *second) renew() {
	s.making.Lock()
	defer s.making.Unlock()
	if c := s.client.Swap(nil); c != nil {
		(*c).Close()
	}
}

func (s *second) close() {
	s.closed.Store(true)
	s.renew()
}

// of returns what is known of a key in Redis, or nil if its value was not large.
func (s *second) of(redisKey string) *largeKey {
	if !s.used.Load() {
		return nil
	}
	s.mu.RLock()
	k, old := s.keys[redisKey], s.older[redisKey]
	s.mu.RUnlock()
	if k == nil && old != nil {
		return s.note(redisKey) // it is in use
	}
	return k
}

// note notes that the value of a key is large.
func (s *second) note(redisKey string) *largeKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.keys[redisKey]; k != nil {
		return k
	}
	k := s.older[redisKey]
	if k == nil {
		k = new(largeKey)
	}
	if now := time.Now(); s.keys == nil || len(s.keys) >= manyLarge && now.Sub(s.turned) > forgetAfter {
		s.older, s.keys, s.turned = s.keys, make(map[string]*largeKey), now
	}
	s.keys[strings.Clone(redisKey)] = k // it may be a part of something large
	s.used.Store(true)
	return k
}

// learn takes note of how large the value is that was read under a key.
func (s *second) learn(redisKey string, size int) {
	if size >= largeBytes && s.of(redisKey) == nil {
		s.note(redisKey)
	}
}

// beginRead is begin for a read of one key. While a large value comes by the first connection, as it does if another
// process has written it, the second is the quicker one: no order is needed between reads.
func (n *conn) beginRead(ctx context.Context, name, key string) (op, error) {
	large := n.second.used.Load() && n.second.of(name+key) != nil
	at := &n.node
	if n.nodes != nil {
		at = n.nodeOf(name + key)
	}
	if large || at.line.isCarrying() && !n.second.line.isCarrying() {
		return n.beginLong(ctx, false, true, at)
	}
	return n.beginAt(ctx, false, at)
}

// passBy reports whether a read that was given up is to be made once more, by the second connection: it stood behind a
// large value, which had begun to come before that was known, and is not the read of that value itself.
func (n *conn) passBy(o *op, err error, name, key string) bool {
	if !hasEnded(err) || o.bySecond || o.callerGone(err) != nil || !o.at.line.isCarrying() || n.second.line.isCarrying() {
		return false
	}
	next, redisKey := *o, name+key
	next.bySecond = true
	next.ctx, next.cancel = untilQuiet(o.caller, &n.second.line, n.second.quiet, n.second.most)
	err = n.takeSecond(&next)
	if err == nil {
		var size int64
		size, err = next.Do(next.ctx, next.B().Strlen().Key(redisKey).Build()).AsInt64()
		n.second.learn(redisKey, int(size))
	}
	if _, isReply := rueidis.IsRedisErr(err); err != nil && !isReply || n.second.of(redisKey) != nil {
		next.release()
		return false
	}
	o.release()
	*o = next
	return true
}

// beginWrite is begin for an operation that writes to a key, and sends so many bytes. What is stored for those who wait
// for its fetch takes no longer than OpTimeout; it is mostly stored all the same when it was given up.
func (n *conn) beginWrite(ctx context.Context, patient bool, redisKey string, size int) (op, error) {
	if size >= largeBytes {
		n.second.note(redisKey)
	}
	at := n.nodeOf(redisKey)
	switch bySecond := n.second.of(redisKey) != nil; {
	case !bySecond:
		return n.beginAt(ctx, patient, at)
	case patient:
		return n.beginLong(ctx, patient, true, at)
	}
	o := op{conn: n, at: at, caller: ctx, begun: time.Now(), bySecond: true}
	o.ctx, o.cancel = n.timeouts.bound(ctx, o.begun)
	return n.start(o, patient)
}

// settle waits until all is done that was written to a key by the first connection, before o, which goes by the
// second, writes to it. Any reply will do.
func (o *op) settle(redisKey string) error {
	n := o.conn
	k := n.second.of(redisKey)
	if !o.bySecond || k == nil || k.settled.Load() {
		return nil
	}
	first := leavable{*n.client.Load(), o.at.load.slots}
	if err := first.Do(o.ctx, first.B().Strlen().Key(redisKey).Build()).NonRedisError(); err != nil {
		return err
	}
	k.settled.Store(true)
	return nil
}
