package cachetest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
)

// Run tests that the caches that open returns keep the promises which every backend of the library keeps,
// each in a subtest of its own name. open is called for each of them; what it returns must hold nothing
// yet, and is closed by Run. Set no policies (StaleFor, ErrorCooldown and the like) and a FetchTimeout of
// over ten seconds: then the outcomes are exact.
//
// A wrapper of a Cache[T] for any T is tried as a Cache[string].
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

type testCase struct {
	name  string
	check func(*subject)
}

var cases = []testCase{
	{"what is set is got, until it is deleted", checkSetGetDelete},
	{"a missing key is ErrMiss", checkMiss},
	{"a fetched value is kept", checkFetchedIsKept},
	{"look-ups that fetch see each Set and Delete", checkLookUpsSeeWrites},
	{"zero values are values", checkZeroValue},
	{"a cold key is fetched once for all who ask", checkOneFetch},
	{"a cancelled caller fails nobody else", checkCancelledLeader},
	{"a caller leaves at its own deadline, and the fetch goes on", checkOwnDeadline},
	{"a fetch has the values of its caller's context, and not its end", checkDetachedContext},
	{"a panic reaches every waiter as PanicError", checkPanic},
	{"a Goexit reaches every waiter as ErrGoexit", checkGoexit},
	{"a fetch's error reaches the caller unchanged, and is not cached", checkErrors},
	{"a fetch's ErrNotFound reaches the caller unchanged, and is no value", checkNotFound},
	{"a Delete during a fetch is not undone by it", checkDeleteDuringFetch},
	{"nobody joins a fetch from before a Delete", checkNoJoinAfterDelete},
	{"a Set beats a fetch that began before it", checkSetBeatsFetch},
	{"a ttl runs out", checkTTL},
	{"a ttl runs out for look-ups that fetch, too", checkFetchedTTL},
	{"a ttl of zero or less is refused by Set, and not kept by GetWithFetch", checkTTLZero},
	{"a fetch that asks for its own key gets ErrReentrant", checkReentrant},
	{"a fetch sees the caller's key", checkKey},
	{"keys that are alike do not meet", checkKeysApart},
	{"a key of over 64 KiB is refused", checkLongKey},
	{"a nil fetch is an error and no panic", checkNilFetch},
	{"a caller whose context has ended gets its error", checkEndedContext},
	{"Health tells that all is well", checkHealth},
	{"after Close every call is ErrClosed, and Close is nil again", checkClose},
	{"Close releases those who wait", checkCloseDuringFetch},
}
