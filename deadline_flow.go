package cacheaside

import (
	"context"
	"sync"
	"time"
)

// flowContext ends when its parent does, or when nothing has passed by a line for a while, and what was written there
// must have arrived: what takes long is not given up as long as it goes on.
type flowContext struct {
	context.Context // the parent

	line  *line
	quiet time.Duration // how long nothing may pass
	begun time.Time
	until time.Time // when it ends in any case

	done chan struct{}
	mu   sync.Mutex
	err  error
}

// untilQuiet returns a context that ends when ctx does, when nothing has passed by l for so long, or at most after so
// long.
func untilQuiet(ctx context.Context, l *line, quiet, most time.Duration) (context.Context, context.CancelFunc) {
	now := time.Now()
	f := &flowContext{Context: ctx, line: l, quiet: quiet, begun: now, until: now.Add(most), done: make(chan struct{})}
	timer := time.AfterFunc(quiet, f.look)
	stop := context.AfterFunc(ctx, func() { f.end(ctx.Err()) })
	return f, func() {
		stop()
		timer.Stop()
		f.end(context.Canceled)
	}
}

// look ends the context if nothing has passed for too long, or looks again when that may be.
func (f *flowContext) look() {
	now := time.Now()
	last := max(f.begun.UnixNano(), f.line.moved.Load(), f.line.arrives.Load())
	due := time.Unix(0, last).Add(f.quiet)
	if f.until.Before(due) {
		due = f.until
	}
	if !now.Before(due) {
		f.end(context.DeadlineExceeded)
		return
	}
	select {
	case <-f.done:
	default:
		time.AfterFunc(due.Sub(now), f.look) // it ends with the context, or a look later
	}
}

func (f *flowContext) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
		close(f.done)
	}
}

func (f *flowContext) Done() <-chan struct{} { return f.done }

func (f *flowContext) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}
