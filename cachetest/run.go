package cachetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
)

// Run tests that the caches that open returns keep the promises which every backend of the library keeps,
// each in a subtest of its own name. open is called for each of them; what it returns must hold nothing
// yet, and is closed by Run. Set no policies (StaleFor, ErrorCooldown and the like) and a FetchTimeout of
// over ten seconds: then the outcomes are exact.
//
// Run waits for things to happen, and for a fixed time only where a ttl must run out or something must not
// happen, so it takes about a second.
func Run(t *testing.T, open func(t *testing.T) cacheaside.Cache[string]) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cache := open(t)
			closed := false
			t.Cleanup(func() {
				if !closed {
					require.NoError(t, cache.Close())
				}
			})
			c.check(&subject{T: t, cache: cache, closed: &closed})
		})
	}
}

// subject is the cache under test.
type subject struct {
	*testing.T
	cache  cacheaside.Cache[string]
	closed *bool
}

type testCase struct {
	name  string
	check func(*subject)
}

var cases = []testCase{
	{"what is set is got, until it is deleted", checkSetGetDelete},
	{"a missing key is ErrMiss", checkMiss},
	{"a fetched value is kept", checkFetchedIsKept},
	{"zero values are values", checkZeroValue},
	{"a cold key is fetched once for all who ask", checkOneFetch},
	{"a cancelled caller fails nobody else", checkCancelledLeader},
	{"a caller leaves at its own deadline, and the fetch goes on", checkOwnDeadline},
	{"a fetch has the values of its caller's context, and not its end", checkDetachedContext},
	{"a panic reaches every waiter as PanicError", checkPanic},
	{"a Goexit reaches every waiter as ErrGoexit", checkGoexit},
	{"a fetch's error reaches the caller unchanged, and is not cached", checkErrors},
	{"a Delete during a fetch is not undone by it", checkDeleteDuringFetch},
	{"nobody joins a fetch from before a Delete", checkNoJoinAfterDelete},
	{"a Set beats a fetch that began before it", checkSetBeatsFetch},
	{"a ttl runs out", checkTTL},
	{"a ttl of zero or less is refused by Set, and not kept by GetWithFetch", checkTTLZero},
	{"a fetch that asks for its own key gets ErrReentrant", checkReentrant},
	{"a fetch sees the caller's key", checkKey},
	{"a key of over 64 KiB is refused", checkLongKey},
	{"a nil fetch is an error and no panic", checkNilFetch},
	{"a caller whose context has ended gets its error", checkEndedContext},
	{"Health tells that all is well", checkHealth},
	{"after Close every call is ErrClosed, and Close is nil again", checkClose},
	{"Close releases those who wait", checkCloseDuringFetch},
}

const key = "a key"

// grace is how long something that must not happen is given to happen.
const grace = 50 * time.Millisecond

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

// must returns what is received, which has to come soon.
func must[V any](s *subject, c <-chan V, what string) (v V) {
	s.Helper()
	select {
	case v = <-c:
	case <-time.After(10 * time.Second):
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
