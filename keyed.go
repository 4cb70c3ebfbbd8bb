package cacheaside

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// KeyedClient is a [Client] whose keys have the type K, made by [Keyed]. Each method does what the one of Client
// with its name does, and returns the errors that it returns; a key that its codec cannot write is
// [ErrInvalidKey]. It has no state of its own beside the codec: several on one Client share their entries.
type KeyedClient[K comparable, T any] struct {
	client *Client[T]
	keys   KeyCodec[K]
	kind   keyKind
	coded  *codedKeys[K] // nil for another kind than codedKey
	err    error         // what every call returns, if the client or the codec is missing
}

// KeyedFetchFunc gets the value of one key from the source. For ctx see [FetchFunc].
type KeyedFetchFunc[K comparable, T any] = func(ctx context.Context, key K) (T, error)

// Keyed returns c with keys of the type K, so that a repository's method fits as a fetch:
//
//	users := cacheaside.Keyed(client, cacheaside.IntKeys[int64]())
//	u, err := users.GetWithFetch(ctx, id, time.Minute, repository.Find)
//
// A hit by [IntKeys] or [StringKeys] allocates nothing; by another codec it allocates what Append does. A call
// with a nil client or codec returns [ErrInvalidValue]. A codec for which two keys have one string returns
// [ErrInvalidKey] from the call that meets the second.
func Keyed[K comparable, T any](c *Client[T], keys KeyCodec[K]) *KeyedClient[K, T] {
	k := &KeyedClient[K, T]{client: c, keys: keys}
	switch own, ok := keys.(interface{ directly() keyKind }); {
	case c == nil:
		k.err = nilArgument("the client of Keyed", "one that a constructor has returned")
	case keys == nil:
		k.err = nilArgument("the codec of Keyed", "a KeyCodec")
	case ok:
		k.kind = own.directly()
		return k
	}
	k.coded = newCodedKeys(keys)
	return k
}

func (i intKeys[K]) directly() keyKind { return i.kind }

func (stringKeys[K]) directly() keyKind { return stringKey }

// Client returns the client by strings.
func (c *KeyedClient[K, T]) Client() *Client[T] { return c.client }

// Key returns the string of key, by which [KeyedClient.Client] finds the same entry.
func (c *KeyedClient[K, T]) Key(key K) (string, error) {
	if c.err != nil {
		return "", c.err
	}
	switch c.kind {
	case stringKey:
		return *(*string)(unsafe.Pointer(&key)), nil
	case codedKey:
		return c.coded.write(key)
	}
	var room integerRoom
	return string(c.integer(&room, &key)), nil
}

// Get is [Client.Get].
func (c *KeyedClient[K, T]) Get(ctx context.Context, key K) (value T, err error) {
	if e := c.peek(key); e != nil && (c.client.surelyFresh(e) || c.client.surelyCounts(e)) {
		return c.client.served(e), nil
	}
	s, err := c.Key(key)
	if err != nil {
		return value, err
	}
	return c.client.Get(ctx, s)
}

// GetWithFetch is [Client.GetWithFetch].
func (c *KeyedClient[K, T]) GetWithFetch(ctx context.Context, key K, ttl time.Duration, fetch KeyedFetchFunc[K, T]) (T, error) {
	if e := c.peek(key); e != nil && (c.client.surelyFresh(e) || c.client.surelyCounts(e)) && fetch != nil {
		return c.client.served(e), nil
	}
	r, err := c.Lookup(ctx, key, ttl, fetch)
	return r.Value, err
}

// Lookup is [Client.Lookup].
func (c *KeyedClient[K, T]) Lookup(ctx context.Context, key K, ttl time.Duration, fetch KeyedFetchFunc[K, T]) (Result[T], error) {
	s, err := c.Key(key)
	if err != nil {
		return Result[T]{}, err
	}
	return c.client.Lookup(ctx, s, ttl, c.fetchOne(fetch))
}

// Refresh is [Client.Refresh].
func (c *KeyedClient[K, T]) Refresh(ctx context.Context, key K, ttl time.Duration, fetch KeyedFetchFunc[K, T]) (value T, err error) {
	s, err := c.Key(key)
	if err != nil {
		return value, err
	}
	return c.client.Refresh(ctx, s, ttl, c.fetchOne(fetch))
}

// Set is [Client.Set].
func (c *KeyedClient[K, T]) Set(ctx context.Context, key K, value T, ttl time.Duration) error {
	s, err := c.Key(key)
	if err != nil {
		return err
	}
	return c.client.Set(ctx, s, value, ttl)
}

