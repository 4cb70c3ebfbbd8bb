package cacheaside

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// ErrNoChange is returned by Changed where its context carries no open [Change]. The keys are removed at once then.
var ErrNoChange = errors.New("cacheaside: no change is open")

// Change is a change of the source that is under way: a transaction most often. Make one by [Begin], tell it by Changed what it
// changes, and End it when the source has it, or may have it. It is safe for concurrent use.
//
// From Changed until End nothing of these keys and tags is stored by this process. A lookup whose context carries the
// change finds nothing under them, calls its fetch alone and under the context that it was given, and stores
// nothing, whatever its key: what a transaction has not committed never leaves it. Kept values that have not
// changed are served to it. [Previous], [OverrideTTL], [SkipStore] and [Tag] do nothing in such a fetch. It has no
// deadline but that of its context.
//
// A Set under the context of a change is Changed, and keeps nothing; a Delete or InvalidateTags is Changed too, besides what it does.
type Change struct {
	*openChange
	nested bool
}

// openChange is what the handles of a Change share.
type openChange struct {
	place    string // of Begin
	ended    atomic.Bool
	hasTags  atomic.Bool
	ending   sync.Mutex // held while something is declared or removed; before mu
	released bool       // its fences are down; guarded by ending
	lenient  bool       // it is a Mutate's: what other callers Set meanwhile is kept until the end

	mu     sync.RWMutex
	parts  map[*Backend]*changePart
	timers []*time.Timer
}

// changePart is what a change has declared of one backend.
type changePart struct {
	keys   map[changedKey]struct{}
	tags   map[string]struct{}
	caches map[string][]sibling // by name; those that were open when a key of theirs was declared
	holds  []changeHold
}

type changedKey struct{ cache, key string }

// changeHold is a fence that is up.
type changeHold struct {
	of      sibling
	key     string
	unfence func()
}

// changeTimeout is how long a change may be open unless the configuration says so.
const changeTimeout = 5 * time.Minute

type changeContext struct{}

// openChanges counts the changes that have not ended, so that without any no lookup asks its context for one.
var openChanges atomic.Int64

// Begin begins a change, and returns the context that carries it. End must follow, or Discard: until then the keys that have changed
// are not stored, and a change that is left open is told of in the log after [Config.FetchTimeout], with the place of
// this call, and lets go of its keys, removed, after [Config.ChangeTimeout].
//
// If ctx carries an open change already, the new one is part of it: its End removes what has been declared so far, and
// the first change's End does so again and lets the keys be stored.
func Begin(ctx context.Context) (context.Context, *Change) { return begin(ctx, 1) }

// begin is Begin for a caller that many calls up.
func begin(ctx context.Context, up int) (context.Context, *Change) {
	if c := changeOf(ctx); c != nil {
		return ctx, &Change{openChange: c, nested: true}
	}
	c := &openChange{parts: make(map[*Backend]*changePart)}
	if _, file, line, ok := runtime.Caller(up + 1); ok {
		c.place = fmt.Sprintf("%s:%d", file, line)
	}
	openChanges.Add(1)
	return context.WithValue(ctx, changeContext{}, c), &Change{openChange: c}
}

// changeOf returns the open change that ctx carries, or nil.
func changeOf(ctx context.Context) *openChange {
	if openChanges.Load() == 0 {
		return nil
	}
	if c, ok := ctx.Value(changeContext{}).(*openChange); ok && !c.ended.Load() {
		return c
	}
	return nil
}

// End removes all that was declared, in every process, and lets it be stored again. Call it when the change is committed, and
// also when that failed or is not known; ctx may have ended. It returns an error that matches [ErrUnavailable] if that
// did not reach a backend: the removal is tried again in the background, as by [Client.Mutate]. A second End returns nil.
func (c *Change) End(ctx context.Context) error {
	if c.nested {
		return c.removeSoFar(ctx)
	}
	return c.finish(ctx, true)
}

// Discard ends a change of which it is certain that nothing was written. It removes nothing. Within another change it
// does nothing.
func (c *Change) Discard() {
	if !c.nested {
		_ = c.finish(context.Background(), false) // nothing is removed, so nothing fails
	}
}

func (c *openChange) removeSoFar(ctx context.Context) error {
	c.ending.Lock()
	defer c.ending.Unlock()
	if c.ended.Load() {
		return nil
	}
	return c.removeLocked(ctx)
}

func (c *openChange) finish(ctx context.Context, remove bool) (err error) {
	c.ending.Lock()
	defer c.ending.Unlock()
	if c.ended.Load() {
		return nil
	}
	c.stopTimers()
	defer func() {
		c.releaseLocked(!remove)
		c.ended.Store(true)
		openChanges.Add(-1)
	}()
	if remove {
		err = c.removeLocked(ctx)
	}
	return err
}

// removeLocked removes what was declared.
func (c *openChange) removeLocked(ctx context.Context) error {
	var errs []error
	for b, p := range c.parts {
		errs = append(errs, b.removeChanged(ctx, p))
	}
	return errors.Join(errs...)
}

// releaseLocked lowers the fences. With restore, what this process had hidden is not any more.
func (c *openChange) releaseLocked(restore bool) {
	if c.released {
		return
	}
	c.released = true
	for b, p := range c.parts {
		for _, h := range p.holds {
			h.of.releaseChanged(h.key, !c.lenient, restore)
			h.unfence()
		}
		p.holds = nil
		b.tags.release(keysOf(p.tags))
	}
}

