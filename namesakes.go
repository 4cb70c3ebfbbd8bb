package cacheaside

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
)

// process is what the caches of one process know of each other: those that hold the same keys of Redis, by
// different backends, see at once what the others write. Where Redis is does not count, since one server has
// many addresses: caches of one prefix and name on two servers void each other's fetches for nothing.
type process struct {
	mu   sync.Mutex
	open map[string]*namesakes // by what the keys begin with
}

// thisProcess is nil in the tests of this package, where each backend stands for a process of its own.
var thisProcess = newProcess()

func newProcess() *process { return &process{open: make(map[string]*namesakes)} }

// namesakes are the caches of a process that hold the same keys.
type namesakes struct {
	all atomic.Pointer[[]namesake] // a new slice at each change
}

// namesake is a cache as others that hold its keys see it, whatever its type of values. What begins with begin
// must be ended, also after an error.
type namesake interface {
	beginWrite(ctx context.Context, key string, lasting bool) error
	endWrite(key string, begun bool)
	beginClear(ctx context.Context) error
	endClear(begun bool)
}

// join makes c one of those whose keys begin with name, and returns them. leave must follow.
func (p *process) join(name string, c namesake) *namesakes {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.open[name]
	if n == nil {
		n = new(namesakes)
		p.open[name] = n
	}
	all := append(slices.Clone(n.members()), c)
	n.all.Store(&all)
	return n
}

func (p *process) leave(name string, c namesake) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.open[name]
	all := slices.DeleteFunc(slices.Clone(n.members()), func(other namesake) bool { return other == c })
	n.all.Store(&all)
	if len(all) == 0 {
		delete(p.open, name)
	}
}

func (n *namesakes) members() []namesake {
	if n == nil {
		return nil
	}
	if all := n.all.Load(); all != nil {
		return *all
	}
	return nil
}

// beginWrite fences key in the caches that hold it beside c, and returns them, for endWrite.
func (n *namesakes) beginWrite(ctx context.Context, c namesake, key string, lasting bool) (begun []namesake, err error) {
	for _, other := range n.members() {
		if other == c {
			continue
		}
		begun = append(begun, other)
		if err = other.beginWrite(ctx, key, lasting); err != nil {
			return begun, err
		}
	}
	return begun, nil
}

// endWrite tells the others that key was written. Those that were opened meanwhile may have read the older value.
func (n *namesakes) endWrite(c namesake, key string, begun []namesake) {
	for _, other := range n.members() {
		if other != c {
			other.endWrite(key, slices.Contains(begun, other))
		}
	}
}

// beginClear is beginWrite for every key.
func (n *namesakes) beginClear(ctx context.Context, c namesake) (begun []namesake, err error) {
	for _, other := range n.members() {
		if other == c {
			continue
		}
		begun = append(begun, other)
		if err = other.beginClear(ctx); err != nil {
			return begun, err
		}
	}
	return begun, nil
}

func (n *namesakes) endClear(c namesake, begun []namesake) {
	for _, other := range n.members() {
		if other != c {
			other.endClear(slices.Contains(begun, other))
		}
	}
}

// writeUnderWay is a write under way.
type writeUnderWay struct {
	fenced bool       // in this cache
	others []namesake // the others in which it is
}

// fence is that of this cache's flights, and of those of its namesakes. unfence must follow in any case.
func (c *Client[T]) fence(ctx context.Context, key string, lasting bool) (w writeUnderWay, err error) {
	w.fenced, err = c.flights.fence(ctx, key, lasting)
	if err == nil {
		w.others, err = c.namesakes.beginWrite(ctx, c, key, lasting)
	}
	return w, err
}

func (c *Client[T]) unfence(key string, w writeUnderWay) {
	c.flights.unfence(key, w.fenced)
	c.namesakes.endWrite(c, key, w.others)
}

func (c *Client[T]) beginWrite(ctx context.Context, key string, lasting bool) error {
	_, err := c.flights.fence(ctx, key, lasting)
	return err
}

func (c *Client[T]) endWrite(key string, begun bool) {
	if c.near != nil {
		c.near.overwritten(key)
	}
	c.flights.unfence(key, begun)
}

func (c *Client[T]) beginClear(ctx context.Context) error { return c.flights.fenceAll(ctx) }

func (c *Client[T]) endClear(begun bool) {
	c.store.dropAllNear()
	if begun {
		c.flights.unfenceAll()
	}
}
