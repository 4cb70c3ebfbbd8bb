package cacheaside

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// A cache with scopes keeps the value of a key once for each scope. Whatever has a context enters here with the caller's key, and
// leaves with the key inside, which begins with the scope; all below knows that one only. It is the key in the table, in
// Redis, and of the hash in the stored header, so a value that came under another scope's key counts for nothing.

// ErrNoScope is returned by every call of a cache made by [WithScope] whose context has no scope, which means that the function
// given there has returned "". Nothing is looked up or fetched then. ErrNoScope is also returned for a [Ref] that has left its
// context, and by [Client.ClearScope] of a cache without scopes.
var ErrNoScope = errors.New("cacheaside: no scope")

// WithScope makes the scope of a call part of its key: the tenant, the region, the locale. What is fetched or set under one scope is
// never returned under another, so no key can forget it. of returns the scope that ctx carries; "" is [ErrNoScope], and an error
// of its own is returned unchanged. It is called at every lookup, on the caller's goroutine, and must be fast and safe for concurrent
// use. A fetch in the background runs with the values of the context whose lookup began it, and keeps its result in that
// scope; so does one that outlives its caller.
//
// Fetches, [WithTags] and [WithWeigher] get keys as the caller wrote them. [Client.SampleKeys] tells keys with their scopes, as
// [JoinKey] joins them. Clear clears every scope, [Client.ClearScope] one. Tags are not scoped: [Client.InvalidateTags]
// reaches all scopes, and a tag that shall not carries its scope in its name. The scope counts towards [MaxKeyBytes].
//
// Every process that uses a cache of this name must give it scopes; one that does not reads none of its values, and writes others. In
// one process the second constructor returns [ErrInvalidConfig].
func WithScope(of func(ctx context.Context) (string, error)) Option {
	return func(o *options) {
		if o.scope = of; of == nil {
			o.fail("WithScope", "a function")
		}
	}
}

// scopeRoom is how long a key with its scope may be that a hit writes to the stack.
const scopeRoom = 128

// scopeOf returns the scope of ctx.
func (c *Client[T]) scopeOf(ctx context.Context) (string, error) {
	scope, err := c.opts.scope(ctx)
	if err == nil && scope == "" {
		err = ErrNoScope
	}
	return scope, err
}

// locate returns the key inside of the caller's key.
func (c *Client[T]) locate(ctx context.Context, key string) (string, error) {
	if c.opts.scope == nil {
		return key, nil
	}
	if err := checkKey(key); err != nil {
		return "", err
	}
	scope, err := c.scopeOf(ctx)
	if err != nil {
		return "", err
	}
	inner := JoinKey(scope, key)
	return inner, checkKey(inner)
}

// locateMany is locate for several keys.
func (c *Client[T]) locateMany(ctx context.Context, keys []string) ([]string, error) {
	if c.opts.scope == nil || len(keys) == 0 {
		return keys, nil
	}
	scope, err := c.scopeOf(ctx)
	if err != nil {
		return nil, err
	}
	inner := make([]string, len(keys))
	for i, key := range keys {
		if err := checkKey(key); err != nil {
			return nil, err
		}
		inner[i] = JoinKey(scope, key)
		if err := checkKey(inner[i]); err != nil {
			return nil, err
		}
	}
	return inner, nil
}

// outer returns the caller's key of a key inside.
func (c *Client[T]) outer(inner string) string {
	if c.opts.scope == nil {
		return inner
	}
	_, key := splitScope(inner)
	return key
}

// scopeIn returns the scope in a key inside.
func (c *Client[T]) scopeIn(inner string) string {
	if c.opts.scope == nil {
		return ""
	}
	scope, _ := splitScope(inner)
	return scope
}

// splitScope undoes what locate has done.
func splitScope(inner string) (scope, key string) {
	parts, err := SplitKey(inner)
	if err != nil || len(parts) != 2 {
		return "", inner // locate has not made it: a Ref has brought it
	}
	return parts[0], parts[1]
}

