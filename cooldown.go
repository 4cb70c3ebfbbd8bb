package cacheaside

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"weak"
)

// failures are the fetches of a shard that failed a short while ago, whose errors are given to further
// callers of their keys for ErrorCooldown. The zero value is ready to use. The shard's lock guards it.
//
// All of them live equally long, so the list is in the order in which they end. A failure whose time has
// ended leaves at once, with its key: when the list is looked at, and else by the shard's timer.
type failures struct {
	byKey       map[string]*failure
	first, last *failure // the oldest, which ends next, and the newest
	bytes       int      // of the keys
}

type failure struct {
	key        string
	err        error
	until      time.Time
	prev, next *failure
}

// A shard remembers so many failures, of so many bytes of keys. Beyond that the oldest ones go: when a whole
// source is down, some keys are asked for more often instead of memory growing.
const (
	maxFailures     = 1 << 14
	maxFailureBytes = 1 << 20
)

func (m *failures) isEmpty() bool { return m.first == nil }

// add remembers a failure, after those whose time ends before.
func (m *failures) add(key string, err error, until time.Time) {
	m.remove(key)
	if m.byKey == nil {
		m.byKey = make(map[string]*failure)
	}
	f := &failure{key: strings.Clone(key), err: err, until: until, prev: m.last} // key may be a part of something large
	if m.last != nil {
		m.last.next = f
	} else {
		m.first = f
	}
	m.last = f
	m.byKey[f.key] = f
	m.bytes += len(f.key)
	for len(m.byKey) > maxFailures || m.bytes > maxFailureBytes && m.first != f {
		m.remove(m.first.key)
	}
}

// of returns the error of key's last fetch, or nil.
func (m *failures) of(key string) error {
	if f := m.byKey[key]; f != nil {
		return f.err
	}
	return nil
}

func (m *failures) remove(key string) {
	f := m.byKey[key]
	if f == nil {
		return
	}
	if f.prev != nil {
		f.prev.next = f.next
	} else {
		m.first = f.next
	}
	if f.next != nil {
		f.next.prev = f.prev
	} else {
		m.last = f.prev
	}
	m.bytes -= len(f.key)
	delete(m.byKey, key)
	if m.first == nil {
		m.byKey = nil // a map keeps the room of what it has held
	}
}

// expire removes the failures whose time has ended.
func (m *failures) expire(now time.Time) {
	for m.first != nil && !now.Before(m.first.until) {
		m.remove(m.first.key)
	}
}

// staleCooldown is ErrorCooldown for look-ups that have a stale value to go on with, unless it is set. Otherwise each of
// them would ask a source that fails.
const staleCooldown = time.Second

// cools sets for how long, and for whom, failures are remembered.
func (c *Client[T]) cools() {
	c.flights.cooldown = c.cfg.ErrorCooldown
	if c.cfg.ErrorCooldown == 0 && (c.cfg.StaleFor > 0 || c.cfg.StaleIfError > 0 || c.cfg.RefreshAhead > 0) {
		c.flights.cooldown, c.flights.spares = staleCooldown, c.goesOn
	}
}

// goesOn reports whether a look-up that has found f needs no fetch to succeed.
func (c *Client[T]) goesOn(f found[T]) bool {
	return f.entry != nil && !f.entry.negative() &&
		(c.wantsRefresh(&f) || c.clock.now() < f.entry.freshUntil(c.window)+int64(c.cfg.StaleIfError))
}

// isSpared reports whether a failure of the source counts for a look-up that has found this. By value: what a function of a field
// is given the address of would be allocated, at each hit too.
func (g *flights[T]) isSpared(f found[T]) bool { return g.spares == nil || g.spares(f) }

// noteFailure remembers for a while that the fetch of f has failed. A flight that callers cannot join any more
// says nothing about the next one, since it has ended by its time; nor does one whose key was written
// meanwhile.
func (g *flights[T]) noteFailure(f *flight[T], err error) {
	if g.cooldown <= 0 || !f.spared || errors.Is(err, ErrOverloaded) {
		return
	}
	s := f.shard
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.joinable[f.key] != f || f.overtaken {
		return
	}
	s.failures.expire(now)
	s.failures.add(f.key, err, now.Add(g.cooldown))
	s.failing.Store(true)
	if !s.cooling {
		g.setCoolingLocked(s, g.cooldown)
	}
}

// recentFailureLocked returns the error of the last fetch of q.key, wrapped, if the key must not be fetched again
// yet.
func (g *flights[T]) recentFailureLocked(q *request[T]) error {
	s := q.shard
	if s.failures.isEmpty() || !g.isSpared(q.found) {
		return nil
	}
	s.failures.expire(time.Now())
	s.failing.Store(!s.failures.isEmpty())
	if err := s.failures.of(q.key); err != nil {
		return &cooldownError{err}
	}
	return nil
}

// forgetFailureLocked forgets that the fetch of key has failed: the source may be about to answer otherwise,
// since key was written.
func (s *flightShard[T]) forgetFailureLocked(key string) {
	s.failures.remove(key)
	s.failing.Store(!s.failures.isEmpty())
}

// setCoolingLocked sets the timer that removes failures whose time has ended. It holds the flights weakly, as the
// timer of their deadlines does.
func (g *flights[T]) setCoolingLocked(s *flightShard[T], d time.Duration) {
	s.cooling = true
	weakG, weakS := weak.Make(g), weak.Make(s)
	s.cooler = time.AfterFunc(d, func() {
		g, s := weakG.Value(), weakS.Value()
		if g == nil || s == nil {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		now := time.Now()
		s.failures.expire(now)
		s.failing.Store(!s.failures.isEmpty())
		s.cooling = false
		if first := s.failures.first; first != nil && !s.closed {
			g.setCoolingLocked(s, first.until.Sub(now))
		}
	})
}

// cooldownError is the error of an earlier fetch, given to a caller in the place of another fetch.
type cooldownError struct{ cause error }

func (e *cooldownError) Error() string {
	return fmt.Sprintf("cacheaside: not asked again during ErrorCooldown: %v", e.cause)
}

func (e *cooldownError) Unwrap() error { return e.cause }
