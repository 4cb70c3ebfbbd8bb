package cacheaside

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
)

// Backend is what several caches of a process share: the connection to Redis, and a clock. It is safe for
// concurrent use.
type Backend struct {
	cfg   Config // resolved
	named bool   // it had a name before that
	opts  options
	clock *clock
	conn  *conn    // nil for a backend in this process
	hub   *nearHub // nil for a backend without near caches

	tags  tagBook
	local *memoryTags // tags, in this process; nil on Redis
	bus   *bus        // nil without Config.Bus
	feeds feeds
	limit *limit // of fetches; nil without Config.MaxFetches

	invalidatedTags atomic.Uint64

	watchers watchers // of what happens to the connection, and to tags

	mu       sync.Mutex
	caches   map[string]interface{ Close() error } // by name; those that are open, and were made by New
	siblings map[string][]sibling                  // by name; those that are open
	stranger map[string]*stranger                  // by name; see invalidate.go
	closed   bool
}

// Connect makes a backend for caches that are then made by [New], and closed with it. It returns an error
// matching [ErrInvalidConfig] for a bad configuration, and an error that says so if Redis refuses it. Redis
// being down is no error: the backend starts degraded, and heals by itself. Options that carry the type of
// a value are given to New.
func Connect(ctx context.Context, cfg Config, opts ...Option) (*Backend, error) {
	named := cfg.Name != ""
	cfg, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	o := collect(opts)
	if o.err != nil {
		return nil, o.err
	}
	b := &Backend{cfg: cfg, named: named, opts: o, clock: newClock(), watchers: newWatchers("", "", o)}
	b.caches, b.siblings = make(map[string]interface{ Close() error }), make(map[string][]sibling)
	b.limit = newLimit(cfg.MaxFetches, cfg.FetchQueue)
	if err := b.connect(ctx); err != nil {
		return nil, err
	}
	return b, nil
}

// connect reaches what the backend needs from outside this process.
func (b *Backend) connect(ctx context.Context) (err error) {
	switch b.cfg.Backend {
	case BackendRueidis:
		b.conn, err = newConn(b.cfg, b.opts, nil, b.watchers.observe)
	case BackendRueidisAside:
		b.hub = newNearHub(b.cfg.Prefix, b.cfg.LocalTTL)
		if b.conn, err = newConn(b.cfg, b.opts, b.hub.connect, b.watchers.observe); err == nil {
			b.hub.beat = b.conn.beat
		}
	default:
		b.local = newMemoryTags(b.oldestFlight)
		b.tags = b.local
		return b.connectBus(ctx)
	}
	if err != nil {
		return err
	}
	if b.tags, err = newRedisTags(b.conn, b.clock, b.hub, b.cfg, b.watchers.observe); err != nil {
		return err
	}
	return b.conn.connect(ctx)
}

// connectBus reaches what carries the news of changes, if there is anything.
func (b *Backend) connectBus(ctx context.Context) error {
	redis, ok, err := b.cfg.busRedis(b.opts)
	if !ok || err != nil {
		return err
	}
	cfg := b.cfg
	cfg.Redis = redis
	n, err := newConn(cfg, b.opts, nil, b.watchers.observe)
	if err != nil {
		return err
	}
	b.bus = newBus(n, cfg.Prefix)
	b.tags = newBusTags(b.local, b.bus, b.watchers.observe)
	if err := n.connect(ctx); err != nil {
		return err
	}
	if err := n.permitted(ctx, cfg.Prefix+":", needsOfBus); err != nil {
		n.close()
		return err
	}
	s, err := b.feeds.follow(context.Background(), b, b.bus)
	if err != nil {
		return err
	}
	select { // what is stored before the bus is alive would not be kept
	case <-s.begun:
	case <-time.After(cfg.OpTimeout):
	case <-ctx.Done():
	}
	return nil
}

