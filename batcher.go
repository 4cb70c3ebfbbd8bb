package cacheaside

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Batching says how [Client.BindMany] collects fetches.
type Batching struct {
	// MaxSize is how many keys one fetch gets at most. Defaults to 100.
	MaxSize int

	// MaxWait is how long the first key of a fetch waits for others: at most half of
	// [Config.FetchTimeout], so that as much is left for the fetch. Defaults to 1 ms.
	MaxWait time.Duration
}

const (
	defaultBatchSize = 100
	defaultBatchWait = time.Millisecond
)

// BindMany returns a Loader whose concurrent look-ups of different keys are fetched together: those that
// miss within [Batching.MaxWait] of the first one, or until there are [Batching.MaxSize] of them. A key that
// fetch leaves out is one that the source does not have: its look-up returns [ErrNotFound]. The context of a
// fetch has the values of the look-up that came first. Everything else is as with [Client.Bind].
//
// It returns an error matching [ErrInvalidConfig] for a nil fetch or a negative size or wait.
func (c *Client[T]) BindMany(ttl time.Duration, fetch FetchManyFunc[T], b Batching) (*Loader[T], error) {
	switch {
	case fetch == nil:
		return nil, nilPart("fetch", "a function")
	case b.MaxSize < 0:
		return nil, fieldError("Batching.MaxSize", b.MaxSize, "zero for the default, or more")
	case b.MaxWait < 0:
		return nil, fieldError("Batching.MaxWait", b.MaxWait, "zero for the default, or more")
	}
	setDefault(&b.MaxSize, defaultBatchSize)
	setDefault(&b.MaxWait, defaultBatchWait)
	if c.cfg.FetchTimeout > 0 {
		b.MaxWait = min(b.MaxWait, c.cfg.FetchTimeout/2)
	}
	collector := &batcher[T]{client: c, fetch: c.fetchOuter(fetch), rules: b, open: make(map[string]*collection[T])}
	return &Loader[T]{client: c, ttl: ttl, fetch: collector.fetchOne, collects: true, alone: c.alone(fetch), width: 2 * b.MaxSize}, nil
}

// batcher collects the fetches of single keys into fetches of several.
type batcher[T any] struct {
	client *Client[T]
	fetch  FetchManyFunc[T]
	rules  Batching

	mu   sync.Mutex
	open map[string]*collection[T] // which further keys may join; of each scope at most one
}

// collection is one fetch of several keys, and its outcome.
type collection[T any] struct {
	scope   string           // of its keys
	context flightContext    // what the fetch runs under; it ends when nobody waits any more
	keys    keySet           // each once, however many members ask for it
	members []*flightContext // their fetches
	timer   *time.Timer
	done    chan struct{} // closed when values and err are set
	values  map[string]T
	err     error
}

// fetchOne is a FetchFunc that gets key by the next fetch of several.
func (b *batcher[T]) fetchOne(ctx context.Context, key string) (value T, err error) {
	own := flightOf(ctx)
	col, full := b.join(ctx, key, own)
	defer col.context.done()
	if err := own.awaits(&col.context); err != nil {
		return value, err
	}
	defer own.leave(&col.context)
	if full {
		go b.run(col) // ends when the fetch returns; col's context ends when no member waits any more
	}
	if err := await(ctx, col.done); err != nil {
		return value, err
	}
	value, ok := col.values[key]
	switch {
	case ok:
		return value, nil
	case col.err != nil:
		return value, col.err // its time begins after that of each member, so none outlasts it
	}
	return value, b.client.gone
}

// join adds key to the open collection, or to a new one, and reports whether that is full now: then the
// caller starts it. A key is in it already if it was written after its first member had come; since nothing has been
// fetched yet, both get what will be.
func (b *batcher[T]) join(ctx context.Context, key string, own *flightContext) (col *collection[T], full bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	scope := b.client.scopeIn(key)
	col = b.open[scope]
	if col == nil {
		col = &collection[T]{scope: scope, done: make(chan struct{})}
		values, _ := lend(ctx, true, nil) // ctx is a fetch's, so there is nothing to give back
		b.client.flights.open(values, &col.context, nil)
		col.context.keys = &col.keys
		b.open[scope] = col
		col.timer = time.AfterFunc(b.rules.MaxWait, func() { b.close(col) })
	}
	own.collective.Store(&col.context)
	col.context.flights.Add(1)
	col.members = append(col.members, own)
	if !slices.Contains(col.keys.list, key) {
		col.keys.list = append(col.keys.list, key)
	}
	if full = len(col.keys.list) >= b.rules.MaxSize; full {
		delete(b.open, scope)
		col.timer.Stop()
	}
	return col, full
}

// close lets nobody else join col, and runs it, unless it has been run for being full, or all who have joined
// have gone since, as they have when the cache is closed.
func (b *batcher[T]) close(col *collection[T]) {
	b.mu.Lock()
	due := b.open[col.scope] == col
	if due {
		delete(b.open, col.scope)
	}
	b.mu.Unlock()
	if due && slices.ContainsFunc(col.members, func(m *flightContext) bool { return m.Err() == nil }) {
		b.run(col)
	}
}

// run fetches what col has collected, and tells its members.
func (b *batcher[T]) run(col *collection[T]) {
	background := !slices.ContainsFunc(col.members, func(m *flightContext) bool { return !m.background })
	col.context.background = background
	for _, m := range col.members {
		col.context.settling = later(col.context.settling, m.settling)
	}
	p, ok := b.client.placeOfCollection(&col.context, col.members)
	if !ok {
		col.err = ErrOverloaded
		close(col.done)
		return
	}
	b.client.countFetch(background)
	b.client.flights.start(&col.context)
	if len(b.client.watchers.all) > 0 {
		col.context.called.Store(b.client.clock.now())
	}
	returned := false
	defer func() {
		if !returned {
			col.values, col.err = nil, abnormal(recover())
		}
		b.client.leavePlace(p, &col.context)
		col.tell()
		close(col.done)
	}()
	col.values, col.err = b.fetch(&col.context, col.keys.list)
	returned = true
}

// tell hands what the fetch has asked for its keys on to their flights.
func (c *collection[T]) tell() {
	for _, m := range c.members {
		if ttl := c.context.ttl.Load(); ttl != ttlUnset {
			m.ttl.Store(ttl)
		}
		if c.context.skipStore.Load() {
			m.skipStore.Store(true)
		}
		if tags := c.context.given(); len(tags) > 0 {
			Tag(m, tags...)
		}
	}
}
