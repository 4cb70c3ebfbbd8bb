package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// asideConfig is a cache on s, with what a loaded machine needs: it must not look like a server that is down.
func asideConfig(t *testing.T, s *redistest.Server, backend string) Config {
	t.Helper()
	cfg, err := ParseConfig(s.URL(backend))
	require.NoError(t, err)
	cfg.OpTimeout = 3 * time.Second
	return cfg
}

// openAside opens another client, as another process would have it.
func openAside[T any](t *testing.T, cfg Config, opts ...Option) *Client[T] {
	t.Helper()
	c, err := Open[T](t.Context(), cfg, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// storeOf returns the store of a rueidis-aside cache.
func storeOf[T any](c *Client[T]) *aside[T] { return c.store.(*aside[T]) }

func init() { childRoles["ask"] = playAsker }

// errand is what an asker does: so many callers ask for each of the keys.
type errand struct {
	Keys    []string
	Callers int
	Fetch   time.Duration // how long a fetch takes
	Fail    bool          // and that it fails
	TTL     time.Duration
}

// account is what has come of an errand.
type account struct {
	Fetches int
	Waited  int // look-ups that waited for a fetch
	Errors  int
	Wrong   int             // values that no fetch has returned
	Took    []time.Duration // by look-ups: 50th, 90th, 99th percentile, and the longest
}

// playAsker is a process with one cache that goes on errands.
func playAsker(t *testing.T, p *parent) {
	var cfg Config
	p.task(&cfg)
	c := openAside[string](t, cfg)
	require.NoError(t, c.Health(t.Context()))
	p.tell(true)
	for {
		var e errand
		p.hear(&e)
		p.tell(e.run(t, c))
	}
}

func (e *errand) run(t *testing.T, c *Client[string]) (sum account) {
	var fetches atomic.Int64
	fetch := func(_ context.Context, key string) (string, error) {
		fetches.Add(1)
		<-time.After(e.Fetch)
		if e.Fail {
			return "", errSource
		}
		return "value of " + key, nil
	}
	var mu sync.Mutex
	var callers sync.WaitGroup
	for range e.Callers {
		callers.Go(func() {
			for _, i := range rand.Perm(len(e.Keys)) {
				begun := time.Now()
				r, err := c.Lookup(t.Context(), e.Keys[i], e.TTL, fetch)
				took := time.Since(begun)
				mu.Lock()
				sum.Took = append(sum.Took, took)
				switch {
				case err != nil:
					sum.Errors++
				case r.Value != "value of "+e.Keys[i]:
					sum.Wrong++
				case r.Source == SourceFetched || r.Source == SourceJoined:
					sum.Waited++
				}
				mu.Unlock()
			}
		})
	}
	callers.Wait()
	slices.Sort(sum.Took)
	n := len(sum.Took)
	sum.Took = []time.Duration{sum.Took[n/2], sum.Took[n*9/10], sum.Took[n*99/100], sum.Took[n-1]}
	sum.Fetches = int(fetches.Load())
	return sum
}

func total(all []account) (sum account) {
	sum.Took = make([]time.Duration, 4)
	for _, a := range all {
		sum.Fetches += a.Fetches
		sum.Waited += a.Waited
		sum.Errors += a.Errors
		sum.Wrong += a.Wrong
		for i := range sum.Took {
			sum.Took[i] = max(sum.Took[i], a.Took[i])
		}
	}
	return sum
}

func TestAColdKeyIsFetchedOnceByEightProcesses(t *testing.T) {
	s := redistest.Start(t)
	cfg := asideConfig(t, s, BackendRueidisAside)
	cfg.LeaseTTL = time.Minute // who is not told, but only looks again, comes too late
	told := cfg.LeaseTTL / leaseLooks / 2
	all := startChildren(t, 8, "ask", cfg)

	for round := range 3 {
		e := errand{Keys: []string{fmt.Sprint("cold ", round)}, Callers: 50, Fetch: 50 * time.Millisecond, TTL: time.Minute}
		s.ResetStats()
		sum := total(askAll[account](all, e))
		require.Equal(t, 1, sum.Fetches)
		require.Zero(t, sum.Errors+sum.Wrong)
		require.Less(t, sum.Took[3], told)
		t.Logf("8 processes of 50 callers, a fetch of %v: look-ups took %v (50, 90, 99 %%, longest, in the slowest process); commands: %v", e.Fetch, sum.Took, s.CommandStats())
	}

	// The source fails: a process asks it once for all of its callers, and one process at a time.
	e := errand{Keys: []string{"failing"}, Callers: 50, Fetch: 20 * time.Millisecond, Fail: true, TTL: time.Minute}
	sum := total(askAll[account](all, e))
	require.LessOrEqual(t, sum.Fetches, 8)
	require.Equal(t, 8*50, sum.Errors)
	require.Less(t, sum.Took[3], told)
	t.Logf("a failing source of %v: %d fetches, look-ups took %v", e.Fetch, sum.Fetches, sum.Took)

	// Redis forgets the scripts.
	s.Must("SCRIPT", "FLUSH")
	e = errand{Keys: []string{"no script"}, Callers: 50, Fetch: 20 * time.Millisecond, TTL: time.Minute}
	sum = total(askAll[account](all, e))
	require.Equal(t, 1, sum.Fetches)
	require.Zero(t, sum.Errors+sum.Wrong)
}

// Hundred keys expire together under three processes of fifty callers.
func TestKeysThatExpireTogether(t *testing.T) {
	s := redistest.Start(t)
	keys := make([]string, 100)
	for i := range keys {
		keys[i] = "key " + strconv.Itoa(i)
	}
	for _, test := range []struct {
		backend  string
		staleFor time.Duration
		most     int // fetches of a key, by all processes
	}{
		{BackendRueidisAside, 0, 1},
		{BackendRueidisAside, time.Hour, 1},
		{BackendRueidis, 0, 3},
		{BackendRueidis, time.Hour, 3},
	} {
		t.Run(fmt.Sprintf("%s, StaleFor %v", test.backend, test.staleFor), func(t *testing.T) {
			cfg := asideConfig(t, s, test.backend)
			cfg.StaleFor = test.staleFor
			cfg.Prefix = fmt.Sprint(test.backend, test.staleFor)
			all := startChildren(t, 3, "ask", cfg)
			e := errand{Keys: keys, Callers: 50, Fetch: 20 * time.Millisecond, TTL: time.Second}
			askAll[account](all, e) // the keys are there, and so are near copies
			first := openAside[string](t, cfg)
			for _, k := range keys {
				awaitStale(t, first, k)
			}

			e.TTL = time.Hour
			each := askAll[account](all, e)
			sum := total(each)
			t.Logf("%d fetches; %d of %d look-ups waited for one; they took %v", sum.Fetches, sum.Waited, 3*50*len(keys), sum.Took)
			require.LessOrEqual(t, sum.Fetches, test.most*len(keys))
			for _, a := range each {
				require.LessOrEqual(t, a.Fetches, len(keys), "a process fetches a key once")
			}
			require.Zero(t, sum.Errors+sum.Wrong)
			if test.staleFor > 0 {
				require.Zero(t, sum.Waited)
			} else {
				require.NotZero(t, sum.Waited)
			}
			settled := askAll[account](all, e)
			require.LessOrEqual(t, sum.Fetches+total(settled).Fetches, test.most*len(keys), "refreshes that ended late are counted too")
		})
	}
}

func init() { childRoles["hold"] = playHolder }

// playHolder is a process whose fetch lasts until it is told to end.
func playHolder(t *testing.T, p *parent) {
	var cfg Config
	p.task(&cfg)
	c := openAside[string](t, cfg)
	v, err := c.GetWithFetch(t.Context(), key, time.Minute, func(context.Context, string) (string, error) {
		p.tell(true)
		var value string
		p.hear(&value)
		return value, nil
	})
	require.NoError(t, err)
	p.tell(v)
	p.tell(c.Stats().Discarded)
}

func startHolder(t *testing.T, cfg Config) *child {
	t.Helper()
	return startChildren(t, 1, "hold", cfg)[0]
}

// TestALeaseExpiresThoughNobodyEverProlongedIt is about a holder that dies before its first heartbeat, which
// would set the expiry too.
func TestALeaseExpiresThoughNobodyEverProlongedIt(t *testing.T) {
	s := redistest.Start(t)
	c := openAside[string](t, asideConfig(t, s, BackendRueidisAside))
	a := storeOf(c)
	held, _, err := a.take(t.Context(), a.missing(key))
	require.NoError(t, err)
	held.aside.held.rest()
	require.Positive(t, s.Must("PTTL", a.redisKey(key)))
}

func TestAFillerThatIsKilledIsReplaced(t *testing.T) {
	s := redistest.Start(t)
	s.Must("DEBUG", "SET-ACTIVE-EXPIRE", "0") // with many keys Redis takes its time to come across an expired one
	cfg := asideConfig(t, s, BackendRueidisAside)
	c := openAside[string](t, cfg)
	holder := startHolder(t, cfg)
	own := serve("mine")
	waiting := ask(t.Context(), c, key, own.fetch)
	// It must be waiting, and must have done so for a while: the lease has been prolonged then, so that it
	// outlasts the first wait for it.
	awaitProlonged(t, s)
	require.Zero(t, own.calls.Load())
	killed := time.Now()
	holder.kill()
	require.Equal(t, answer[string]{"mine", nil}, <-waiting)
	took := time.Since(killed)
	t.Logf("replaced after %v, LeaseTTL is %v", took, cfg.withDefaults().LeaseTTL)
	require.Less(t, took, cfg.withDefaults().LeaseTTL+time.Second)
}

// awaitProlonged waits until the lease of key has been prolonged.
func awaitProlonged(t *testing.T, s *redistest.Server) {
	t.Helper()
	s.ResetStats()
	require.Eventually(t, func() bool { return s.CommandStats()["pexpire"] >= 2 }, 20*time.Second, time.Millisecond)
}

func TestALongFetchKeepsItsLease(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	cfg := asideConfig(t, s, BackendRueidisAside)
	a, b := openAside[string](t, cfg), openAside[string](t, cfg)
	slow, never := serve("slow"), serve("never")
	release := slow.hold()
	first := ask(t.Context(), a, key, slow.fetch)
	require.Eventually(t, func() bool { return slow.calls.Load() == 1 }, 10*time.Second, time.Millisecond)
	second := ask(t.Context(), b, key, never.fetch)
	s.ResetStats()
	require.Eventually(t, func() bool { return s.CommandStats()["pexpire"] >= 5 }, 20*time.Second, time.Millisecond,
		"the lease lives longer than it would by itself")
	release()
	require.Equal(t, answer[string]{"slow", nil}, <-first)
	require.Equal(t, answer[string]{"slow", nil}, <-second)
	require.Zero(t, never.calls.Load())
	require.Zero(t, a.Stats().Discarded)
}

func TestAWriteByAnotherProcessVoidsAFetch(t *testing.T) {
	s := redistest.Start(t)
	for _, stale := range []bool{false, true} {
		t.Run(fmt.Sprintf("stale entry: %v", stale), func(t *testing.T) {
			cfg := asideConfig(t, s, BackendRueidisAside)
			cfg.Prefix = fmt.Sprint("void", stale)
			cfg.StaleIfError = time.Hour
			a, b := openAside[string](t, cfg), openAside[string](t, cfg)
			for _, write := range []struct {
				name string
				do   func(k string) error
				then string // what is there afterwards; "" for nothing
			}{
				{"Set", func(k string) error { return b.Set(t.Context(), k, "set", time.Minute) }, "set"},
				{"Delete", func(k string) error { return b.Delete(t.Context(), k) }, ""},
				{"Delete and a fetch", func(k string) error {
					if err := b.Delete(t.Context(), k); err != nil {
						return err
					}
					_, err := b.GetWithFetch(t.Context(), k, time.Minute, serve("fetched").fetch)
					return err
				}, "fetched"},
			} {
				k := write.name
				if stale {
					require.NoError(t, b.Set(t.Context(), k, "stale", time.Millisecond))
					awaitStale(t, a, k)
				}
				before := a.Stats().Discarded
				old := serve("old")
				release := old.hold()
				got := ask(t.Context(), a, k, old.fetch)
				require.Eventually(t, func() bool { return old.calls.Load() == 1 }, 10*time.Second, time.Millisecond)
				require.NoError(t, write.do(k), write.name)
				release()
				require.Equal(t, answer[string]{"old", nil}, <-got, "who asked before gets what was fetched")
				require.Equal(t, before+1, a.Stats().Discarded, write.name)
				for _, c := range []*Client[string]{a, b, openAside[string](t, cfg)} {
					v, err := c.Get(t.Context(), k)
					require.Equal(t, write.then, v, write.name)
					require.Equal(t, write.then == "", errors.Is(err, ErrMiss), write.name)
				}
			}
		})
	}
}

// awaitStale waits until what is under k is past its ttl.
func awaitStale(t *testing.T, c *Client[string], k string) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := c.Get(t.Context(), k)
		return errors.Is(err, ErrMiss)
	}, 10*time.Second, time.Millisecond)
}

