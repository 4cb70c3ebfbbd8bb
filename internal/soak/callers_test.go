package soak

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cacheaside/cacheaside"
)

// member is one cache on the source, with its callers: what one process of a service would have.
type member struct {
	name   string
	cache  *cacheaside.Client[record]
	source *source

	// floors are the versions that this member has written for sure, by key. Where its backend promises that
	// a process reads its own writes, none of its look-ups may return what is older.
	floors map[string]*atomic.Int64
	reads  bool // its backend promises that

	mu       sync.Mutex
	counts   map[string]int // by outcome
	oldest   time.Duration  // that a returned value was outdated
	longest  time.Duration  // that a call took
	breaches []string
}

// mostBreaches is how many are told of.
const mostBreaches = 10

func newMember(name string, cache *cacheaside.Client[record], s *source, readsOwn bool) *member {
	m := &member{name: name, cache: cache, source: s, reads: readsOwn, counts: make(map[string]int), floors: make(map[string]*atomic.Int64)}
	for _, key := range s.keys {
		m.floors[key] = new(atomic.Int64)
	}
	return m
}

func (m *member) breach(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.breaches) < mostBreaches {
		m.breaches = append(m.breaches, m.name+": "+fmt.Sprintf(format, args...))
	}
}

func (m *member) broken() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.breaches)
}

func (m *member) count(outcome string, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts[outcome]++
	m.longest = max(m.longest, took)
}

// String tells what became of the calls, for the report.
func (m *member) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%-17s oldest value %v, longest call %v", m.name, m.oldest.Round(time.Millisecond), m.longest.Round(time.Millisecond))
	for _, outcome := range slices.Sorted(maps.Keys(m.counts)) {
		fmt.Fprintf(&b, ", %s %d", outcome, m.counts[outcome])
	}
	return b.String()
}

// call makes calls until ctx ends.
func (m *member) call(ctx context.Context) {
	loader := m.cache.Bind(ttl, m.source.fetch)
	for ctx.Err() == nil {
		key := m.source.keys[min(rand.IntN(len(m.source.keys)), rand.IntN(len(m.source.keys)))]
		switch n := rand.IntN(1000); {
		case n < 20:
			m.write(key)
		case n < 22:
			_ = m.note("Clear", m.cache.Clear, isWriteError) // judged there
		case n < 60:
			m.lookUpMany()
		case n < 120:
			m.lookUp(key, isGetError, m.cache.Get)
		case n < 400:
			m.lookUp(key, isFetchError, loader.Get)
		default:
			m.lookUp(key, isFetchError, func(ctx context.Context, key string) (record, error) {
				return m.cache.GetWithFetch(ctx, key, ttl, m.source.fetch)
			})
		}
		<-time.After(rand.N(2 * time.Millisecond))
	}
}

// patience returns the context of a caller, who may be in a hurry.
func patience() (context.Context, context.CancelFunc) {
	switch rand.IntN(4) {
	case 0:
		return context.WithTimeout(context.Background(), rand.N(30*time.Millisecond))
	case 1:
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(rand.N(30*time.Millisecond), cancel)
		return ctx, cancel
	}
	return context.Background(), func() {}
}

// lookUp looks a key up, and judges what it gets.
func (m *member) lookUp(key string, promised func(error) bool, get func(context.Context, string) (record, error)) {
	ctx, cancel := patience()
	defer cancel()
	floor, begun := m.floors[key].Load(), time.Now()
	r, err := get(ctx, key)
	m.ended(ctx, "look-up", begun, err, promised)
	switch {
	case err == nil:
		m.judge(key, r, floor, begun)
	case errors.Is(err, cacheaside.ErrNotFound):
		m.judgeNone(key, floor, begun)
	}
}

func (m *member) lookUpMany() {
	ctx, cancel := patience()
	defer cancel()
	from := rand.IntN(len(m.source.keys) - 8)
	keys := m.source.keys[from : from+8]
	floors := make([]int64, len(keys))
	for i, key := range keys {
		floors[i] = m.floors[key].Load()
	}
	begun := time.Now()
	found, err := m.cache.GetManyWithFetch(ctx, keys, ttl, m.source.fetchMany)
	m.ended(ctx, "batch", begun, err, isFetchError)
	for i, key := range keys {
		switch r, ok := found[key]; {
		case ok:
			m.judge(key, r, floors[i], begun)
		case err == nil: // else nothing is said about the keys that are not there
			m.judgeNone(key, floors[i], begun)
		}
	}
}

// write raises a key's version in the source, and tells the cache, in one of the ways that there are.
func (m *member) write(key string) {
	row := m.source.rows[key]
	row.writing.Lock()
	defer row.writing.Unlock()
	version := 0
	write := func(ctx context.Context) error {
		switch rand.IntN(3) {
		case 0:
			return m.cache.Mutate(ctx, []string{key}, func(context.Context) error {
				version = row.raise()
				return nil
			})
		case 1:
			version = row.raise()
			if !isGone(version) {
				return m.set(ctx, row, record{key, version})
			}
		default:
			version = row.raise()
		}
		return m.cache.Delete(ctx, key)
	}
	if m.note("write", write, isWriteError) == nil {
		m.floors[key].Store(int64(version))
	}
}

// set tells the cache of a new version. A Set that fails may still be on its way, and may come after a later
// write that another process has made meanwhile: nobody promises anything else, so the row remembers it.
func (m *member) set(ctx context.Context, row *row, r record) error {
	err := m.cache.Set(ctx, r.Key, r, ttl)
	if err != nil {
		row.doubt(r.Version)
	}
	return err
}

// note makes a call that returns nothing but an error.
func (m *member) note(what string, call func(context.Context) error, promised func(error) bool) error {
	ctx, cancel := patience()
	defer cancel()
	begun := time.Now()
	err := call(ctx)
	m.ended(ctx, what, begun, err, promised)
	return err
}
