package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
)

// An invalidation that names more than the keys of one cache enters here.

// sibling is a cache as its backend sees it, whatever its type of values.
type sibling interface {
	deleteKeys(ctx context.Context, keys []string) error
	fenceAllOf(ctx context.Context, keys []string) (unfence func(), err error)
	invalidate(ctx context.Context, keys []string) error
	oldestFlight() uint64

	// locate returns the key inside, with the scope of ctx if the cache has scopes. What takes keys here takes those.
	locate(ctx context.Context, key string) (string, error)

	// holdChanged makes key, whose fence is up, one that a change has declared; if it is strict, no Set of it is kept meanwhile.
	// releaseChanged ends that, and with restore what this process had kept is there again.
	holdChanged(key string, strict bool)
	releaseChanged(key string, strict, restore bool)

	// dropKeys removes keys from this process, and voids fetches of them; dropAll does so for every key.
	dropKeys(keys []string)
	dropAll()

	// suspend makes the cache count as empty, and keep nothing, until resume. clearLater has it cleared in the
	// background, and until then it counts as empty.
	suspend()
	resume()
	clearLater()
}

func (c *Client[T]) oldestFlight() uint64 { return c.flights.oldestFlight() }

// Backend returns the backend of the cache, also of one made by [Open], which closes it with itself.
func (c *Client[T]) Backend() *Backend { return c.backend }

func (b *Backend) enlist(name string, m sibling) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.siblings[name] = append(slices.Clip(b.siblings[name]), m)
}

func (b *Backend) delist(name string, m sibling) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.siblings[name] = slices.DeleteFunc(slices.Clone(b.siblings[name]), func(other sibling) bool { return other == m })
	if len(b.siblings[name]) == 0 {
		delete(b.siblings, name)
	}
}

// everyCache returns the open caches.
func (b *Backend) everyCache() (all []sibling) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, siblings := range b.siblings {
		all = append(all, siblings...)
	}
	return all
}

// oldestFlight is the earliest moment as of which a flight of any cache may be fetching.
func (b *Backend) oldestFlight() uint64 {
	oldest := uint64(math.MaxUint64)
	for _, m := range b.everyCache() {
		oldest = min(oldest, m.oldestFlight())
	}
	return oldest
}

// Invalidate removes what refs name: keys of any of the backend's caches, as [Client.Delete] does, and all that carries a
// tag, as [Client.InvalidateTags] does. A key may belong to a cache that is open in other processes only. Write the source
// first.
//
// It returns [ErrInvalidKey] or [ErrInvalidTag], and removes nothing, if one of refs names nothing. If some cannot be
// removed the others are, and the error matches [ErrUnavailable]: try again, or use [Backend.Mutate], which does.
func (b *Backend) Invalidate(ctx context.Context, refs ...Ref) error {
	named, err := b.checkRefs(ctx, refs)
	if err != nil {
		return err
	}
	if changeOf(ctx) != nil {
		if err := b.changed(ctx, named); err != nil {
			return err
		}
	}
	var errs []error
	for name, keys := range named.keys {
		for _, m := range b.siblingsOf(name) {
			errs = append(errs, m.deleteKeys(ctx, keys))
		}
	}
	if len(named.tags) > 0 {
		errs = append(errs, b.invalidateTags(ctx, named.tags, false))
	}
	return errors.Join(errs...)
}

// Mutate changes the source by write, and then removes what refs name, keys of several caches and tags together, as
// [Client.Mutate] does with the keys of one: what is fetched for these keys meanwhile is not kept, nor is what was fetched
// under these tags before write has returned; all is removed whatever becomes of write; and what cannot be removed is tried
// again in the background.
func (b *Backend) Mutate(ctx context.Context, refs []Ref, write func(context.Context) error) error {
	named, err := b.checkRefs(ctx, refs)
	if err != nil {
		return err
	}
	if write == nil {
		return nilArgument("write", "a function")
	}
	return b.mutate(ctx, named, write)
}

func (b *Backend) mutate(ctx context.Context, named sorted, write func(context.Context) error) (err error) {
	within, change := begin(ctx, 2)
	if !change.nested {
		change.lenient = true
	}
	if err := change.declare(within, b, named); err != nil {
		change.Discard()
		return err
	}
	returned := false
	defer func() { // after a panic too
		failed := change.End(ctx)
		if returned && err == nil {
			err = failed
		}
	}()
	err = write(within)
	returned = true
	return err
}

// remove removes what was named and fenced, though ctx may have ended.
func (b *Backend) remove(ctx context.Context, fenced map[string][]sibling, named sorted) error {
	var errs []error
	for name, siblings := range fenced {
		for _, m := range siblings {
			errs = append(errs, m.invalidate(ctx, named.keys[name]))
		}
	}
	if len(named.tags) > 0 {
		if err := b.invalidateTags(ctx, named.tags, true); err != nil {
			errs = append(errs, fmt.Errorf("cacheaside: the source is written, but %d tags are not invalidated yet: %w", len(named.tags), err))
		}
	}
	return errors.Join(errs...)
}