func TestALeaseThatIsRefusedMeansFetchingWithoutIt(t *testing.T) {
	s := redistest.Start(t, redistest.User("app", ">secret", "~*", "&*", "+@all"))
	cfg := asideConfig(t, s, BackendRueidisAside)
	for _, test := range []struct {
		name          string
		breaks, heals func()
	}{
		{"OOM", s.FillMemory, s.FreeMemory},
		{"READONLY", func() { s.ReadOnly(true) }, func() { s.ReadOnly(false) }},
		{"NOPERM", func() { s.Must("ACL", "SETUSER", "app", "-set") }, func() { s.Must("ACL", "SETUSER", "app", "+set") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := openAside[string](t, cfg)
			test.breaks()
			source := serve("v")
			v, err := c.GetWithFetch(t.Context(), test.name, time.Minute, source.fetch)
			require.NoError(t, err)
			require.Equal(t, "v", v)
			require.NotZero(t, c.Stats().BackendErrors)
			test.heals()
			require.Eventually(t, func() bool {
				if _, err := c.GetWithFetch(t.Context(), test.name, time.Minute, source.fetch); err != nil {
					return false
				}
				_, err := c.Get(t.Context(), test.name)
				return err == nil
			}, 10*time.Second, time.Millisecond)
		})
	}
}

