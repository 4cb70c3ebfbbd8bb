package cacheaside

import (
	"context"
	"time"
)

// sight is what is known of a key before one tries to lease it.
type sight struct {
	missing bool      // there is likely nothing under it
	token   string    // a lease is there: no need to try
	overdue bool      // a lease was there, and has been waited for in vain: it is to be looked at
	waited  bool      // for a lease, so that its outcome is the answer
	first   string    // the token that was waited for first; "" if it was not seen
	ours    bool      // it was of an earlier flight of this process, whose outcome its own callers have
	until   time.Time // when LeaseWait is over; zero before it is known
	over    bool      // it is
}

// heard takes note of a lease that is waited for. Its age is not to be relied on, since it compares two clocks: a
// part of LeaseTTL is waited in any case.
func (s *sight) heard(token string, wait, least time.Duration) {
	left := max(wait-max(tokenAge(token), 0), min(least, wait))
	if until := time.Now().Add(left); s.until.IsZero() || until.Before(s.until) {
		s.until = until
	}
}

// hear notes a token that is waited for.
func (a *aside[T]) hear(known *sight, token string) {
	if known.first == "" || known.ours {
		known.first, known.ours = token, a.isOurs(token)
	}
	known.heard(token, a.wait, a.lease/leaseLooks)
}

// answer returns what the outcome of the lease that was waited for is to those who wait, if it was waited for: now
// says, by its mark or by the token that has replaced that, how the lease before it ended.
func (s *sight) answer(o outcome, now string) error {
	switch {
	case !s.waited || s.ours || now == s.first:
		return nil
	case o == notFound:
		return errAbsent
	case o == failed:
		return errFailed
	}
	return nil
}

// watch returns the next change of key that Redis tells of, and the token that the key is known to hold, if any.
// unwatch must follow.
func (a *aside[T]) watch(key string) (next *change, token string) {
	s := a.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	next = s.changeLocked(key)
	next.waiters++
	return next, next.token
}

func (a *aside[T]) unwatch(key string, next *change) {
	s := a.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if next.waiters--; next.waiters == 0 && next.token == "" && s.changes[key] == next {
		delete(s.changes, key)
	}
}

// waitFor waits until key has changed, or for a part of LeaseTTL, or until LeaseWait is over, whichever is first:
// then what was known of the key counts for nothing. It notes whether it waited in vain: Redis tells of a lease
// that has expired only when it comes across it.
func (a *aside[T]) waitFor(ctx context.Context, key string, next *change, known *sight) error {
	now := time.Now()
	if known.until.IsZero() {
		known.until = now.Add(a.wait)
	}
	t := time.NewTimer(min(a.lease/leaseLooks, known.until.Sub(now)))
	defer t.Stop()
	known.waited, known.missing = true, false // more likely it has been filled
	select {
	case <-next.happens:
		known.overdue = false
	case <-t.C:
		known.overdue = true
		s := a.shard(key)
		s.mu.Lock()
		if s.changes[key] == next {
			s.tellLocked(key)
		}
		s.mu.Unlock()
	case <-ctx.Done():
		return ctx.Err()
	}
	known.over = !time.Now().Before(known.until)
	return nil
}

// leaseLooks is how many times in a LeaseTTL one looks who waits.
const leaseLooks = 4
