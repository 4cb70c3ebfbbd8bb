package cachetest

import (
	"context"
	"testing"
	"time"

	"github.com/cacheaside/cacheaside"
)

// Survive fails t if value would not come back from Redis as it was: if the constructor of a cache on Redis
// refuses its type, or if it cannot be encoded, decoded, or differs then; see
// [cacheaside.WithRoundTripCheck] for what differs. The failure names the field, and never a value. opts are
// those of the cache: a codec, for instance, or [cacheaside.WithLossyJSON]. It needs no Redis.
//
// Give it a value in which every field is set; a zero value tells of its type only.
func Survive[T any](t testing.TB, value T, opts ...cacheaside.Option) {
	t.Helper()
	const key = "a key"
	check := cacheaside.WithRoundTripCheck(func(_ string, err error) {
		t.Helper()
		t.Errorf("cachetest: a %T does not survive: %v", value, err)
	})
	cache, err := cacheaside.NewMemory[T](cacheaside.Config{}, append(opts[:len(opts):len(opts)], check)...)
	if err != nil {
		t.Errorf("cachetest: a %T does not survive: %v", value, err)
		return
	}
	if err := cache.Set(context.Background(), key, value, time.Minute); err != nil {
		t.Errorf("cachetest: setting a %T: %v", value, err)
	}
	if err := cache.Close(); err != nil {
		t.Errorf("cachetest: closing the cache: %v", err)
	}
}
