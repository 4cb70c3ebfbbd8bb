package cacheaside

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// FetchManyFunc gets the values of several keys from the source, by one query. A key that it leaves out of
// the result is one that the source does not have. If it returns an error, what it returns beside that is kept
// and given out all the same; the other keys fail with the error. For ctx see [FetchFunc].
type FetchManyFunc[T any] = func(ctx context.Context, keys []string) (map[string]T, error)

// GetMany returns what is cached under keys and within its ttl, asking the backend once for all. Keys that
// are not cached, or remembered as not found, are absent from the result. If the backend does not answer,
// it returns what this process holds, and an error that matches [ErrUnavailable]; if ctx has ended, the same
// and the error of ctx.
func (c *Client[T]) GetMany(ctx context.Context, keys []string) (map[string]T, error) {
	m, err := c.newManyInScope(ctx, keys)
	if err != nil {
		return nil, err
	}
	for _, q := range c.findMany(ctx, m.keys) {
		switch {
		case q.err != nil && !errors.Is(q.err, ErrInvalidValue):
			c.missed()
			m.fail(q.err)
		case (q.found.state == fresh || q.found.state == refreshDue) && !c.refusedByAge(ctx, &q.found):
			m.addHit(q.key, q.found)
		default:
			c.missed()
		}
	}
	return m.outcome()
}

// SetMany is [Client.Set] for several keys at once, with one ttl. If some cannot be kept, the others are,
// and the error says how many failed and why.
func (c *Client[T]) SetMany(ctx context.Context, values map[string]T, ttl time.Duration) error {
	if err := c.check(ctx, ""); err != nil {
		return err
	}
	if ttl <= 0 {
		return invalidTTL(ttl)
	}
	keys := slices.Collect(maps.Keys(values))
	return c.forEach(ctx, keys, func(key string) error { return c.Set(ctx, key, values[key], ttl) })
}

// DeleteMany is [Client.Delete] for several keys at once. If some cannot be deleted, the others are, and
// the error says how many failed and why.
func (c *Client[T]) DeleteMany(ctx context.Context, keys []string) error {
	keys, err := c.locateMany(ctx, keys)
	if err != nil {
		return cmp.Or(c.checkMany(ctx, nil), err)
	}
	return c.deleteKeys(ctx, keys)
}

// deleteKeys is DeleteMany for keys inside.
func (c *Client[T]) deleteKeys(ctx context.Context, keys []string) error {
	return c.forEach(ctx, keys, func(key string) error { return c.deleteKey(ctx, key) })
}

// GetManyWithFetch returns what is cached under keys, and gets what is not by one call of fetch, which
// sees only those keys, each once. Keys that are being fetched already, alone or in another batch, are
// waited for and not fetched twice. What [Client.GetWithFetch] says of contexts, ttls, policies, deletes
// and failures holds for each key.
//
// A key that the source does not have is absent from the result, without an error, and is remembered for
// [Config.NegativeTTL]. If some keys fail, the result holds the others, and the error says how many failed
// and why; it matches the causes. Of a batch that is too large to be stored within [Config.OpTimeout] a part is
// stored, and more by the next look-up.
func (c *Client[T]) GetManyWithFetch(ctx context.Context, keys []string, ttl time.Duration, fetch FetchManyFunc[T]) (map[string]T, error) {
	if fetch == nil {
		return nil, cmp.Or(c.checkMany(context.WithoutCancel(ctx), keys), nilArgument("fetch", "a function"))
	}
	return c.getMany(ctx, keys, request[T]{ttl: ttl}, fetch)
}