// hitInScope answers a lookup of q by what this process surely holds, and otherwise gives q the key inside, and a fetch that
// gets the caller's key.
func (c *Client[T]) hitInScope(ctx context.Context, q *request[T]) (r Result[T], hit bool, err error) {
	if c.isClosed() {
		return r, false, ErrClosed
	}
	if err := checkKey(q.key); err != nil {
		return r, false, err
	}
	scope, err := c.scopeOf(ctx)
	if err != nil {
		return r, false, err
	}
	var room [scopeRoom]byte
	inner := appendKeyPart(append(appendKeyPart(room[:0], scope), ':'), q.key)
	if e := c.store.peek(unkept(inner)); !q.aged && e != nil && (c.surelyFresh(e) || c.surelyCounts(e)) {
		r.Value, r.Source, r.Age = c.served(e), c.local, e.age(c.clock.now())
		return r, true, nil
	}
	key := q.key
	q.key, q.scoped = string(inner), true
	if q.fetch != nil && !q.collects {
		fetch := q.fetch
		q.fetch = func(ctx context.Context, _ string) (T, error) { return fetch(ctx, key) }
	}
	return r, false, checkKey(q.key)
}

// weighOuter returns a weigher for keys inside.
func (c *Client[T]) weighOuter(weigh func(string, T) int) func(string, T) int {
	if c.opts.scope == nil || weigh == nil {
		return weigh
	}
	return func(inner string, value T) int { return weigh(c.outer(inner), value) }
}

// fetchOuter returns fetch for keys inside.
func (c *Client[T]) fetchOuter(fetch FetchManyFunc[T]) FetchManyFunc[T] {
	if c.opts.scope == nil {
		return fetch
	}
	return func(ctx context.Context, inner []string) (map[string]T, error) {
		keys := make([]string, len(inner))
		for i := range inner {
			keys[i] = c.outer(inner[i])
		}
		values, err := fetch(ctx, keys)
		named := make(map[string]T, len(values))
		for i, key := range keys {
			if v, ok := values[key]; ok {
				named[inner[i]] = v
			}
		}
		return named, err
	}
}

// ClearScope removes everything that this cache keeps under scope, by one command, and voids running fetches of it, as
// [Client.InvalidateTags] does with a tag. It returns [ErrNoScope] for a cache without scopes, or for "". [ErrUnavailable] means
// that the values may still be there: try again.
func (c *Client[T]) ClearScope(ctx context.Context, scope string) error {
	switch {
	case c.opts.scope == nil:
		return fmt.Errorf("%w: the cache %q has none, wanted: WithScope", ErrNoScope, c.cfg.Name)
	case scope == "":
		return fmt.Errorf("%w: the scope to clear is empty", ErrNoScope)
	}
	return c.InvalidateTags(ctx, scopeTag(c.cfg.Name, scope))
}

// scopeTag is the tag of all that a cache keeps under scope.
func scopeTag(name, scope string) string { return ownTag("scope", name, scope) }

// ownTag returns a tag that the cache gives itself. It begins with a byte that no text begins with, so that it does not meet a tag of the
// caller's by accident.
func ownTag(kind string, parts ...string) string {
	tag := "\x00" + kind + ":" + JoinKey(parts...)
	if len(tag) > MaxTagBytes {
		sum := sha256.Sum256([]byte(tag))
		tag = "\x00" + kind + "#" + hex.EncodeToString(sum[:])
	}
	return tag
}

// ownTags returns the tags that the cache itself gives to what is kept under a key inside.
func (c *Client[T]) ownTags(inner string) []string {
	if c.opts.scope == nil {
		return nil
	}
	return []string{scopeTag(c.cfg.Name, c.scopeIn(inner))}
}

// RefsIn is [Client.Refs] for keys of a scope, without a context that carries it: for a [Feed], or text. For a cache without
// scopes it returns zero Refs, which name nothing.
func (c *Client[T]) RefsIn(scope string, keys ...string) []Ref {
	refs := make([]Ref, len(keys))
	if c.opts.scope == nil || scope == "" {
		return refs
	}
	for i, key := range keys {
		refs[i] = Ref{cache: c.cfg.Name, name: JoinKey(scope, key), some: true}
	}
	return refs
}

// appendKeyPart appends a part of a key, as [JoinKey] writes it.
func appendKeyPart(b []byte, part string) []byte {
	for {
		at := strings.IndexAny(part, `:\`)
		if at < 0 {
			return append(b, part...)
		}
		b = append(append(b, part[:at]...), '\\', part[at])
		part = part[at+1:]
	}
}

// unscoped is what the hit of a cache with scopes looks at before the scope is known: there is nothing.
type unscoped[T any] struct{ store[T] }

func (unscoped[T]) peek(string) *entry[T] { return nil }
