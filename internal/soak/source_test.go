package soak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cacheaside/cacheaside"
)

// record is what is cached: a version of a key.
type record struct {
	Key     string
	Version int
}

var errSource = errors.New("the source is out of order")

// source has the versions of each key, and knows from when to when each was the newest.
type source struct {
	rows    map[string]*row
	keys    []string
	running atomic.Int64 // fetches
}

type row struct {
	writing sync.Mutex // held while a version is written to the source and the cache, so that they come in order

	mu       sync.Mutex
	replaced []time.Time  // by version: when the next one came; the newest is missing
	doubtful map[int]bool // the versions whose Set has failed, and may still reach a cache
}

func newSource(keys int) *source {
	s := &source{rows: make(map[string]*row)}
	for i := range keys {
		key := "key:" + strconv.Itoa(i)
		s.keys, s.rows[key] = append(s.keys, key), &row{doubtful: make(map[int]bool)}
	}
	return s
}

func (r *row) newest() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.replaced)
}

// raise makes a new version the newest, and returns it.
func (r *row) raise() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.replaced = append(r.replaced, time.Now())
	return len(r.replaced)
}

// age is for how long a version had been replaced at a time; zero if it had not been.
func (r *row) age(version int, at time.Time) (time.Duration, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case version < 0 || version > len(r.replaced):
		return 0, fmt.Errorf("version %d was never written", version)
	case version == len(r.replaced):
		return 0, nil
	}
	return max(0, at.Sub(r.replaced[version])), nil
}

// doubt notes that a Set of a version has failed. It is called before another version can be written.
func (r *row) doubt(version int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.doubtful[version] = true
}

// isDoubtful reports whether a version may come to a cache after one that is newer.
func (r *row) isDoubtful(version int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.doubtful[version]
}

// wasGone reports whether some version from oldest on that was the newest at a time since then, until now, says
// that there is nothing.
func (r *row) wasGone(oldest int, since time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for version := len(r.replaced); version >= oldest; version-- {
		if version < len(r.replaced) && r.replaced[version].Before(since) {
			return false
		}
		if isGone(version) {
			return true
		}
	}
	return false
}

// isGone reports whether a version says that there is nothing.
func isGone(version int) bool { return version%13 == 12 }

// fetch reads a row, and is slow, fails, panics, ends its goroutine or hangs now and then.
func (s *source) fetch(ctx context.Context, key string) (record, error) {
	s.running.Add(1)
	defer s.running.Add(-1)
	version := s.rows[key].newest() // as a database's snapshot would
	switch n := rand.IntN(1000); {
	case n < 30:
		return record{}, errSource
	case n < 33:
		panic("the source panics")
	case n < 36:
		runtime.Goexit()
	case n < 39:
		<-ctx.Done()
		return record{}, ctx.Err()
	case n < 42:
		<-time.After(2 * fetchTimeout) // without a look at ctx
	case n < 300:
		<-time.After(rand.N(20 * time.Millisecond))
	}
	if isGone(version) {
		return record{}, fmt.Errorf("%w: %s", cacheaside.ErrNotFound, key)
	}
	return record{key, version}, nil
}

func (s *source) fetchMany(ctx context.Context, keys []string) (map[string]record, error) {
	s.running.Add(1)
	defer s.running.Add(-1)
	found := make(map[string]record, len(keys))
	for _, key := range keys {
		r, err := s.fetch(ctx, key)
		switch {
		case err == nil:
			found[key] = r
		case !errors.Is(err, cacheaside.ErrNotFound):
			return nil, err
		}
	}
	return found, nil
}
