package cacheaside

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// breaker keeps callers from waiting for a backend that is down. It opens at the first failure, since it
// costs little to be wrong: a probe begins at once, and closes it as soon as the backend answers.
type breaker struct {
	probe  func(context.Context) error
	events func(Event)
	down   atomic.Bool

	mu      sync.Mutex
	err     error         // why it is down
	round   chan struct{} // closed when the probe under way has an answer; nil if it is up
	stopped bool
	cancel  context.CancelFunc // ends the probing
	done    chan struct{}      // closed when the probing has ended
}

// The pause between probes grows from one to the other.
const (
	minProbePause = 20 * time.Millisecond
	maxProbePause = 500 * time.Millisecond
)

func newBreaker(probe func(context.Context) error, events func(Event)) *breaker {
	return &breaker{probe: probe, events: events}
}

func (b *breaker) isDown() bool { return b.down.Load() }

// trip opens the breaker, and starts the probing unless it runs.
func (b *breaker) trip(err error) {
	if b.open(err) {
		b.events(Event{Kind: EventBackendDown, Err: err})
	}
}

func (b *breaker) open(err error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down.Load() || b.stopped {
		return false
	}
	b.err, b.round = err, make(chan struct{})
	b.down.Store(true)
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel, b.done = cancel, make(chan struct{})
	go b.heal(ctx, b.done) // stop ends it
	return true
}

// heal probes until the backend answers.
func (b *breaker) heal(ctx context.Context, done chan<- struct{}) {
	defer close(done)
	for pause := minProbePause; ; pause = min(2*pause, maxProbePause) {
		if b.answered(b.probe(ctx)) {
			b.events(Event{Kind: EventBackendUp})
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// answered notes the outcome of a probe, tells those who wait for it, and reports whether the backend is up.
func (b *breaker) answered(err error) (up bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.round)
	if err == nil {
		b.err, b.round = nil, nil
		b.cancel()
		b.down.Store(false)
		return true
	}
	b.err, b.round = err, make(chan struct{})
	return false
}

// wait returns nil when the backend is up, and ErrUnavailable with the cause when it is not. With patient
// it waits, as long as ctx and limit allow, for the outcome of the probe that is under way.
func (b *breaker) wait(ctx context.Context, patient bool, limit time.Duration) error {
	b.mu.Lock()
	round, err := b.round, b.err
	b.mu.Unlock()
	if round == nil {
		return nil
	}
	if !patient {
		return unavailable(err)
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-round:
		if err := b.cause(); err != nil {
			return unavailable(err)
		}
		return nil
	case <-t.C:
		return unavailable(err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// cause returns why the backend is down, or nil.
func (b *breaker) cause() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// stop ends the probing for good. The channel that it returns is closed when it has ended; nil if there
// was none.
func (b *breaker) stop() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopped = true
	if b.cancel != nil {
		b.cancel()
	}
	return b.done
}
