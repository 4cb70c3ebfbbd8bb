package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// FetchFunc gets the value of key from the source: the database, the remote service. key is the caller's,
// on every backend. ctx carries the values of the caller who started the fetch but not its cancellation
// (others may be waiting for the same result); it ends at [Config.FetchTimeout] and when the cache is
// closed. An error is given to everybody who waits, unchanged, and is not cached; to say that the source
// has no such key, return an error that matches [ErrNotFound] or a sentinel given to [WithNotFound].
//
// A function that is made once and takes the key from its argument costs nothing on a hit. A closure that
// captures the key, or a method value written in the call, is made anew and costs an allocation on every
// call, hit or not. [Client.Bind] makes the former easy.
type FetchFunc[T any] = func(ctx context.Context, key string) (T, error)

// Cache is what a service depends on, whichever backend it runs with. [Client] implements it, and says
// what each method promises.
type Cache[T any] interface {
	Get(ctx context.Context, key string) (T, error)
	Set(ctx context.Context, key string, value T, ttl time.Duration) error
	Delete(ctx context.Context, key string) error
	GetWithFetch(ctx context.Context, key string, ttl time.Duration, fetch FetchFunc[T]) (T, error)
	Health(ctx context.Context) error
	Close() error
}

// Client is a cache of values of type T under string keys of any bytes, up to [MaxKeyBytes]. It is safe
// for concurrent use. Make one with [Open], [New] or a backend's own constructor, and Close it.
//
// Values that a backend keeps in this process (memory, rueidis-aside) are shared by everybody who gets
// them, and must be taken as read-only; [WithClone] makes copies.
type Client[T any] struct {
	store    store[T]
	quick    store[T] // what a hit looks at, by the caller's key: store, and nothing where keys have scopes
	clock    *clock
	flights  *flights[T]
	cfg      Config // resolved
	window   int64  // how long past its freshness an entry is kept, for StaleFor and StaleIfError
	local    Source // what a hit in peek is: SourceHit, or SourceNearHit
	clone    func(T) T
	codec    Codec[T]
	near     *aside[T]                                     // nil without a near cache
	weigh    func(key string, e *entry[T]) (uint32, error) // nil, but in memory with a weigher
	tagger   func(key string, value T) []string            // WithTags'; nil if that was not given
	backend  *Backend
	tags     tagBook      // of the backend
	changing changing     // keys that changes have declared
	markers  *markers     // of removals of this process; nil without Config.Settle
	sure     atomic.Int64 // what surelyFresh takes off a deadline; see setSure
	opts     options
	gone     error                 // what a remembered "not found" returns, and a key that a batch's source leaves out
	instant  bool                  // the store is in this process altogether: what peek does not find is not there
	down     func() bool           // the backend does not answer
	downFor  func(key string) bool // the same of where a key is
	spread   bool                  // several processes refresh the same entries, and should not do it together

	watchers  watchers
	shortTTL  sync.Once    // the log is told of one that lacks a unit
	evictions atomic.Int64 // that no observer has been told of yet
	stats     counters
	refreshes chan struct{} // holds one element a refresh under way
	chores    *chores
	sampler   atomic.Pointer[keySampler]    // nil unless keys are sampled
	sampling  sync.Mutex                    // held by who samples them
	repeats   *repeats                      // of invalidations that have failed
	aliases   atomic.Pointer[[]aliasing[T]] // nil without any
	aliasing  sync.Mutex                    // held while one is added
	namesakes *namesakes                    // the caches of this process that hold the same keys, c among them; nil in memory

	closing sync.Once
	closed  chan struct{}
	unaged  func() // takes this client off those that MaxAge tells
	unclaim func() // lets others use the name; see name_claim.go
	leave   func() // takes this client off its namesakes
	release func() // gives the name back to the backend, and closes that if this client owns it
}

var _ Cache[struct{}] = (*Client[struct{}])(nil)

// Get returns what is cached under key and within its ttl. It never fetches. It returns [ErrMiss] if
// there is nothing, [ErrNotFound] if "the source has none" is remembered, [ErrMiss] together with
// [ErrInvalidValue] if what is stored cannot be read, and [ErrUnavailable] if the backend does not answer.
// What this process holds is returned even if ctx has ended.
func (c *Client[T]) Get(ctx context.Context, key string) (T, error) {
	e := c.quick.peek(key)
	if e != nil && (c.surelyFresh(e) || c.surelyCounts(e)) {
		c.countLocalHit()
		if c.clone != nil {
			return c.clone(e.value), nil
		}
		return e.value, nil
	}
	return c.get(ctx, key, e)
}

