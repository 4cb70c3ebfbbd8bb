package cacheaside

import (
	"context"
	"time"
)

// An index is what is known of the aliases of one kind: a cache of its own, whose values are keys.

// ready returns the index, which it opens if that could not be done before.
func (a *AliasClient[T]) ready() (*Client[*aliasTarget], error) {
	if a.err != nil {
		return nil, a.err
	}
	if index := a.index.Load(); index != nil {
		return index, nil
	}
	a.opening.Lock()
	defer a.opening.Unlock()
	if index := a.index.Load(); index != nil {
		return index, nil
	}
	if a.client.isClosed() {
		return nil, ErrClosed
	}
	index, err := a.openIndex()
	if err == nil {
		a.index.Store(index)
	}
	return index, err
}

// openIndex opens the cache of what is known of aliases. It is on the same backend, and has neither stale values nor refreshes: whether
// the value counts that it leads to is decided there.
func (a *AliasClient[T]) openIndex() (*Client[*aliasTarget], error) {
	c := a.client
	cfg := c.cfg
	cfg.Name += "@" + a.name
	cfg.StaleFor, cfg.StaleIfError, cfg.RefreshAhead, cfg.SoftTimeout, cfg.Settle = 0, 0, 0, 0, 0
	if err := checkName("Name", cfg.Name); err != nil {
		return nil, err
	}
	opts := options{
		codec:        Codec[*aliasTarget](aliasCodec{}),
		notFound:     c.opts.notFound,
		scope:        c.opts.scope,
		fetchContext: c.opts.fetchContext,
		process:      c.opts.process,
	}
	index, err := newClient[*aliasTarget](context.Background(), c.backend, cfg, true, opts)
	if err != nil {
		return nil, err
	}
	if told, ok := index.store.(*busStore[*aliasTarget]); ok {
		index.store = told.memory // what a process knows of an alias is no news for the others
	}
	index.store = aliasStore{index.store}
	if index.opts.scope == nil {
		index.quick = index.store
	}
	index.release = func() { c.backend.unregister(cfg.Name, index) }
	if err := c.backend.register(cfg.Name, index); err != nil {
		_ = index.Close() // of a cache that was never used
		return nil, err
	}
	return index, nil
}

func (a *AliasClient[T]) closeIndex() {
	a.opening.Lock()
	defer a.opening.Unlock()
	if index := a.index.Load(); index != nil {
		_ = index.Close() // nil
	}
}

// aliasCodec writes the key.
type aliasCodec struct{}

func (aliasCodec) ID() byte { return aliasCodecID }

func (aliasCodec) Append(dst []byte, t *aliasTarget) ([]byte, error) {
	return append(dst, t.key...), nil
}

func (aliasCodec) Decode(data []byte) (*aliasTarget, error) {
	return &aliasTarget{key: string(data)}, nil
}

// aliasStore keeps of a target its key only, and no tags: whether the value counts is decided where that is kept.
type aliasStore struct{ store[*aliasTarget] }

func (s aliasStore) fill(ctx context.Context, key string, l lease[*aliasTarget], e entry[*aliasTarget], took time.Duration) (bool, error) {
	if !e.negative() {
		l.tags, e.value = nil, &aliasTarget{key: e.value.key}
	}
	return s.store.fill(ctx, key, l, e, took)
}

// lead makes an alias, which is one inside, lead to key.
func (a *AliasClient[T]) lead(ctx context.Context, alias, key string, ttl time.Duration) error {
	index, err := a.ready()
	if err != nil {
		return err
	}
	return index.setKey(ctx, alias, &aliasTarget{key: key}, ttl)
}
