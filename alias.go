package cacheaside

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// AliasClient looks values of a cache up by another name than their key; make one by [Alias]. It is safe for concurrent use, and
// ends with its cache.
//
// A value is never returned under an alias that it does not have: what the cache knows of an alias is the key only, and the
// value that is found there decides. So an old alias need not be known to invalidate it; to remove the key is
// enough. What is fetched by an alias is kept under its key, and what is fetched or set by key answers aliases.
//
// That the source has none under an alias is remembered for [Config.NegativeTTL]. It ends when a value with that alias is
// stored, and when any key of the cache is deleted or changed: its value may have the alias from then on.
type AliasClient[T any] struct {
	client *Client[T]
	name   string
	of     func(T) (key string, aliases []string)
	err    error // what every call returns; nil if there is nothing

	opening sync.Mutex
	index   atomic.Pointer[Client[*aliasTarget]] // nil until it could be opened
}

// aliasTarget is what is kept of an alias: the key of the value that had it last.
type aliasTarget struct {
	key     string
	fetched any          // the T that the flight has fetched which made it; nil if it was kept
	known   atomic.Value // the *entry[T] of the cache that was last seen to have the alias
}

// Alias makes values of c known by other names: a user by e-mail, a page by its slug. of returns the key of a value and all aliases of this
// kind that it has; it must be safe for concurrent use, and an empty alias is none. name tells this kind of alias from
// others of the cache, and must be the same in every process. An alias names one value at a time.
//
// Every process that writes or removes values of the cache must have made it before. A value whose key is not
// the one it is stored under is refused ([ErrInvalidValue] from Set, an unstorable value of a fetch). On Redis a lookup by alias takes one round
// trip more than one by key, and none where near copies are kept; a value that is stored costs one more for each of its aliases,
// and a removal one more.
//
// Alias returns no error: every call returns [ErrInvalidConfig] if name is not one that [Config.Name] may be, or taken, and
// [ErrInvalidValue] if c or of is nil.
func Alias[T any](c *Client[T], name string, of func(T) (key string, aliases []string)) *AliasClient[T] {
	a := &AliasClient[T]{client: c, name: name, of: of}
	switch {
	case c == nil:
		a.err = nilArgument("the client of Alias", "one that a constructor has returned")
	case of == nil:
		a.err = nilArgument("of", "a function")
	case name == "":
		a.err = fieldError("name", quote(name), "at least one byte")
	default:
		a.err = checkName("name", name)
	}
	if a.err == nil {
		a.err = c.enlistAlias(a)
	}
	if a.err == nil {
		_, _ = a.ready() // a Redis that does not answer is asked again by the first call
	}
	return a
}

// Client returns the client by key.
func (a *AliasClient[T]) Client() *Client[T] { return a.client }

// Get is [Client.Get] by alias: it never fetches. It returns [ErrMiss] as well if it is not known which key has the alias.
func (a *AliasClient[T]) Get(ctx context.Context, alias string) (value T, err error) {
	if e := a.peek(alias); e != nil {
		return a.client.served(e), nil
	}
	all, err := a.getMany(ctx, []string{alias})
	if err != nil {
		return value, err
	}
	if q := all[alias]; q.state == aliasHeld {
		return q.value, nil
	} else if q.state == aliasNone {
		return value, a.client.gone
	}
	return value, ErrMiss
}

// GetWithFetch is [Client.GetWithFetch] by alias; fetch gets the value that has it. A lookup by key and one by alias share a fetch where it is
// known which key has the alias. A value that lacks the alias by which it was fetched is [ErrInvalidValue].
func (a *AliasClient[T]) GetWithFetch(ctx context.Context, alias string, ttl time.Duration, fetch FetchFunc[T]) (T, error) {
	if e := a.peek(alias); e != nil && fetch != nil {
		return a.client.served(e), nil
	}
	r, err := a.Lookup(ctx, alias, ttl, fetch)
	return r.Value, err
}

// Lookup is [AliasClient.GetWithFetch] that also tells where the value came from and how old it is.
func (a *AliasClient[T]) Lookup(ctx context.Context, alias string, ttl time.Duration, fetch FetchFunc[T]) (Result[T], error) {
	return a.look(ctx, aliasRequest[T]{alias: alias, ttl: ttl, fetch: fetch})
}

// Refresh is [Client.Refresh] by alias.
func (a *AliasClient[T]) Refresh(ctx context.Context, alias string, ttl time.Duration, fetch FetchFunc[T]) (T, error) {
	r, err := a.look(ctx, aliasRequest[T]{alias: alias, ttl: ttl, fetch: fetch, anew: true})
	return r.Value, err
}

// GetMany is [Client.GetMany] by alias.
func (a *AliasClient[T]) GetMany(ctx context.Context, aliases []string) (map[string]T, error) {
	all, err := a.getMany(ctx, aliases)
	values := make(map[string]T, len(all))
	for alias, q := range all {
		if q.state == aliasHeld {
			values[alias] = q.value
		}
	}
	return values, err
}

// GetManyWithFetch is [Client.GetManyWithFetch] by alias: fetch gets the values that have them, each under its alias.
func (a *AliasClient[T]) GetManyWithFetch(ctx context.Context, aliases []string, ttl time.Duration, fetch FetchManyFunc[T]) (map[string]T, error) {
	return a.lookMany(ctx, aliases, ttl, fetch)
}

// AliasLoader is a [Loader] by alias; see [AliasClient.Bind].
type AliasLoader[T any] struct {
	by    *AliasClient[T]
	ttl   time.Duration
	fetch FetchFunc[T]
}

// Bind is [Client.Bind] by alias.
func (a *AliasClient[T]) Bind(ttl time.Duration, fetch FetchFunc[T]) *AliasLoader[T] {
	return &AliasLoader[T]{by: a, ttl: ttl, fetch: fetch}
}

// Get is [AliasClient.GetWithFetch] with the ttl and the fetch that l was bound to.
func (l *AliasLoader[T]) Get(ctx context.Context, alias string) (T, error) {
	return l.by.GetWithFetch(ctx, alias, l.ttl, l.fetch)
}

// peek returns an entry of the cache that surely has the alias and counts, or nil.
func (a *AliasClient[T]) peek(alias string) *entry[T] {
	index := a.index.Load()
	if index == nil {
		return nil
	}
	t := index.quick.peek(alias)
	if t == nil || t.value == nil || !index.surelyFresh(t) && !index.surelyCounts(t) {
		return nil
	}
	c := a.client
	e := c.quick.peek(t.value.key)
	if e == nil || t.value.known.Load() != any(e) || !c.surelyFresh(e) && !c.surelyCounts(e) {
		return nil
	}
	return e
}

// names returns the key and the aliases of a value. An error matches [ErrInvalidValue].
func (a *AliasClient[T]) names(value T) (key string, aliases []string, err error) {
	returned := false
	defer func() {
		if !returned {
			err = fmt.Errorf("%w: the function of the alias %q failed: %w", ErrInvalidValue, a.name, abnormal(recover()))
		}
	}()
	key, aliases = a.of(value)
	returned = true
	return key, aliases, nil
}

// has reports whether value is that of key and has the alias.
func (a *AliasClient[T]) has(value T, key, alias string) bool {
	k, aliases, err := a.names(value)
	return err == nil && k == key && alias != "" && slices.Contains(aliases, alias)
}

func (a *AliasClient[T]) called() string { return a.name }
