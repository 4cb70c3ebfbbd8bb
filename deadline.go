package cacheaside

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// opTimeouts hands out contexts that end OpTimeout from now, or a little earlier: callers of the same
// slice of time share one, since a context of one's own costs more than half a microsecond.
type opTimeouts struct {
	timeout time.Duration
	slice   time.Duration
	current atomic.Pointer[sharedDeadline]
	mu      sync.Mutex // held while current is replaced
}

type sharedDeadline struct {
	context.Context
	deadline time.Time
	until    time.Time // when it is too old to be handed out

	// cancel is not called: the context is shared, and its timer releases it.
	cancel context.CancelFunc
}

func newOpTimeouts(timeout time.Duration) *opTimeouts {
	return &opTimeouts{timeout: timeout, slice: timeout / 8}
}

// bound returns a context that ends when ctx does, and no later than OpTimeout after now. cancel is nil
// where nothing needs to be released.
func (t *opTimeouts) bound(ctx context.Context, now time.Time) (bounded context.Context, cancel context.CancelFunc) {
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(now.Add(t.timeout-t.slice)) {
		return ctx, nil
	}
	if ctx.Done() == nil {
		return t.shared(now), nil
	}
	return context.WithDeadline(ctx, now.Add(t.timeout))
}

// shared returns the context of the current slice of time.
func (t *opTimeouts) shared(now time.Time) context.Context {
	if s := t.current.Load(); s != nil && now.Before(s.until) {
		return s
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.current.Load(); s != nil && now.Before(s.until) {
		return s
	}
	s := &sharedDeadline{deadline: now.Add(t.timeout), until: now.Add(t.slice)}
	s.Context, s.cancel = context.WithDeadline(context.Background(), s.deadline)
	t.current.Store(s)
	return s
}
