package cacheaside

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// pendingTags are invalidations that have failed and are tried again in the background. Until one succeeds, what carries
// its tag does not count in this process.
type pendingTags struct {
	try     func(ctx context.Context, tags []string) error
	observe func(Event)
	ctx     context.Context // ended by stop
	cancel  context.CancelFunc
	beat    *reaper

	waits atomic.Bool // any is pending, or held

	mu   sync.Mutex
	tags map[string]time.Time // when to give up
	held map[string]int       // by how many changes
}

func newPendingTags(try func(context.Context, []string) error, observe func(Event)) *pendingTags {
	p := &pendingTags{try: try, observe: observe, tags: make(map[string]time.Time), held: make(map[string]int)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.beat = newReaper(repeatEvery, p.run)
	return p
}

func (p *pendingTags) has(tag string) bool {
	if !p.waits.Load() {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.tags[tag]
	return ok || p.held[tag] > 0
}

func (p *pendingTags) hasAny(tags []string) bool {
	return p.waits.Load() && slices.ContainsFunc(tags, p.has)
}

// add has tags invalidated again. Those that there is no room for are lost.
func (p *pendingTags) add(tags []string, why error) {
	p.observe(Event{Kind: EventInvalidationFailed, Err: why})
	p.mu.Lock()
	lost := 0
	for _, tag := range tags {
		if _, ok := p.tags[tag]; !ok && len(p.tags) >= maxRepeats {
			lost++
			continue
		}
		p.tags[tag] = time.Now().Add(repeatFor)
	}
	p.waits.Store(true)
	p.mu.Unlock()
	for range lost {
		p.observe(Event{Kind: EventInvalidationLost, Err: why})
	}
	p.beat.wake()
}

// settle takes off tags that have been invalidated.
func (p *pendingTags) settle(tags []string) {
	if !p.waits.Load() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, tag := range tags {
		delete(p.tags, tag)
	}
	p.weighLocked()
}

func (p *pendingTags) weighLocked() { p.waits.Store(len(p.tags)+len(p.held) > 0) }

// hold makes tags count as pending, until release.
func (p *pendingTags) hold(tags []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, tag := range tags {
		p.held[tag]++
	}
	p.weighLocked()
}

func (p *pendingTags) release(tags []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, tag := range tags {
		if p.held[tag]--; p.held[tag] <= 0 {
			delete(p.held, tag)
		}
	}
	p.weighLocked()
}

// tagBatch is how many tags are invalidated again by one command.
const tagBatch = 512

func (p *pendingTags) run(now time.Time) (more bool) {
	p.mu.Lock()
	tried := maps.Clone(p.tags)
	p.mu.Unlock()
	for tags := range slices.Chunk(slices.Collect(maps.Keys(tried)), tagBatch) {
		if err := p.try(p.ctx, tags); err != nil {
			p.giveUp(tags, now, err)
			break
		}
		p.takeOff(tags, tried)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.tags) > 0
}

// takeOff is settle, but for tags that have failed again since they were tried.
func (p *pendingTags) takeOff(tags []string, tried map[string]time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, tag := range tags {
		if p.tags[tag].Equal(tried[tag]) {
			delete(p.tags, tag)
		}
	}
	p.weighLocked()
}

func (p *pendingTags) giveUp(tags []string, now time.Time, why error) {
	p.mu.Lock()
	lost := 0
	for _, tag := range tags {
		if until, ok := p.tags[tag]; ok && now.After(until) {
			delete(p.tags, tag)
			lost++
		}
	}
	p.weighLocked()
	p.mu.Unlock()
	for range lost {
		p.observe(Event{Kind: EventInvalidationLost, Err: why})
	}
}

// stop gives up what is pending, and returns when nothing is tried any more.
func (p *pendingTags) stop() {
	p.cancel()
	p.beat.stop()
}
