package cacheaside

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/redis/rueidis"

	"github.com/cacheaside/cacheaside/internal/table"
)

// nearRead is a read of one key from Redis, and its outcome.
type nearRead[T any] struct {
	done chan struct{}
	data string
	err  error         // rueidis.Nil if there is nothing
	near *nearEntry[T] // the near copy that makes the read needless; nil if it was made

	decoding    sync.Once // see decodeRead
	entry       *entry[T]
	undecodable error
}

// errNothing says that Redis has nothing under a key.
var errNothing = errors.New("cacheaside: nothing there")

// read asks Redis for key, joining a read under way, and returns what stands there. An error is errNothing,
// errWrongType, or what conn.end returns.
func (a *aside[T]) read(ctx context.Context, key string) (string, error) {
	r, err := a.ask(ctx, key, false)
	if err != nil {
		return "", err
	}
	return r.data, nil
}

// ask is read that returns the read itself. To a look-up a near copy will do that has come since it has seen none.
func (a *aside[T]) ask(ctx context.Context, key string, lookup bool) (*nearRead[T], error) {
	o, err := a.conn.beginRead(ctx, a.name, key)
	if err != nil {
		return nil, err
	}
	r, err := a.readOnce(&o, key, lookup)
	switch {
	case a.conn.again(&o, err, false):
		r, err = a.readOnce(&o, key, lookup)
	case a.conn.passBy(&o, err, a.name, key):
		a.detachRead(key)
		r, err = a.readOnce(&o, key, lookup)
	}
	return r, a.outcome(&o, err)
}

// readOnce begins or joins a read of key, and waits for it.
func (a *aside[T]) readOnce(o *op, key string, lookup bool) (*nearRead[T], error) {
	r, begun := a.joinRead(key, lookup)
	if begun {
		go a.runRead(o.Client, key, r) // ends when the connection does, at the latest
	}
	return r, r.await(o.ctx)
}

func (a *aside[T]) lookupMany(ctx context.Context, keys []string) []lookedUp[T] {
	return lookUpInParts(a.conn, a.name, keys, func(keys []string, by way) []lookedUp[T] { return a.lookupPart(ctx, keys, by) })
}

// lookupPart reads the keys that nobody reads already in one go.
func (a *aside[T]) lookupPart(ctx context.Context, keys []string, by way) []lookedUp[T] {
	o, err := a.conn.beginLong(ctx, false, by.second, by.at)
	if err != nil {
		return failAll[T](len(keys), err)
	}
	reads, got := make([]*nearRead[T], len(keys)), make([]lookedUp[T], len(keys))
	all := make([]int, len(keys))
	for i := range all {
		all[i] = i
	}
	a.readAll(&o, keys, all, reads, got)
	if lost := a.lost(got); len(lost) > 0 && a.conn.again(&o, got[lost[0]].err, false) {
		a.readAll(&o, keys, lost, reads, got)
	}
	for i, key := range keys {
		got[i].entry, got[i].err = a.answer(ctx, key, reads[i], a.outcome(&o, got[i].err))
	}
	return got
}

// readAll begins or joins reads of the keys in these places, and waits for them.
func (a *aside[T]) readAll(o *op, keys []string, places []int, reads []*nearRead[T], got []lookedUp[T]) {
	var mine []int // places of the keys whose reads are begun here
	for _, i := range places {
		var begun bool
		if reads[i], begun = a.joinRead(keys[i], true); begun {
			mine = append(mine, i)
		}
	}
	if len(mine) > 0 {
		go a.runReads(o.Client, keys, slices.Clone(reads), mine) // ends when the connection does, at the latest
	}
	for _, i := range places {
		got[i].err = reads[i].await(o.ctx)
	}
}

// lost returns the places of the reads that the loss of the connection has ended.
func (a *aside[T]) lost(got []lookedUp[T]) (places []int) {
	for i := range got {
		if isLost(got[i].err) {
			places = append(places, i)
		}
	}
	return places
}

// await waits for a read, and returns its error as rueidis gave it, or that of ctx.
func (r *nearRead[T]) await(ctx context.Context) error {
	if err := await(ctx, r.done); err != nil {
		return err
	}
	return r.err
}

