package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A lookup by alias asks the index for the key, and then the cache for the value of it. Where the index knows no key, or one whose
// value has lost the alias, the source is asked by the alias, in a flight of the index: its result is stored under the
// key as that of a fetch is which began when the source was asked.

// errMoved is how the fetch of a key ends that has asked by an alias, and was given another value or none: that says nothing of
// the key. Those who have asked by the key look again.
var errMoved = errors.New("cacheaside: the alias has moved")

// movedError is errMoved with what the source has answered.
type movedError[T any] struct {
	outcome aliasOutcome[T]
}

func (e *movedError[T]) Error() string   { return errMoved.Error() }
func (e *movedError[T]) Is(t error) bool { return t == errMoved }

// aliasOutcome is what the source has answered to an alias.
type aliasOutcome[T any] struct {
	value T
	err   error
	asOf  stamp
	asked asked
}

// asked is what a fetch has asked for its result.
type asked struct {
	ttl       int64
	skipStore bool
	tags      []string
}

// takeAsked returns what the fetch of f has asked for, and leaves nothing of it.
func (f *flightContext) takeAsked() asked {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := asked{ttl: f.ttl.Load(), skipStore: f.skipStore.Load(), tags: f.tags}
	f.tags = nil
	return a
}

// handTo asks for the same in another fetch.
func (a asked) handTo(ctx context.Context) {
	if a.ttl != ttlUnset {
		OverrideTTL(ctx, time.Duration(a.ttl))
	}
	if a.skipStore {
		SkipStore(ctx)
	}
	Tag(ctx, a.tags...)
}

// vouching is said of the result of a fetch that another one has brought.
type vouching struct {
	asOf    stamp    // before the other fetch began
	witness []string // tags; if one of them has been invalidated since, the result does not count

	aliasName, alias string // which is known already
}

// by reports whether v says of the alias that it is known.
func (v *vouching) by(name, alias string) bool {
	return v != nil && v.aliasName == name && v.alias == alias
}

// vouchFor notes v for the result of the fetch of ctx.
func vouchFor(ctx context.Context, v *vouching) {
	if f := flightOf(ctx); f != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.vouch = v
	}
}

func (f *flightContext) vouched() *vouching {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.vouch
}

func (f *flightContext) vouchedAsOf(own stamp) stamp {
	if v := f.vouched(); v != nil {
		return v.asOf // the zero stamp covers nothing
	}
	return own
}

// listed says where the tags of a flight stand in a list of such lists; below zero: nowhere.
type listed struct{ tags, witness int }

// holds reports whether none of them has been invalidated.
func (l listed) holds(all []*tagging) bool {
	known := func(at int) bool { return at < 0 || at < len(all) && all[at] != nil }
	return known(l.tags) && known(l.witness)
}

// indexFetched is index for what a flight has stored.
func (c *Client[T]) indexFetched(f *flight[T], value T, ttl time.Duration) {
	ctx, outlay := f.allowance.begin(context.Background())
	defer outlay.end()
	_ = c.backendError(c.index(ctx, f.key, value, ttl, f.under.vouched())) // counted and observed
}

// aliasRequest is what a caller asks for by alias.
type aliasRequest[T any] struct {
	alias string
	ttl   time.Duration
	fetch FetchFunc[T]
	anew  bool // nothing that is kept counts
}

// aliasTries is how often a lookup follows an alias from one key to the next before it gives up.
const aliasTries = 4

func (a *AliasClient[T]) look(ctx context.Context, q aliasRequest[T]) (Result[T], error) {
	index, err := a.ready()
	switch {
	case err != nil:
		return Result[T]{}, err
	case q.fetch == nil:
		return Result[T]{}, nilArgument("fetch", "a function")
	case changeOf(ctx) != nil:
		return a.lookInside(ctx, &q)
	}
	var was *aliasOutcome[T]
	for range aliasTries {
		ask := request[*aliasTarget]{key: q.alias, ttl: keptFor(q.ttl, a.client.window), fetch: a.fetchByAlias(&q, was)}
		if q.ttl <= 0 {
			ask.ttl = q.ttl
		}
		if q.anew {
			ask.aged, ask.anew, ask.notBefore = true, true, index.clock.now()
		}
		r, err := index.getOrFetch(ctx, ask)
		if err != nil {
			return Result[T]{Source: r.Source}, err
		}
		if t := r.Value; t.fetched != nil {
			return Result[T]{Value: a.fetchedOf(t), Source: r.Source}, nil
		}
		got, moved, err := a.lookByKey(ctx, &q, r.Value)
		if moved == nil {
			return got, err
		}
		was, q.anew = moved, true
	}
	return Result[T]{}, fmt.Errorf("%w: the alias leads from key to key", ErrMiss)
}

