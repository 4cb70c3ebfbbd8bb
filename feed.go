package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Feed tells of changes of the data that were made elsewhere: by another process, or by whatever else writes to the
// database. [Backend.Follow] runs it.
type Feed interface {
	// Run tells to of changes until ctx ends, or until the feed is broken; then it returns why, and is started
	// again. It is not run twice at a time.
	Run(ctx context.Context, to Sink) error
}

// Sink takes what a [Feed] tells. Its methods are safe for concurrent use, and are carried out one after the other.
type Sink interface {
	// Invalidate removes what refs name, as [Backend.Invalidate] does, in the order in which the changes happened. It
	// returns when that is carried out in this process: no call that begins later returns what was fetched before, and no
	// fetch that is under way is kept. What Redis cannot remove at present is tried again, as by [Backend.Mutate].
	Invalidate(refs ...Ref)

	// Alive says that up to now nothing was missed. A feed calls it when it has begun, and at least once a second: after
	// two seconds without, it counts as lost.
	Alive()

	// Lost says that changes may have been missed.
	Lost(err error)
}

// A feed may also have the method Lag, which tells how long a change has waited to be told; Stats shows it.
type lagging interface{ Lag() time.Duration }

const (
	// feedSilence is how long a feed may go without Alive.
	feedSilence = 2 * time.Second

	// The pause before a feed is started again grows from one to the other, and is the shorter one again after the
	// feed was alive.
	minFeedPause = 100 * time.Millisecond
	maxFeedPause = 5 * time.Second
)

var (
	errFeedSilent = errors.New("cacheaside: a feed has told nothing for two seconds")
	errFeedEnded  = errors.New("cacheaside: a feed has ended")
)

// Follow carries out what feeds tell, in the background, until ctx ends or the backend is closed. A feed that returns is
// started again, after a pause.
//
// While a feed is alive, what this process keeps is trusted. When it is lost (see [Sink]), has told nothing for two
// seconds, or has returned, all that this process keeps counts for nothing, from that moment on: lookups fetch, and what
// they fetch is shared, and not kept. From the next [Sink.Alive] on values are kept again. The first Alive drops what was
// kept before the feed had begun. A process without the feed would go on with values that nothing invalidates any more.
//
// On Redis that holds for the near copies of this process, and lookups do not ask Redis meanwhile. What Redis holds
// counts again from the next Alive on, since that says that nothing was missed; after Lost, the caches of this backend
// are cleared first. In memory, changes that a feed tells are carried out in this process only: each process follows.
//
// It returns [ErrClosed] after Close, and an error that matches [ErrInvalidValue] for a feed that is nil.
// [Client.Health] tells of a feed that is lost, and so do [Stats], an [Observer] and the log.
func (b *Backend) Follow(ctx context.Context, feeds ...Feed) error {
	if b == nil {
		return nilArgument("the backend", "one that Connect or the Backend of a cache has returned")
	}
	for i, f := range feeds {
		if f == nil {
			return nilArgument(fmt.Sprintf("feed %d", i+1), "a Feed")
		}
	}
	for _, f := range feeds {
		if _, err := b.feeds.follow(ctx, b, f); err != nil {
			return err
		}
	}
	return nil
}

// run runs the feed again and again, until the context of the source ends.
func (s *feedSource) run() {
	defer s.end()
	for pause := minFeedPause; ; {
		alive := s.alives()
		err := s.runOnce()
		if s.ctx.Err() != nil {
			return
		}
		s.broke(err)
		if s.alives() != alive {
			pause = minFeedPause
		}
		select {
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-s.ctx.Done():
			return
		}
		pause = min(2*pause, maxFeedPause)
	}
}

// runOnce runs the feed until it returns, or panics.
func (s *feedSource) runOnce() (err error) {
	returned := false
	defer func() {
		if !returned {
			err = abnormal(recover())
		}
	}()
	err = s.feed.Run(s.ctx, s)
	returned = true
	if err == nil {
		err = errFeedEnded
	}
	return err
}

// Invalidate is [Sink.Invalidate]. A Ref that names nothing is told of, and left out.
func (s *feedSource) Invalidate(refs ...Ref) {
	s.telling.Lock()
	defer s.telling.Unlock()
	good := make([]Ref, 0, len(refs))
	for _, r := range refs {
		if err := r.check(); err != nil {
			s.of.watchers.observe(Event{Kind: EventInvalidationLost, Err: err})
			continue
		}
		if r.bare {
			s.clear(r.cache)
			continue
		}
		good = append(good, r)
	}
	s.of.feeds.told.Add(uint64(len(good)))
	if s.of.conn == nil {
		s.of.dropHere(good)
		return
	}
	// An error was told of, and the removal is tried again.
	_ = s.of.Mutate(context.WithoutCancel(s.ctx), good, func(context.Context) error { return nil })
}

// clear removes all of a cache, since a Ref that a feed tells of names a key and not its scope.
func (s *feedSource) clear(name string) {
	for _, m := range s.of.siblingsOf(name) {
		if s.of.conn == nil {
			m.dropAll()
		} else {
			m.clearLater()
		}
	}
}

// dropHere removes what refs name from the caches of this process, and tells no other.
func (b *Backend) dropHere(refs []Ref) {
	named, err := sortRefs(refs)
	if err != nil {
		return // they have been checked
	}
	for name, keys := range named.keys {
		for _, m := range b.siblingsOf(name) {
			m.dropKeys(keys)
		}
	}
	if len(named.tags) > 0 {
		b.local.void(named.tags)
	}
}
