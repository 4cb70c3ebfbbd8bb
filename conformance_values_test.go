package cacheaside

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
)

func init() {
	promises = append(promises,
		promise{"G12", "zero values are values", nil, checkZeroValues},
		promise{"G12", "nil, typed nil and nil interface values are values", nil, checkNilValues},
		promise{"G12", "errors are not cached", nil, checkErrorsNotCached},
		promise{"G12", "NotFound is remembered when asked to", nil, checkNegative},
		promise{"G12", "NotFound removes the stale value that it proves wrong", nil, checkNotFoundRemovesStale},
		promise{"G13", "a ttl is honoured to the millisecond", nil, checkTTL},
		promise{"G13", "a ttl is rounded up, and clamped instead of overflowing", nil, checkTTLExtremes},
		promise{"G13", "a ttl of zero or less is an error from Set, and not stored by GetWithFetch", nil, checkTTLZero},
		promise{"G13", "a ttl never limits the fetch", nil, checkTTLDoesNotLimitFetch},
		promise{"G18", "keys of any bytes do not meet", nil, checkKeys},
		promise{"G18", "a key of over 64 KiB is refused", nil, checkLongKey},
		promise{"G18", "caches of other names do not meet", nil, checkNames},
		promise{"G20", "errors show no key, and a fetch's error is found by errors.Is", nil, checkErrors},
		promise{"G21", "a reply never answers another key", nil, checkNoMixUp},
	)
}

func checkZeroValues(e *env) {
	c := open[int](e, nil)
	s := serve(0)
	for range 2 {
		v, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
		require.NoError(e, err)
		require.Zero(e, v)
	}
	require.EqualValues(e, 1, s.calls.Load())
	empty := open[string](e, func(cfg *Config) { cfg.Name = "empty" })
	require.NoError(e, empty.Set(e.Context(), key, "", time.Minute))
	v, err := empty.Get(e.Context(), key)
	require.NoError(e, err)
	require.Empty(e, v)
}

func checkNilValues(e *env) {
	pointers := open[*int](e, func(cfg *Config) { cfg.Name = "pointers" })
	s := serve[*int](nil)
	for range 2 {
		v, err := pointers.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
		require.NoError(e, err)
		require.Nil(e, v)
	}
	require.EqualValues(e, 1, s.calls.Load())

	interfaces := open[any](e, func(cfg *Config) { cfg.Name = "interfaces" })
	n := serve[any](nil)
	for range 2 {
		v, err := interfaces.GetWithFetch(e.Context(), key, time.Minute, n.fetch)
		require.NoError(e, err)
		require.Nil(e, v)
	}
	require.EqualValues(e, 1, n.calls.Load())
	require.NoError(e, interfaces.Set(e.Context(), "typed nil", (*int)(nil), time.Minute))
	_, err := interfaces.Get(e.Context(), "typed nil")
	require.NoError(e, err)

	slices := open[[]string](e, func(cfg *Config) { cfg.Name = "slices" })
	require.NoError(e, slices.Set(e.Context(), key, nil, time.Minute))
	v, err := slices.Get(e.Context(), key)
	require.NoError(e, err)
	require.Empty(e, v)
}

func checkErrorsNotCached(e *env) {
	c := open[string](e, nil)
	s := serve("")
	for _, err := range []error{errSource, sql.ErrNoRows, ErrNotFound} {
		s.set("", err)
		before := s.calls.Load()
		for range 2 {
			_, got := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
			require.Equal(e, err, got)
		}
		require.EqualValues(e, 2, s.calls.Load()-before)
		_, got := c.Get(e.Context(), key)
		require.ErrorIs(e, got, ErrMiss)
	}
}

func checkNegative(e *env) {
	const ttl = 400 * time.Millisecond
	c := open[string](e, func(cfg *Config) { cfg.NegativeTTL = ttl }, WithNotFound(sql.ErrNoRows))
	s := serve("")
	s.set("", sql.ErrNoRows)
	for range 3 {
		_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
		require.ErrorIs(e, err, ErrNotFound)
		require.ErrorIs(e, err, sql.ErrNoRows)
	}
	require.EqualValues(e, 1, s.calls.Load())
	_, err := c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrNotFound)
	require.EqualValues(e, 3, c.Stats().Negatives)
	r, err := c.Lookup(e.Context(), key, time.Minute, s.fetch)
	require.ErrorIs(e, err, sql.ErrNoRows)
	require.Equal(e, SourceNegative, r.Source)

	e.pass(ttl + time.Millisecond)
	s.set("here now", nil)
	v, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.NoError(e, err)
	require.Equal(e, "here now", v)

	require.NoError(e, c.Set(e.Context(), key, "set", time.Minute))
	v, err = c.Get(e.Context(), key)
	require.NoError(e, err)
	require.Equal(e, "set", v)
}

