package cacheaside

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"
)

// aliasState is what is kept of an alias.
type aliasState int

const (
	aliasUnknown aliasState = iota
	aliasHeld               // a value has it
	aliasNone               // the source has none
	aliasLost               // it leads to a key that has no value, or one that lacks it
)

// aliasFound is what was found by alias.
type aliasFound[T any] struct {
	state aliasState
	value T
}

// getMany looks aliases up in what is kept. If the backend does not answer, it returns what it has found, and an error.
func (a *AliasClient[T]) getMany(ctx context.Context, aliases []string) (map[string]aliasFound[T], error) {
	index, err := a.ready()
	if err != nil {
		return nil, err
	}
	c := a.client
	m, err := index.newManyInScope(ctx, aliases)
	if err != nil {
		return nil, err
	}
	all := make(map[string]aliasFound[T], len(aliases))
	targets := make(map[string]*aliasTarget)
	var errs []error
	for _, q := range index.findMany(ctx, m.keys) {
		alias := index.outer(q.key)
		switch {
		case q.err != nil && !errors.Is(q.err, ErrInvalidValue):
			errs = append(errs, q.err)
		case q.found.entry == nil || q.found.state != fresh || index.refusedByAge(ctx, &q.found):
			index.missed()
		case q.found.entry.negative():
			all[alias] = aliasFound[T]{state: aliasNone}
		default:
			targets[alias] = q.found.entry.value
		}
	}
	keys := make([]string, 0, len(targets))
	for _, t := range targets {
		keys = append(keys, t.key)
	}
	values, err := c.GetMany(ctx, keys)
	for alias, t := range targets {
		if v, ok := values[t.key]; ok && a.has(v, t.key, alias) {
			all[alias] = aliasFound[T]{aliasHeld, v}
			a.remember(t, alias)
		} else {
			all[alias] = aliasFound[T]{state: aliasLost}
		}
	}
	return all, errors.Join(append(errs, err)...)
}

// lookMany is look for several aliases, those that are not found being fetched by one call.
func (a *AliasClient[T]) lookMany(ctx context.Context, aliases []string, ttl time.Duration, fetch FetchManyFunc[T]) (map[string]T, error) {
	index, err := a.ready()
	switch {
	case err != nil:
		return nil, err
	case fetch == nil:
		return nil, nilArgument("fetch", "a function")
	}
	found, err := a.getMany(ctx, aliases)
	if err != nil && (found == nil || ctx.Err() != nil || errors.Is(err, ErrClosed)) {
		return nil, err
	}
	values := make(map[string]T, len(aliases))
	inside := changeOf(ctx) != nil
	var missing []string
	for _, alias := range distinct(aliases) {
		switch q := found[alias]; {
		case q.state == aliasHeld:
			values[alias] = q.value
		case q.state != aliasNone || inside: // what the change has written may have it
			missing = append(missing, alias)
		}
	}
	if len(missing) == 0 {
		return values, nil
	}
	if inside {
		return values, a.fetchManyInside(ctx, values, missing, fetch)
	}
	like := request[*aliasTarget]{ttl: keptFor(ttl, a.client.window), aged: true, anew: true, notBefore: index.clock.now()}
	if ttl <= 0 {
		like.ttl = ttl
	}
	got, err := index.getMany(ctx, missing, like, a.fetchManyByAlias(ttl, fetch))
	var again []string
	for alias, t := range got {
		if t.fetched != nil {
			values[alias] = a.fetchedOf(t)
		} else {
			again = append(again, alias) // another process has fetched it
		}
	}
	for _, alias := range again {
		r, failed := a.Lookup(ctx, alias, ttl, func(ctx context.Context, alias string) (value T, err error) {
			all, err := fetch(ctx, []string{alias})
			if v, ok := all[alias]; ok || err != nil {
				return v, err
			}
			return value, a.client.gone
		})
		switch {
		case failed == nil:
			values[alias] = r.Value
		case !a.client.isNotFound(failed):
			err = errors.Join(err, failed)
		}
	}
	return values, err
}

// fetchManyByAlias is fetchByAlias for several.
func (a *AliasClient[T]) fetchManyByAlias(ttl time.Duration, fetch FetchManyFunc[T]) FetchManyFunc[*aliasTarget] {
	return func(ctx context.Context, aliases []string) (map[string]*aliasTarget, error) {
		c, f := a.client, flightOf(ctx)
		asOf := f.asOf
		all, err := fetch(ctx, aliases)
		asked := f.takeAsked()
		Tag(ctx, c.noneTag()) // of those that are left out; the others keep no tags
		targets := make(map[string]*aliasTarget, len(all))
		keys := make(map[string]T, len(all))
		witness := []string{c.clearTag()}
		var errs []error
		for _, alias := range aliases {
			value, ok := all[alias]
			if !ok {
				continue
			}
			key, err := a.keyOf(value, alias)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			targets[alias], keys[key] = &aliasTarget{key: key, fetched: broughtValue[T]{value}}, value
			witness = append(witness, c.keyTag(a.innerOfFetch(ctx, key)))
		}
		vouchFor(ctx, &vouching{asOf: asOf, witness: witness})
		a.storeFetchedMany(ctx, keys, ttl, asked, &vouching{asOf: asOf, witness: witness})
		return targets, errors.Join(append(errs, err)...)
	}
}

// innerOfFetch is the key inside of a key that the fetch of ctx has brought.
func (a *AliasClient[T]) innerOfFetch(ctx context.Context, key string) string {
	if a.client.opts.scope == nil {
		return key
	}
	return JoinKey(a.scopeOfFetch(ctx), key)
}

// storeFetchedMany is storeFetched for several, each under its key. What is being fetched or kept there already stays.
func (a *AliasClient[T]) storeFetchedMany(ctx context.Context, keys map[string]T, ttl time.Duration, what asked, v *vouching) {
	if len(keys) == 0 {
		return
	}
	c := a.client
	inner := make(map[string]T, len(keys))
	for key, value := range keys {
		inner[a.innerOfFetch(ctx, key)] = value
	}
	like := request[T]{ttl: ttl, scoped: true, aged: true, anew: true, notBefore: c.clock.now()}
	_, _ = c.getMany(ctx, slices.Collect(maps.Keys(inner)), like, func(ctx context.Context, keys []string) (map[string]T, error) {
		what.handTo(ctx)
		vouchFor(ctx, v)
		return inner, nil
	}) // what cannot be stored is counted, and given out all the same
}

// fetchManyInside is lookInside for aliases of which nothing is kept that counts. It adds what it gets to values.
func (a *AliasClient[T]) fetchManyInside(ctx context.Context, values map[string]T, missing []string, fetch FetchManyFunc[T]) error {
	c := a.client
	requests := make([]request[T], len(missing))
	for i, alias := range missing {
		requests[i] = a.requestInside(alias)
	}
	within, in, err := c.enter(ctx, requests...)
	if err != nil {
		return err
	}
	defer in.place.giveBack()
	return c.callInside(func() error {
		got, err := fetch(within, missing)
		errs := []error{err}
		for _, alias := range missing {
			value, ok := got[alias]
			if !ok {
				continue
			}
			if _, err := a.keyOf(value, alias); err != nil {
				errs = append(errs, err)
				continue
			}
			values[alias] = value
		}
		return errors.Join(errs...)
	})
}
