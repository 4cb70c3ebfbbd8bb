package cacheaside

import (
	"context"
	"time"
)

// What stands here is what a fetch may ask and tell by its context, besides [Tag] and [Settling].

// OverrideTTL sets the ttl of what the fetch of ctx returns, instead of the one that its caller gave; zero or
// less means that it is not kept. A caller who asked with a ttl of zero or less has asked that
// nothing be kept, and that stays so. Outside of a fetch it does nothing.
func OverrideTTL(ctx context.Context, ttl time.Duration) {
	if f := flightOf(ctx); f != nil {
		f.ttl.Store(max(int64(ttl), 0))
	}
}

// SkipStore makes the cache give what the fetch of ctx returns to those who wait for it, and not keep it.
// Outside of a fetch it does nothing.
func SkipStore(ctx context.Context) {
	if f := flightOf(ctx); f != nil {
		f.skipStore.Store(true)
	}
}

// Previous returns the stale value that the fetch of ctx is to replace, for a conditional request: a fetch
// that learns that nothing has changed returns it again. There is one when the cache keeps values past
// their ttl (StaleFor, StaleIfError) or refreshes them ahead. It is shared, and must not be changed.
func Previous[T any](ctx context.Context) (value T, ok bool) {
	f := flightOf(ctx)
	if f == nil {
		return value, false
	}
	e, ok := f.previous.(*entry[T])
	if !ok || e == nil || e.negative() {
		return value, false
	}
	return e.value, true
}