// declare notes that keys and tags of a backend change, and fences them.
func (c *openChange) declare(ctx context.Context, b *Backend, named sorted) error {
	c.ending.Lock()
	defer c.ending.Unlock()
	if c.ended.Load() {
		return errEndedMeanwhile
	}
	p, fresh, tags := c.note(b, named)
	if c.released { // it was left open for too long; what is declared is removed at End
		return nil
	}
	if len(tags) > 0 {
		b.tags.hold(tags)
	}
	var errs []error
	for _, k := range fresh {
		if p.caches[k.cache] == nil {
			p.caches[k.cache] = b.siblingsOf(k.cache)
		}
		for _, m := range p.caches[k.cache] {
			unfence, err := m.fenceAllOf(ctx, []string{k.key})
			errs = append(errs, err)
			m.holdChanged(k.key, !c.lenient)
			p.holds = append(p.holds, changeHold{m, k.key, unfence})
		}
	}
	return errors.Join(errs...)
}

// note notes what is declared, before it is fenced, and returns what is new of it.
func (c *openChange) note(b *Backend, named sorted) (p *changePart, keys []changedKey, tags []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p = c.parts[b]
	if p == nil {
		p = &changePart{keys: make(map[changedKey]struct{}), tags: make(map[string]struct{}), caches: make(map[string][]sibling)}
		c.parts[b] = p
		c.watchLocked(b)
	}
	for name, all := range named.keys {
		for _, key := range all {
			k := changedKey{name, key}
			if _, ok := p.keys[k]; !ok {
				p.keys[k] = struct{}{}
				keys = append(keys, k)
			}
		}
	}
	for _, tag := range named.tags {
		if _, ok := p.tags[tag]; !ok {
			p.tags[tag] = struct{}{}
			tags = append(tags, tag)
		}
	}
	return p, keys, tags
}

// has reports whether a key has been declared.
func (c *openChange) has(b *Backend, name, key string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	p := c.parts[b]
	if p == nil {
		return false
	}
	_, ok := p.keys[changedKey{name, key}]
	return ok
}

// watchLocked has the log told of a change that is left open, and the keys let go in the end.
func (c *openChange) watchLocked(b *Backend) {
	if after := b.cfg.FetchTimeout; after > 0 {
		c.timers = append(c.timers, time.AfterFunc(after, func() {
			b.watchers.log(func(l *slog.Logger) {
				l.Warn("cacheaside: a change is open for longer than FetchTimeout; what it has changed is not stored until it ends",
					"begun", c.place, "after", after)
			})
		}))
	}
	if after := cmp.Or(b.cfg.ChangeTimeout, changeTimeout); after > 0 {
		c.timers = append(c.timers, time.AfterFunc(after, c.letGo))
	}
}

func (c *openChange) stopTimers() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.timers {
		t.Stop()
	}
}

// letGo removes what a change has declared that was left open, and lowers its fences. Lookups under its context go on to
// fetch alone and to store nothing; what others store they are served.
func (c *openChange) letGo() {
	c.ending.Lock()
	defer c.ending.Unlock()
	if !c.ended.Load() {
		_ = c.removeLocked(context.Background()) // an error was told of, and it is tried again
		c.releaseLocked(false)
	}
}

var errEndedMeanwhile = fmt.Errorf("%w: it has ended meanwhile", ErrNoChange)

// Changed tells the change that ctx carries that keys of this cache are about to change, or have changed. It may be called
// anywhere below [Begin], at any depth, and again. From here on nothing of keys is stored by this process, and lookups under ctx
// fetch them, until the change ends; then they are removed. It returns [ErrInvalidKey] for a key that is too long, and
// declares nothing then. Where ctx carries no open change, it removes keys as [Client.Mutate] does, and returns [ErrNoChange].
// If ctx ends while a fetch of such a key is being stored, it returns the error of ctx, and the keys are declared.
func (c *Client[T]) Changed(ctx context.Context, keys ...string) error {
	for _, key := range keys {
		if err := checkKey(key); err != nil {
			return err
		}
	}
	if c.isClosed() {
		return ErrClosed
	}
	keys, err := c.locateMany(ctx, keys)
	if err != nil {
		return err
	}
	return c.changed(ctx, keys...)
}

// changed is Changed for keys inside.
func (c *Client[T]) changed(ctx context.Context, keys ...string) error {
	return c.backend.changed(ctx, sorted{keys: map[string][]string{c.cfg.Name: distinct(keys)}})
}

// Changed is [Client.Changed] for keys of any of the backend's caches, and tags.
func (b *Backend) Changed(ctx context.Context, refs ...Ref) error {
	named, err := b.checkRefs(context.WithoutCancel(ctx), refs)
	if err != nil {
		return err
	}
	return b.changed(ctx, named)
}

func (b *Backend) changed(ctx context.Context, named sorted) error {
	if c := changeOf(ctx); c != nil {
		return c.declare(ctx, b, named)
	}
	_, late := begin(context.WithoutCancel(ctx), 2) // of its own
	late.nested = false
	err := late.declare(context.WithoutCancel(ctx), b, named)
	return errors.Join(ErrNoChange, err, late.End(ctx))
}

// removeChanged removes what a change has declared, though ctx may have ended.
func (b *Backend) removeChanged(ctx context.Context, p *changePart) error {
	named := sorted{keys: make(map[string][]string), tags: keysOf(p.tags)}
	for k := range p.keys {
		named.keys[k.cache] = append(named.keys[k.cache], k.key)
	}
	for name := range named.keys {
		if p.caches[name] == nil {
			p.caches[name] = b.siblingsOf(name)
		}
	}
	return b.remove(ctx, p.caches, named)
}

func keysOf(set map[string]struct{}) []string {
	all := make([]string, 0, len(set))
	for k := range set {
		all = append(all, k)
	}
	return all
}