// Delete is [Client.Delete].
func (c *KeyedClient[K, T]) Delete(ctx context.Context, key K) error {
	s, err := c.Key(key)
	if err != nil {
		return err
	}
	return c.client.Delete(ctx, s)
}

// Refs is [Client.Refs]. A key that its codec cannot write becomes the zero Ref, which [Backend.Invalidate] and
// [Backend.Mutate] refuse.
func (c *KeyedClient[K, T]) Refs(keys ...K) []Ref {
	refs := make([]Ref, len(keys))
	for i, key := range keys {
		if s, err := c.Key(key); err == nil {
			refs[i] = c.client.ref(s)
		}
	}
	return refs
}

// Changed is [Client.Changed]. A key that its codec cannot write is an error, and declares nothing.
func (c *KeyedClient[K, T]) Changed(ctx context.Context, keys ...K) error {
	written := make([]string, len(keys))
	for i, key := range keys {
		s, err := c.Key(key)
		if err != nil {
			return err
		}
		written[i] = s
	}
	if c.client == nil {
		return c.err
	}
	return c.client.Changed(ctx, written...)
}

// RefsIn is [Client.RefsIn]. A key that its codec cannot write becomes the zero Ref.
func (c *KeyedClient[K, T]) RefsIn(scope string, keys ...K) []Ref {
	refs := make([]Ref, len(keys))
	for i, key := range keys {
		if s, err := c.Key(key); err == nil {
			refs[i] = c.client.RefsIn(scope, s)[0]
		}
	}
	return refs
}

// ClearScope is [Client.ClearScope].
func (c *KeyedClient[K, T]) ClearScope(ctx context.Context, scope string) error {
	if c.client == nil {
		return c.err
	}
	return c.client.ClearScope(ctx, scope)
}

// InvalidateTags is [Client.InvalidateTags].
func (c *KeyedClient[K, T]) InvalidateTags(ctx context.Context, tags ...string) error {
	if c.client == nil {
		return c.err
	}
	return c.client.InvalidateTags(ctx, tags...)
}

// Backend is [Client.Backend]. Without a client it is nil, and its methods return [ErrInvalidValue].
func (c *KeyedClient[K, T]) Backend() *Backend {
	if c.client == nil {
		return nil
	}
	return c.client.Backend()
}

// Clear is [Client.Clear].
func (c *KeyedClient[K, T]) Clear(ctx context.Context) error {
	if c.client == nil {
		return c.err
	}
	return c.client.Clear(ctx)
}

// Health is [Client.Health].
func (c *KeyedClient[K, T]) Health(ctx context.Context) error {
	if c.client == nil {
		return c.err
	}
	return c.client.Health(ctx)
}

// Stats is [Client.Stats].
func (c *KeyedClient[K, T]) Stats() (s Stats) {
	if c.client != nil {
		s = c.client.Stats()
	}
	return s
}

// Close is [Client.Close]: it closes the client that [Keyed] was given.
func (c *KeyedClient[K, T]) Close() error {
	if c.client == nil {
		return nil
	}
	return c.client.Close()
}

// KeyedLoader is a [Loader] whose keys have the type K; see [KeyedClient.Bind].
type KeyedLoader[K comparable, T any] struct {
	keyed  *KeyedClient[K, T]
	loader *Loader[T]
}

// Bind is [Client.Bind].
func (c *KeyedClient[K, T]) Bind(ttl time.Duration, fetch KeyedFetchFunc[K, T]) *KeyedLoader[K, T] {
	return &KeyedLoader[K, T]{keyed: c, loader: c.client.Bind(ttl, c.fetchOne(fetch))}
}

// Get is [Loader.Get].
func (l *KeyedLoader[K, T]) Get(ctx context.Context, key K) (value T, err error) {
	c := l.keyed
	if e := c.peek(key); e != nil && (c.client.surelyFresh(e) || c.client.surelyCounts(e)) && l.loader.fetch != nil {
		return c.client.served(e), nil
	}
	s, err := c.Key(key)
	if err != nil {
		return value, err
	}
	return l.loader.Get(ctx, s)
}

// Warm is [Loader.Warm]. It ends at the first key that its codec cannot write, and returns that error.
func (l *KeyedLoader[K, T]) Warm(ctx context.Context, keys iter.Seq[K]) error {
	switch {
	case l.keyed.err != nil:
		return l.keyed.err
	case keys == nil:
		return nilArgument("keys", "a sequence")
	}
	var bad error
	err := l.loader.Warm(ctx, func(yield func(string) bool) {
		for key := range keys {
			var s string
			if s, bad = l.keyed.Key(key); bad != nil || !yield(s) {
				return
			}
		}
	})
	return cmp.Or(bad, err)
}

