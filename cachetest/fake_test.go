package cachetest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
)

func newFake(t *testing.T) *Fake[string] {
	t.Helper()
	f, err := NewFake[string](cacheaside.Config{})
	require.NoError(t, err)
	return f
}

func TestTheFakeConforms(t *testing.T) {
	Run(t, func(t *testing.T) cacheaside.Cache[string] { return newFake(t) })
}

func TestTheFakeFailsAsABackendThatIsDown(t *testing.T) {
	f := newFake(t)
	defer f.Close()
	require.NoError(t, f.Set(t.Context(), key, "kept", time.Minute))
	f.Fail(errSource)
	_, err := f.Get(t.Context(), key)
	require.ErrorIs(t, err, cacheaside.ErrUnavailable)
	require.ErrorIs(t, err, errSource)
	require.ErrorIs(t, f.Set(t.Context(), key, "x", time.Minute), cacheaside.ErrUnavailable)
	require.ErrorIs(t, f.Delete(t.Context(), key), cacheaside.ErrUnavailable)
	require.ErrorIs(t, f.Health(t.Context()), cacheaside.ErrUnavailable)
	for i := range 2 {
		want := fmt.Sprint("fetched ", i)
		v, err := f.GetWithFetch(t.Context(), key, time.Minute, fetches(want))
		require.NoError(t, err)
		require.Equal(t, want, v, "nothing is kept")
	}
	f.Recover()
	v, err := f.Get(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, "kept", v)
	require.Equal(t, Call{"Set", key}, f.Calls()[0])
	require.Len(t, f.Calls(), 8)
	require.EqualValues(t, 1, f.Stats().Hits)
}

func TestTheFakeIsSlowAndForgets(t *testing.T) {
	f := newFake(t)
	defer f.Close()
	require.NoError(t, f.Set(t.Context(), key, "kept", time.Minute))
	f.Slow(time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := f.Get(ctx, key)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = f.GetWithFetch(ctx, key, time.Minute, fetches("x"))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	f.Slow(0)
	require.NoError(t, f.Forget(t.Context()))
	_, err = f.Get(t.Context(), key)
	require.ErrorIs(t, err, cacheaside.ErrMiss)
	_, err = NewFake[string](cacheaside.Config{Jitter: -1})
	require.ErrorIs(t, err, cacheaside.ErrInvalidConfig)
}

func TestCloseLetsGoWhomTheSlowFakeHolds(t *testing.T) {
	f := newFake(t)
	f.Slow(time.Hour)
	got := make(chan error, 2)
	go func() {
		_, err := f.Get(t.Context(), key)
		got <- err
	}()
	go func() {
		_, err := f.GetWithFetch(t.Context(), key, time.Minute, fetches("x"))
		got <- err
	}()
	require.Eventually(t, func() bool { return len(f.Calls()) == 2 }, patience, time.Millisecond)
	require.NoError(t, f.Close())
	s := &subject{T: t}
	require.ErrorIs(t, must(s, got, "an answer"), cacheaside.ErrClosed)
	require.ErrorIs(t, must(s, got, "an answer"), cacheaside.ErrClosed)
}

func TestTheFailingFakeRefusesWhatEveryCacheRefuses(t *testing.T) {
	f := newFake(t)
	f.Fail(errSource)
	require.ErrorIs(t, f.Set(t.Context(), key, "x", 0), cacheaside.ErrInvalidTTL)
	_, err := f.Get(t.Context(), strings.Repeat("k", cacheaside.MaxKeyBytes+1))
	require.ErrorIs(t, err, cacheaside.ErrInvalidKey)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, f.Delete(ended, key), context.Canceled)
	require.NoError(t, f.Close())
	_, err = f.Get(t.Context(), key)
	require.ErrorIs(t, err, cacheaside.ErrClosed)
	require.NotErrorIs(t, err, cacheaside.ErrUnavailable)
	require.ErrorIs(t, f.Set(t.Context(), key, "x", time.Minute), cacheaside.ErrClosed)
	require.ErrorIs(t, f.Delete(t.Context(), key), cacheaside.ErrClosed)
	require.ErrorIs(t, f.Health(t.Context()), cacheaside.ErrClosed)
}

func TestTheFakeFailsWithoutACause(t *testing.T) {
	f := newFake(t)
	defer f.Close()
	f.Fail(nil)
	require.Same(t, cacheaside.ErrUnavailable, f.Health(t.Context()))
}

func TestTagsOfTheFakeWorkAsThoseOfACache(t *testing.T) {
	f, err := NewFake[string](cacheaside.Config{}, cacheaside.WithTags(func(_, value string) []string { return []string{"value:" + value} }))
	require.NoError(t, err)
	defer f.Close()
	fetches := 0
	lookUp := func() {
		t.Helper()
		v, err := f.GetWithFetch(t.Context(), key, time.Minute, func(ctx context.Context, _ string) (string, error) {
			cacheaside.Tag(ctx, "org:7")
			fetches++
			return "v", nil
		})
		require.NoError(t, err)
		require.Equal(t, "v", v)
	}
	remains := func(wanted error) {
		t.Helper()
		_, err := f.Get(t.Context(), key)
		require.ErrorIs(t, err, wanted)
	}
	lookUp()
	require.NoError(t, f.InvalidateTags(t.Context(), "org:8", "org:9"))
	remains(nil)
	for i, invalidate := range []func() error{
		func() error { return f.InvalidateTags(t.Context(), "org:7") },
		func() error { return f.InvalidateTags(t.Context(), "value:v") },
		func() error { return f.Backend().Invalidate(t.Context(), f.Refs(key)...) },
		func() error {
			return f.Backend().Mutate(t.Context(), cacheaside.Tags("org:7"), func(context.Context) error { return nil })
		},
	} {
		require.NoError(t, invalidate())
		remains(cacheaside.ErrMiss)
		lookUp()
		lookUp()
		require.Equal(t, i+2, fetches)
	}
	require.Contains(t, f.Calls(), Call{"InvalidateTags", "org:8"})
	require.Contains(t, f.Calls(), Call{"InvalidateTags", "org:9"})

	f.Fail(errSource)
	require.ErrorIs(t, f.InvalidateTags(t.Context(), "org:7"), cacheaside.ErrUnavailable)
	require.ErrorIs(t, f.InvalidateTags(t.Context(), ""), cacheaside.ErrInvalidTag)
	require.NoError(t, f.InvalidateTags(t.Context()))
	lookUp() // under no tag that could be kept
	f.Recover()
	remains(nil)
	require.NoError(t, f.Close())
	require.ErrorIs(t, f.InvalidateTags(t.Context(), "org:7"), cacheaside.ErrClosed)
}
