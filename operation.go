package cacheaside

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// op is one operation under way.
type op struct {
	rueidis.Client
	conn   *conn
	at     *node           // whose keys it is about
	ctx    context.Context // ends at OpTimeout, or with the caller's
	cancel context.CancelFunc
	caller context.Context
	begun  time.Time
	ended  bool

	bySecond bool // it goes by the second connection
}

// begin begins an operation for the caller with this context; end must follow unless it returns an error.
// With patient, it waits for a connection that is being restored; without, only for a moment. All of it, until
// end, takes no longer than OpTimeout.
func (n *conn) begin(ctx context.Context, patient bool, redisKey string) (op, error) {
	return n.beginAt(ctx, patient, n.nodeOf(redisKey))
}

func (n *conn) beginAt(ctx context.Context, patient bool, at *node) (op, error) {
	o := op{conn: n, at: at, caller: ctx, begun: time.Now()}
	o.ctx, o.cancel = n.timeouts.bound(ctx, o.begun)
	return n.start(o, patient)
}

// beginLong is begin for what may take longer than OpTimeout, for as long as something comes.
func (n *conn) beginLong(ctx context.Context, patient, bySecond bool, at *node) (op, error) {
	o := op{conn: n, at: at, caller: ctx, begun: time.Now(), bySecond: bySecond}
	l := &at.line
	if bySecond {
		l = &n.second.line
	}
	o.ctx, o.cancel = untilQuiet(ctx, l, n.second.quiet, n.second.most)
	return n.start(o, patient)
}

func (n *conn) start(o op, patient bool) (op, error) {
	if err := n.ready(&o, patient); err != nil {
		o.release()
		return op{}, err
	}
	n.checkRole(o.begun)
	crowded := o.at.load.begin(o.begun)
	if o.at != &n.node {
		n.load.underWay.Add(1)
	}
	switch {
	case o.bySecond:
		if err := n.takeSecond(&o); err != nil {
			return op{}, n.end(&o, err)
		}
	case crowded || n.wires.unsettled.Load() > 0:
		o.Client = leavable{o.Client, o.at.load.slots}
	}
	return o, nil
}

// takeSecond gives o the client of the second connection, which may have to be made.
func (n *conn) takeSecond(o *op) error {
	type made struct {
		client rueidis.Client
		err    error
	}
	m := leave(o.ctx, nil, func(err error) made { return made{err: err} }, func() (m made) {
		m.client, m.err = n.second.get()
		return m
	})
	if m.err == nil {
		o.Client = leavable{m.client, n.second.slots}
	}
	return m.err
}

// ready gives o a client, unless it is known that Redis does not answer.
func (n *conn) ready(o *op, patient bool) error {
	b := n.breaker
	if !b.isDown() {
		b = o.at.breaker
	}
	if b.isDown() {
		if err := b.wait(o.ctx, patient); err != nil {
			if gone := o.callerGone(o.ctx.Err()); gone != nil {
				return gone
			}
			if n.closing.Load() {
				return ErrClosed
			}
			return unavailable(err)
		}
	}
	c := n.client.Load()
	switch {
	case n.closing.Load():
		return ErrClosed
	case c == nil:
		return unavailable(errConnectionLost)
	}
	o.Client = *c
	return nil
}

// end ends an operation with the error that it got; for an operation on several keys it may be called for
// each of them. The caller's context counts first; a reply that is an error is an answer, unless it says
// that Redis is not ready to answer anything; and anything else means that the connection is to be probed
// before it is used again.
func (n *conn) end(o *op, err error) error {
	o.release()
	switch {
	case err == nil || rueidis.IsRedisNil(err):
		n.count(o, true)
		return nil
	case err == ErrClosed: // nothing was sent
		n.uncount(o)
		return err
	}
	if re, ok := rueidis.IsRedisErr(err); ok {
		n.count(o, true)
		if notServing(re) || refusesConnection(re) {
			n.blame(o, err)
		}
		if wantsMaster(re) {
			n.redial()
		}
		return unavailable(withoutArguments(re))
	}
	silent, late := n.count(o, false), o.at.isLate(err, n.cfg.OpTimeout)
	if gone := o.callerGone(err); gone != nil {
		if silent && !late {
			o.at.breaker.suspect()
		}
		return gone
	}
	switch {
	case n.closing.Load():
		return ErrClosed
	case rueidis.IsParseErr(err), late:
	case o.bySecond: // that says nothing about the first
		o.at.breaker.suspect()
	default:
		n.blame(o, err)
	}
	return unavailable(err)
}