// getMany is GetManyWithFetch for keys each of which is asked for as like is.
func (c *Client[T]) getMany(ctx context.Context, keys []string, like request[T], fetch FetchManyFunc[T]) (map[string]T, error) {
	m, err := c.newMany(context.WithoutCancel(ctx), keys)
	if err == nil && !like.scoped {
		fetch = c.fetchOuter(fetch)
		m.keys, err = c.locateMany(ctx, m.keys)
	}
	if err != nil {
		return nil, err
	}
	ttl := like.ttl
	var missing, due []request[T]
	for _, q := range c.findMany(ctx, m.keys) {
		q.ttl, q.aged, q.anew, q.notBefore = ttl, like.aged, like.anew, like.notBefore
		c.setAge(ctx, &q.request)
		q.failed = q.err != nil && errors.Is(q.err, ErrUnavailable)
		switch {
		case q.err != nil && ctx.Err() != nil:
			c.missed()
			m.fail(ctx.Err())
		case q.err != nil && errors.Is(q.err, ErrClosed):
			m.fail(q.err)
		case q.refuses(&q.found):
			missing = append(missing, q.request)
		case c.wantsRefresh(&q.found):
			if ttl > 0 { // otherwise nothing would be kept of a refresh
				due = append(due, q.request)
			}
			m.addHit(q.key, q.found)
		case q.found.state == fresh:
			m.addHit(q.key, q.found)
		default:
			missing = append(missing, q.request)
		}
	}
	if changeOf(ctx) != nil {
		c.fetchManyInside(ctx, m, missing, fetch)
		return m.outcome()
	}
	c.refreshMany(ctx, due, fetch)
	c.fetchOrJoinMany(ctx, m, missing, fetch)
	return m.outcome()
}

// many is the outcome of a call for several keys, as it comes together.
type many[T any] struct {
	client *Client[T]
	keys   []string // none of them twice
	values map[string]T
	failed int
	causes []error             // of the keys that failed, none of them twice
	texts  map[string]struct{} // of the causes
}

// maxCauses is how many causes the text of a batch's error names. The error matches all of them.
const maxCauses = 8

// batchError is the error of a call for several keys.
type batchError struct {
	failed, of int
	causes     []error
}

func (e *batchError) Error() string {
	text := fmt.Sprintf("cacheaside: %d of %d keys failed: %v", e.failed, e.of, errors.Join(e.causes[:min(len(e.causes), maxCauses)]...))
	if more := len(e.causes) - maxCauses; more > 0 {
		text += fmt.Sprintf("\nand %d other causes", more)
	}
	return text
}

func (e *batchError) Unwrap() []error { return e.causes }

func (c *Client[T]) newMany(ctx context.Context, keys []string) (*many[T], error) {
	if err := c.checkMany(ctx, keys); err != nil {
		return nil, err
	}
	return &many[T]{client: c, keys: distinct(keys), values: make(map[string]T, len(keys))}, nil
}

// newManyInScope is newMany, for lookups.
func (c *Client[T]) newManyInScope(ctx context.Context, keys []string) (*many[T], error) {
	m, err := c.newMany(context.WithoutCancel(ctx), keys)
	if err == nil {
		m.keys, err = c.locateMany(ctx, m.keys)
	}
	return m, err
}

func (c *Client[T]) checkMany(ctx context.Context, keys []string) error {
	if err := c.check(ctx, ""); err != nil {
		return err
	}
	for _, key := range keys {
		if err := checkKey(key); err != nil {
			return err
		}
	}
	return nil
}

// distinct returns keys without repetitions, in the order in which they come first.
func distinct(keys []string) []string {
	seen := make(map[string]struct{}, len(keys))
	return slices.DeleteFunc(slices.Clone(keys), func(key string) bool {
		_, ok := seen[key]
		seen[key] = struct{}{}
		return ok
	})
}

func (m *many[T]) addHit(key string, f found[T]) {
	r, err := m.client.hit(f)
	m.add(key, r, err)
}

// add notes the outcome of key. That the source has none is no failure.
func (m *many[T]) add(key string, r Result[T], err error) {
	switch {
	case err == nil:
		m.values[m.client.outer(key)] = r.Value
	case !errors.Is(err, ErrNotFound) || isPanic(err):
		m.fail(err)
	}
}

func (m *many[T]) fail(err error) {
	m.failed++
	text := err.Error() // an error need not be comparable
	if _, ok := m.texts[text]; ok {
		return
	}
	if m.texts == nil {
		m.texts = make(map[string]struct{})
	}
	m.texts[text] = struct{}{}
	m.causes = append(m.causes, err)
}

func (m *many[T]) outcome() (map[string]T, error) {
	if m.failed == 0 {
		return m.values, nil
	}
	return m.values, &batchError{failed: m.failed, of: len(m.keys), causes: m.causes}
}

