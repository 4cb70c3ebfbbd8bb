package leases_test

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
)

// writes are the ways in which another process ends what is being fetched, as orders.
var writes = map[string][]string{
	"Delete":           {"delete " + key},
	"DeleteMany":       {"deletemany other " + key},
	"Mutate":           {"mutate " + key},
	"Clear":            {"clear"},
	"Set and Delete":   {"set " + key + " set 1h", "delete " + key},
	"Set for a moment": {"set " + key + " set 1ms"},
}

func doAll(t *testing.T, q *other, orders []string) {
	t.Helper()
	for _, order := range orders {
		require.Equal(t, "done", q.do(order))
	}
}

// P fetches, and Q writes the key: callers who ask P after that do not join the fetch.
func TestAWriteOfAnotherProcessEndsAFlight(t *testing.T) {
	for name, write := range writes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, p, q := start(t, nil)
			old, recent := held("old"), &source{value: "new"}
			before := ask(t, p, old)
			old.awaitCalls(t, 1)
			doAll(t, q, write)
			asksAnew(t, p, recent)
			require.EqualValues(t, 1, recent.calls.Load())

			close(old.release)
			require.Equal(t, answer{"old", nil}, <-before, "callers who asked before get what was fetched")
			v, err := p.Get(t.Context(), key)
			require.NoError(t, err)
			require.Equal(t, "new", v, "and it is not kept")
			require.Equal(t, "new", q.do("get", key))
			require.EqualValues(t, 1, p.Stats().Discarded)
		})
	}
}

// The same for an entry that is stale, and stays where it is while it is replaced.
func TestAWriteOfAnotherProcessEndsARefresh(t *testing.T) {
	for name, write := range writes {
		if name == "Set for a moment" { // it leaves a stale entry, whose lease P gives up
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, p, q := start(t, func(cfg *cacheaside.Config) { cfg.StaleIfError = time.Hour })
			makeStale(t, q)
			old, recent := held("old"), &source{value: "new"}
			before := ask(t, p, old)
			old.awaitCalls(t, 1)
			doAll(t, q, write)
			asksAnew(t, p, recent)
			close(old.release)
			require.Equal(t, answer{"old", nil}, <-before)
			require.Equal(t, "new", q.do("get", key))
		})
	}
}

// makeStale keeps a value under key that is past its TTL.
func makeStale(t *testing.T, q *other) {
	t.Helper()
	require.Equal(t, "done", q.do("set", key, "stale", "1ms"))
	require.Eventually(t, func() bool { return strings.HasPrefix(q.do("get", key), "error: ") }, patience, time.Millisecond)
}

// The entry that P refreshes is replaced by another one that is stale. The lease of the first must
// not keep others from the second: it is a key of its own, and nothing removes that.
func TestARefreshThatWasOvertakenGivesItsLeaseUp(t *testing.T) {
	_, p, q := start(t, func(cfg *cacheaside.Config) { cfg.StaleIfError = time.Hour })
	makeStale(t, q)
	old := held("old")
	before := ask(t, p, old)
	old.awaitCalls(t, 1)
	makeStale(t, q)
	require.Equal(t, "new", q.do("fetch", key, "new"))
	require.Empty(t, before, "the fetch is still under way")
	close(old.release)
	require.Equal(t, answer{"old", nil}, <-before)
	v, err := p.Get(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, "new", v)
}

// Of a batch, the keys that were written are asked for anew, and the others are waited for.
func TestAWriteOfAnotherProcessEndsAFlightOfABatch(t *testing.T) {
	_, p, q := start(t, nil)
	keys := make([]string, 50)
	for i := range keys {
		keys[i] = strconv.Itoa(i)
	}
	old, recent := held("old"), &source{value: "new"}
	before := make(chan map[string]string, 1)
	go func() {
		all, _ := p.GetManyWithFetch(t.Context(), keys, time.Hour, old.fetchMany)
		before <- all
	}()
	old.awaitCalls(t, 1)
	require.Equal(t, "done", q.do(append([]string{"deletemany"}, keys[:25]...)...))
	got := make(map[string]string)
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		some, err := p.GetManyWithFetch(ctx, keys[:25], time.Hour, recent.fetchMany)
		maps.Copy(got, some)
		return err == nil
	}, patience, time.Millisecond, "new callers join the fetch from before the write")
	require.Len(t, got, 25)
	calls := recent.calls.Load()
	joined := make(chan map[string]string, 1)
	go func() {
		all, _ := p.GetManyWithFetch(t.Context(), keys, time.Hour, recent.fetchMany)
		joined <- all
	}()
	require.Never(t, func() bool { return len(joined) > 0 }, 100*time.Millisecond, 10*time.Millisecond)
	close(old.release)
	require.Len(t, <-before, 50)
	all := <-joined
	for i, k := range keys {
		if i < 25 {
			require.Equal(t, "new", all[k], k)
		} else {
			require.Equal(t, "old", all[k], k)
		}
	}
	require.Equal(t, calls, recent.calls.Load())
}