// blame opens the breaker of what has not answered o. Of a cluster as a whole, one node that answers is enough.
func (n *conn) blame(o *op, err error) {
	if n.nodes != nil && o.at == &n.node {
		n.breaker.suspect()
		return
	}
	o.at.breaker.trip(err)
}

// count notes that an operation has ended, once, and reports whether nothing has been answered for a
// suspiciously long time.
func (n *conn) count(o *op, answered bool) (silent bool) {
	if o.ended {
		return false
	}
	o.ended = true
	if o.at != &n.node {
		n.load.underWay.Add(-1)
	}
	if answered {
		o.at.load.answered()
		return false
	}
	return o.at.load.failed(o.begun)
}

// uncount is count for an operation that has not been sent.
func (n *conn) uncount(o *op) {
	if !o.ended {
		o.ended = true
		o.at.load.underWay.Add(-1)
		if o.at != &n.node {
			n.load.underWay.Add(-1)
		}
	}
}

// attempt runs an operation that may well be done twice. With patient, if the connection is lost before the
// answer comes, it is done once more by the next connection, as far as OpTimeout allows: a Delete that fails
// only because Redis has just been restarted would be a nuisance.
func (n *conn) attempt(ctx context.Context, patient bool, redisKey string, do func(*op) error) error {
	return n.attemptAt(ctx, patient, n.nodeOf(redisKey), do)
}

func (n *conn) attemptAt(ctx context.Context, patient bool, at *node, do func(*op) error) error {
	o, err := n.beginAt(ctx, patient, at)
	if err != nil {
		return err
	}
	return n.try(&o, patient, do)
}

// write is attempt for what writes to one key, and sends so many bytes.
func (n *conn) write(ctx context.Context, patient bool, redisKey string, size int, do func(*op) error) error {
	o, err := n.beginWrite(ctx, patient, redisKey, size)
	if err != nil {
		return err
	}
	return n.try(&o, patient, func(o *op) error {
		if err := o.settle(redisKey); err != nil {
			return err
		}
		return do(o)
	})
}

func (n *conn) try(o *op, patient bool, do func(*op) error) error {
	err := do(o)
	if patient && n.again(o, err, patient) {
		err = do(o)
	}
	return n.end(o, err)
}

// again reports whether an operation that may be done twice is to be done once more: the connection was lost,
// and there is another one now. It waits for that as begin does. The next try is made such that it ends in
// time even if it meets somebody else's dial.
func (n *conn) again(o *op, err error, patient bool) bool {
	if err == nil || !isLost(err) || n.closing.Load() {
		return false
	}
	if o.bySecond {
		return true // the next try dials
	}
	n.blame(o, err)
	if o.at.breaker.isDown() && o.at.breaker.wait(o.ctx, patient) != nil {
		return false
	}
	if _, ok := o.Client.(leavable); !ok {
		o.Client = leavable{o.Client, o.at.load.slots}
	}
	return true
}

// isLost reports whether err says that the connection was lost, or could not be made.
func isLost(err error) bool {
	if _, ok := rueidis.IsRedisErr(err); ok || err == nil || rueidis.IsRedisNil(err) || rueidis.IsParseErr(err) {
		return false
	}
	return !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) && err != ErrClosed
}

// withoutArguments hides what a reply quotes of the command that it refuses, since that has the key in it.
func withoutArguments(re *rueidis.RedisError) error {
	text, _, quotes := strings.Cut(re.Error(), ", with args beginning with")
	if !quotes {
		return re
	}
	return &shortened{text, re}
}

// shortened is an error with less of a text; errors.As still finds all of it.
type shortened struct {
	text  string
	cause error
}