// outcome ends the operation o with the error that awaiting its read returned.
func (a *aside[T]) outcome(o *op, err error) error {
	switch {
	case rueidis.IsRedisNil(err):
		_ = a.conn.end(o, nil) // nil
		return errNothing
	case isWrongType(err):
		_ = a.conn.end(o, nil) // nil
		return errWrongType
	}
	return a.conn.end(o, err)
}

// joinRead returns the read of key that is under way, or makes the record of one that the caller must begin. For a
// look-up it looks for the near copy once more, under the lock: the read that was under way when it looked before
// may have ended since. A read has no context: what is abandoned would still be answered, and the count of replies
// would be off.
func (a *aside[T]) joinRead(key string, lookup bool) (r *nearRead[T], begun bool) {
	s := a.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.reading[key]; r != nil {
		return r, false
	}
	if lookup {
		if n := a.near.Peek(key); n != nil && a.counts(n) {
			return &nearRead[T]{done: closedChannel, near: n}, false
		}
	}
	r = &nearRead[T]{done: make(chan struct{})}
	s.reading[key] = r
	return r, true
}

var closedChannel = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// detachRead makes the next look-up of key begin a read of its own.
func (a *aside[T]) detachRead(key string) {
	s := a.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.reading, key)
}

func (a *aside[T]) runRead(c rueidis.Client, key string, r *nearRead[T]) {
	a.endRead(key, r, c.DoCache(context.Background(), a.trackedGet(c, key), a.ttl))
	a.weighNear(key)
}

func (a *aside[T]) runReads(c rueidis.Client, keys []string, reads []*nearRead[T], mine []int) {
	gets := make([]rueidis.CacheableTTL, len(mine))
	for i, at := range mine {
		gets[i] = rueidis.CT(a.trackedGet(c, keys[at]), a.ttl)
	}
	for i, reply := range c.DoMultiCache(context.Background(), gets...) {
		a.endRead(keys[mine[i]], reads[mine[i]], reply)
	}
	for _, at := range mine {
		a.weighNear(keys[at])
	}
}

// trackedGet is a read that makes Redis tell of the key's next change. It is pinned, which keeps the client
// from using the command's memory again: a connection that has died may still be writing it when another
// try, by the next connection, has got the answer.
func (a *aside[T]) trackedGet(c rueidis.Client, key string) rueidis.Cacheable {
	return c.B().Get().Key(a.redisKey(key)).Cache().ToStaticTTL().Pin()
}

// endRead gives those who wait for r its reply.
func (a *aside[T]) endRead(key string, r *nearRead[T], reply rueidis.RedisResult) {
	r.data, r.err = reply.ToString()
	if r.err == nil && len(r.data) >= largeBytes {
		a.conn.second.learn(a.redisKey(key), len(r.data))
	}
	s := a.shard(key)
	s.mu.Lock()
	if s.reading[key] == r {
		delete(s.reading, key)
	}
	s.mu.Unlock()
	close(r.done)
}

// weighNear gives the near copy of key its weight. It came with that of any, since what it weighs is known when it
// is decoded, and the goroutine that reads the connection has no time for that. One that is too heavy is dropped, and so is
// one that cannot be weighed.
func (a *aside[T]) weighNear(key string) {
	if a.weigh == nil {
		return
	}
	n := a.near.Peek(key)
	if n == nil {
		return
	}
	e := n.decoded.Load()
	if e == nil {
		e = a.decodeNear(n, key)
	}
	if e == nil {
		return
	}
	weight, err := weightOf(a.weigh, key, e)
	if err != nil {
		a.near.DeleteIf(key, func(current *nearEntry[T]) bool { return current == n })
		a.unweighed(err)
		return
	}
	a.replaceNear(key, n, e, weight)
}

// replaceNear puts the near copy n, of the entry e, in its own place again with another weight, unless it is gone.
func (a *aside[T]) replaceNear(key string, n *nearEntry[T], e *entry[T], weight uint32) {
	if weight == 1 {
		return
	}
	same := func(current *nearEntry[T]) bool { return current == n }
	raw := new(undecoded)
	raw.mu.Lock() // who finds the new one at once waits for its entry
	defer raw.mu.Unlock()
	switch a.near.PutIf(key, nearEntry[T]{watch: n.watch, until: n.until, raw: raw}, weight, same) {
	case table.TooHeavy:
		a.near.DeleteIf(key, same)
	case table.Stored:
		if m := a.near.Peek(key); m != nil && m.raw == raw {
			m.decoded.Store(e)
		}
	}
}
