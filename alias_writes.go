package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// What stands here is what a cache does for its aliases when it stores and removes.

// aliasing is an [AliasClient] as its cache sees it. Programs without aliases need not hold the code of one.
type aliasing[T any] interface {
	called() string

	// names returns the key and the aliases of a value. An error matches ErrInvalidValue.
	names(value T) (key string, aliases []string, err error)

	// lead makes an alias, which is one inside, lead to key for ttl.
	lead(ctx context.Context, alias, key string, ttl time.Duration) error

	closeIndex()
}

// errAliasName is what a second Alias of one name returns.
func errAliasName(name string) error {
	return fieldError("name", quote(name), "one that no other Alias of this cache has")
}

// enlistAlias makes the client tell a of what it stores and removes.
func (c *Client[T]) enlistAlias(a aliasing[T]) error {
	c.aliasing.Lock()
	defer c.aliasing.Unlock()
	var all []aliasing[T]
	if old := c.aliases.Load(); old != nil {
		all = *old
	}
	if slices.ContainsFunc(all, func(other aliasing[T]) bool { return other.called() == a.called() }) {
		return errAliasName(a.called())
	}
	all = append(slices.Clip(all), a)
	c.aliases.Store(&all)
	c.tags.expect()
	return nil
}

// closeAliases closes the indexes of a cache that is being closed.
func (c *Client[T]) closeAliases() {
	all := c.aliases.Load()
	if all == nil {
		return
	}
	for _, a := range *all {
		a.closeIndex()
	}
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
			err = fmt.Errorf("%w: the function of the alias %q returns another key than the one that the value is stored under, wanted: its own", ErrInvalidValue, a.called())
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
		key, aliases, err := a.names(value)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, alias := range distinctTags(aliases) {
			if alias == "" || but.by(a.called(), alias) {
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
			errs = append(errs, a.lead(ctx, in, key, keptFor(ttl, c.window)))
		}
	}
	return errors.Join(errs...)
}
