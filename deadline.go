package cacheaside

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// opTimeouts hands out contexts that end OpTimeout from now, or a little earlier: callers of the same
// slice of time share one, since a context of one's own costs more than half a microsecond. There are
// several to choose from, since waiting for one takes its lock.
type opTimeouts struct {
	timeout time.Duration
	slice   time.Duration
	shared  [deadlineStripes]sharedDeadlines
}

// deadlineStripes is a power of two.
const deadlineStripes = 16

type sharedDeadlines struct {
	current atomic.Pointer[sharedDeadline]
	mu      sync.Mutex // held while current is replaced
	_       [cacheLine - 16]byte
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
		return t.share(now), nil
	}
	return context.WithDeadline(ctx, now.Add(t.timeout))
}

// share returns the context of the current slice of time. Which stripe it is of is chosen by the address of
// the goroutine's stack, as with striped counters.
func (t *opTimeouts) share(now time.Time) context.Context {
	var here byte
	at := uintptr(unsafe.Pointer(&here))
	d := &t.shared[(at>>10^at>>16)%deadlineStripes]
	if s := d.current.Load(); s != nil && now.Before(s.until) {
		return s
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.current.Load(); s != nil && now.Before(s.until) {
		return s
	}
	s := &sharedDeadline{deadline: now.Add(t.timeout), until: now.Add(t.slice)}
	s.Context, s.cancel = context.WithDeadline(context.Background(), s.deadline)
	d.current.Store(s)
	return s
}
