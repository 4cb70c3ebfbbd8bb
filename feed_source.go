package cacheaside

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// feeds are those that a backend follows. While one of them is lost, its caches are suspended.
type feeds struct {
	told atomic.Uint64 // refs that feeds have told of
	gaps atomic.Uint64 // how often a feed was lost

	mu      sync.Mutex // held while caches are suspended and resumed
	all     map[*feedSource]struct{}
	lost    int // of all
	closed  bool
	running sync.WaitGroup
}

// feedSource is a feed that is followed, and the Sink that it is given.
type feedSource struct {
	feed   Feed
	of     *Backend
	ctx    context.Context // ends with that of Follow, and at Close
	cancel context.CancelFunc

	telling sync.Mutex // what the feed tells is carried out one after the other; before mu

	mu      sync.Mutex // before that of feeds
	state   feedState
	why     error // lost
	alive   uint64
	silence *time.Timer // ends the feed's being alive

	begun chan struct{} // closed when the feed is alive, or lost, for the first time
}

type feedState int

const (
	feedBegins feedState = iota // it was not alive yet, and what is kept may be trusted a little longer
	feedAlive
	feedLost
)

var _ Sink = (*feedSource)(nil)

// follow begins to run a feed.
func (fs *feeds) follow(ctx context.Context, b *Backend, f Feed) (*feedSource, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed {
		return nil, ErrClosed
	}
	s := &feedSource{feed: f, of: b, begun: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(ctx)
	s.silence = time.AfterFunc(feedSilence, s.silent)
	if fs.all == nil {
		fs.all = make(map[*feedSource]struct{})
	}
	fs.all[s] = struct{}{}
	fs.running.Go(s.run) // ends with ctx, and at Close
	return s, nil
}

// Alive is [Sink.Alive].
func (s *feedSource) Alive() { s.aliveAsOf(time.Now()) }

// aliveAsOf is Alive of a feed that knows that nothing was missed up to then.
func (s *feedSource) aliveAsOf(at time.Time) {
	s.telling.Lock()
	defer s.telling.Unlock()
	if s.revive(feedSilence - time.Since(at)) {
		s.of.watchers.observe(Event{Kind: EventFeedAlive})
	}
}

// revive makes the feed count as alive for the time that is left, and reports whether it was lost.
func (s *feedSource) revive(left time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if left <= 0 || s.ctx.Err() != nil {
		return false
	}
	s.silence.Reset(left)
	s.alive++
	was := s.state
	if s.state = feedAlive; was == feedAlive {
		return false
	}
	s.why = nil
	if was == feedBegins {
		s.of.feeds.suspend(s.of)
	}
	s.of.feeds.resume(s.of)
	if was == feedBegins {
		close(s.begun) // what is stored from here on is kept
	}
	return was == feedLost
}

// Lost is [Sink.Lost].
func (s *feedSource) Lost(err error) {
	s.telling.Lock()
	defer s.telling.Unlock()
	if s.ctx.Err() != nil {
		return
	}
	if s.lose(err); s.of.conn != nil {
		s.of.clearLater()
	}
}

// broke is called when the feed has returned. What it has missed it will say, or miss nothing, when it is alive again.
func (s *feedSource) broke(err error) {
	s.telling.Lock()
	defer s.telling.Unlock()
	s.lose(err)
}

func (s *feedSource) silent() {
	s.lose(errFeedSilent)
}

// cleared is called when another process has cleared the cache of this name.
func (s *feedSource) cleared(name string) {
	s.telling.Lock()
	defer s.telling.Unlock()
	for _, m := range s.of.siblingsOf(name) {
		m.dropAll()
	}
}

// lose suspends the caches, unless they are on account of this feed.
func (s *feedSource) lose(why error) {
	if s.suspend(why) {
		s.of.watchers.observe(Event{Kind: EventFeedLost, Err: why})
	}
}

func (s *feedSource) suspend(why error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == feedLost || s.ctx.Err() != nil {
		return false
	}
	if s.state == feedBegins {
		close(s.begun)
	}
	s.state, s.why = feedLost, why
	s.silence.Stop()
	s.of.feeds.gaps.Add(1)
	s.of.feeds.suspend(s.of)
	return true
}

// end takes the feed off. Nothing is kept on its account any more, and so nothing is withheld.
func (s *feedSource) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancel()
	s.silence.Stop()
	if s.state == feedLost {
		s.of.feeds.resume(s.of)
	}
	fs := &s.of.feeds
	fs.mu.Lock()
	defer fs.mu.Unlock()
	delete(fs.all, s)
}

func (s *feedSource) alives() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.alive
}

func (fs *feeds) suspend(b *Backend) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.lost++; fs.lost > 1 {
		return
	}
	for _, m := range b.everyCache() {
		m.suspend()
	}
}

func (fs *feeds) resume(b *Backend) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.lost--; fs.lost > 0 {
		return
	}
	for _, m := range b.everyCache() {
		m.resume()
	}
}

// enter makes a cache known to its backend. If a feed is lost, the cache is suspended from the start.
func (fs *feeds) enter(b *Backend, name string, m sibling) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.lost > 0 {
		m.suspend()
	}
	b.enlist(name, m)
}

// sources returns those that are followed.
func (fs *feeds) sources() []*feedSource {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	all := make([]*feedSource, 0, len(fs.all))
	for s := range fs.all {
		all = append(all, s)
	}
	return all
}

// trouble returns why a feed is lost, nil if none is. A feed that has just begun is none.
func (fs *feeds) trouble() error {
	for _, s := range fs.sources() {
		s.mu.Lock()
		state, why := s.state, s.why
		s.mu.Unlock()
		if state == feedLost {
			return unavailable(why)
		}
	}
	return nil
}

// lag is the longest of those that the feeds tell.
func (fs *feeds) lag() (longest time.Duration) {
	for _, s := range fs.sources() {
		if f, ok := s.feed.(lagging); ok {
			longest = max(longest, f.Lag())
		}
	}
	return longest
}

func (fs *feeds) figures(s *Stats) {
	fs.mu.Lock()
	s.FeedsLost = fs.lost
	fs.mu.Unlock()
	s.FeedGaps, s.FeedRefs, s.FeedLag = fs.gaps.Load(), fs.told.Load(), int(fs.lag().Milliseconds())
}

// close ends the feeds, and waits for them for as long as a cache waits for its chores.
func (fs *feeds) close() {
	fs.mu.Lock()
	fs.closed = true
	for s := range fs.all {
		s.cancel()
	}
	fs.mu.Unlock()
	ended := make(chan struct{})
	go func() { // ends when the feeds do
		fs.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(chorePatience):
	}
}

// clearLater has every cache cleared. Until that is done they count as empty.
func (b *Backend) clearLater() {
	for _, m := range b.everyCache() {
		m.clearLater()
	}
}
