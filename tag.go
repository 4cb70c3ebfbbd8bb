package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// MaxTagBytes is how long a tag may be.
	MaxTagBytes = 1 << 10

	// MaxTags is how many tags a value may have.
	MaxTags = 64
)

// ErrInvalidTag means that a tag is empty or longer than [MaxTagBytes], or that a value has more than [MaxTags].
// A call that is given such a tag returns it. A fetched value with such tags is returned, and not kept: it counts as
// one that cannot be stored (Stats.Unstorable, EventUnstorable).
var ErrInvalidTag = errors.New("cacheaside: invalid tag")

// Tag gives tags to what the fetch of ctx returns: [Client.InvalidateTags] of any of them makes the cache forget it.
// Those of a fetch of several keys are given to each of them, and also to "the source has none". It may be called
// several times, and by several goroutines. Outside of a fetch it does nothing. Tags that the value itself tells are
// better said once, by [WithTags].
//
// A tag is any string of bytes up to [MaxTagBytes]. It belongs to the prefix, not to one cache: caches of one [Backend],
// and all processes on the same Redis and prefix, share it.
func Tag(ctx context.Context, tags ...string) {
	if f := flightOf(ctx); f != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.tags = append(f.tags, tags...)
	}
}

// WithTags says which tags a value has, whether it is fetched or set, alone or in a batch; see [Tag]. of must be safe for
// concurrent use, and is called without a lock. If it panics, the value cannot be kept.
func WithTags[T any](of func(key string, value T) []string) Option {
	return func(o *options) {
		if o.tags = of; of == nil {
			o.fail("WithTags", "a function")
		}
	}
}

// checkTag returns an error for a tag that is none.
func checkTag(tag string) error {
	switch {
	case tag == "":
		return &tagError{fmt.Sprintf("it is empty, allowed: 1 to %d bytes", MaxTagBytes)}
	case len(tag) > MaxTagBytes:
		return &tagError{fmt.Sprintf("%d bytes long, allowed: 1 to %d", len(tag), MaxTagBytes)}
	}
	return nil
}

// checkTags returns tags, each once, of a value.
func checkTags(tags []string) ([]string, error) {
	for _, tag := range tags {
		if err := checkTag(tag); err != nil {
			return nil, err
		}
	}
	if tags = distinctTags(tags); len(tags) > MaxTags {
		return nil, &tagError{fmt.Sprintf("%d on one value, allowed: up to %d", len(tags), MaxTags)}
	}
	return tags, nil
}

// given returns the tags that the fetch was given by [Tag].
func (f *flightContext) given() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tags
}

// tagsOf returns the tags of a value: those that its fetch was given, and those that the value tells.
func (c *Client[T]) tagsOf(given []string, key string, value T) (tags []string, err error) {
	if c.tagger == nil {
		return c.checkTags(key, given)
	}
	returned := false
	defer func() {
		if !returned {
			tags, err = nil, fmt.Errorf("%w: its tags failed: %w", ErrInvalidValue, abnormal(recover()))
		}
	}()
	told := c.tagger(c.outer(key), value)
	returned = true
	return c.checkTags(key, append(told[:len(told):len(told)], given...))
}

// checkTags is checkTags with the tags that the cache itself gives.
func (c *Client[T]) checkTags(key string, tags []string) ([]string, error) {
	var err error
	if len(tags) > 0 {
		tags, err = checkTags(tags)
	}
	if own := c.ownTags(key); len(own) > 0 {
		tags = distinctTags(append(own, tags...))
	}
	return tags, err
}

// InvalidateTags makes every cache of the backend, in every process, forget what was fetched or set before under one of
// tags, whatever its key and however many there are, by one command. After it has returned nil, no call of this
// process returns such a value, and none joins a fetch of one. A process on rueidis sees the same at once, and one
// on rueidis-aside within the time in which it hears of a Delete. What a tag has voided is absent, and not stale:
// [Config.StaleFor] and [Config.StaleIfError] do not bring it back.
//
// Write the source first. Without tags it does nothing. It returns [ErrInvalidTag], and invalidates nothing, if one of
// tags cannot be a tag. If it returns [ErrUnavailable] the values may still be there: try again, or use [Backend.Mutate],
// which does.
func (c *Client[T]) InvalidateTags(ctx context.Context, tags ...string) error {
	if err := c.check(ctx, ""); err != nil {
		return err
	}
	for _, tag := range tags {
		if err := checkTag(tag); err != nil {
			return err
		}
	}
	if len(tags) == 0 {
		return nil
	}
	if changeOf(ctx) != nil {
		if err := c.backend.changed(ctx, sorted{tags: tags}); err != nil {
			return err
		}
	}
	return c.writeError(c.backend.invalidateTags(ctx, distinctTags(tags), false))
}

