package soak

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
)

// judge says whether a look-up that began then may have returned r.
func (m *member) judge(key string, r record, floor int64, begun time.Time) {
	if r.Key != key {
		m.breach("%s got the value of %s", key, r.Key)
		return
	}
	row := m.source.rows[key]
	if row.isDoubtful(r.Version) {
		floor = 0 // it may have come after what was written here; for how long it is there is judged all the same
	}
	age, err := row.age(r.Version, begun)
	switch {
	case err != nil:
		m.breach("%s: %v", key, err)
	case age > oldestAllowed:
		m.breach("%s got version %d, outdated for %v", key, r.Version, age)
	case m.reads && int64(r.Version) < floor:
		m.breach("%s got version %d after version %d had been written here", key, r.Version, floor)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.oldest = max(m.oldest, age)
}

// judgeNone says whether a look-up that began then may have returned that there is nothing.
func (m *member) judgeNone(key string, floor int64, begun time.Time) {
	row := m.source.rows[key]
	switch {
	case !row.wasGone(0, begun.Add(-oldestNone)):
		m.breach("%s got nothing, and for %v there has been something", key, oldestNone)
	case m.reads && !row.wasGone(int(floor), time.Time{}):
		m.breach("%s got nothing after version %d had been written here", key, floor)
	}
}

// ended judges how a call ended.
func (m *member) ended(ctx context.Context, what string, begun time.Time, err error, promised func(error) bool) {
	took := time.Since(begun)
	if took > longestAllowed {
		m.breach("a %s took %v", what, took)
	}
	gone := errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
	switch {
	case err == nil:
		m.count(what, took)
	case gone && endedBefore(ctx):
		m.count(what+" left", took)
	case promised(err):
		m.count(what+" failed", took)
	default:
		m.breach("a %s returned %v", what, err)
	}
}

// endedBefore reports whether ctx has ended by now; its timer may be late.
func endedBefore(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

func isFetchError(err error) bool {
	var panicked *cacheaside.PanicError
	return errors.Is(err, errSource) || errors.Is(err, cacheaside.ErrFetchFailed) || errors.Is(err, cacheaside.ErrNotFound) || errors.Is(err, cacheaside.ErrFetchTimeout) ||
		errors.Is(err, cacheaside.ErrGoexit) || errors.As(err, &panicked)
}

func isGetError(err error) bool {
	return errors.Is(err, cacheaside.ErrMiss) || errors.Is(err, cacheaside.ErrNotFound) || errors.Is(err, cacheaside.ErrUnavailable)
}

func isWriteError(err error) bool { return errors.Is(err, cacheaside.ErrUnavailable) }

func TestTheVerdictOnWhatALookUpGets(t *testing.T) {
	const key, deleted = "key:0", 12
	require.True(t, isGone(deleted))
	begun := time.Now()
	for _, test := range []struct {
		name     string
		newest   int   // version, in the source
		got      int   // version, or deleted
		floor    int64 // that was written here
		doubtful bool  // a Set of it has failed
		later    time.Duration
		want     bool // that a breach is found
	}{
		{name: "the newest", newest: 3, got: 3, floor: 3},
		{name: "older than what was written here", newest: 3, got: 2, floor: 3, want: true},
		{name: "a Set that came late", newest: 3, got: 2, floor: 3, doubtful: true},
		{name: "a Set that came late, and stays", newest: 3, got: 2, floor: 3, doubtful: true, later: oldestAllowed + time.Second, want: true},
		{name: "an outdated one, for a while", newest: 3, got: 2, later: oldestAllowed - time.Second},
		{name: "an outdated one that stays", newest: 3, got: 2, later: oldestAllowed + time.Second, want: true},
		{name: "none, and there is none", newest: deleted, got: deleted, floor: deleted, later: time.Hour},
		{name: "none, and there has always been one", newest: deleted - 1, got: deleted, want: true},
		{name: "none, for a while", newest: deleted + 1, got: deleted, later: oldestNone - time.Second},
		{name: "none that stays", newest: deleted + 1, got: deleted, later: oldestNone + time.Second, want: true},
		{name: "none after one was written here", newest: deleted + 1, got: deleted, floor: deleted + 1, want: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSource(1)
			for range test.newest {
				s.rows[key].raise()
			}
			if test.doubtful {
				s.rows[key].doubt(test.got)
			}
			m := newMember("a member", nil, s, true)
			if test.got == deleted {
				m.judgeNone(key, test.floor, begun.Add(test.later))
			} else {
				m.judge(key, record{key, test.got}, test.floor, begun.Add(test.later))
			}
			require.Equal(t, test.want, len(m.broken()) > 0, "%v", m.broken())
		})
	}
}