// GetWithFetch returns what is cached under key or else calls fetch, keeps what it returns for ttl, and
// gives it to everybody who asks for key meanwhile. ttl says how long the value is fresh: [NoExpiry] is
// for ever, zero or less means that what is fetched is not kept; it never limits the fetch.
//
// A fetch runs once for all who wait, apart from their contexts: a caller whose ctx ends gets its error,
// at once, and the fetch goes on and is kept. What it returns is kept only if the key was neither set nor
// deleted meanwhile. A panic in fetch is returned as a [*PanicError], and [runtime.Goexit] as [ErrGoexit];
// a fetch that takes longer than [Config.FetchTimeout] as [ErrFetchTimeout]; one that asks for its own key
// as [ErrReentrant]. A backend that does not answer is no error: then fetch is called.
func (c *Client[T]) GetWithFetch(ctx context.Context, key string, ttl time.Duration, fetch FetchFunc[T]) (T, error) {
	e := c.quick.peek(key)
	if e != nil && (c.surelyFresh(e) || c.surelyCounts(e)) && fetch != nil {
		c.countLocalHit()
		if c.clone != nil {
			return c.clone(e.value), nil
		}
		return e.value, nil
	}
	r, err := c.getOrFetch(ctx, request[T]{key: key, ttl: ttl, fetch: fetch})
	return r.Value, err
}

// Set keeps value under key for ttl, which must be more than zero ([ErrInvalidTTL]); it is honoured to the
// millisecond, rounded up. It voids a fetch of key that is under way: that one is returned to those who
// wait for it, but not kept. It returns [ErrInvalidValue] for a value that cannot be encoded or is too
// large, and then removes what was there: an older value must not outlive the newer one. It returns
// [ErrUnavailable] if the backend does not answer; then value may have been kept or not.
func (c *Client[T]) Set(ctx context.Context, key string, value T, ttl time.Duration) (err error) {
	if err := c.check(ctx, key); err != nil {
		return err
	}
	if ttl <= 0 {
		return invalidTTL(ttl)
	}
	if key, err = c.locate(ctx, key); err != nil {
		return err
	}
	if changeOf(ctx) != nil {
		return c.changed(ctx, key)
	}
	return c.setKey(ctx, key, value, ttl)
}

// setKey is Set of a key inside.
func (c *Client[T]) setKey(ctx context.Context, key string, value T, ttl time.Duration) error {
	c.checkRoundTrip(key, value)
	tags, err := c.tagSet(ctx, key, value, ttl)
	if err == nil {
		err = c.checkAliases(key, value)
	}
	if err != nil {
		return c.refuse(ctx, key, err)
	}
	w, err := c.fence(ctx, key, false)
	defer c.unfence(key, w)
	if err == nil {
		err = c.beforeRemoval(ctx, []string{key}, false)
	}
	if err != nil {
		return err
	}
	err = c.writeError(c.store.set(ctx, key, c.entry(c.own(value), ttl, c.clock.now(), 0), tags))
	c.tellEvictions()
	switch {
	case err == nil && c.changing.isClosed(key):
		return c.remove(ctx, key)
	case err == nil:
		c.repeats.settle(key)
		return c.index(ctx, key, value, ttl, nil)
	case errors.Is(err, ErrInvalidValue):
		return c.removeRefused(ctx, key, err)
	}
	return err
}

// refuse ends a Set whose value cannot be kept with its tags, for this reason.
func (c *Client[T]) refuse(ctx context.Context, key string, why error) error {
	if !errors.Is(why, ErrInvalidTag) && !errors.Is(why, ErrInvalidValue) {
		return why
	}
	w, err := c.fence(ctx, key, false)
	defer c.unfence(key, w)
	if err != nil {
		return errors.Join(why, err)
	}
	return c.removeRefused(ctx, key, why)
}

// removeRefused removes the entry of key that a Set, which ended with why, was to replace by a value that
// cannot be kept.
func (c *Client[T]) removeRefused(ctx context.Context, key string, why error) error {
	if err := c.remove(ctx, key); err != nil {
		return errors.Join(why, err)
	}
	return why
}

// Delete removes what is cached under key. After it has returned nil, no call of this process returns what
// was fetched before it, and on rueidis-aside none of any process does: a fetch that is under way is
// returned to those who already wait for it, but not kept, and nobody else joins it.
//
// Write the source first and then Delete, or use [Client.Mutate]. Deleting what is not there is no error.
// If it returns [ErrUnavailable] the value may still be there: try again.
func (c *Client[T]) Delete(ctx context.Context, key string) error {
	if err := c.check(ctx, key); err != nil {
		return err
	}
	key, err := c.locate(ctx, key)
	if err != nil {
		return err
	}
	return c.deleteKey(ctx, key)
}

// deleteKey is Delete of a key inside.
func (c *Client[T]) deleteKey(ctx context.Context, key string) error {
	if changeOf(ctx) != nil {
		if err := c.changed(ctx, key); err != nil {
			return err
		}
	}
	w, err := c.fence(ctx, key, false)
	defer c.unfence(key, w)
	if err != nil {
		return err
	}
	return c.remove(ctx, key)
}

