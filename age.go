package cacheaside

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
	"weak"
)

// ageKey is the key under which a context holds the age of MaxAge.
type ageKey struct{}

// MaxAge returns a context for look-ups which accept no value whose fetch returned longer ago than d, and join no fetch
// that began longer ago: they fetch instead, and what is kept stays until the fetch has succeeded. Stale values are values,
// too; a "not found" that is remembered is as old as its answer. Get and GetMany miss what is older. Zero or less accepts
// nothing that is kept. A look-up inside of a fetch that such a look-up has started has its age as well.
//
// Ages are known to the millisecond, in doubt the older. Those of what other processes have stored are by their clocks.
// From the first MaxAge of a process on, every hit of it looks at its context, which costs some ten nanoseconds and more.
func MaxAge(ctx context.Context, d time.Duration) context.Context {
	ages.use()
	return context.WithValue(ctx, ageKey{}, max(d, 0))
}

// ages are the caches that have to know whether contexts may hold an age.
var ages ageBook

type ageBook struct {
	used atomic.Bool

	mu     sync.Mutex
	caches map[any]func() // by their weak pointers
}

func (b *ageBook) use() {
	if b.used.Load() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used.Store(true)
	for _, look := range b.caches {
		look()
	}
	b.caches = nil
}

// enterAges makes c take the long way from the first MaxAge on.
func (c *Client[T]) enterAges() (leave func()) {
	w := weak.Make(c)
	ages.mu.Lock()
	defer ages.mu.Unlock()
	if ages.used.Load() {
		return func() {}
	}
	if ages.caches == nil {
		ages.caches = make(map[any]func())
	}
	ages.caches[w] = func() {
		if c := w.Value(); c != nil {
			c.setSure()
		}
	}
	return func() {
		ages.mu.Lock()
		defer ages.mu.Unlock()
		delete(ages.caches, w)
	}
}

// setAge notes the age that the context of q's caller asks for.
func (c *Client[T]) setAge(ctx context.Context, q *request[T]) {
	if q.aged || !ages.used.Load() {
		return
	}
	if d, ok := ctx.Value(ageKey{}).(time.Duration); ok {
		q.aged, q.anew, q.notBefore = true, d == 0, c.clock.now()-int64(d)
	}
}

// refuses reports whether what was found is too old for q.
func (q *request[T]) refuses(f *found[T]) bool {
	return q.aged && f.entry != nil && (q.anew || storedAt(f.now, f.entry.age(f.now)) < q.notBefore)
}

// storedAt is when an entry of this age was stored, or somewhat earlier.
func storedAt(now int64, age time.Duration) int64 {
	return now/int64(time.Millisecond)*int64(time.Millisecond) - int64(age)
}

// refusedByAge is refuses for a look-up that does not fetch.
func (c *Client[T]) refusedByAge(ctx context.Context, f *found[T]) bool {
	var q request[T]
	c.setAge(ctx, &q)
	return q.refuses(f)
}

// fallback is what q may be given in place of an error, if that is a value at all.
func (q *request[T]) fallback() *found[T] {
	if q.refuses(&q.found) {
		return &found[T]{state: absent}
	}
	return &q.found
}

// isTooOld reports whether the flight that q has joined, which has ended with r, was too old, or has ended with a value
// that is.
func (c *Client[T]) isTooOld(q *request[T], r *Result[T]) bool {
	return q.outdated || q.aged && r.Source == SourceHit && (q.anew || storedAt(c.clock.now(), r.Age) < q.notBefore)
}

// Refresh fetches key anew, as [Client.GetWithFetch] does when nothing is kept, and returns what the fetch returns. The old
// value stays until the fetch has succeeded, and other look-ups are answered by it meanwhile; if the source has none, it is
// removed. Refresh shares a fetch that began after it was called, and waits for an older one to end first. A Delete or Set
// meanwhile voids the fetch as any other. It returns the errors of GetWithFetch, and no stale value in place of one.
func (c *Client[T]) Refresh(ctx context.Context, key string, ttl time.Duration, fetch FetchFunc[T]) (T, error) {
	r, err := c.getOrFetch(ctx, request[T]{key: key, ttl: ttl, fetch: fetch, aged: true, anew: true, notBefore: c.clock.now()})
	return r.Value, err
}

// renewKey is the key under which the context of a lease holds the *request that wants a younger value than what is
// stored.
type renewKey struct{}

// renewing tells the store which entries are too old for f, though they are fresh.
func (f *flight[T]) renewing(ctx context.Context) context.Context {
	if !f.aged {
		return ctx
	}
	return context.WithValue(ctx, renewKey{}, &f.request)
}

// isUnwanted reports whether e is too old for the request of ctx.
func isUnwanted[T any](ctx context.Context, clock *clock, e *entry[T]) bool {
	q, ok := ctx.Value(renewKey{}).(*request[T])
	return ok && q.refuses(&found[T]{entry: e, now: clock.now()})
}
