package cacheaside

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"
)

// Config returns the configuration that is in force, its defaults filled in, without its passwords.
func (c *Client[T]) Config() Config {
	cfg := c.cfg
	cfg.Redis.Password = ""
	cfg.Redis.URL = redactURL(cfg.Redis.URL)
	cfg.Redis.Addrs = slices.Clone(cfg.Redis.Addrs)
	return cfg
}

// KeySample is what [Client.SampleKeys] saw.
type KeySample struct {
	Lookups int           // how many look-ups
	Took    time.Duration // in how long
	Keys    []HotKey      // those that were asked for most, the hottest first
}

// HotKey is a key that was asked for.
type HotKey struct {
	Key     string
	Lookups int // of its sample's
}

// maxSampled is after how many look-ups a sample ends: enough to tell the share of a key to within a
// percent.
const maxSampled = 1 << 14

// SampleKeys watches the look-ups of this process for a while, whether the key is cached or not, and returns which
// keys were asked for most, up to most of them. It ends early with ctx, with the cache, and when it has
// seen enough, which in a busy process takes some milliseconds. One sample is taken at a time; others wait.
//
// Until it ends, hits take the long way, at several times their cost; before and after that, the
// possibility costs them nothing.
func (c *Client[T]) SampleKeys(ctx context.Context, while time.Duration, most int) KeySample {
	c.sampling.Lock()
	defer c.sampling.Unlock()
	s := &keySampler{counts: make(map[string]int), full: make(chan struct{})}
	begun := time.Now()
	c.sampler.Store(s)
	c.setSure()
	defer func() {
		c.sampler.Store(nil)
		c.setSure()
	}()
	t := time.NewTimer(while)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.full:
	case <-ctx.Done():
	case <-c.closed:
	}
	return s.result(time.Since(begun), most)
}

// setSure sets what surelyFresh takes off a deadline: the window, or so much that it is never sure, when
// an observer wants to know of every hit, so that all take the long way, or when the cache has been closed.
func (c *Client[T]) setSure() {
	if len(c.watchers.hits) > 0 || c.sampler.Load() != nil || ages.used.Load() {
		c.sure.Store(never)
		return
	}
	c.sure.Store(c.window)
	if c.isClosed() { // possibly since the window was stored
		c.sure.Store(never)
	}
}

// sampled notes a look-up of key, if a sample is being taken.
func (c *Client[T]) sampled(key string) {
	if s := c.sampler.Load(); s != nil {
		s.add(key)
	}
}

// keySampler counts the look-ups of each key.
type keySampler struct {
	full chan struct{} // closed when there are enough

	mu     sync.Mutex
	counts map[string]int
	total  int
}

func (s *keySampler) add(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= maxSampled {
		return
	}
	s.counts[key]++
	if s.total++; s.total == maxSampled {
		close(s.full)
	}
}

// result returns up to most keys, those that were asked for equally often by their names.
func (s *keySampler) result(took time.Duration, most int) KeySample {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]HotKey, 0, len(s.counts))
	for key, n := range s.counts {
		all = append(all, HotKey{Key: key, Lookups: n})
	}
	slices.SortFunc(all, func(a, b HotKey) int {
		return cmp.Or(cmp.Compare(b.Lookups, a.Lookups), strings.Compare(a.Key, b.Key))
	})
	return KeySample{Lookups: s.total, Took: took, Keys: slices.Clone(all[:min(max(most, 0), len(all))])}
}