// broughtValue makes a value that may be a nil interface one that is not nil.
type broughtValue[T any] struct{ value T }

// fetchedOf returns a caller's copy of what a flight has fetched.
func (a *AliasClient[T]) fetchedOf(t *aliasTarget) (value T) {
	if b, ok := t.fetched.(broughtValue[T]); ok {
		value = a.client.copied(b.value)
	}
	return value
}

// lookByKey looks the value up that an alias leads to. If it has lost the alias, moved is not nil, and what the source says if
// that was asked.
func (a *AliasClient[T]) lookByKey(ctx context.Context, q *aliasRequest[T], t *aliasTarget) (r Result[T], moved *aliasOutcome[T], err error) {
	c := a.client
	r, err = c.getOrFetch(ctx, request[T]{key: t.key, ttl: q.ttl, fetch: a.fetchByKey(q, t.key)})
	var other *movedError[T]
	switch {
	case errors.As(err, &other):
		return r, &other.outcome, nil
	case err == nil && !a.has(r.Value, t.key, q.alias):
		return r, new(aliasOutcome[T]), nil
	case err == nil:
		a.remember(t, q.alias)
	case c.isNotFound(err): // the key has none; the alias may have another
		return r, new(aliasOutcome[T]), nil
	}
	return r, nil, err
}

// remember notes the entry under the key, if it has the alias, so that the next hit need not ask.
func (a *AliasClient[T]) remember(t *aliasTarget, alias string) {
	c := a.client
	if c.opts.scope != nil {
		return // the key of its entry depends on the context
	}
	if e := c.store.peek(t.key); e != nil && !e.negative() && t.known.Load() != any(e) && a.has(e.value, t.key, alias) {
		t.known.Store(e)
	}
}

// fetchByKey fetches the value of key by the alias that leads to it.
func (a *AliasClient[T]) fetchByKey(q *aliasRequest[T], key string) FetchFunc[T] {
	alias, fetch := q.alias, q.fetch
	return func(ctx context.Context, _ string) (T, error) {
		f := flightOf(ctx)
		if f != nil {
			if e, ok := f.previous.(*entry[T]); ok && e != nil && !e.negative() && !a.has(e.value, key, alias) {
				f.previous = nil
			}
		}
		value, err := fetch(ctx, alias)
		switch {
		case err != nil && !a.client.isNotFound(err):
			return value, err
		case err == nil && a.has(value, key, alias):
			return value, nil
		}
		o := aliasOutcome[T]{value: value, err: err}
		if f != nil {
			o.asOf, o.asked = f.asOf, f.takeAsked()
		}
		var none T
		return none, &movedError[T]{o}
	}
}

// fetchByAlias fetches what has the alias, and stores it under its key. was is what the source has answered already, or nil.
func (a *AliasClient[T]) fetchByAlias(q *aliasRequest[T], was *aliasOutcome[T]) FetchFunc[*aliasTarget] {
	alias, ttl, fetch, anew := q.alias, q.ttl, q.fetch, q.anew
	return func(ctx context.Context, _ string) (*aliasTarget, error) {
		c, f := a.client, flightOf(ctx)
		var o aliasOutcome[T]
		if was != nil && was.asOf != (stamp{}) && c.tags.asOf(ctx) == was.asOf { // nothing was invalidated since
			o = *was
		} else {
			o.asOf = f.asOf
			o.value, o.err = fetch(ctx, alias)
			o.asked = f.takeAsked()
		}
		if o.err != nil {
			if c.isNotFound(o.err) {
				vouchFor(ctx, &vouching{asOf: o.asOf, witness: []string{c.clearTag()}})
				Tag(ctx, c.noneTag())
			}
			return nil, o.err
		}
		key, err := a.keyOf(o.value, alias)
		if err != nil {
			return nil, err
		}
		stored, err := a.storeFetched(ctx, key, alias, ttl, &o, anew)
		if err != nil {
			return nil, err
		}
		return &aliasTarget{key: key, fetched: broughtValue[T]{stored}}, nil
	}
}