// checkRefs returns what refs name, or the error of a call that cannot be served at all.
func (b *Backend) checkRefs(ctx context.Context, refs []Ref) (sorted, error) {
	if b == nil {
		return sorted{}, nilArgument("the backend", "one that Connect or the Backend of a cache has returned")
	}
	b.mu.Lock()
	closed := b.closed
	b.mu.Unlock()
	if closed {
		return sorted{}, ErrClosed
	}
	refs, err := b.locate(ctx, refs)
	if err != nil {
		return sorted{}, err
	}
	named, err := sortRefs(refs)
	if err != nil {
		return named, err
	}
	return named, ctx.Err()
}

// locate gives refs of keys in a cache with scopes the scope of ctx.
func (b *Backend) locate(ctx context.Context, refs []Ref) ([]Ref, error) {
	if !slices.ContainsFunc(refs, func(r Ref) bool { return r.bare }) {
		return refs, nil
	}
	refs = slices.Clone(refs)
	for i := range refs {
		r := &refs[i]
		if !r.bare {
			continue
		}
		siblings := b.siblingsOf(r.cache)
		if len(siblings) == 0 { // in memory, and closed: there is nothing
			continue
		}
		inner, err := siblings[0].locate(ctx, r.name)
		if err != nil {
			return nil, err
		}
		r.name, r.bare = inner, false
	}
	return refs, nil
}

// siblingsOf returns the open caches of this name. Where there is none in this process, a stranger stands for the one that
// others have.
func (b *Backend) siblingsOf(name string) []sibling {
	b.mu.Lock()
	defer b.mu.Unlock()
	if all := b.siblings[name]; len(all) > 0 {
		return all
	}
	if b.conn == nil {
		return nil
	}
	s := b.stranger[name]
	if s == nil {
		s = newStranger(b, name)
		if b.stranger == nil {
			b.stranger = make(map[string]*stranger)
		}
		b.stranger[name] = s
	}
	return []sibling{s}
}

func (b *Backend) invalidateTags(ctx context.Context, tags []string, again bool) error {
	b.invalidatedTags.Add(uint64(len(tags)))
	return b.tags.invalidate(ctx, tags, again)
}

func (b *Backend) closeStrangers() {
	b.mu.Lock()
	all := b.stranger
	b.stranger = nil
	b.mu.Unlock()
	for _, s := range all {
		s.repeats.stop()
	}
}

// stranger removes keys of a cache that is open in other processes only. This process holds nothing of it.
type stranger struct {
	remote  remote[struct{}]
	repeats *repeats
	observe func(Event)
}

func newStranger(b *Backend, name string) *stranger {
	s := &stranger{remote: remote[struct{}]{conn: b.conn, name: b.cfg.Prefix + ":" + name + ":", settle: b.cfg.Settle}, observe: b.watchers.observe}
	s.repeats = newRepeats(s)
	return s
}

func (s *stranger) deleteKeys(ctx context.Context, keys []string) error {
	_, err := s.remote.deleteMany(ctx, keys)
	return err
}

func (s *stranger) locate(context.Context, string) (string, error) {
	return "", fmt.Errorf("%w: the cache is not open in this process, wanted: RefsIn", ErrNoScope)
}

func (s *stranger) fenceAllOf(context.Context, []string) (func(), error) { return func() {}, nil }

func (s *stranger) oldestFlight() uint64 { return math.MaxUint64 }

// What follows concerns what this process holds.
func (s *stranger) holdChanged(string, bool)          {}
func (s *stranger) releaseChanged(string, bool, bool) {}
func (s *stranger) dropKeys([]string)                 {}
func (s *stranger) dropAll()                          {}
func (s *stranger) suspend()                          {}
func (s *stranger) resume()                           {}
func (s *stranger) clearLater()                       {}

func (s *stranger) invalidate(ctx context.Context, keys []string) error {
	failed, err := s.remote.deleteMany(context.WithoutCancel(ctx), keys)
	if err == nil {
		return nil
	}
	s.observe(Event{Kind: EventInvalidationFailed, Err: err})
	if !errors.Is(err, ErrClosed) {
		s.repeats.add(failed)
	}
	return notRemoved(len(failed), len(keys), err)
}

func (s *stranger) withhold(string) {}
func (s *stranger) letPass(string)  {}
func (s *stranger) withholdAll()    {}
func (s *stranger) letAllPass()     {}

func (s *stranger) removeNow(ctx context.Context, keys []string) ([]string, error) {
	return s.remote.deleteMany(ctx, keys)
}

func (s *stranger) clearNow(ctx context.Context) error { return s.remote.clear(ctx) }

func (s *stranger) lostRemoval(err error) { s.observe(Event{Kind: EventInvalidationLost, Err: err}) }