// Leases look like nothing that a caller gets, and no two of them are the same.
func TestATokenIsForOneAttempt(t *testing.T) {
	a, b := newToken(time.Second, noOutcome), newToken(time.Second, noOutcome)
	require.NotEqual(t, a, b)
	require.True(t, isLease(a))
}

// The lease of a stale entry has a key of its own. Were the name not set off in it, "user" with "s:1" and
// "users" with ":1" would meet.
func TestLeasesOfStaleEntriesDoNotMeet(t *testing.T) {
	seen := make(map[string]string)
	for _, name := range []string{"user", "users", "u"} {
		for _, k := range []string{"1", "s1", ":1", "s:1", "sers:1", "ser:s:1"} {
			a := &aside[string]{remote: remote[string]{name: "app:" + name + ":"}}
			lk := a.leaseKey(k)
			require.Empty(t, seen[lk], "%s %s", name, k)
			seen[lk] = name + " " + k
			require.True(t, strings.HasPrefix(lk, "app::"), "no cache has an empty name")
		}
	}
}

// overtakenStore is a store whose first lease comes too late: another process has replaced the entry.
type overtakenStore struct {
	*aside[string]
	first sync.Once
}

func (o *overtakenStore) acquire(ctx context.Context, k string, seen *entry[string], allowed *allowance, wait bool) (held lease[string], filled *entry[string], err error) {
	o.first.Do(func() {
		if held, _, err = o.take(ctx, o.stale(k, "replaced")); err == nil {
			err = errReplaced
		}
	})
	if err != nil {
		return held, nil, err
	}
	return o.aside.acquire(ctx, k, seen, allowed, wait)
}

