package cachetest

import (
	"context"
	"runtime"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
)

func checkSetGetDelete(s *subject) {
	require.NoError(s, s.cache.Set(s.Context(), key, "one", time.Minute))
	s.get(key, "one")
	require.NoError(s, s.cache.Set(s.Context(), key, "two", time.Minute))
	s.get(key, "two")
	require.NoError(s, s.cache.Delete(s.Context(), key))
	s.misses()
	require.NoError(s, s.cache.Delete(s.Context(), key), "deleting what is not there is no error")
}

func checkMiss(s *subject) { s.misses() }

func checkFetchedIsKept(s *subject) {
	v, err := s.cache.GetWithFetch(s.Context(), key, time.Minute, fetches("fetched"))
	require.NoError(s, err)
	require.Equal(s, "fetched", v)
	v, err = s.cache.GetWithFetch(s.Context(), key, time.Minute, fetches("fetched again"))
	require.NoError(s, err)
	require.Equal(s, "fetched", v)
	s.get(key, "fetched")
}

func checkZeroValue(s *subject) {
	v, err := s.cache.GetWithFetch(s.Context(), key, time.Minute, fetches(""))
	require.NoError(s, err)
	require.Empty(s, v)
	s.get(key, "")
}

func checkOneFetch(s *subject) {
	g := newGate("value")
	first := s.ask(s.Context(), g.fetch)
	must(s, g.begun, "the fetch begins")
	var others []<-chan answer
	for range 20 {
		others = append(others, s.ask(s.Context(), g.fetch))
	}
	select {
	case <-g.begun:
		require.FailNow(s, "there was another fetch")
	case <-time.After(grace):
	}
	close(g.open)
	for _, a := range append(others, first) {
		require.Equal(s, answer{"value", nil}, must(s, a, "an answer"))
	}
	require.Empty(s, g.begun, "there was one fetch")
}

func checkCancelledLeader(s *subject) {
	g := newGate("value")
	ctx, cancel := context.WithCancel(s.Context())
	leader := s.ask(ctx, g.fetch)
	must(s, g.begun, "the fetch begins")
	other := s.ask(s.Context(), g.fetch)
	<-time.After(grace) // for it to join
	cancel()
	require.ErrorIs(s, must(s, leader, "the leader leaves").err, context.Canceled)
	close(g.open)
	require.Equal(s, answer{"value", nil}, must(s, other, "an answer"))
}

