package cacheaside

import "context"

// What stands here makes the flights the in-process lease of their keys: a Set or Delete fences its key,
// which voids the flight that is under way, and what a void flight has fetched is not stored. Fills and
// writes of a key happen one after the other.

// fill runs store, unless the flight is void, and reports whether it did. Writers of the key wait for
// its end, and it waits for the fill of an older flight that they have voided: so what is written to a
// key is written in one order.
func (g *flights[T]) fill(ctx context.Context, f *flight[T], store func(context.Context) error) (ok bool, err error) {
	s := f.shard
	s.mu.Lock()
	if g.instant {
		defer s.mu.Unlock()
		if f.void || s.closed {
			return false, nil
		}
		return true, store(ctx)
	}
	for s.filling[f.key] != nil {
		filled := s.filling[f.key].filledLocked()
		s.mu.Unlock()
		if err := await(ctx, filled); err != nil {
			return false, err
		}
		s.mu.Lock()
	}
	if f.void || s.closed {
		s.mu.Unlock()
		return false, nil
	}
	s.filling[f.key] = f
	s.mu.Unlock()
	defer f.endFill()
	return true, store(ctx)
}

func (f *flight[T]) endFill() {
	f.shard.mu.Lock()
	defer f.shard.mu.Unlock()
	delete(f.shard.filling, f.key)
	if f.filled != nil {
		close(f.filled)
	}
}

func (f *flight[T]) filledLocked() <-chan struct{} {
	if f.filled == nil {
		f.filled = make(chan struct{})
	}
	return f.filled
}

func await(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-done: // both were ready
		return nil
	default:
		return ctx.Err()
	}
}

// fence voids the flight of key, detaches it, and makes those that begin before unfence void from the
// start. If a flight is storing its result just now, fence waits for that, so that what the caller
// writes next comes later; or for ctx, and then returns its error. unfence must follow in any case, with
// what fence returned first: whether there was anything to guard against. With lasting, the write takes its
// time, so that there always is.
func (g *flights[T]) fence(ctx context.Context, key string, lasting bool) (fenced bool, err error) {
	s := g.shard(key)
	if g.instant && !lasting && s.active.Load() == 0 && !s.failing.Load() {
		return false, nil // a flight that begins from here on fetches later than this write began
	}
	s.mu.Lock()
	s.fences[key]++
	s.voidLocked(key)
	var filled <-chan struct{}
	if f := s.filling[key]; f != nil {
		filled = f.filledLocked()
	}
	s.mu.Unlock()
	if filled == nil {
		return true, nil
	}
	return true, await(ctx, filled)
}

// unfence ends what fence began, and voids what has begun in between: it may have looked up what was
// there before the write.
func (g *flights[T]) unfence(key string, fenced bool) {
	s := g.shard(key)
	if !fenced && s.active.Load() == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.voidLocked(key)
	if !fenced {
		return
	}
	if s.fences[key]--; s.fences[key] == 0 {
		delete(s.fences, key)
	}
}

// hold is fence for a write that is still to come, of a key whose fence is up already: no fill is to be waited for.
func (g *flights[T]) hold(key string) {
	s := g.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fences[key]++
	s.voidLocked(key)
}

// holdAll is hold for every key, whether its fence is up or not; letAllPass ends it.
func (g *flights[T]) holdAll() {
	for i := range g.shards {
		s := &g.shards[i]
		s.mu.Lock()
		s.withheld++
		s.voidAllLocked()
		s.mu.Unlock()
	}
}

func (g *flights[T]) letAllPass() {
	for i := range g.shards {
		s := &g.shards[i]
		s.mu.Lock()
		s.withheld--
		s.voidAllLocked()
		s.mu.Unlock()
	}
}

// voidLocked voids and detaches the flight of key, if there is one, and ends the cooldown of one that has failed.
func (s *flightShard[T]) voidLocked(key string) {
	s.forgetFailureLocked(key)
	if f := s.joinable[key]; f != nil {
		f.void, f.overtaken = true, true
		s.detachLocked(key)
	}
}

// overtake voids and detaches f, whose key another process has written.
func (f *flight[T]) overtake() {
	s := f.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	f.void, f.overtaken = true, true
	if s.joinable[f.key] == f {
		s.detachLocked(f.key)
	}
}

// fenceAll voids and detaches every flight before a Clear, and waits for those that are storing their results;
// unfenceAll must follow. A Clear may take seconds, and a fetch that begins meanwhile knows nothing from before it,
// unless its flight has found an older value: so it is kept.
func (g *flights[T]) fenceAll(ctx context.Context) (err error) {
	var fills []<-chan struct{}
	for i := range g.shards {
		s := &g.shards[i]
		s.mu.Lock()
		s.clearing++
		s.voidAllLocked()
		for _, f := range s.filling {
			fills = append(fills, f.filledLocked())
		}
		s.mu.Unlock()
	}
	for _, filled := range fills {
		if err = await(ctx, filled); err != nil {
			return err
		}
	}
	return nil
}

// unfenceAll ends what fenceAll began, and voids what has begun meanwhile and is not fetching yet: it may have looked
// up what was there before.
func (g *flights[T]) unfenceAll() {
	for i := range g.shards {
		s := &g.shards[i]
		s.mu.Lock()
		s.forgetFailuresLocked()
		for key, f := range s.joinable {
			if !f.fetching || f.outdatedLocked() {
				s.voidLocked(key)
			}
		}
		s.clearing--
		s.mu.Unlock()
	}
}

// outdatedLocked reports whether the flight has found a value that a Clear under way removes. Its fetch may return that
// again, having asked the source whether it has changed.
func (f *flight[T]) outdatedLocked() bool { return f.shard.clearing > 0 && f.found.entry != nil }

func (s *flightShard[T]) voidAllLocked() {
	s.forgetFailuresLocked()
	for key := range s.joinable {
		s.voidLocked(key)
	}
}

func (s *flightShard[T]) forgetFailuresLocked() {
	s.failures = failures{}
	s.failing.Store(false)
}