func checkNotFoundRemovesStale(e *env) {
	const ttl = 50 * time.Millisecond
	c := open[string](e, func(cfg *Config) { cfg.StaleIfError = time.Hour })
	require.NoError(e, c.Set(e.Context(), key, "old", ttl))
	e.pass(ttl + time.Millisecond)
	s := serve("")
	s.set("", ErrNotFound)
	_, err := c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.ErrorIs(e, err, ErrNotFound)
	s.set("", errSource)
	_, err = c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
	require.ErrorIs(e, err, errSource, "what the source has said to be gone must not come back as stale")
}

func checkTTL(e *env) {
	c := open[string](e, nil)
	for i, ttl := range []time.Duration{time.Millisecond, 100 * time.Millisecond, 1500 * time.Millisecond} {
		k := strconv.Itoa(i)
		begun := time.Now()
		require.NoError(e, c.Set(e.Context(), k, "v", ttl))
		if !e.bubble && ttl < 50*time.Millisecond {
			e.pass(ttl + 5*time.Millisecond)
			_, err := c.Get(e.Context(), k)
			require.ErrorIs(e, err, ErrMiss)
			continue
		}
		e.pass(ttl/2 - time.Since(begun))
		_, err := c.Get(e.Context(), k)
		require.NoError(e, err)
		if e.bubble {
			e.pass(ttl - ttl/2 - time.Nanosecond)
			_, err = c.Get(e.Context(), k)
			require.NoError(e, err)
			e.pass(time.Nanosecond)
		} else {
			e.pass(ttl - ttl/2 + 20*time.Millisecond)
		}
		_, err = c.Get(e.Context(), k)
		require.ErrorIs(e, err, ErrMiss)
	}
}

func checkTTLExtremes(e *env) {
	c := open[string](e, nil)
	if e.bubble {
		require.NoError(e, c.Set(e.Context(), key, "v", time.Nanosecond))
		e.pass(time.Millisecond - time.Nanosecond)
		_, err := c.Get(e.Context(), key)
		require.NoError(e, err, "a nanosecond is rounded up to a millisecond")
		e.pass(time.Nanosecond)
		_, err = c.Get(e.Context(), key)
		require.ErrorIs(e, err, ErrMiss)

		require.NoError(e, c.Set(e.Context(), key, "v", 1500*time.Microsecond))
		e.pass(2*time.Millisecond - time.Nanosecond)
		_, err = c.Get(e.Context(), key)
		require.NoError(e, err, "what is over a millisecond is rounded up too, and not cut off")
		e.pass(time.Nanosecond)
		_, err = c.Get(e.Context(), key)
		require.ErrorIs(e, err, ErrMiss)
	}
	for _, ttl := range []time.Duration{876000 * time.Hour, NoExpiry, NoExpiry - 1, math.MaxInt64 / 2} {
		require.NoError(e, c.Set(e.Context(), key, "v", ttl))
		v, err := c.Get(e.Context(), key)
		require.NoError(e, err, ttl)
		require.Equal(e, "v", v)
		require.NoError(e, c.Delete(e.Context(), key))
		_, err = c.GetWithFetch(e.Context(), key, ttl, serve("v").fetch)
		require.NoError(e, err)
		_, err = c.Get(e.Context(), key)
		require.NoError(e, err, ttl)
	}
	if e.bubble {
		e.pass(90 * 365 * 24 * time.Hour)
		_, err := c.Get(e.Context(), key)
		require.NoError(e, err)
	}
}

func checkTTLZero(e *env) {
	c := open[string](e, nil)
	for _, ttl := range []time.Duration{0, -1, math.MinInt64} {
		require.ErrorIs(e, c.Set(e.Context(), key, "v", ttl), ErrInvalidTTL)
		s := serve("v")
		for range 2 {
			v, err := c.GetWithFetch(e.Context(), key, ttl, s.fetch)
			require.NoError(e, err)
			require.Equal(e, "v", v)
		}
		require.EqualValues(e, 2, s.calls.Load(), "nothing is stored")
		_, err := c.Get(e.Context(), key)
		require.ErrorIs(e, err, ErrMiss)
	}
}

func checkTTLDoesNotLimitFetch(e *env) {
	c := open[string](e, nil)
	v, err := c.GetWithFetch(e.Context(), key, time.Millisecond, func(ctx context.Context, _ string) (string, error) {
		e.passInside(30 * time.Millisecond)
		return "slow", ctx.Err()
	})
	require.NoError(e, err)
	require.Equal(e, "slow", v)
}

