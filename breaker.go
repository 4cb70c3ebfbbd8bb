package cacheaside

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// breaker keeps callers from waiting for a backend that is down. It opens at the first failure, since it
// costs little to be wrong: a probe begins at once, and closes it as soon as the backend answers.
type breaker struct {
	// probe asks whether the backend answers. If it is brisk, it takes no longer than an operation may:
	// one that had begun before the breaker opened may be waiting behind it.
	probe  func(ctx context.Context, brisk bool) error
	events func(Event)
	brief  time.Duration // how long everybody waits for the first probe after a lost connection
	down   atomic.Bool

	ctx     context.Context // ends when stop is called, and with it the probing
	cancel  context.CancelFunc
	probing sync.WaitGroup // the goroutines; raised under mu, unless stopped

	mu      sync.Mutex
	err     error         // why it is down
	fresh   bool          // the first probe is under way, and the connection was lost: it is likely back soon
	round   chan struct{} // closed when the probe under way has an answer; nil if it is up
	asking  bool          // a suspicion is being looked into
	refused bool          // the observer knows that the connection is refused
	stopped bool
}

// The pause between probes grows from one to the other.
const (
	minProbePause = 20 * time.Millisecond
	maxProbePause = 500 * time.Millisecond

	// maxRefusedPause is for a server that refuses the connection: each try costs it a handshake, and a line in
	// its ACL log.
	maxRefusedPause = 2 * time.Second
)

func newBreaker(probe func(ctx context.Context, brisk bool) error, events func(Event)) *breaker {
	b := &breaker{probe: probe, events: events}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b
}

func (b *breaker) isDown() bool { return b.down.Load() }

// trip opens the breaker, and starts the probing unless it runs.
func (b *breaker) trip(err error) {
	if b.open(err) {
		b.events(Event{Kind: EventBackendDown, Err: err})
		go b.heal() // stop ends it
	}
}

func (b *breaker) open(err error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down.Load() || b.stopped {
		return false
	}
	b.err, b.round = err, make(chan struct{})
	b.fresh, b.refused = isLost(err), isRefused(err)
	b.down.Store(true)
	b.probing.Add(1)
	return true
}

// suspect has the backend asked whether it is there, and opens the breaker only if it does not answer:
// that callers give up is their own affair as long as it does.
func (b *breaker) suspect() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.asking || b.stopped || b.down.Load() {
		return
	}
	b.asking = true
	b.probing.Go(func() { // stop ends it
		err := b.probe(b.ctx, true)
		b.mu.Lock()
		b.asking = false
		b.mu.Unlock()
		if err != nil {
			b.trip(err)
		}
	})
}

// heal probes until the backend answers.
func (b *breaker) heal() {
	defer b.probing.Done()
	brisk, most := true, maxProbePause
	for pause := minProbePause; ; pause = min(2*pause, most) {
		err := b.probe(b.ctx, brisk)
		if err == nil {
			b.events(Event{Kind: EventBackendUp}) // before the next failure can be reported
		}
		if b.answered(err) {
			return
		}
		brisk = false
		wait := pause
		if isRefused(err) {
			b.tellRefused(err)
			wait, most = jitter(pause), maxRefusedPause
		}
		select {
		case <-time.After(wait):
		case <-b.ctx.Done():
			return
		}
	}
}

// jitter returns between half of a pause and all of it: what one server refuses, it refuses to a fleet.
func jitter(pause time.Duration) time.Duration { return pause/2 + rand.N(pause/2) }

// tellRefused tells the observer that the connection is refused, once until the backend answers again: that
// it was lost has been told before, but not what keeps it from coming back.
func (b *breaker) tellRefused(err error) {
	b.mu.Lock()
	known := b.refused
	b.refused = true
	b.mu.Unlock()
	if !known {
		b.events(Event{Kind: EventBackendDown, Err: err})
	}
}

// answered notes the outcome of a probe, tells those who wait for it, and reports whether the backend is up.
func (b *breaker) answered(err error) (up bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.round)
	b.fresh = false
	if err == nil {
		b.err, b.round = nil, nil
		b.down.Store(false)
		return true
	}
	b.err, b.round = err, make(chan struct{})
	return false
}

// wait returns nil when the backend is up, and why it is not otherwise. With patient it waits for that until
// ctx ends, over as many probes as it takes. Without, it waits for the outcome of one probe, only just after
// the connection was lost, and briefly: most often there is another connection at once, and no caller need
// notice. A connection that is refused is known soon, and one that is not answered costs each caller that
// little only while the first probe lasts.
func (b *breaker) wait(ctx context.Context, patient bool) error {
	b.mu.Lock()
	round, err, fresh := b.round, b.err, b.fresh
	b.mu.Unlock()
	if round == nil || !patient && !fresh {
		return err
	}
	if !patient {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, b.brief)
		defer cancel()
	}
	for {
		select {
		case <-round:
		case <-ctx.Done():
			return err
		case <-b.ctx.Done():
			return err
		}
		b.mu.Lock()
		round, err = b.round, b.err
		b.mu.Unlock()
		if round == nil || !patient {
			return err
		}
	}
}

// stop ends the probing for good. It does not wait for that; the caller does, by probing.
func (b *breaker) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopped = true
	b.cancel()
}