// P has waited for the lease of a process that hangs, and fetches without it. A write ends that
// fetch as well.
func TestAWriteEndsAFlightThatFetchesWithoutTheLease(t *testing.T) {
	server, p, q := start(t, func(cfg *cacheaside.Config) { cfg.LeaseWait = 200 * time.Millisecond })
	require.Equal(t, "hangs", q.do("hang", key))
	token := stands(server)
	old, recent := held("old"), &source{value: "new"}
	before := ask(t, p, old)
	old.awaitCalls(t, 1)
	require.Equal(t, token, stands(server), "the lease is the other's")
	require.Equal(t, "done", q.do("delete", key))
	asksAnew(t, p, recent)
	close(old.release)
	require.Equal(t, answer{"old", nil}, <-before)
	require.Equal(t, "new", q.do("get", key))
}

// P has taken the lease from another one that ended without a value, whose mark it has replaced by
// a script.
func TestAWriteEndsAFlightThatHasReplacedAMark(t *testing.T) {
	server, p, q := start(t, nil)
	require.Contains(t, q.do("fail", key), "down")
	require.Eventually(t, func() bool { return isMark(stands(server)) }, patience, time.Millisecond)
	old, recent := held("old"), &source{value: "new"}
	before := ask(t, p, old)
	old.awaitCalls(t, 1)
	require.Equal(t, "done", q.do("delete", key))
	asksAnew(t, p, recent)
	close(old.release)
	require.Equal(t, answer{"old", nil}, <-before)
}

// Redis tells of changes that are none: an expiry that is set, a key that it does not track any
// more. Callers join the fetch all the same.
func TestWhatIsNoWriteEndsNoFlight(t *testing.T) {
	server, p, _ := start(t, nil)
	old, never := held("old"), &source{value: "never"}
	before := ask(t, p, old)
	old.awaitCalls(t, 1)
	for i := range 5 {
		require.EqualValues(t, 1, server.Must("PEXPIRE", "cache:fleet:"+key, "60000"))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err := p.GetWithFetch(ctx, key, time.Hour, never.fetch)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded, "it has joined")
		if i == 2 {
			server.Must("CONFIG", "SET", "tracking-table-max-keys", "1")
		}
	}
	require.Zero(t, never.calls.Load())
	close(old.release)
	require.Equal(t, answer{"old", nil}, <-before)
	v, err := p.Get(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, "old", v, "it is kept")
	require.Zero(t, p.Stats().Discarded)
}

// While P's connection is lost, Q deletes. P hears of it when it is connected again.
func TestAWriteDuringALostConnectionEndsAFlight(t *testing.T) {
	redistest.Require(t)
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr())
	p := open(t, config(t, cacheaside.BackendRueidisAside+"://"+proxy.Addr(), nil))
	old, recent := held("old"), &source{value: "new"}
	before := ask(t, p, old)
	old.awaitCalls(t, 1)
	proxy.Refuse(true)
	proxy.CutAll()
	server.Must("DEL", "cache:fleet:"+key)
	proxy.Refuse(false)
	asksAnew(t, p, recent)
	close(old.release)
	require.Equal(t, answer{"old", nil}, <-before)
}

func TestAFlushEndsFlights(t *testing.T) {
	server, p, _ := start(t, nil)
	old, recent := held("old"), &source{value: "new"}
	before := ask(t, p, old)
	old.awaitCalls(t, 1)
	server.Must("FLUSHALL")
	asksAnew(t, p, recent)
	close(old.release)
	require.Equal(t, answer{"old", nil}, <-before)
}

// Renewals are changes too, of which Redis tells. Behind each it must go on telling: of some
// writes, at least one is heard of before the next renewal.
func TestARenewedLeaseIsStillHeardOf(t *testing.T) {
	server, p, q := start(t, func(cfg *cacheaside.Config) { cfg.LeaseTTL = 3 * time.Second })
	unaided := 0
	for i := range 4 {
		old, recent := held(fmt.Sprint("old ", i)), &source{value: fmt.Sprint("new ", i)}
		before := ask(t, p, old)
		old.awaitCalls(t, 1)
		server.ResetStats()
		require.Eventually(t, func() bool { return server.CommandStats()["pexpire"] > 0 }, patience, time.Millisecond)
		time.Sleep(50 * time.Millisecond) // of what the renewal has changed, Redis has told by now
		renewals := server.CommandStats()["mget"]
		require.Equal(t, "done", q.do("delete", key))
		asksAnew(t, p, recent)
		if server.CommandStats()["mget"] == renewals {
			unaided++
		}
		close(old.release)
		require.Equal(t, answer{old.value, nil}, <-before)
		require.Equal(t, "done", q.do("delete", key))
	}
	require.Positive(t, unaided)
}
