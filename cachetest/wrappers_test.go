package cachetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cacheaside/cacheaside"
)

type cache = cacheaside.Cache[string]

// broken are wrappers as people write them, and the case of the suite that must find out.
var broken = []struct {
	name  string
	found string
	wrap  func(cache) cache
}{
	{"leader's context", "a cancelled caller fails nobody else", func(c cache) cache { return leaderContext{c} }},
	{"keeps errors", unchanged, func(c cache) cache { return cachesErrors{c} }},
	{"wraps errors", unchanged, func(c cache) cache { return wrapsErrors{c} }},
	{"ErrNotFound is zero", noValue, func(c cache) cache { return zeroIfNone{c} }},
	{"by hand, Delete", "a Delete during a fetch is not undone by it", byHand},
	{"by hand, cold key", "a cold key is fetched once for all who ask", byHand},
	{"by hand, panic", panics, byHand},
	{"by hand, Goexit", goexits, byHand},
	{"who joins a panic gets zero", panics, func(c cache) cache { return &loneLeader{Cache: c} }},
	{"who joins a Goexit gets zero", goexits, func(c cache) cache { return &loneLeader{Cache: c} }},
	{"Get's layer ignores Delete", "what is set is got, until it is deleted", func(c cache) cache { return &secondLayer{Cache: c} }},
	{"look-ups' layer ignores Delete", seeWrites, func(c cache) cache { return &fetchLayer{Cache: c, seesSet: true} }},
	{"look-ups' layer ignores Set", seeWrites, func(c cache) cache { return &fetchLayer{Cache: c, seesDelete: true} }},
	{"no ttl", "a ttl runs out for look-ups that fetch, too", func(c cache) cache { return forEver{c} }},
	{"keys in lower case", apart, func(c cache) cache { return rekeyed{c, strings.ToLower} }},
	{"keys without blanks", apart, func(c cache) cache { return rekeyed{c, strings.TrimSpace} }},
	{"keys in UTF-8", apart, func(c cache) cache {
		return rekeyed{c, func(k string) string { return strings.ToValidUTF8(k, "?") }}
	}},
	{"keys cut", apart, func(c cache) cache {
		return rekeyed{c, func(k string) string { return k[:min(len(k), 250)] }}
	}},
}

const (
	unchanged = "a fetch's error reaches the caller unchanged, and is not cached"
	seeWrites = "look-ups that fetch see each Set and Delete"
	noValue   = "a fetch's ErrNotFound reaches the caller unchanged, and is no value"
	panics    = "a panic reaches every waiter as PanicError"
	goexits   = "a Goexit reaches every waiter as ErrGoexit"
	apart     = "keys that are alike do not meet"
)

// leaderContext fetches under the context of the caller who came first.
type leaderContext struct{ cacheaside.Cache[string] }

func (c leaderContext) GetWithFetch(ctx context.Context, k string, ttl time.Duration, fetch cacheaside.FetchFunc[string]) (string, error) {
	return c.Cache.GetWithFetch(ctx, k, ttl, func(_ context.Context, k string) (string, error) { return fetch(ctx, k) })
}

// cachesErrors keeps the text of an error as if it were a value.
type cachesErrors struct{ cacheaside.Cache[string] }

func (c cachesErrors) GetWithFetch(ctx context.Context, k string, ttl time.Duration, fetch cacheaside.FetchFunc[string]) (string, error) {
	return c.Cache.GetWithFetch(ctx, k, ttl, func(ctx context.Context, k string) (string, error) {
		v, err := fetch(ctx, k)
		if err != nil {
			_ = c.Set(context.WithoutCancel(ctx), k+" failed", err.Error(), ttl)
			v, err = err.Error(), nil
		}
		return v, err
	})
}

// getThenSet is cache-aside by hand.
type getThenSet struct{ cacheaside.Cache[string] }

func (c getThenSet) GetWithFetch(ctx context.Context, k string, ttl time.Duration, fetch cacheaside.FetchFunc[string]) (string, error) {
	if v, err := c.Get(ctx, k); err == nil {
		return v, nil
	}
	v, err := fetch(ctx, k)
	if err != nil {
		return "", err
	}
	return v, c.Set(ctx, k, v, ttl)
}

func byHand(c cache) cache { return getThenSet{c} }