// A process that takes the lease of a stale entry just after another one has replaced that gives it back.
func TestALeaseOfAnEntryThatWasReplacedIsGivenBack(t *testing.T) {
	s := redistest.Start(t)
	cfg := asideConfig(t, s, BackendRueidisAside)
	cfg.StaleIfError, cfg.LeaseTTL = time.Hour, time.Minute
	c := openAside[string](t, cfg)
	a := storeOf(c)
	require.NoError(t, c.Set(t.Context(), key, "stale", time.Millisecond))
	data, err := a.read(t.Context(), key)
	require.NoError(t, err)
	e, err := a.decode(key, data)
	require.NoError(t, err)
	require.NoError(t, c.Set(t.Context(), key, "fresh", time.Hour))
	held, err := a.takeStale(t.Context(), key, data, e, &sight{})
	require.ErrorIs(t, err, errReplaced)
	require.NotEmpty(t, held.token)
	require.NoError(t, a.abandon(t.Context(), key, held, noOutcome, false))
	require.Nil(t, s.Must("GET", a.leaseKey(key)))
	c.store = &overtakenStore{aside: a}
	v, err := c.GetWithFetch(t.Context(), "another", time.Minute, serve("fetched").fetch)
	require.NoError(t, err)
	require.Equal(t, "fetched", v)
	require.Eventually(t, func() bool { return s.Must("GET", a.leaseKey("another")) == nil }, 10*time.Second, time.Millisecond)

	now, err := a.read(t.Context(), key)
	require.NoError(t, err)
	held, err = a.takeStale(t.Context(), key, now, e, &sight{})
	require.NoError(t, err)
	require.NotEmpty(t, held.token)
	for _, overdue := range []bool{false, true} {
		_, err = a.takeStale(t.Context(), key, now, e, &sight{overdue: overdue})
		require.ErrorIs(t, err, errLeased)
	}
	require.NoError(t, a.abandon(t.Context(), key, held, noOutcome, false))
}