// remove removes key, whose fence is up.
func (c *Client[T]) remove(ctx context.Context, key string) error {
	if err := c.beforeRemoval(ctx, []string{key}, false); err != nil {
		return err
	}
	c.markers.lay(key)
	err := c.writeError(c.store.delete(ctx, key))
	if err == nil {
		c.repeats.settle(key)
	}
	return err
}

// Clear removes everything that this cache keeps, and nothing of any other, and voids running fetches as
// Delete does.
func (c *Client[T]) Clear(ctx context.Context) error {
	if err := c.check(ctx, ""); err != nil {
		return err
	}
	err := c.flights.fenceAll(ctx)
	defer c.flights.unfenceAll()
	if err != nil {
		return err
	}
	others, err := c.namesakes.beginClear(ctx, c)
	defer func() { c.namesakes.endClear(c, others) }()
	if err != nil {
		return err
	}
	if err := c.beforeClear(ctx); err != nil {
		return err
	}
	return c.writeError(c.store.clear(ctx))
}

// Health returns nil if the backend answers and no feed is lost, and otherwise an error that matches
// [ErrUnavailable] and the cause.
func (c *Client[T]) Health(ctx context.Context) error {
	if err := c.check(ctx, ""); err != nil {
		return err
	}
	if err := c.store.ping(ctx); err != nil {
		return err
	}
	return c.backend.feeds.trouble()
}

// Close ends the cache: callers that wait get [ErrClosed], running fetches are cancelled and what they
// return is not kept, and every later call returns ErrClosed. It also closes the backend, unless the cache
// was made by [New]. It returns nil, the second time too. Running fetches are not waited for: one that uses the
// source may still do so for a moment, and one that ignores its context for longer. On rueidis-aside it gives up
// the leases of those fetches first, so that other processes need not wait for them to expire.
func (c *Client[T]) Close() error {
	c.closing.Do(func() {
		close(c.closed)
		c.setSure() // no hit takes the short way from here on
		c.repeats.stop()
		c.closeAliases()
		c.markers.close()
		c.flights.close()
		c.chores.close(chorePatience)
		c.store.close()
		c.unaged()
		c.unclaim()
		c.leave()
		c.release()
	})
	return nil
}

// Stats returns the counts so far. It may be called after Close.
func (c *Client[T]) Stats() Stats {
	s := c.stats.snapshot()
	s.Entries, s.Evictions, s.Expirations = c.store.figures()
	s.Flights = c.flights.underWay()
	s.BackendDown = c.down()
	s.ObserverPanics = c.watchers.panicked()
	s.TagsInvalidated = c.backend.invalidatedTags.Load()
	c.backend.feeds.figures(&s)
	return s
}

// check returns the error of a call that cannot be served at all.
func (c *Client[T]) check(ctx context.Context, key string) error {
	if err := c.checkLookup(key); err != nil {
		return err
	}
	return ctx.Err()
}

// checkLookup is check for a look-up, which what this process holds answers even if its context has ended: so it
// does not depend on how close the entry is to its deadline, and on the fast path it costs nothing to look.
func (c *Client[T]) checkLookup(key string) error {
	if c.isClosed() {
		return ErrClosed
	}
	return checkKey(key)
}

func (c *Client[T]) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

func invalidTTL(ttl time.Duration) error {
	return fmt.Errorf("%w: %v, allowed: more than zero", ErrInvalidTTL, ttl)
}

func checkKey(key string) error {
	if len(key) > MaxKeyBytes {
		return fmt.Errorf("%w: %d bytes long, allowed: up to %d", ErrInvalidKey, len(key), MaxKeyBytes)
	}
	return nil
}

// get is Get without its fast path. kept is what peek returned.
func (c *Client[T]) get(ctx context.Context, key string, kept *entry[T]) (value T, err error) {
	if c.opts.scope != nil {
		q := request[T]{key: key}
		r, hit, err := c.hitInScope(ctx, &q)
		if hit || err != nil {
			return r.Value, err
		}
		key, kept = q.key, c.store.peek(q.key)
	}
	if err := c.checkLookup(key); err != nil {
		return value, err
	}
	c.sampled(key)
	f, err := c.find(ctx, key, kept)
	c.unreadable(err)
	switch {
	case err != nil:
		if !errors.Is(err, ErrClosed) {
			c.missed()
		}
		if errors.Is(err, ErrInvalidValue) {
			err = fmt.Errorf("%w: %w", ErrMiss, err)
		}
		return value, err
	case f.state == absent || f.state == stale || c.refusedByAge(ctx, &f):
		c.missed()
		return value, ErrMiss
	}
	r, err := c.hit(f)
	return r.Value, err
}
