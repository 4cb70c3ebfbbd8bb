package cachetest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
)

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