// valid reports whether e counts, as far as its tags are concerned. An error is one of the backend.
func (c *Client[T]) valid(ctx context.Context, e *entry[T]) (bool, error) {
	if e == nil {
		return true, nil
	}
	t := e.tagging()
	switch {
	case t == nil || t.holds(c.clock):
		return true, nil
	case t.void.Load():
		c.voided()
		return false, nil
	}
	counts, err := c.tags.learn(ctx, []*tagging{t})
	if err == nil && !counts[0] {
		c.voided()
	}
	return counts[0], err
}

// holds reports whether the tags of e, if there are any, are known to let it count.
func (c *Client[T]) holds(e *entry[T]) bool {
	t := e.tagging()
	if t == nil || t.holds(c.clock) {
		return true
	}
	if c.instant {
		c.voided()
	}
	return false
}

// validMany is valid for what several look-ups have found. What does not count is taken out.
func (c *Client[T]) validMany(ctx context.Context, found []lookedUp[T]) {
	var places []int
	var all []*tagging
	for i := range found {
		if e := found[i].entry; e != nil && e.tagging() != nil {
			places, all = append(places, i), append(all, e.tagging())
		}
	}
	if len(all) == 0 {
		return
	}
	counts, err := c.tags.learn(ctx, all)
	for i, at := range places {
		switch {
		case counts[i]:
			continue
		case err != nil && !all[i].void.Load():
			found[at].err = err
		default:
			c.voided()
		}
		found[at].entry = nil
	}
}

// voided is called when a look-up has found an entry that a tag has voided.
func (c *Client[T]) voided() {
	c.stats.voided.Add(1)
	c.observe(Event{Kind: EventVoided})
}

// seal finds out which tags the results of flights have, and whether they may be kept with them: one value and one error
// for each. From the moment when what is known of the tags begins to be read, a caller that joins such a flight cannot
// have its result: it may be from before an invalidation that had ended when the caller came. A caller that joined before
// has it if nothing was invalidated since the fetch began.
func (c *Client[T]) seal(flights []*flight[T], values []T, errs []error) {
	var sealed []*flight[T]
	var lists [][]string
	var places []listed // of each sealed flight in lists
	ttl := time.Duration(0)
	for i, f := range flights {
		f.looked = true
		given := f.under.given()
		var tags []string
		if errs[i] == nil {
			tags, f.badTags = c.tagsOf(given, f.key, values[i])
		} else {
			tags, f.badTags = c.checkTags(f.key, given)
		}
		at := listed{tags: -1, witness: -1}
		if len(tags) > 0 {
			at.tags, lists = len(lists), append(lists, tags)
		}
		if v := f.under.vouched(); v != nil && len(v.witness) > 0 {
			at.witness, lists = len(lists), append(lists, v.witness)
		}
		if at.tags < 0 && at.witness < 0 {
			continue
		}
		f.seal()
		sealed, places, ttl = append(sealed, f), append(places, at), max(ttl, c.lifetime(f))
	}
	if len(sealed) == 0 {
		return
	}
	first := sealed[0]
	var all []*tagging
	if !first.failed {
		ctx, outlay := first.allowance.begin(context.Background())
		var err error
		all, err = c.tags.tag(ctx, lists, first.under.vouchedAsOf(first.asOf), keptFor(ttl, c.window))
		outlay.end()
		_ = c.backendError(first.blame(err)) // counted and observed; the values are good without it
	}
	for i, f := range sealed {
		if at := places[i]; at.holds(all) {
			if at.tags >= 0 {
				f.tags = all[at.tags]
			}
			continue
		}
		f.doubt()
	}
}

// keptFor is how long a value may be of use that is fresh for ttl.
func keptFor(ttl time.Duration, window int64) time.Duration {
	if ttl > NoExpiry-time.Duration(window) {
		return NoExpiry
	}
	return ttl + time.Duration(window)
}

// noteMoment notes the moment before the fetch of flights, which is about to begin under a context. In memory they have
// noted it themselves.
func (c *Client[T]) noteMoment(under *flightContext, flights ...*flight[T]) {
	first := flights[0]
	if c.instant || first.failed {
		return
	}
	ctx, outlay := first.allowance.begin(under)
	asOf := c.tags.asOf(ctx)
	outlay.end()
	under.asOf = asOf
	for _, f := range flights {
		f.asOf = asOf
	}
}

// tagSet returns the tagging of a value that is being set.
func (c *Client[T]) tagSet(ctx context.Context, key string, value T, ttl time.Duration) (*tagging, error) {
	tags, err := c.tagsOf(nil, key, value)
	if err != nil || len(tags) == 0 {
		return nil, err
	}
	for _, moment := range []func(context.Context) (stamp, error){c.tags.near, c.tags.now} {
		now, err := moment(ctx)
		if err != nil {
			return nil, c.backendError(err)
		}
		all, err := c.tags.tag(ctx, [][]string{tags}, now, keptFor(ttl, c.window))
		if err != nil {
			return nil, c.backendError(err)
		}
		if all[0] != nil {
			return all[0], nil
		}
	}
	return nil, unavailable(errTagsWait)
}

var errTagsWait = errors.New("one of its tags is being invalidated")
