package cacheaside

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"

	"github.com/redis/rueidis"

	"github.com/cacheaside/cacheaside/internal/table"
)

// nearRead is a read of one key from Redis, and its outcome.
type nearRead struct {
	done chan struct{}
	data string
	err  error // rueidis.Nil if there is nothing
}

// errNothing says that Redis has nothing under a key.
var errNothing = errors.New("cacheaside: nothing there")

// read asks Redis for key, joining a read under way. An error is errNothing, errWrongType, or what conn.end
// returns.
func (a *aside[T]) read(ctx context.Context, key string) (string, error) {
	o, err := a.conn.begin(ctx, false)
	if err != nil {
		return "", err
	}
	r, err := a.readOnce(&o, key)
	if a.conn.again(&o, err, false) {
		r, err = a.readOnce(&o, key)
	}
	return a.outcome(&o, r, err)
}

// readOnce begins or joins a read of key, and waits for it.
func (a *aside[T]) readOnce(o *op, key string) (*nearRead, error) {
	r, begun := a.joinRead(key)
	if begun {
		go a.runRead(o.Client, key, r) // ends when the connection does, at the latest
	}
	return r, r.await(o.ctx)
}

// lookupMany reads the keys that nobody reads already in one go.
func (a *aside[T]) lookupMany(ctx context.Context, keys []string) []lookedUp[T] {
	o, err := a.conn.begin(ctx, false)
	if err != nil {
		return failAll[T](len(keys), err)
	}
	reads, got := make([]*nearRead, len(keys)), make([]lookedUp[T], len(keys))
	all := make([]int, len(keys))
	for i := range all {
		all[i] = i
	}
	a.readAll(&o, keys, all, reads, got)
	if lost := a.lost(got); len(lost) > 0 && a.conn.again(&o, got[lost[0]].err, false) {
		a.readAll(&o, keys, lost, reads, got)
	}
	for i, key := range keys {
		data, err := a.outcome(&o, reads[i], got[i].err)
		got[i].entry, got[i].err = a.decoded(key, data, err)
	}
	return got
}

// readAll begins or joins reads of the keys in these places, and waits for them.
func (a *aside[T]) readAll(o *op, keys []string, places []int, reads []*nearRead, got []lookedUp[T]) {
	var mine []int // places of the keys whose reads are begun here
	for _, i := range places {
		var begun bool
		if reads[i], begun = a.joinRead(keys[i]); begun {
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
func (r *nearRead) await(ctx context.Context) error {
	if err := await(ctx, r.done); err != nil {
		return err
	}
	return r.err
}

// outcome ends the operation o with the error that awaiting r returned.
func (a *aside[T]) outcome(o *op, r *nearRead, err error) (string, error) {
	switch {
	case rueidis.IsRedisNil(err):
		_ = a.conn.end(o, nil) // nil
		return "", errNothing
	case isWrongType(err):
		_ = a.conn.end(o, nil) // nil
		return "", errWrongType
	}
	if err := a.conn.end(o, err); err != nil {
		return "", err
	}
	return r.data, nil
}

// joinRead returns the read of key that is under way, or makes the record of one that the caller must
// begin. A read has no context: what is abandoned would still be answered, and the count of replies would
// be off.
func (a *aside[T]) joinRead(key string) (r *nearRead, begun bool) {
	s := a.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.reading[key]; r != nil {
		return r, false
	}
	r = &nearRead{done: make(chan struct{})}
	s.reading[key] = r
	return r, true
}

// detachRead makes the next look-up of key begin a read of its own.
func (a *aside[T]) detachRead(key string) {
	s := a.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.reading, key)
}

func (a *aside[T]) runRead(c rueidis.Client, key string, r *nearRead) {
	a.endRead(key, r, c.DoCache(context.Background(), a.trackedGet(c, key), a.ttl))
	a.weighNear(key)
}

func (a *aside[T]) runReads(c rueidis.Client, keys []string, reads []*nearRead, mine []int) {
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
func (a *aside[T]) endRead(key string, r *nearRead, reply rueidis.RedisResult) {
	r.data, r.err = reply.ToString()
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
	data, e := n.raw.Load(), n.decoded.Load()
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
	a.replaceNear(key, n, data, e, weight)
}

// replaceNear puts the near copy n in its own place again with another weight, unless it is gone.
func (a *aside[T]) replaceNear(key string, n *nearEntry[T], data *string, e *entry[T], weight uint32) {
	if weight == 1 {
		return
	}
	same := func(current *nearEntry[T]) bool { return current == n }
	raw := new(atomic.Pointer[string])
	raw.Store(data)
	switch a.near.PutIf(key, nearEntry[T]{watch: n.watch, until: n.until, raw: raw}, weight, same) {
	case table.TooHeavy:
		a.near.DeleteIf(key, same)
	case table.Stored:
		if m := a.near.Peek(key); m != nil && m.raw == raw {
			m.keep(e)
		}
	}
}
