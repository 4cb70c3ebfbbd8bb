package cacheaside

import (
	"context"
	"time"
	"weak"
)

// A flight ends at FetchTimeout after its fetch began. The flights of a shard are a list in the order of their
// deadlines, and one timer serves them all. A flight that may have to wait for another process has no deadline
// while it waits: when its place in the list is reached, it goes to the end.

// start begins the time of a fetch. It may be called again as long as the fetch has not begun.
func (g *flights[T]) start(c *flightContext) {
	c.begun = g.clock.now()
	c.deadline = never
	if g.timeout > 0 {
		c.deadline = g.clock.deadline(c.begun, g.timeout)
	}
}

// mayWait takes note that f may have to wait for another process before its fetch begins. That is no part of
// FetchTimeout. stop ends the waiting when f ends. It reports false if f has ended already.
func (f *flight[T]) mayWait(stop func()) bool {
	f.shard.mu.Lock()
	defer f.shard.mu.Unlock()
	f.waiting, f.stop = true, stop
	return !f.over
}

// linkLocked makes f the last of those that have not ended.
func (s *flightShard[T]) linkLocked(f *flight[T]) {
	if f.prev = s.last; f.prev != nil {
		f.prev.next = f
	} else {
		s.first = f
	}
	s.last = f
}

// postponeLocked gives f another deadline, which is no earlier than that of any other.
func (s *flightShard[T]) postponeLocked(f *flight[T], deadline int64) {
	s.unlinkLocked(f)
	f.deadline = deadline
	s.linkLocked(f)
}

func (s *flightShard[T]) unlinkLocked(f *flight[T]) {
	if f.prev != nil {
		f.prev.next = f.next
	} else {
		s.first = f.next
	}
	if f.next != nil {
		f.next.prev = f.prev
	} else {
		s.last = f.prev
	}
	f.prev, f.next = nil, nil
}

// setTimerLocked sets the timer, which must not be set. Flights live equally long, so one timer for the oldest
// serves all of a shard. It holds them weakly: a dropped cache must not live on for a timeout.
func (g *flights[T]) setTimerLocked(s *flightShard[T], d time.Duration) {
	s.timing = true
	if s.timer != nil {
		s.timer.Reset(d)
		return
	}
	weakG, weakS := weak.Make(g), weak.Make(s)
	s.timer = time.AfterFunc(d, func() {
		if g, s := weakG.Value(), weakS.Value(); g != nil && s != nil {
			g.expire(s)
		}
	})
}

// expire ends the flights that have reached their deadline, and sets the timer for the next one.
func (g *flights[T]) expire(s *flightShard[T]) {
	now := g.clock.now()
	var due []*flight[T]
	s.mu.Lock()
	s.timing = false
	for f := s.first; f != nil && f.deadline <= now; {
		next := f.next
		if f.waiting {
			s.postponeLocked(f, g.clock.deadline(now, g.timeout))
		} else {
			f.void = true
			due = append(due, f)
		}
		f = next
	}
	next := s.first
	for next != nil && next.deadline <= now {
		next = next.next
	}
	if next != nil && !s.closed {
		g.setTimerLocked(s, time.Duration(next.deadline-now))
	}
	s.mu.Unlock()
	for _, f := range due {
		f.isUnder().expire()
		g.fail(f, context.DeadlineExceeded)
	}
}