// keyOf returns the key of a value that was fetched by alias.
func (a *AliasClient[T]) keyOf(value T, alias string) (string, error) {
	key, _, err := a.names(value)
	switch {
	case err != nil:
		return "", err
	case !a.has(value, key, alias):
		return "", fmt.Errorf("%w: what was fetched by the alias %q lacks it, allowed: a value whose aliases it is among", ErrInvalidValue, a.name)
	}
	return key, checkKey(key)
}

// storeFetched stores what an alias has brought under its key, and returns what is there: that, or what has been found there. It
// runs within the fetch of the alias.
func (a *AliasClient[T]) storeFetched(ctx context.Context, key, alias string, ttl time.Duration, o *aliasOutcome[T], anew bool) (T, error) {
	c := a.client
	inner := key
	if c.opts.scope != nil {
		inner = JoinKey(a.scopeOfFetch(ctx), key)
	}
	witness := []string{c.keyTag(inner), c.clearTag()}
	vouchFor(ctx, &vouching{asOf: o.asOf, witness: witness})
	q := request[T]{key: inner, scoped: true, ttl: ttl, fetch: func(ctx context.Context, _ string) (T, error) {
		o.asked.handTo(ctx)
		vouchFor(ctx, &vouching{asOf: o.asOf, witness: witness, aliasName: a.name, alias: alias})
		return o.value, nil
	}}
	for range 2 {
		if anew {
			q.aged, q.anew, q.notBefore = true, true, c.clock.now()
		}
		r, err := c.getOrFetch(ctx, q)
		if err == nil && a.has(r.Value, key, alias) {
			return r.Value, nil
		}
		if err != nil && errors.Is(err, ErrClosed) {
			return r.Value, err
		}
		anew = true // what is there is older than this, or a fetch has failed that was under way
	}
	return o.value, nil
}

// scopeOfFetch is the scope in which the fetch of ctx was begun.
func (a *AliasClient[T]) scopeOfFetch(ctx context.Context) string {
	f := flightOf(ctx)
	if f.keys != nil && len(f.keys.list) > 0 {
		return a.client.scopeIn(f.keys.list[0])
	}
	return a.client.scopeIn(f.key)
}

// requestInside stands for a fetch by alias within a change.
func (a *AliasClient[T]) requestInside(alias string) request[T] {
	return request[T]{key: a.name + "@" + alias}
}

// lookInside is look within a change, which sees what it has changed: what is kept of an alias counts only where it leads to a value that
// has not changed. What is fetched is not kept.
func (a *AliasClient[T]) lookInside(ctx context.Context, q *aliasRequest[T]) (Result[T], error) {
	c := a.client
	if !q.anew {
		all, err := a.getMany(ctx, []string{q.alias})
		if held := all[q.alias]; err == nil && held.state == aliasHeld {
			return Result[T]{Value: held.value, Source: SourceHit}, nil
		}
	}
	if err := c.check(ctx, q.alias); err != nil {
		return Result[T]{}, err
	}
	if c.opts.scope != nil {
		if _, err := c.scopeOf(ctx); err != nil {
			return Result[T]{}, err
		}
	}
	within, in, err := c.enter(ctx, a.requestInside(q.alias))
	if err != nil {
		return Result[T]{}, err
	}
	defer in.place.giveBack()
	var value T
	err = c.callInside(func() (err error) {
		if value, err = q.fetch(within, q.alias); err == nil {
			_, err = a.keyOf(value, q.alias)
		}
		return err
	})
	if err != nil {
		var none T
		return Result[T]{Value: none}, err
	}
	return Result[T]{Value: value, Source: SourceFetched}, nil
}
