package cachetest

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
)

func checkMiss(s *subject) { s.misses() }

func checkSetGetDelete(s *subject) {
	require.NoError(s, s.cache.Set(s.Context(), key, "one", time.Minute))
	s.get(key, "one")
	require.NoError(s, s.cache.Set(s.Context(), key, "two", time.Minute))
	s.get(key, "two")
	require.NoError(s, s.cache.Delete(s.Context(), key))
	s.misses()
	require.NoError(s, s.cache.Delete(s.Context(), key), "deleting what is not there is no error")
}

func checkFetchedIsKept(s *subject) {
	s.looksUp("fetched", "fetched")
	s.looksUp("fetched again", "fetched")
	s.get(key, "fetched")
}

func checkLookUpsSeeWrites(s *subject) {
	for i := range 2 { // the second time over what a layer may have kept of the first
		fetched, set := fmt.Sprint("fetched ", i), fmt.Sprint("set ", i)
		s.looksUp(fetched, fetched)
		s.looksUp("fetched though it was kept", fetched)
		require.NoError(s, s.cache.Set(s.Context(), key, set, time.Minute))
		s.looksUp("fetched though it was set", set)
		s.get(key, set)
		require.NoError(s, s.cache.Delete(s.Context(), key))
	}
}

func checkZeroValue(s *subject) {
	v, err := s.cache.GetWithFetch(s.Context(), key, time.Minute, fetches(""))
	require.NoError(s, err)
	require.Empty(s, v)
	s.get(key, "")
}

func checkTTL(s *subject) {
	require.NoError(s, s.cache.Set(s.Context(), key, "value", 50*time.Millisecond))
	require.Eventually(s, func() bool {
		_, err := s.cache.Get(s.Context(), key)
		return err != nil
	}, patience, time.Millisecond)
	s.misses()
	require.NoError(s, s.cache.Set(s.Context(), key, "for ever", cacheaside.NoExpiry))
	s.get(key, "for ever")
}

func checkFetchedTTL(s *subject) {
	v, err := s.cache.GetWithFetch(s.Context(), key, 50*time.Millisecond, fetches("fetched"))
	require.NoError(s, err)
	require.Equal(s, "fetched", v)
	s.fetchesAnew()
	require.NoError(s, s.cache.Set(s.Context(), key, "set", 50*time.Millisecond))
	s.fetchesAnew()
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

// alike are pairs of keys that meet once they are folded, trimmed, cut, normalized or made valid UTF-8.
var alike = []string{
	"", "user:1", "User:1", "user:1 ", "user:12", "user", "a\x00b", "a", "\xff", "\xfe", "\u00e9", "e\u0301",
	strings.Repeat("k", 1000) + "1", strings.Repeat("k", 1000) + "2",
}

func checkKeysApart(s *subject) {
	for _, k := range alike {
		want := fmt.Sprintf("fetched for %q", k) // quoted: a codec need not keep the bytes of a value that is no UTF-8
		v, err := s.cache.GetWithFetch(s.Context(), k, time.Minute, fetches(want))
		require.NoError(s, err)
		require.Equal(s, want, v)
	}
	for _, k := range alike {
		s.get(k, fmt.Sprintf("fetched for %q", k))
		require.NoError(s, s.cache.Set(s.Context(), k, fmt.Sprintf("set for %q", k), time.Minute))
	}
	for i, k := range alike {
		s.get(k, fmt.Sprintf("set for %q", k))
		require.NoError(s, s.cache.Delete(s.Context(), k))
		for _, other := range alike[i+1:] {
			s.get(other, fmt.Sprintf("set for %q", other))
		}
	}
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