func (e *shortened) Error() string { return e.text }

func (e *shortened) Unwrap() error { return e.cause }

// notServing reports whether a reply means that Redis is not ready to serve anything.
func notServing(re *rueidis.RedisError) bool {
	return re.IsLoading() || strings.HasPrefix(re.Error(), "MASTERDOWN") || strings.HasPrefix(re.Error(), "BUSY ")
}

func (o *op) release() {
	if o.cancel != nil {
		o.cancel()
	}
}

// callerGone returns the error of the caller's context if that, and not the backend, explains err.
func (o *op) callerGone(err error) error {
	if gone := o.caller.Err(); gone != nil {
		return gone
	}
	deadline, ok := o.caller.Deadline()
	late := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) // the latter by a dial
	if ok && late && !time.Now().Before(deadline) {
		return context.DeadlineExceeded // the timer of the caller's context is a little late
	}
	return nil
}

// leavable lets a caller leave when its context ends, where the client would not: while it waits for
// another's dial, or for a place in a queue that is full. It costs a goroutine, so it is used only when
// that may happen.
//
// What a caller has left stays in the client's queue. To keep room there for those who cannot leave, each
// operation holds one of slots until it is answered, or the connection is found dead.
type leavable struct {
	rueidis.Client
	slots chan struct{} // nil: there is no limit for Do and DoMulti; DoCache and DoMultiCache need it
}

func (l leavable) Do(ctx context.Context, c rueidis.Completed) rueidis.RedisResult {
	return leave(ctx, l.slots, rueidis.NewErrorResult, func() rueidis.RedisResult {
		return l.Client.Do(context.Background(), c)
	})
}

func (l leavable) DoMulti(ctx context.Context, multi ...rueidis.Completed) []rueidis.RedisResult {
	failed := func(err error) []rueidis.RedisResult {
		all := make([]rueidis.RedisResult, len(multi))
		for i := range all {
			all[i] = rueidis.NewErrorResult(err)
		}
		return all
	}
	return leave(ctx, l.slots, failed, func() []rueidis.RedisResult {
		return l.Client.DoMulti(context.Background(), multi...)
	})
}

// DoCache is called on a goroutine of its own already, see aside.go.
func (l leavable) DoCache(ctx context.Context, c rueidis.Cacheable, ttl time.Duration) rueidis.RedisResult {
	l.slots <- struct{}{}
	defer func() { <-l.slots }()
	return l.Client.DoCache(ctx, c, ttl)
}

// DoMultiCache is as DoCache.
func (l leavable) DoMultiCache(ctx context.Context, multi ...rueidis.CacheableTTL) []rueidis.RedisResult {
	l.slots <- struct{}{}
	defer func() { <-l.slots }()
	return l.Client.DoMultiCache(ctx, multi...)
}

// leave returns what do returns, or what failed makes of the error of ctx if that ends first.
func leave[R any](ctx context.Context, slots chan struct{}, failed func(error) R, do func() R) R {
	if slots != nil {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return failed(ctx.Err())
		}
	}
	got := make(chan R, 1)
	go func() { // ends when the connection does, at the latest
		got <- do()
		if slots != nil {
			<-slots
		}
	}()
	select {
	case r := <-got:
		return r
	case <-ctx.Done():
	}
	select {
	case r := <-got: // both were ready
		return r
	default:
		return failed(ctx.Err())
	}
}

// messages are the replies to a read of several keys.
type messages struct {
	byKey map[string]rueidis.RedisMessage
	err   error
}

// mget asks for several keys, in a cluster by one command for each slot. A key that is not there, or holds
// no string, is a nil message.
func (o *op) mget(keys []string) (map[string]rueidis.RedisMessage, error) {
	l, ok := o.Client.(leavable)
	if !ok {
		return rueidis.MGet(o.Client, o.ctx, keys)
	}
	failed := func(err error) messages { return messages{err: err} }
	m := leave(o.ctx, l.slots, failed, func() (m messages) {
		m.byKey, m.err = rueidis.MGet(l.Client, context.Background(), keys)
		return m
	})
	return m.byKey, m.err
}