// The processes of a fleet need not agree on LeaseTTL: what counts is the holder's.
func TestAHolderWithALongerLeaseIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	cfg := asideConfig(t, s, BackendRueidisAside)
	cfg.LeaseTTL = time.Minute
	holder := openAside[string](t, cfg)
	cfg.LeaseTTL, cfg.LeaseWait = minLeaseTTL, time.Minute
	waiter := openAside[string](t, cfg)
	slow, never := serve("slow"), serve("never")
	release := slow.hold()
	first := ask(t.Context(), holder, key, slow.fetch)
	require.Eventually(t, func() bool { return slow.calls.Load() == 1 }, 10*time.Second, time.Millisecond)
	s.ResetStats()
	second := ask(t.Context(), waiter, key, never.fetch)
	require.Eventually(t, func() bool { return s.CommandStats()["pttl"] >= 5 }, 10*time.Second, time.Millisecond, "it looks at the lease")
	release()
	require.Equal(t, answer[string]{"slow", nil}, <-first)
	require.Equal(t, answer[string]{"slow", nil}, <-second)
	require.Zero(t, never.calls.Load())
}

// Where the lease of a stale entry stands, nothing but a lease should be; what is there keeps nobody from
// refreshing the entry.
func TestWhatStandsInThePlaceOfALeaseIsReplaced(t *testing.T) {
	s := redistest.Start(t)
	cfg := asideConfig(t, s, BackendRueidisAside)
	cfg.StaleIfError, cfg.LeaseTTL = time.Hour, 200*time.Millisecond
	c := openAside[string](t, cfg)
	for i, command := range [][]string{
		{"SET", "", "\xca\x13"},
		{"SET", "", newToken(time.Second, noOutcome)},
		{"SET", "", newToken(time.Second, noOutcome), "PX", "3600000"},
		{"SET", "", "x", "PX", "3600000"},
		{"RPUSH", "", "x"},
	} {
		k := strconv.Itoa(i)
		require.NoError(t, c.Set(t.Context(), k, "stale", time.Millisecond))
		awaitStale(t, c, k)
		command[1] = storeOf(c).leaseKey(k)
		s.Must(command...)
		v, err := c.GetWithFetch(t.Context(), k, time.Minute, serve("new").fetch)
		require.NoError(t, err)
		require.Equal(t, "new", v, "%q", command)
		v, err = c.Get(t.Context(), k)
		require.NoError(t, err)
		require.Equal(t, "new", v)
		require.Nil(t, s.Must("GET", command[1]), "its lease is given up")
	}
}

