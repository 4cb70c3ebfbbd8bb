package cacheaside

import (
	"context"
	"errors"
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

// errAliasName is what a second Alias of one name returns.
func errAliasName(name string) error {
	return fieldError("name", quote(name), "one that no other Alias of this cache has")
}

// enlistAlias makes the client tell a of what it stores and removes.
func (c *Client[T]) enlistAlias(a *AliasClient[T]) error {
	c.aliasing.Lock()
	defer c.aliasing.Unlock()
	var all []*AliasClient[T]
	if old := c.aliases.Load(); old != nil {
		all = *old
	}
	if slices.ContainsFunc(all, func(other *AliasClient[T]) bool { return other.name == a.name }) {
		return errAliasName(a.name)
	}
	all = append(slices.Clip(all), a)
	c.aliases.Store(&all)
	c.tags.expect()
	return nil
}

// ready returns the index, which it opens if that could not be done before.
func (a *AliasClient[T]) ready() (*Client[*aliasTarget], error) {
	if a.err != nil {
		return nil, a.err
	}
	if index := a.index.Load(); index != nil {
		return index, nil
	}
	a.opening.Lock()
	defer a.opening.Unlock()
	if index := a.index.Load(); index != nil {
		return index, nil
	}
	if a.client.isClosed() {
		return nil, ErrClosed
	}
	index, err := a.openIndex()
	if err == nil {
		a.index.Store(index)
	}
	return index, err
}

// openIndex opens the cache of what is known of aliases. It is on the same backend, and has neither stale values nor refreshes: whether
// the value counts that it leads to is decided there.
func (a *AliasClient[T]) openIndex() (*Client[*aliasTarget], error) {
	c := a.client
	cfg := c.cfg
	cfg.Name += "@" + a.name
	cfg.StaleFor, cfg.StaleIfError, cfg.RefreshAhead, cfg.SoftTimeout = 0, 0, 0, 0
	if err := checkName("Name", cfg.Name); err != nil {
		return nil, err
	}
	opts := options{codec: Codec[*aliasTarget](aliasCodec{}), notFound: c.opts.notFound, scope: c.opts.scope,
		fetchContext: c.opts.fetchContext, process: c.opts.process}
	index, err := newClient[*aliasTarget](context.Background(), c.backend, cfg, true, opts)
	if err != nil {
		return nil, err
	}
	index.store = aliasStore{index.store}
	if index.opts.scope == nil {
		index.quick = index.store
	}
	index.release = func() { c.backend.unregister(cfg.Name, index) }
	if err := c.backend.register(cfg.Name, index); err != nil {
		_ = index.Close() // of a cache that was never used
		return nil, err
	}
	return index, nil
}

// closeAliases closes the indexes of a cache that is being closed.
func (c *Client[T]) closeAliases() {
	all := c.aliases.Load()
	if all == nil {
		return
	}
	for _, a := range *all {
		a.opening.Lock()
		if index := a.index.Load(); index != nil {
			_ = index.Close() // nil
		}
		a.opening.Unlock()
	}
}

// aliasCodec writes the key.
type aliasCodec struct{}

func (aliasCodec) ID() byte { return aliasCodecID }

func (aliasCodec) Append(dst []byte, t *aliasTarget) ([]byte, error) {
	return append(dst, t.key...), nil
}

func (aliasCodec) Decode(data []byte) (*aliasTarget, error) {
	return &aliasTarget{key: string(data)}, nil
}

// aliasStore keeps of a target its key only, and no tags: whether the value counts is decided where that is kept.
type aliasStore struct{ store[*aliasTarget] }

func (s aliasStore) fill(ctx context.Context, key string, l lease[*aliasTarget], e entry[*aliasTarget], took time.Duration) (bool, error) {
	if !e.negative() {
		l.tags, e.value = nil, &aliasTarget{key: e.value.key}
	}
	return s.store.fill(ctx, key, l, e, took)
}

// The tags that the cache gives to what an alias leads to, or does not. They are never stored with a value.

// keyTag is invalidated when key, which is one inside, is written.
func (c *Client[T]) keyTag(key string) string { return ownTag("key", c.cfg.Name, key) }

// clearTag is invalidated when the cache is cleared.
func (c *Client[T]) clearTag() string { return ownTag("clear", c.cfg.Name) }

// noneTag is that of each alias under which the source had none.
func (c *Client[T]) noneTag() string { return ownTag("none", c.cfg.Name) }

// beforeRemoval is called before keys, which are keys inside, are removed or set, so that what is being fetched of them by an alias is
// not kept, and that an alias has no value is forgotten.
func (c *Client[T]) beforeRemoval(ctx context.Context, keys []string, again bool) error {
	if c.aliases.Load() == nil || len(keys) == 0 {
		return nil
	}
	tags := []string{c.noneTag()}
	for _, key := range keys {
		tags = append(tags, c.keyTag(key))
	}
	return c.writeError(c.backend.tags.invalidate(ctx, tags, again))
}

// beforeClear is beforeRemoval of every key.
func (c *Client[T]) beforeClear(ctx context.Context) error {
	if c.aliases.Load() == nil {
		return nil
	}
	return c.writeError(c.backend.tags.invalidate(ctx, []string{c.noneTag(), c.clearTag()}, false))
}

// dropAliases is beforeRemoval in this process only. Without keys it is beforeClear.
func (c *Client[T]) dropAliases(keys ...string) {
	if c.aliases.Load() == nil || c.backend.local == nil {
		return
	}
	tags := []string{c.noneTag()}
	if len(keys) == 0 {
		tags = append(tags, c.clearTag())
	}
	for _, key := range keys {
		tags = append(tags, c.keyTag(key))
	}
	c.backend.local.void(tags)
}

// checkAliases returns an error for a value whose key is another one than it is to be stored under.
func (c *Client[T]) checkAliases(inner string, value T) error {
	all := c.aliases.Load()
	if all == nil {
		return nil
	}
	for _, a := range *all {
		key, _, err := a.names(value)
		if err == nil && key != c.outer(inner) {
			err = fmt.Errorf("%w: the function of the alias %q returns another key than the one that the value is stored under, wanted: its own", ErrInvalidValue, a.name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// index makes a value that has been stored known by its aliases. but is an alias that is known already.
func (c *Client[T]) index(ctx context.Context, inner string, value T, ttl time.Duration, but *vouching) error {
	all := c.aliases.Load()
	if all == nil {
		return nil
	}
	var errs []error
	for _, a := range *all {
		index, err := a.ready()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		key, aliases, err := a.names(value)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, alias := range distinctTags(aliases) {
			if alias == "" || but.by(a.name, alias) {
				continue
			}
			in := alias
			if c.opts.scope != nil {
				in = JoinKey(c.scopeIn(inner), alias)
			}
			if err := checkKey(in); err != nil {
				errs = append(errs, err)
				continue
			}
			errs = append(errs, index.setKey(ctx, in, &aliasTarget{key: key}, keptFor(ttl, c.window)))
		}
	}
	return errors.Join(errs...)
}
