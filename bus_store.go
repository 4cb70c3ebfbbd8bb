package cacheaside

import "context"

// busStore keeps entries in this process, and tells the others of writes. What is fetched is no news.
type busStore[T any] struct {
	*memory[T]
	bus  *bus
	name string // of the cache
}

var _ store[struct{}] = (*busStore[struct{}])(nil)

func (s *busStore[T]) ref(key string) string {
	return Ref{cache: s.name, name: key, some: true}.String()
}

func (s *busStore[T]) set(ctx context.Context, key string, e entry[T], tags *tagging) error {
	if err := s.memory.set(ctx, key, e, tags); err != nil {
		return err
	}
	return s.bus.tell(ctx, []string{s.ref(key)})
}

func (s *busStore[T]) delete(ctx context.Context, key string) error {
	s.Delete(key)
	return s.bus.tell(ctx, []string{s.ref(key)})
}

func (s *busStore[T]) deleteMany(ctx context.Context, keys []string) (failed []string, err error) {
	items := make([]string, len(keys))
	for i, key := range keys {
		s.Delete(key)
		items[i] = s.ref(key)
	}
	if err := s.bus.tell(ctx, items); err != nil {
		return keys, err
	}
	return nil, nil
}

func (s *busStore[T]) clear(ctx context.Context) error {
	s.Clear()
	return s.bus.tell(ctx, []string{clearedRef + s.name})
}

func (s *busStore[T]) ping(ctx context.Context) error { return s.bus.conn.ping(ctx) }

// busTags are the tags of a backend in this process, which tells the others of those that are invalidated.
type busTags struct {
	*memoryTags
	bus     *bus
	pending *pendingTags
}

var _ tagBook = (*busTags)(nil)

func newBusTags(local *memoryTags, b *bus, observe func(Event)) *busTags {
	t := &busTags{memoryTags: local, bus: b}
	t.pending = newPendingTags(t.tell, observe)
	return t
}

func (t *busTags) tell(ctx context.Context, tags []string) error {
	items := make([]string, len(tags))
	for i, tag := range tags {
		items[i] = tagRef + tag
	}
	return t.bus.tell(ctx, items)
}

func (t *busTags) invalidate(ctx context.Context, tags []string, again bool) error {
	t.void(tags)
	if again {
		ctx = context.WithoutCancel(ctx)
	}
	err := t.tell(ctx, tags)
	switch {
	case err == nil:
		t.pending.settle(tags)
	case again:
		t.pending.add(tags, err)
	}
	return err
}

func (t *busTags) close() { t.pending.stop() }