// A flight that waits for a lease looks again: nothing tells that a holder which has been closed has given up the
// lease of a stale entry.
func TestAWaiterLooksAgain(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	cfg := asideConfig(t, s, BackendRueidisAside)
	cfg.StaleIfError, cfg.LeaseTTL = time.Hour, 8*time.Second
	a, b := openAside[string](t, cfg), openAside[string](t, cfg)
	require.NoError(t, b.Set(t.Context(), key, "stale", time.Millisecond))
	awaitStale(t, a, key)
	held, good := serve(""), serve("good")
	release := held.hold()
	defer release()
	first := ask(t.Context(), a, key, held.fetch)
	require.Eventually(t, func() bool { return held.calls.Load() == 1 }, 10*time.Second, time.Millisecond)
	second := ask(t.Context(), b, key, good.fetch)
	require.Eventually(t, func() bool {
		k, st := storeOf(b).shard(key), false
		k.mu.Lock()
		defer k.mu.Unlock()
		if c := k.changes[key]; c != nil {
			st = c.waiters > 0
		}
		return st
	}, 10*time.Second, time.Millisecond, "it waits")
	given := time.Now()
	require.NoError(t, a.Close())
	require.ErrorIs(t, (<-first).err, ErrClosed)
	require.Equal(t, answer[string]{"good", nil}, <-second)
	require.Less(t, time.Since(given), cfg.LeaseTTL*3/4)
}

// FetchTimeout is for a flight's own fetch, and LeaseWait for that of another process.
func TestAnotherProcessIsWaitedForDuringLeaseWait(t *testing.T) {
	redistest.Require(t)
	server := redistest.Start(t)
	cfg := asideConfig(t, server, BackendRueidisAside)
	fetching := openAside[string](t, cfg)
	cfg.FetchTimeout, cfg.LeaseWait = 100*time.Millisecond, 300*time.Millisecond
	waiting := openAside[string](t, cfg)

	const keys = 50
	var begun, callers sync.WaitGroup
	release := make(chan struct{})
	begun.Add(keys)
	for i := range keys {
		callers.Go(func() {
			_, _ = fetching.GetWithFetch(t.Context(), strconv.Itoa(i), time.Minute, func(context.Context, string) (string, error) {
				begun.Done()
				<-release
				return "v", nil
			})
		})
	}
	begun.Wait()
	errs, values := make([]error, keys), make([]string, keys)
	var waiters sync.WaitGroup
	for i := range keys {
		waiters.Go(func() {
			values[i], errs[i] = waiting.GetWithFetch(t.Context(), strconv.Itoa(i), time.Minute, serve("own").fetch)
		})
	}
	waiters.Wait()
	for i := range keys {
		require.NoError(t, errs[i])
		require.Equal(t, "own", values[i])
		v, err := waiting.Get(t.Context(), strconv.Itoa(i))
		require.NoError(t, err, "it is stored, though another process has the lease")
		require.Equal(t, "own", v)
	}
	close(release)
	callers.Wait()
	for i := range keys {
		v, err := fetching.Get(t.Context(), strconv.Itoa(i))
		require.NoError(t, err)
		require.Equal(t, "own", v, "the lease was void")
	}
}