func checkOwnDeadline(s *subject) {
	g := newGate("value")
	ctx, cancel := context.WithTimeout(s.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(s, must(s, s.ask(ctx, g.fetch), "the caller leaves").err, context.DeadlineExceeded)
	close(g.open)
	require.Eventually(s, func() bool {
		v, err := s.cache.Get(s.Context(), key)
		return err == nil && v == "value"
	}, 10*time.Second, time.Millisecond, "what was fetched is kept")
}

type contextKey struct{}

func checkDetachedContext(s *subject) {
	ctx, cancel := context.WithCancel(context.WithValue(s.Context(), contextKey{}, "a value"))
	cancelled := make(chan struct{})
	begun := make(chan struct{})
	seen := make(chan error, 1)
	_ = s.ask(ctx, func(ctx context.Context, _ string) (string, error) {
		close(begun)
		<-cancelled
		if ctx.Value(contextKey{}) != "a value" {
			seen <- errSource
		}
		seen <- ctx.Err()
		return "", nil
	})
	must(s, begun, "the fetch begins")
	cancel()
	close(cancelled)
	require.NoError(s, must(s, seen, "the fetch looks at its context"))
}

func checkPanic(s *subject) {
	_, err := s.cache.GetWithFetch(s.Context(), key, time.Minute, func(context.Context, string) (string, error) { panic("boom") })
	var p *cacheaside.PanicError
	require.ErrorAs(s, err, &p)
	require.Equal(s, "boom", p.Value)
	require.NotEmpty(s, p.Stack)
	checkFetchedIsKept(s)
}

func checkGoexit(s *subject) {
	a := s.ask(s.Context(), func(context.Context, string) (string, error) {
		runtime.Goexit()
		return "", nil
	})
	require.ErrorIs(s, must(s, a, "an answer").err, cacheaside.ErrGoexit)
	checkFetchedIsKept(s)
}

func checkErrors(s *subject) {
	_, err := s.cache.GetWithFetch(s.Context(), key, time.Minute, func(context.Context, string) (string, error) { return "", errSource })
	require.ErrorIs(s, err, errSource)
	s.misses()
	checkFetchedIsKept(s)
}

func checkDeleteDuringFetch(s *subject) {
	g := newGate("old")
	waiting := s.ask(s.Context(), g.fetch)
	must(s, g.begun, "the fetch begins")
	require.NoError(s, s.cache.Delete(s.Context(), key))
	close(g.open)
	require.Equal(s, answer{"old", nil}, must(s, waiting, "who asked before the Delete gets what was fetched"))
	s.misses()
}

func checkNoJoinAfterDelete(s *subject) {
	g := newGate("old")
	waiting := s.ask(s.Context(), g.fetch)
	must(s, g.begun, "the fetch begins")
	require.NoError(s, s.cache.Delete(s.Context(), key))
	require.Equal(s, answer{"new", nil}, must(s, s.ask(s.Context(), fetches("new")), "an answer"))
	close(g.open)
	must(s, waiting, "an answer")
	s.get(key, "new")
}

func checkSetBeatsFetch(s *subject) {
	g := newGate("fetched")
	waiting := s.ask(s.Context(), g.fetch)
	must(s, g.begun, "the fetch begins")
	require.NoError(s, s.cache.Set(s.Context(), key, "set", time.Minute))
	close(g.open)
	must(s, waiting, "an answer")
	s.get(key, "set")
}

func checkTTL(s *subject) {
	require.NoError(s, s.cache.Set(s.Context(), key, "value", 50*time.Millisecond))
	require.Eventually(s, func() bool {
		_, err := s.cache.Get(s.Context(), key)
		return err != nil
	}, 10*time.Second, time.Millisecond)
	s.misses()
	require.NoError(s, s.cache.Set(s.Context(), key, "for ever", cacheaside.NoExpiry))
	s.get(key, "for ever")
}

func checkTTLZero(s *subject) {
	for _, ttl := range []time.Duration{0, -time.Second} {
		require.ErrorIs(s, s.cache.Set(s.Context(), key, "value", ttl), cacheaside.ErrInvalidTTL)
		v, err := s.cache.GetWithFetch(s.Context(), key, ttl, fetches("value"))
		require.NoError(s, err)
		require.Equal(s, "value", v)
		s.misses()
	}
}

func checkReentrant(s *subject) {
	a := s.ask(s.Context(), func(ctx context.Context, k string) (string, error) {
		return s.cache.GetWithFetch(ctx, k, time.Minute, fetches("inner"))
	})
	require.ErrorIs(s, must(s, a, "an answer").err, cacheaside.ErrReentrant)
}

func checkKey(s *subject) {
	for _, k := range []string{"", "a:b", "\x00\xff", "ключ", strings.Repeat("k", 1000)} {
		v, err := s.cache.GetWithFetch(s.Context(), k, time.Minute, func(_ context.Context, got string) (string, error) {
			return "value of " + got, nil
		})
		require.NoError(s, err)
		require.Equal(s, "value of "+k, v)
	}
	s.get("a:b", "value of a:b")
}

func checkLongKey(s *subject) {
	long := strings.Repeat("k", cacheaside.MaxKeyBytes+1)
	_, err := s.cache.Get(s.Context(), long)
	require.ErrorIs(s, err, cacheaside.ErrInvalidKey)
	_, err = s.cache.GetWithFetch(s.Context(), long, time.Minute, fetches("value"))
	require.ErrorIs(s, err, cacheaside.ErrInvalidKey)
	require.ErrorIs(s, s.cache.Set(s.Context(), long, "value", time.Minute), cacheaside.ErrInvalidKey)
	require.ErrorIs(s, s.cache.Delete(s.Context(), long), cacheaside.ErrInvalidKey)
}

func checkNilFetch(s *subject) {
	_, err := s.cache.GetWithFetch(s.Context(), key, time.Minute, nil)
	require.Error(s, err)
}

func checkEndedContext(s *subject) {
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	_, err := s.cache.GetWithFetch(ctx, key, time.Minute, fetches("value"))
	require.ErrorIs(s, err, context.Canceled)
	require.NotErrorIs(s, err, cacheaside.ErrUnavailable, "that is no outage")
}

func checkHealth(s *subject) { require.NoError(s, s.cache.Health(s.Context())) }

func checkClose(s *subject) {
	require.NoError(s, s.cache.Set(s.Context(), key, "value", time.Minute))
	require.NoError(s, s.cache.Close())
	require.NoError(s, s.cache.Close())
	*s.closed = true
	_, err := s.cache.Get(s.Context(), key)
	require.ErrorIs(s, err, cacheaside.ErrClosed)
	_, err = s.cache.GetWithFetch(s.Context(), key, time.Minute, fetches("value"))
	require.ErrorIs(s, err, cacheaside.ErrClosed)
	require.ErrorIs(s, s.cache.Set(s.Context(), key, "value", time.Minute), cacheaside.ErrClosed)
	require.ErrorIs(s, s.cache.Delete(s.Context(), key), cacheaside.ErrClosed)
	require.ErrorIs(s, s.cache.Health(s.Context()), cacheaside.ErrClosed)
}

func checkCloseDuringFetch(s *subject) {
	g := newGate("value")
	waiting := s.ask(s.Context(), g.fetch)
	must(s, g.begun, "the fetch begins")
	require.NoError(s, s.cache.Close())
	*s.closed = true
	require.ErrorIs(s, must(s, waiting, "an answer").err, cacheaside.ErrClosed)
}