func checkKeys(e *env) {
	c := open[string](e, nil)
	keys := []string{"", " ", ":", "a", "a:b", "a::b", ":a", "a ", "\x00", "\xff\xfe", "ключ", "{a}", "*", "a\nb", strings.Repeat("k", MaxKeyBytes)}
	for i, k := range keys {
		v, err := c.GetWithFetch(e.Context(), k, time.Minute, func(_ context.Context, got string) (string, error) {
			require.Equal(e, k, got, "a fetch sees the caller's key")
			return strconv.Itoa(i), nil
		})
		require.NoError(e, err)
		require.Equal(e, strconv.Itoa(i), v)
	}
	for i, k := range keys {
		v, err := c.Get(e.Context(), k)
		require.NoError(e, err)
		require.Equal(e, strconv.Itoa(i), v)
	}
}

func checkLongKey(e *env) {
	c := open[string](e, nil)
	k := strings.Repeat("k", MaxKeyBytes+1)
	s := serve("v")
	_, err := c.Get(e.Context(), k)
	require.ErrorIs(e, err, ErrInvalidKey)
	_, err = c.GetWithFetch(e.Context(), k, time.Minute, s.fetch)
	require.ErrorIs(e, err, ErrInvalidKey)
	require.ErrorIs(e, c.Set(e.Context(), k, "v", time.Minute), ErrInvalidKey)
	require.ErrorIs(e, c.Delete(e.Context(), k), ErrInvalidKey)
	require.Zero(e, s.calls.Load())
	require.NotContains(e, err.Error(), "kkk")
}

func checkNames(e *env) {
	a := open[string](e, func(cfg *Config) { cfg.Name = "a" })
	b := open[string](e, func(cfg *Config) { cfg.Name = "b" })
	other := open[string](e, func(cfg *Config) { cfg.Prefix, cfg.Name = "other", "a" })
	require.NoError(e, a.Set(e.Context(), key, "v", time.Minute))
	for _, c := range []*Client[string]{b, other} {
		_, err := c.Get(e.Context(), key)
		require.ErrorIs(e, err, ErrMiss)
		require.NoError(e, c.Clear(e.Context()))
	}
	v, err := a.Get(e.Context(), key)
	require.NoError(e, err)
	require.Equal(e, "v", v)
}

func checkErrors(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.FetchTimeout = 30 * time.Millisecond }, WithNotFound(sql.ErrNoRows))
	const secret = "secret-key"
	cause := &time.ParseError{Message: "custom"}
	for _, want := range []error{errSource, cause, ErrClosed, context.Canceled, context.DeadlineExceeded} {
		s := serve("")
		s.set("", want)
		_, err := c.GetWithFetch(e.Context(), secret, time.Minute, s.fetch)
		require.True(e, err == want, "a fetch's own error comes unchanged: %v", err)
	}
	_, err := c.GetWithFetch(e.Context(), secret, time.Minute, nil)
	require.ErrorIs(e, err, ErrInvalidValue)
	var all []error
	all = append(all, err)
	s := serve("")
	s.set("", sql.ErrNoRows)
	_, err = c.GetWithFetch(e.Context(), secret, time.Minute, s.fetch)
	require.ErrorIs(e, err, ErrNotFound)
	require.ErrorIs(e, err, sql.ErrNoRows)
	all = append(all, err)
	_, err = c.Get(e.Context(), secret)
	all = append(all, err, c.Set(e.Context(), secret, "secret-value", 0))
	release := s.hold()
	defer release()
	_, err = c.GetWithFetch(e.Context(), secret, time.Minute, s.fetch)
	require.ErrorIs(e, err, ErrFetchTimeout)
	for _, err := range append(all, err) {
		require.Error(e, err)
		require.NotContains(e, err.Error(), "secret")
	}
	require.ErrorIs(e, err, context.DeadlineExceeded)
}

func checkNoMixUp(e *env) {
	c := open[string](e, nil)
	done := make(chan error, 8)
	for g := range 8 {
		go func() {
			for i := range 200 {
				k := strconv.Itoa((i*7 + g) % 50)
				ctx, cancel := context.WithCancel(e.Context())
				if i%5 == 0 {
					cancel() // aborted calls must not shift the replies of others
				}
				v, err := c.GetWithFetch(ctx, k, time.Minute, func(_ context.Context, k string) (string, error) { return "of " + k, nil })
				cancel()
				if err == nil && v != "of "+k {
					done <- errors.New("the reply of another key")
					return
				}
				if i%11 == 0 {
					_ = c.Delete(e.Context(), k)
				}
			}
			done <- nil
		}()
	}
	for range 8 {
		require.NoError(e, <-done)
	}
}
