package cacheaside

import (
	"fmt"
	"time"
)

// failure is a fetch's error that is given to further callers for a while.
type failure struct {
	err   error
	until time.Time
}

// maxFailures bounds the failures that a shard remembers; when a whole source is down, some keys are
// asked more often instead of memory growing.
const maxFailures = 1024

// chill remembers for a while that the fetch of f has failed. That of a flight which nobody can join any more
// says nothing about the next, since it has ended by its time; nor does that of one whose key was written
// meanwhile.
func (s *flightShard[T]) chill(f *flight[T], err error, cooldown time.Duration) {
	if cooldown <= 0 {
		return
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.joinable[f.key] != f || f.overtaken {
		return
	}
	if len(s.failures) >= maxFailures {
		for key, old := range s.failures {
			if !now.Before(old.until) {
				delete(s.failures, key)
			}
		}
	}
	if s.failures == nil {
		s.failures = make(map[string]failure)
	}
	if len(s.failures) < maxFailures {
		s.failures[f.key] = failure{err, now.Add(cooldown)}
		s.chilled.Store(true)
	}
}

// cooling returns the error of the last fetch of key, wrapped, if key must not be fetched again yet.
func (s *flightShard[T]) cooling(key string) error {
	if !s.chilled.Load() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.failures[key]
	if !ok {
		return nil
	}
	if !time.Now().Before(f.until) {
		delete(s.failures, key)
		s.chilled.Store(len(s.failures) > 0)
		return nil
	}
	return fmt.Errorf("cacheaside: not asked again during ErrorCooldown: %w", f.err)
}

// thawLocked forgets that the fetch of key has failed: what was written since may be what it failed for.
func (s *flightShard[T]) thawLocked(key string) {
	if s.chilled.Load() {
		delete(s.failures, key)
		s.chilled.Store(len(s.failures) > 0)
	}
}
