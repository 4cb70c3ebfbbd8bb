package cacheaside

import (
	"bytes"
	"context"
	"sync"

	"github.com/redis/rueidis"
)

// sharedReads let look-ups of one key on rueidis share reads. Two reads of a key are on the wire at a time, and those
// who ask meanwhile share the next one: many callers of a large value would otherwise have it sent as many times, and
// wait for each other's copies until their time is over. It is two, since that a few callers meet on a key is common
// where many look up small values, and sharing costs more then than it saves.
//
// No look-up joins a read that was sent before it began. So what it gets is no older than the last write that had
// returned by then, of whatever process.
type sharedReads struct{ shards [nearShards]readShard }

type readShard struct {
	mu     sync.Mutex
	onWire map[string]wireReads // by key that is being read
	_      [cacheLine - 16]byte
}

// wireReads are the reads of one key.
type wireReads struct {
	sent int         // those that are on the wire
	next *sharedRead // nil if nobody waits for it
}

// maxSent is how many reads of a key may be on the wire at a time.
const maxSent = 2

// sharedRead is a read that is sent when the one before it has ended, and its outcome.
type sharedRead struct {
	readers int           // those who have joined; none does once it is sent
	done    chan struct{} // closed when the outcome is there
	data    []byte
	err     error // rueidis.Nil if there is nothing
}

func newSharedReads() *sharedReads {
	s := new(sharedReads)
	for i := range s.shards {
		s.shards[i].onWire = make(map[string]wireReads)
	}
	return s
}

func (s *sharedReads) shard(key string) *readShard { return &s.shards[hashKey(key)%nearShards] }

// join returns the next read of key, which the caller has joined, or nil if few are on the wire: then the caller makes
// one. It calls next when that has ended.
func (s *sharedReads) join(key string) *sharedRead {
	h := s.shard(key)
	h.mu.Lock()
	r := h.onWire[key]
	if r.sent < maxSent {
		r.sent++
		h.onWire[key] = r
		h.mu.Unlock()
		return nil
	}
	if r.next == nil {
		r.next = &sharedRead{done: make(chan struct{})}
		h.onWire[key] = r
	}
	r.next.readers++
	h.mu.Unlock()
	return r.next
}

// next ends a read of key, and returns the one that is to be sent then, or nil if nobody waits for any.
func (s *sharedReads) next(key string) *sharedRead {
	h := s.shard(key)
	h.mu.Lock()
	r := h.onWire[key]
	next := r.next
	if next == nil {
		r.sent--
	}
	if r.next = nil; r.sent == 0 {
		delete(h.onWire, key)
	} else {
		h.onWire[key] = r
	}
	h.mu.Unlock()
	return next
}

// readBytes are what a read of a key has returned.
type readBytes struct {
	data   []byte
	found  bool // there is a string
	shared bool // others have the same bytes
}

// read reads key, alone or together with others.
func (r *remote[T]) read(o *op, key string) (got readBytes, err error) {
	next := r.reads.join(key)
	if next == nil {
		got.data, err = r.get(o, key)
		got.found = err == nil
		r.goOn(o, key)
		return got, err
	}
	return next.await(o.ctx)
}

// get sends a read of key.
func (r *remote[T]) get(o *op, key string) ([]byte, error) {
	k := r.redisKey(key)
	data, err := o.Do(o.ctx, o.B().Get().Key(k).Build()).AsBytes()
	if err == nil {
		r.conn.second.learn(k, len(data))
	}
	return data, err
}

func (s *sharedRead) await(ctx context.Context) (readBytes, error) {
	if err := await(ctx, s.done); err != nil {
		return readBytes{}, err
	}
	return readBytes{s.data, s.err == nil, s.readers > 1}, s.err
}

// goOn sends the next read of key, if there is one. It has no context: a caller who leaves would have it sent again
// for the next one, while its reply is still on the way.
func (r *remote[T]) goOn(o *op, key string) {
	next := r.reads.next(key)
	if next == nil {
		return
	}
	own := op{Client: o.Client, conn: r.conn, at: o.at, ctx: context.Background(), bySecond: o.bySecond}
	go func() { // ends when the connection does, at the latest
		for ; next != nil; next = r.reads.next(key) {
			if !own.bySecond && r.conn.second.of(r.redisKey(key)) != nil {
				own.bySecond = r.conn.takeSecond(&own) == nil
			}
			next.data, next.err = r.get(&own, key)
			close(next.done)
		}
	}()
}

// readMany reads keys, those that are not on the wire already by one MGET, or in a cluster by one for each slot, all
// at once. The other keys come with the next read of each. While nothing else is under way, no other look-up can
// share, and the keys are not noted.
func (r *remote[T]) readMany(o *op, keys []string) ([]readBytes, error) {
	got := make([]readBytes, len(keys))
	if r.conn.load.underWay.Load() <= 1 {
		return got, r.mget(o, keys, func(i int) *readBytes { return &got[i] })
	}
	var mine []string
	var places []int
	joined := make(map[int]*sharedRead)
	for i, key := range keys {
		if next := r.reads.join(key); next != nil {
			joined[i] = next
		} else {
			mine, places = append(mine, key), append(places, i)
		}
	}
	var err error
	if len(mine) > 0 {
		err = r.mget(o, mine, func(i int) *readBytes { return &got[places[i]] })
		for _, key := range mine {
			r.goOn(o, key)
		}
	}
	for i, next := range joined {
		var failed error
		if got[i], failed = next.await(o.ctx); failed != nil && !rueidis.IsRedisNil(failed) && !isWrongType(failed) && err == nil {
			err = failed
		}
	}
	return got, err
}

// mget reads keys in one go. What holds no string is nothing there.
func (r *remote[T]) mget(o *op, keys []string, place func(i int) *readBytes) error {
	redisKeys := make([]string, len(keys))
	for i, key := range keys {
		redisKeys[i] = r.redisKey(key)
	}
	replies, err := o.mget(redisKeys)
	for i, k := range redisKeys {
		reply := replies[k]
		if data, err := reply.AsBytes(); err == nil {
			*place(i) = readBytes{data: data, found: true}
			r.conn.second.learn(k, len(data))
		}
	}
	return err
}

// decoded is what a look-up makes of what stands under key.
func (r *remote[T]) decoded(key string, got readBytes) (*entry[T], error) {
	data := got.data
	if _, takes := r.form.codec.(taker[T]); takes && got.shared {
		data = bytes.Clone(data) // the value would be made of these very bytes
	}
	e, err := r.form.decode(r.redisKey(key), data)
	if err == errLease { // the rueidis-aside cache of another process is fetching the key
		return nil, nil
	}
	return e, err
}