// fetchOne returns fetch for keys that are strings. They come from Key, so Parse has read them before.
func (c *KeyedClient[K, T]) fetchOne(fetch KeyedFetchFunc[K, T]) FetchFunc[T] {
	if fetch == nil {
		return nil
	}
	return func(ctx context.Context, s string) (value T, err error) {
		key, err := parseKey(c.keys, s)
		if err != nil {
			return value, err
		}
		return fetch(ctx, key)
	}
}

// peek returns what this process holds under key. The string of the key stands in a buffer that is used again
// when peek returns, so the store's peek must not keep it.
func (c *KeyedClient[K, T]) peek(key K) *entry[T] {
	switch c.kind {
	case stringKey:
		return c.client.quick.peek(*(*string)(unsafe.Pointer(&key)))
	case codedKey:
		return c.peekCoded(key)
	}
	var room integerRoom
	return c.client.quick.peek(unkept(c.integer(&room, &key)))
}

// peekCoded returns nil as well for a key that has not been checked lately: Key does that.
func (c *KeyedClient[K, T]) peekCoded(key K) (e *entry[T]) {
	if c.err != nil {
		return nil
	}
	room := c.coded.rooms.Get().(*[]byte)
	defer func() {
		if recover() != nil {
			e = nil // Key says why
		}
		c.coded.rooms.Put(room)
	}()
	*room = c.keys.Append((*room)[:0], key)
	if s := unkept(*room); c.coded.isChecked(s, key) {
		e = c.client.quick.peek(s)
	}
	return e
}

// integerRoom is enough for the longest integer, with its sign.
type integerRoom [20]byte

// integer writes an integer key as [IntKeys] does, without a call that would move room to the heap.
func (c *KeyedClient[K, T]) integer(room *integerRoom, key *K) []byte {
	at := unsafe.Pointer(key) // K is one of the types that IntKeys is made for
	switch c.kind {
	case int64Key:
		return strconv.AppendInt(room[:0], *(*int64)(at), 10)
	case uint64Key:
		return strconv.AppendUint(room[:0], *(*uint64)(at), 10)
	case uint32Key:
		return strconv.AppendUint(room[:0], uint64(*(*uint32)(at)), 10)
	}
	return strconv.AppendInt(room[:0], int64(*(*int32)(at)), 10)
}

// unkept returns b as a string that must not be kept. The compiler does not see where its bytes come from, so a
// buffer stays on the stack. Between the two lines nothing can move that stack.
func unkept(b []byte) string {
	header := struct {
		at     uintptr
		length int
	}{uintptr(unsafe.Pointer(unsafe.SliceData(b))), len(b)}
	return *(*string)(unsafe.Pointer(&header))
}

// codedKeys is what a KeyedClient knows of the keys of a codec that is not this library's own.
type codedKeys[K comparable] struct {
	keys    KeyCodec[K]
	rooms   sync.Pool                      // of *[]byte, to write keys to
	checked [checkedKeys]atomic.Pointer[K] // keys that Parse has read as they are, each in the place of its string
}

// checkedKeys is how many keys need no check at a hit. The others are parsed at each.
const checkedKeys = 1024

func newCodedKeys[K comparable](keys KeyCodec[K]) *codedKeys[K] {
	return &codedKeys[K]{keys: keys, rooms: sync.Pool{New: func() any { return new([]byte) }}}
}

func (c *codedKeys[K]) place(s string) *atomic.Pointer[K] { return &c.checked[hashKey(s)%checkedKeys] }

// isChecked reports whether key was read as itself from s lately.
func (c *codedKeys[K]) isChecked(s string, key K) bool {
	known := c.place(s).Load()
	return known != nil && *known == key
}

// write returns the string of key, having checked that Parse reads it as key.
func (c *codedKeys[K]) write(key K) (string, error) {
	s, err := keyString(c.keys, key)
	if err != nil {
		return "", err
	}
	if len(s) > MaxKeyBytes {
		return "", fmt.Errorf("%w: its codec writes %d bytes, allowed: up to %d", ErrInvalidKey, len(s), MaxKeyBytes)
	}
	if place := c.place(s); !c.isChecked(s, key) {
		place.Store(&key)
	}
	return s, nil
}
