package cacheaside

import (
	"cmp"
	"slices"
)

// Config returns the configuration that is in force, its defaults filled in, without its passwords.
func (c *Client[T]) Config() Config {
	cfg := c.cfg
	cfg.Redis.Password = ""
	cfg.Redis.URL = redactURL(cfg.Redis.URL)
	cfg.Redis.Addrs = slices.Clone(cfg.Redis.Addrs)
	return cfg
}

// HotKey is a key that is asked for often.
type HotKey struct {
	Key string

	// Heat compares keys of one cache with each other. It is what the eviction policy knows: it grows with
	// the hits up to 18, which the hottest keys share, and fades as other keys are asked for.
	Heat int
}

// HotKeys returns up to most of the keys that this process keeps, the hottest first. It looks at every
// entry, without holding anybody up, and is made for people, not for programs. There are none on backends
// that keep nothing in this process.
func (c *Client[T]) HotKeys(most int) []HotKey {
	if t, ok := c.store.(interface{ hottest(most int) []HotKey }); ok && most > 0 {
		return t.hottest(most)
	}
	return nil
}

// hottest returns up to most of the keys in t, the hottest first.
func (t *expiring[V]) hottest(most int) []HotKey {
	var hot []HotKey
	least := 0 // what it takes to be among the hottest, as far as the walk has come
	now := t.clock.now()
	t.Range(func(key string, v *V, hits uint32) bool {
		if int(hits) < least || t.deadline(v) <= now {
			return true
		}
		hot = append(hot, HotKey{Key: key, Heat: int(hits)})
		if len(hot) >= 8*most+64 {
			hot = keepHottest(hot, most)
			least = hot[most-1].Heat
		}
		return true
	})
	return keepHottest(hot, most)
}

func (a *aside[T]) hottest(most int) []HotKey { return a.near.hottest(most) }

// keepHottest sorts hot, keys of equal heat by their names, and cuts it.
func keepHottest(hot []HotKey, most int) []HotKey {
	slices.SortFunc(hot, func(a, b HotKey) int {
		return cmp.Or(cmp.Compare(b.Heat, a.Heat), cmp.Compare(a.Key, b.Key))
	})
	return hot[:min(most, len(hot))]
}
