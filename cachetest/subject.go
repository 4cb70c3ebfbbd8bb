package cachetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
)

// subject is the cache under test.
type subject struct {
	*testing.T
	cache  cacheaside.Cache[string]
	closed *bool
}

const key = "a key"

// grace is how long something that must not happen is given to happen.
const grace = 50 * time.Millisecond

// patience is how long something that must happen is given to happen.
var patience = 10 * time.Second // not a constant: this package's tests of what never happens have less of it

var errSource = errors.New("the source is down")

// answer is what a caller got.
type answer struct {
	value string
	err   error
}

// ask calls GetWithFetch for the key on a goroutine of its own.
func (s *subject) ask(ctx context.Context, fetch cacheaside.FetchFunc[string]) <-chan answer {
	got := make(chan answer, 1)
	go func() {
		v, err := s.cache.GetWithFetch(ctx, key, time.Minute, fetch)
		got <- answer{v, err}
	}()
	return got
}

// share asks twice, while one fetch runs, and returns what both get when that fetch ends by calling end.
func (s *subject) share(end func()) []answer {
	g := newGate("")
	fetch := func(ctx context.Context, k string) (string, error) {
		v, err := g.fetch(ctx, k)
		end()
		return v, err
	}
	first := s.ask(s.Context(), fetch)
	must(s, g.begun, "the fetch begins")
	second := s.ask(s.Context(), fetch)
	<-time.After(grace) // for it to join
	close(g.open)
	return []answer{must(s, first, "an answer"), must(s, second, "an answer for who joined")}
}

// fails expects the very error of a fetch to reach its caller, and nothing to be kept.
func (s *subject) fails(failure error) {
	s.Helper()
	v, err := s.cache.GetWithFetch(s.Context(), key, time.Minute, func(context.Context, string) (string, error) { return "", failure })
	require.Same(s, failure, err)
	require.Empty(s, v)
	s.misses()
	checkFetchedIsKept(s)
}

// looksUp expects a look-up, which would fetch one value, to return another or the same.
func (s *subject) looksUp(fetched, want string) {
	s.Helper()
	v, err := s.cache.GetWithFetch(s.Context(), key, time.Minute, fetches(fetched))
	require.NoError(s, err)
	require.Equal(s, want, v)
}

// fetchesAnew expects look-ups to fetch before long, since a ttl runs out.
func (s *subject) fetchesAnew() {
	s.Helper()
	require.Eventually(s, func() bool {
		v, err := s.cache.GetWithFetch(s.Context(), key, time.Minute, fetches("anew"))
		return err == nil && v == "anew"
	}, patience, time.Millisecond, "it is kept for longer than its ttl")
}

// must returns what is received, which has to come soon.
func must[V any](s *subject, c <-chan V, what string) (v V) {
	s.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		require.FailNow(s, "did not happen: "+what)
	}
	return v
}

// get expects a value to be cached.
func (s *subject) get(k, want string) {
	s.Helper()
	v, err := s.cache.Get(s.Context(), k)
	require.NoError(s, err)
	require.Equal(s, want, v)
}

// misses expects nothing to be cached under the key.
func (s *subject) misses() {
	s.Helper()
	_, err := s.cache.Get(s.Context(), key)
	require.ErrorIs(s, err, cacheaside.ErrMiss)
}

// fetches returns a fetch that always succeeds.
func fetches(value string) cacheaside.FetchFunc[string] {
	return func(context.Context, string) (string, error) { return value, nil }
}

// gate is a fetch that says when it has begun and waits to be let through.
type gate struct {
	value string
	begun chan struct{} // receives one element a call
	open  chan struct{} // closed to let the calls return
}

func newGate(value string) *gate {
	return &gate{value: value, begun: make(chan struct{}, 64), open: make(chan struct{})}
}

func (g *gate) fetch(ctx context.Context, _ string) (string, error) {
	g.begun <- struct{}{}
	select {
	case <-g.open:
		if err := ctx.Err(); err != nil { // both are ready: this one counts
			return "", err
		}
		return g.value, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
