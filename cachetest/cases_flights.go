package cachetest

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
)

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
	}, patience, time.Millisecond, "what was fetched is kept")
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
	for _, a := range s.share(func() { panic("boom") }) {
		var p *cacheaside.PanicError
		require.ErrorAs(s, a.err, &p)
		require.Equal(s, "boom", p.Value)
		require.NotEmpty(s, p.Stack)
	}
	checkFetchedIsKept(s)
}

func checkGoexit(s *subject) {
	for _, a := range s.share(runtime.Goexit) {
		require.ErrorIs(s, a.err, cacheaside.ErrGoexit)
	}
	checkFetchedIsKept(s)
}

func checkErrors(s *subject) { s.fails(errSource) }

func checkNotFound(s *subject) { s.fails(fmt.Errorf("%w: no such user", cacheaside.ErrNotFound)) }

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

func checkReentrant(s *subject) {
	a := s.ask(s.Context(), func(ctx context.Context, k string) (string, error) {
		return s.cache.GetWithFetch(ctx, k, time.Minute, fetches("inner"))
	})
	require.ErrorIs(s, must(s, a, "an answer").err, cacheaside.ErrReentrant)
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