// forEach does something with each key, of those that are distinct.
func (c *Client[T]) forEach(ctx context.Context, keys []string, do func(key string) error) error {
	m, err := c.newMany(ctx, keys)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var lost atomic.Pointer[error]
	c.concurrently(len(m.keys), func(i int) {
		if err := c.unlessLost(&lost, m.keys[i], func() error { return do(m.keys[i]) }); err != nil {
			mu.Lock()
			defer mu.Unlock()
			m.fail(err)
		}
	})
	_, err = m.outcome()
	return err
}

// unlessLost calls do, unless the backend has not answered to an earlier one with this lost, and still does not.
// Each would wait for it as long as an operation may, and many keys are done in many turns.
func (c *Client[T]) unlessLost(lost *atomic.Pointer[error], key string, do func() error) error {
	if cause := lost.Load(); cause != nil && c.downFor(key) {
		return *cause
	}
	err := do()
	if err != nil && errors.Is(err, ErrUnavailable) {
		lost.CompareAndSwap(nil, &err)
	}
	return err
}

// maxConcurrent is how many operations of one batch are on their way to the backend at a time. The
// connection sends what comes together in one write.
const maxConcurrent = 128

// concurrently calls do for 0 to n-1, several at a time where the backend takes its time to answer, and
// returns when all have returned. If one panics, concurrently does.
func (c *Client[T]) concurrently(n int, do func(i int)) {
	if c.instant || n == 1 {
		for i := range n {
			do(i)
		}
		return
	}
	var all sync.WaitGroup
	var failure atomic.Pointer[error]
	slots := make(chan struct{}, maxConcurrent)
	for i := range n {
		slots <- struct{}{}
		all.Go(func() {
			returned := false
			defer func() {
				if !returned {
					err := abnormal(recover())
					failure.CompareAndSwap(nil, &err)
				}
				<-slots
			}()
			do(i)
			returned = true
		})
	}
	all.Wait()
	if err := failure.Load(); err != nil {
		panic(handedOn(*err))
	}
}

// handedOn is err, of abnormal, in the form that abnormal knows again. A caller of ours may see it too.
func handedOn(err error) any {
	if err == ErrGoexit {
		return goexit{}
	}
	return err
}

// sought is one key of a batch, and what was found under it.
type sought[T any] struct {
	request[T]
	err error // of the look-up
}

// findMany is find for several keys: what this process does not hold is looked up in one go.
func (c *Client[T]) findMany(ctx context.Context, keys []string) []sought[T] {
	all := make([]sought[T], len(keys))
	var missing []int // places of the keys to look up
	for i, key := range keys {
		q := &all[i]
		q.key, q.shard, q.found.state = key, c.flights.shard(key), absent
		q.ended = q.shard.ended.Load()
		c.sampled(key)
		e := c.store.peek(key)
		if c.changing.any.Load() > 0 && c.isChangedIn(ctx, key) {
			q.err = ctx.Err()
			continue
		}
		if e != nil && c.holds(e) {
			q.found = c.judge(e, c.clock.now())
			q.found.near = true
		}
		if q.found.state == absent && (!c.instant || ctx.Err() != nil) && !c.repeats.isPending(key) {
			missing = append(missing, i)
		}
	}
	if len(missing) == 0 {
		return all
	}
	ask := make([]string, len(missing))
	for i, at := range missing {
		ask[i] = keys[at]
	}
	if err := ctx.Err(); err != nil {
		for _, at := range missing {
			all[at].err = err
		}
		return all
	}
	begun := c.askedAt()
	replies := c.store.lookupMany(ctx, ask)
	c.validMany(ctx, replies)
	c.tellEvictions()
	asked := min(c.askedAt().Sub(begun), c.cfg.OpTimeout/4) // where much comes it takes longer, and time is left for storing
	c.countFailed(replies)
	for i, at := range missing {
		q := &all[at]
		q.asked, q.err = asked, replies[i].err
		c.unreadable(q.err)
		q.found = c.judge(replies[i].entry, c.clock.now())
	}
	return all
}

// countFailed counts the failure of a look-up of several keys as the one operation that it is.
func (c *Client[T]) countFailed(replies []lookedUp[T]) {
	for i := range replies {
		if err := replies[i].err; err != nil && c.backendError(err) != nil && errors.Is(err, ErrUnavailable) {
			return
		}
	}
}
