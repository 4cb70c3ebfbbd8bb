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

// chill remembers the failed fetch of key for a while.
func (s *flightShard[T]) chill(key string, err error, cooldown time.Duration) {
	if cooldown <= 0 {
		return
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.failures) >= maxFailures {
		for k, f := range s.failures {
			if !now.Before(f.until) {
				delete(s.failures, k)
			}
		}
	}
	if s.failures == nil {
		s.failures = make(map[string]failure)
	}
	if len(s.failures) < maxFailures {
		s.failures[key] = failure{err, now.Add(cooldown)}
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
