package cacheaside

import (
	"context"
	"time"
)

// KeyedFetchManyFunc gets the values of several keys from the source, by one query; see [FetchManyFunc].
type KeyedFetchManyFunc[K comparable, T any] = func(ctx context.Context, keys []K) (map[K]T, error)

// GetMany is [Client.GetMany].
func (c *KeyedClient[K, T]) GetMany(ctx context.Context, keys []K) (map[K]T, error) {
	strings, names, err := c.strings(keys)
	if err != nil {
		return nil, err
	}
	values, err := c.client.GetMany(ctx, strings)
	return underKeys(values, names), err
}

// SetMany is [Client.SetMany].
func (c *KeyedClient[K, T]) SetMany(ctx context.Context, values map[K]T, ttl time.Duration) error {
	if c.err != nil {
		return c.err
	}
	byString := make(map[string]T, len(values))
	for key, value := range values {
		s, err := c.Key(key)
		if err != nil {
			return err
		}
		byString[s] = value
	}
	return c.client.SetMany(ctx, byString, ttl)
}

// DeleteMany is [Client.DeleteMany].
func (c *KeyedClient[K, T]) DeleteMany(ctx context.Context, keys []K) error {
	strings, _, err := c.strings(keys)
	if err != nil {
		return err
	}
	return c.client.DeleteMany(ctx, strings)
}

// Mutate is [Client.Mutate].
func (c *KeyedClient[K, T]) Mutate(ctx context.Context, keys []K, write func(context.Context) error) error {
	strings, _, err := c.strings(keys)
	if err != nil {
		return err
	}
	return c.client.Mutate(ctx, strings, write)
}

// GetManyWithFetch is [Client.GetManyWithFetch].
func (c *KeyedClient[K, T]) GetManyWithFetch(ctx context.Context, keys []K, ttl time.Duration, fetch KeyedFetchManyFunc[K, T]) (map[K]T, error) {
	strings, names, err := c.strings(keys)
	if err != nil {
		return nil, err
	}
	values, err := c.client.GetManyWithFetch(ctx, strings, ttl, c.fetchMany(fetch))
	return underKeys(values, names), err
}

// BindMany is [Client.BindMany].
func (c *KeyedClient[K, T]) BindMany(ttl time.Duration, fetch KeyedFetchManyFunc[K, T], b Batching) (*KeyedLoader[K, T], error) {
	if c.err != nil {
		return nil, c.err
	}
	loader, err := c.client.BindMany(ttl, c.fetchMany(fetch), b)
	if err != nil {
		return nil, err
	}
	return &KeyedLoader[K, T]{keyed: c, loader: loader}, nil
}

// strings returns the strings of keys, and the keys by them.
func (c *KeyedClient[K, T]) strings(keys []K) ([]string, map[string]K, error) {
	if c.err != nil {
		return nil, nil, c.err
	}
	strings, names := make([]string, len(keys)), make(map[string]K, len(keys))
	for i, key := range keys {
		s, err := c.Key(key)
		if err != nil {
			return nil, nil, err
		}
		strings[i], names[s] = s, key
	}
	return strings, names, nil
}

// underKeys returns values by the keys that names has for them. It is nil if they are, as with a call that failed
// as a whole.
func underKeys[K comparable, T any](values map[string]T, names map[string]K) map[K]T {
	if values == nil {
		return nil
	}
	byKey := make(map[K]T, len(values))
	for s, value := range values {
		byKey[names[s]] = value
	}
	return byKey
}

// fetchMany returns fetch for keys that are strings, which come from Key. Of what it returns only those that
// were asked for count.
func (c *KeyedClient[K, T]) fetchMany(fetch KeyedFetchManyFunc[K, T]) FetchManyFunc[T] {
	if fetch == nil {
		return nil
	}
	return func(ctx context.Context, strings []string) (map[string]T, error) {
		keys := make([]K, len(strings))
		for i, s := range strings {
			var err error
			if keys[i], err = parseKey(c.keys, s); err != nil {
				return nil, err
			}
		}
		values, err := fetch(ctx, keys)
		byString := make(map[string]T, len(values))
		for i, key := range keys {
			if value, ok := values[key]; ok {
				byString[strings[i]] = value
			}
		}
		return byString, err
	}
}
