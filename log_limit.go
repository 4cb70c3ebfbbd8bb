package cacheaside

import (
	"slices"
	"sync"
	"time"
)

// logEvery is how often a line of one kind and cause is logged at most.
const logEvery = 10 * time.Second

// maxLogCauses is how many causes have a line each within logEvery, of a kind that tells of the backend.
const maxLogCauses = 8

// causes is how many causes of a kind have a line each within logEvery. That a connection was lost is often followed by what
// keeps it from coming back, and must not hide that. Other kinds say the same thing whatever the cause.
func (kind logLine) causes() int {
	if kind >= logDown {
		return maxLogCauses
	}
	return 1
}

// logLimit decides which lines of a kind are left out.
type logLimit struct {
	mu     sync.Mutex
	causes []logCause
}

type logCause struct {
	cause   string
	next    time.Time // when the next line may be logged
	leftOut int       // since the last one, or of a cause that was in this place
}

func (l *logLimit) allow(cause string, most int, now time.Time) (leftOut int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.placeLocked(cause, most, now)
	if now.Before(c.next) {
		c.leftOut++
		return 0, false
	}
	leftOut = c.leftOut
	*c = logCause{cause: cause, next: now.Add(logEvery)}
	return leftOut, true
}

// placeLocked returns the place of a cause: its own, a new one, that of one whose time has ended, or else the last.
func (l *logLimit) placeLocked(cause string, most int, now time.Time) *logCause {
	i := slices.IndexFunc(l.causes, func(c logCause) bool { return c.cause == cause })
	if i < 0 && len(l.causes) < most {
		i = len(l.causes)
		l.causes = append(l.causes, logCause{cause: cause})
	}
	if i < 0 {
		i = slices.IndexFunc(l.causes, func(c logCause) bool { return !now.Before(c.next) })
	}
	if i < 0 {
		i = len(l.causes) - 1
	}
	return &l.causes[i]
}