// Health returns nil if the backend answers and no feed is lost, and otherwise an error that matches
// [ErrUnavailable] and the cause.
func (b *Backend) Health(ctx context.Context) error {
	b.mu.Lock()
	closed := b.closed
	b.mu.Unlock()
	switch {
	case closed:
		return ErrClosed
	case b.connection() != nil:
		if err := b.connection().ping(ctx); err != nil {
			return err
		}
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return b.feeds.trouble()
}

// connection is that to Redis: to the values, or to the bus; nil if there is none.
func (b *Backend) connection() *conn {
	if b.bus != nil {
		return b.bus.conn
	}
	return b.conn
}

// Close closes the caches that were made on the backend, and then its connection. It returns nil, the
// second time too.
func (b *Backend) Close() error {
	b.feeds.close()
	b.mu.Lock()
	b.closed = true
	var open []interface{ Close() error }
	for _, c := range b.caches {
		open = append(open, c)
	}
	b.mu.Unlock()
	errs := make([]error, len(open))
	var closing sync.WaitGroup
	for i, c := range open {
		closing.Go(func() { errs[i] = c.Close() }) // side by side, since each may wait for its leases
	}
	closing.Wait()
	b.tags.close()
	b.closeStrangers()
	if n := b.connection(); n != nil {
		n.close()
	}
	b.clock.stop()
	return errors.Join(errs...)
}

// New makes a cache with this name on a backend that the caller has connected and will close; closing the
// cache leaves the backend open. The rest of its configuration is the backend's. opts add to the options
// that Connect was given. The names of a backend's open caches must differ: two caches of one name would
// undo each other's promises.
func New[T any](b *Backend, name string, opts ...Option) (*Client[T], error) {
	if b == nil {
		return nil, nilPart("backend", "what Connect returned")
	}
	cfg := b.cfg
	if name != "" {
		cfg.Name = name
	}
	if err := checkName("Name", cfg.Name); err != nil {
		return nil, err
	}
	c, err := newClient[T](context.Background(), b, cfg, b.named || name != "", b.opts.with(opts)) // Redis is asked for as long as OpTimeout
	if err != nil {
		return nil, err
	}
	c.release = func() { b.unregister(cfg.Name, c) }
	if err := b.register(cfg.Name, c); err != nil { // from here on Close of the backend closes c too
		_ = c.Close() // of a cache that was never used
		return nil, err
	}
	return c, nil
}

// Open makes a cache and the backend that cfg.Backend names. The cache owns the backend: closing the one
// closes both.
//
// On Redis, caches of one name share their values. Within a process Open and [New] refuse a second open cache
// with the prefix and name of another on the same Redis if its values are of another type, unless both were
// given the name and store their values alike; and they log a warning (to [slog.Default] without [WithLogger]) if
// the type is the same, but the name that of no configuration. In memory every cache is apart.
func Open[T any](ctx context.Context, cfg Config, opts ...Option) (*Client[T], error) {
	b, err := Connect(ctx, cfg, opts...)
	if err != nil {
		return nil, err
	}
	c, err := newClient[T](ctx, b, b.cfg, b.named, b.opts)
	if err != nil {
		_ = b.Close() // it has no caches, and the first error is the one to tell
		return nil, err
	}
	c.release = func() { _ = b.Close() } // nil: no cache is registered with it
	return c, nil
}

// NewMemory is [Open] for the memory backend.
func NewMemory[T any](cfg Config, opts ...Option) (*Client[T], error) {
	return openAs[T](context.Background(), BackendMemory, cfg, opts)
}

// NewRueidis is [Open] for Redis without a near cache.
func NewRueidis[T any](ctx context.Context, cfg Config, opts ...Option) (*Client[T], error) {
	return openAs[T](ctx, BackendRueidis, cfg, opts)
}

// NewRueidisAside is [Open] for Redis with a coherent near cache and leases across processes.
func NewRueidisAside[T any](ctx context.Context, cfg Config, opts ...Option) (*Client[T], error) {
	return openAs[T](ctx, BackendRueidisAside, cfg, opts)
}

// openAs opens a backend that was named by a constructor, which cfg must not contradict.
func openAs[T any](ctx context.Context, backend string, cfg Config, opts []Option) (*Client[T], error) {
	if cfg.Backend != "" && cfg.Backend != backend {
		return nil, fieldError("Backend", quote(cfg.Backend), fmt.Sprintf("%q or nothing for this constructor; Open takes any", backend))
	}
	cfg.Backend = backend
	return Open[T](ctx, cfg, opts...)
}

// newClient makes a cache on b without registering it; named says that its name is no default. ctx bounds what
// Redis is asked for.
func newClient[T any](ctx context.Context, b *Backend, cfg Config, named bool, o options) (*Client[T], error) {
	if o.err != nil {
		return nil, o.err
	}
	clone, err1 := typedOption[func(T) T]("WithClone", o.clone)
	weigh, err2 := typedOption[func(string, T) int]("WithWeigher", o.weigher)
	codec, err3 := typedOption[Codec[T]]("WithCodec", o.codec)
	tagger, err4 := typedOption[func(string, T) []string]("WithTags", o.tags)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	cfg.StaleFor, cfg.StaleIfError = min(cfg.StaleFor, maxWindow), min(cfg.StaleIfError, maxWindow)
	if _, ok := codec.(jsonCodec[T]); ok || codec == nil {
		codec = jsonCodec[T]{lossy: o.lossyJSON}
	}
	c := &Client[T]{
		clock:     b.clock,
		cfg:       cfg,
		window:    int64(max(cfg.StaleFor, cfg.StaleIfError)),
		watchers:  newWatchers(cfg.Name, reflect.TypeFor[T]().String(), o),
		down:      func() bool { return false },
		downFor:   func(string) bool { return false },
		local:     SourceHit,
		clone:     clone,
		codec:     codec,
		tagger:    tagger,
		backend:   b,
		tags:      b.tags,
		opts:      o,
		gone:      goneError(o.notFound),
		stats:     newCounters(),
		refreshes: make(chan struct{}, maxRefreshes),
		chores:    newChores(),
		closed:    make(chan struct{}),
		unaged:    func() {},
		unclaim:   func() {},
		leave:     func() {},
		release:   func() {},
	}
	c.repeats = newRepeats(c)
	c.markers = newMarkers(cfg.Settle, c.clock)
	c.setSure()
	if err := c.checkJSON(); err != nil {
		return nil, err
	}
	if err := c.openStore(ctx, b, named, c.weighOuter(weigh)); err != nil {
		c.unclaim()
		return nil, err
	}
	if o.mutated != nil {
		c.store = newGuarded(c.store, cfg, c.instant, o.mutated)
	}
	if c.quick = c.store; o.scope != nil {
		c.quick = unscoped[T]{}
	}
	c.flights = newFlights(c.flightRules(), c.clock, c.run, c.failed, c.lost)
	c.cools()
	c.meet(b)
	return c, nil
}

func (c *Client[T]) flightRules() flightRules {
	r := flightRules{timeout: c.cfg.FetchTimeout, derive: c.opts.fetchContext, instant: c.instant, traced: len(c.watchers.tracers) > 0}
	if c.backend.local != nil {
		r.moment = c.backend.local.moment
	}
	return r
}

// meet makes the cache known to its backend, and to the caches of this process that hold the same keys.
func (c *Client[T]) meet(b *Backend) {
	if c.tagger != nil || c.opts.scope != nil {
		b.tags.expect()
	}
	c.unaged = c.enterAges()
	c.setSure() // a MaxAge that came before is seen here
	name := c.cfg.Name
	b.feeds.enter(b, name, c)
	c.leave = func() { b.delist(name, c) }
	if p := cmp.Or(c.opts.process, thisProcess); p != nil && b.conn != nil {
		full := c.cfg.Prefix + ":" + name
		c.namesakes = p.join(full, c)
		c.leave = func() {
			p.leave(full, c)
			b.delist(name, c)
		}
	}
}

// maxWindow keeps sums of times within an int64; it is over 30 years.
const maxWindow = 1 << 60

// openStore is the one place that tells backends apart.
func (c *Client[T]) openStore(ctx context.Context, b *Backend, named bool, weigh func(string, T) int) error {
	evicted := func() { c.evictions.Add(1) }
	switch c.cfg.Backend {
	case BackendNoop:
		c.store, c.instant = noop[T]{}, true
		return nil
	case BackendMemory:
		m := newMemory(c.cfg, c.clock, weigh, evicted)
		c.store, c.instant = m, true
		if b.bus != nil {
			c.store, c.down = &busStore[T]{memory: m, bus: b.bus, name: c.cfg.Name}, b.bus.conn.isAnyDown
		}
		if weigh != nil {
			c.weigh = func(key string, e *entry[T]) (uint32, error) { return weightOf(weigh, key, e) }
		}
		return nil
	}
	c.spread, c.down = true, b.conn.isAnyDown
	c.downFor = func(key string) bool { return b.conn.isDown(c.cfg.Prefix + ":" + c.cfg.Name + ":" + key) }
	r := remote[T]{conn: b.conn, form: c.form(c.codec), name: c.cfg.Prefix + ":" + c.cfg.Name + ":", closed: c.closed, settle: c.cfg.Settle}
	if err := c.claimName(b.conn, named, r.form.fingerprint); err != nil {
		return err
	}
	b.conn.watchRole(r.name)
	if c.cfg.Backend == BackendRueidis {
		r.reads = newSharedReads()
		c.store = &r
		return b.conn.permitted(ctx, r.name, needs)
	}
	err := b.conn.permitted(ctx, r.name, needsOfAside)
	if err == nil && leasesBeside(c.cfg) {
		err = b.conn.permitted(ctx, leaseName(r.name), needsOfAside)
	}
	if err != nil {
		return err
	}
	c.local = SourceNearHit
	a, err := newAside(r, b.hub, c.cfg, weigh, c.invalidated, evicted)
	if err != nil {
		return err
	}
	a.unweighed = func(err error) {
		c.stats.unstorable.Add(1)
		c.observe(Event{Kind: EventUnstorable, Err: err})
	}
	a.isPending = func(key string) bool { return c.repeats.isPending(key) || c.changing.isHeld(key) }
	a.valid = c.valid
	c.store, c.near = a, a
	return nil
}

// form is how values of this cache stand in Redis.
func (c *Client[T]) form(codec Codec[T]) form[T] {
	fingerprint := fingerprintOf(codec, c.opts.schema)
	if c.opts.scope != nil {
		fingerprint = ^fingerprint // a cache of this name without scopes, in another process, does not take these values for its own
	}
	return form[T]{
		codec:       codec,
		fingerprint: fingerprint,
		clock:       c.clock,
		window:      c.window,
		maxBytes:    c.cfg.MaxValueBytes,
		early:       c.early,
	}
}

func (b *Backend) register(name string, c interface{ Close() error }) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	if b.caches[name] != nil {
		return nameTaken(name)
	}
	b.caches[name] = c
	return nil
}

func nameTaken(name string) error {
	return fieldError("Name", quote(name), "a name that no other open cache of this backend has")
}

func (b *Backend) unregister(name string, c interface{ Close() error }) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.caches[name] == c {
		delete(b.caches, name)
	}
}