// secondLayer keeps values in a map that a Delete leaves alone.
type secondLayer struct {
	cacheaside.Cache[string]
	mu   sync.Mutex
	kept map[string]string
}

func (c *secondLayer) Get(ctx context.Context, k string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok := c.kept[k]; ok {
		return v, nil
	}
	v, err := c.Cache.Get(ctx, k)
	if err == nil {
		if c.kept == nil {
			c.kept = make(map[string]string)
		}
		c.kept[k] = v
	}
	return v, err
}

// wrapsErrors says where an error came from.
type wrapsErrors struct{ cacheaside.Cache[string] }

func (c wrapsErrors) GetWithFetch(ctx context.Context, k string, ttl time.Duration, fetch cacheaside.FetchFunc[string]) (string, error) {
	v, err := c.Cache.GetWithFetch(ctx, k, ttl, fetch)
	if err != nil {
		err = fmt.Errorf("look-up: %w", err)
	}
	return v, err
}

// zeroIfNone takes "the source has none" for a value.
type zeroIfNone struct{ cacheaside.Cache[string] }

func (c zeroIfNone) GetWithFetch(ctx context.Context, k string, ttl time.Duration, fetch cacheaside.FetchFunc[string]) (string, error) {
	v, err := c.Cache.GetWithFetch(ctx, k, ttl, fetch)
	if errors.Is(err, cacheaside.ErrNotFound) {
		return "", nil
	}
	return v, err
}

// forEver keeps what is fetched, whatever its ttl, if at all.
type forEver struct{ cacheaside.Cache[string] }

func (c forEver) GetWithFetch(ctx context.Context, k string, ttl time.Duration, fetch cacheaside.FetchFunc[string]) (string, error) {
	if ttl > 0 {
		ttl = cacheaside.NoExpiry
	}
	return c.Cache.GetWithFetch(ctx, k, ttl, fetch)
}

// rekeyed changes keys, and not always apart.
type rekeyed struct {
	cacheaside.Cache[string]
	rekey func(string) string
}

func (c rekeyed) Get(ctx context.Context, k string) (string, error) {
	return c.Cache.Get(ctx, c.rekey(k))
}

func (c rekeyed) Set(ctx context.Context, k, v string, ttl time.Duration) error {
	return c.Cache.Set(ctx, c.rekey(k), v, ttl)
}

func (c rekeyed) Delete(ctx context.Context, k string) error {
	return c.Cache.Delete(ctx, c.rekey(k))
}

func (c rekeyed) GetWithFetch(ctx context.Context, k string, ttl time.Duration, fetch cacheaside.FetchFunc[string]) (string, error) {
	return c.Cache.GetWithFetch(ctx, c.rekey(k), ttl, func(ctx context.Context, _ string) (string, error) { return fetch(ctx, k) })
}

// fetchLayer keeps what look-ups return in a map that a Set or a Delete leaves alone.
type fetchLayer struct {
	cacheaside.Cache[string]
	seesSet, seesDelete bool
	kept                sync.Map
}

func (c *fetchLayer) GetWithFetch(ctx context.Context, k string, ttl time.Duration, fetch cacheaside.FetchFunc[string]) (string, error) {
	if v, ok := c.kept.Load(k); ok {
		return v.(string), nil
	}
	v, err := c.Cache.GetWithFetch(ctx, k, ttl, fetch)
	if err == nil {
		c.kept.Store(k, v)
	}
	return v, err
}

func (c *fetchLayer) Set(ctx context.Context, k, v string, ttl time.Duration) error {
	if c.seesSet {
		c.kept.Delete(k)
	}
	return c.Cache.Set(ctx, k, v, ttl)
}

func (c *fetchLayer) Delete(ctx context.Context, k string) error {
	if c.seesDelete {
		c.kept.Delete(k)
	}
	return c.Cache.Delete(ctx, k)
}

// loneLeader shares fetches by itself, and tells an error only to the caller who came first.
type loneLeader struct {
	cacheaside.Cache[string]
	leading atomic.Bool
}

func (c *loneLeader) GetWithFetch(ctx context.Context, k string, ttl time.Duration, fetch cacheaside.FetchFunc[string]) (string, error) {
	leads := c.leading.CompareAndSwap(false, true)
	v, err := c.Cache.GetWithFetch(ctx, k, ttl, fetch)
	if leads {
		c.leading.Store(false)
		return v, err
	}
	return v, nil
}
