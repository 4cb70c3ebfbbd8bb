package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// neverTold is a connection's cache store that is not told of changes.
type neverTold struct{ rueidis.CacheStore }

func (neverTold) Delete([]rueidis.RedisMessage) {}

func TestTagsAreVoidBeforeRedisTells(t *testing.T) {
	t.Parallel()
	redistest.Require(t)
	cfg := asideConfig(t, redistest.Start(t), BackendRueidisAside)
	c := openAside[string](t, cfg, WithRueidisOption(func(o *rueidis.ClientOption) {
		whole := o.NewCacheStoreFn
		o.NewCacheStoreFn = func(o rueidis.CacheStoreOption) rueidis.CacheStore { return neverTold{whole(o)} }
	}))
	s := serve("v")
	for i := range 5 {
		for range 3 {
			_, err := c.GetWithFetch(t.Context(), key, time.Minute, withTag(s, "t"))
			require.NoError(t, err)
		}
		require.EqualValues(t, i+1, s.calls.Load())
		require.NoError(t, c.InvalidateTags(t.Context(), "t"))
		_, err := c.Get(t.Context(), key)
		require.ErrorIs(t, err, ErrMiss)
		require.NoError(t, c.Delete(t.Context(), key)) // Redis does not tell of the next value either
	}
}

func TestWhatIsKnownOfTagsInMemoryIsForgotten(t *testing.T) {
	c := newTestCache[int](t, Config{MaxEntries: -1}, WithTags(func(key string, _ int) []string { return []string{key} }))
	book := c.tags.(*memoryTags)
	for i := range 5000 {
		k := fmt.Sprint(i)
		require.NoError(t, c.Set(t.Context(), k, i, time.Hour))
		if i%2 == 0 {
			require.NoError(t, c.InvalidateTags(t.Context(), k))
		}
	}
	sizes := func() (marks, ended int) {
		book.mu.Lock()
		defer book.mu.Unlock()
		return len(book.marks), len(book.ended)
	}
	_, ended := sizes()
	require.LessOrEqual(t, ended, endedKept+1)
	require.NoError(t, c.Clear(t.Context()))
	require.Eventually(t, func() bool {
		runtime.GC()
		marks, _ := sizes()
		return marks == 0
	}, 20*time.Second, time.Millisecond)
}

func TestAnInvalidationIsRememberedForAsLongAsAFlightNeedsIt(t *testing.T) {
	c := newTestCache[string](t, Config{})
	s := serve("old")
	release := s.hold()
	first := ask(t.Context(), c, key, withTag(s, "t"))
	require.Eventually(t, func() bool { return s.calls.Load() == 1 }, 10*time.Second, time.Millisecond)
	require.NoError(t, c.InvalidateTags(t.Context(), "t"))
	for i := range 3 * endedKept {
		require.NoError(t, c.InvalidateTags(t.Context(), fmt.Sprint(i)))
	}
	release()
	require.Equal(t, answer[string]{"old", nil}, <-first)
	_, err := c.Get(t.Context(), key)
	require.ErrorIs(t, err, ErrMiss)
}

func TestTagsCostFewCommands(t *testing.T) {
	t.Parallel()
	redistest.Require(t)
	server := redistest.Start(t)
	for _, backend := range []string{BackendRueidis, BackendRueidisAside} {
		cfg := asideConfig(t, server, backend)
		cfg.Name = backend
		c := openAside[string](t, cfg)
		s := serve("v")
		commands := func(do func()) (sum int64) {
			server.ResetStats()
			do()
			for name, n := range server.CommandStats() {
				if name != "info" && name != "config|resetstat" && name != "auth" && name != "ping" && name != "hello" {
					sum += n
				}
			}
			return sum
		}
		miss := func(k string, fetch FetchFunc[string]) func() {
			return func() {
				_, err := c.GetWithFetch(t.Context(), k, time.Hour, fetch)
				require.NoError(t, err)
			}
		}
		miss("first", s.fetch)()
		miss("first tagged", withTag(s, "t"))()
		miss("second tagged", withTag(s, "t"))()
		plain := commands(miss("plain", s.fetch))
		tagged := commands(miss("tagged", withTag(s, "t")))
		require.LessOrEqual(t, tagged, plain+2+int64(countScript), backend)
		for i := range 1000 {
			require.NoError(t, c.Set(t.Context(), fmt.Sprint(i), "v", time.Hour))
		}
		script := commands(func() { require.NoError(t, c.InvalidateTags(t.Context(), "t")) })
		t.Logf("%s: %d commands for a miss, %d with a tag, %d and what the script does for an invalidation", backend, plain, tagged, script)
		require.EqualValues(t, 1, server.CommandStats()["evalsha"])
	}
}

// countScript is how many commands a script that looks at one mark runs inside the server.
const countScript = 4

// TestTaggedVersions has processes look up and invalidate at random while marks, the clock and connections get lost. What
// a process has invalidated itself it never sees again; what another has, no longer than G10 allows; and at rest nothing
// is old.
func TestTaggedVersions(t *testing.T) {
	t.Parallel()
	redistest.Require(t)
	server := redistest.Start(t)
	const rows, keys = 3, 6
	var source, done [rows]atomic.Int64
	var all []*Client[int64]
	var own [][rows]atomic.Int64
	for _, backend := range []string{BackendRueidisAside, BackendRueidisAside, BackendRueidis} {
		cfg := asideConfig(t, server, backend)
		cfg.Name = "tagged"
		all = append(all, openAside[int64](t, cfg))
		own = append(own, [rows]atomic.Int64{})
	}
	fetch := func(ctx context.Context, k string) (int64, error) {
		row := int(k[0] - '0')
		v := source[row].Load()
		Tag(ctx, "row:"+k[:1], "all")
		return v, nil
	}
	var failed atomic.Pointer[string]
	fail := func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		failed.CompareAndSwap(nil, &text)
	}
	ctx, stop := context.WithTimeout(t.Context(), max(2*time.Second, *coherenceDuration))
	defer stop()
	var workers sync.WaitGroup
	for p, c := range all {
		for range 3 {
			workers.Go(func() {
				random := rand.New(rand.NewPCG(rand.Uint64(), 1))
				for ctx.Err() == nil {
					row := random.IntN(rows)
					if random.IntN(20) == 0 {
						v := source[row].Add(1)
						if c.InvalidateTags(t.Context(), fmt.Sprint("row:", row)) == nil {
							raise(&own[p][row], v)
							time.AfterFunc(2100*time.Millisecond, func() { raise(&done[row], v) })
						}
						continue
					}
					least := max(own[p][row].Load(), done[row].Load())
					v, err := c.GetWithFetch(t.Context(), fmt.Sprint(row, "/", random.IntN(keys)), time.Hour, fetch)
					if err != nil || v < least {
						fail("process %d, row %d: got %d, %v; want %d or more", p, row, v, err, least)
						return
					}
				}
			})
		}
	}
	book := all[0].tags.(*redisTags)
	faults := []func(){
		func() { server.Must("DEL", book.clockKey()) },
		func() { server.Must("DEL", book.markKey("all")) },
		func() { server.Must("DEL", book.markKey("row:1")) },
		func() { server.KillClients() },
		func() { server.Must("FLUSHALL") },
	}
	for ctx.Err() == nil {
		faults[rand.IntN(len(faults))]()
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	workers.Wait()
	if text := failed.Load(); text != nil {
		require.Fail(t, *text)
	}
	for row := range rows {
		source[row].Add(1)
		require.Eventually(t, func() bool { return all[0].InvalidateTags(t.Context(), fmt.Sprint("row:", row)) == nil }, 10*time.Second, time.Millisecond)
	}
	require.Eventually(t, func() bool {
		for _, c := range all {
			for row := range rows {
				for k := range keys {
					v, err := c.GetWithFetch(t.Context(), fmt.Sprint(row, "/", k), time.Hour, fetch)
					if err != nil || v != source[row].Load() {
						return false
					}
				}
			}
		}
		return true
	}, 10*time.Second, 10*time.Millisecond, "nothing is old at rest")
}

func raise(n *atomic.Int64, to int64) {
	for old := n.Load(); old < to; old = n.Load() {
		if n.CompareAndSwap(old, to) {
			return
		}
	}
}

func TestRefsAsText(t *testing.T) {
	users := newTestCache[int](t, Config{Name: "users"})
	for text, ref := range map[string]Ref{
		"key:users:42":      users.Refs("42")[0],
		"key:users:":        users.Refs("")[0],
		"key:users:a:b\xff": users.Refs("a:b\xff")[0],
		"tag:org:7":         Tags("org:7")[0],
	} {
		got, err := ref.MarshalText()
		require.NoError(t, err)
		require.Equal(t, text, string(got))
		require.Equal(t, text, ref.String())
		var back Ref
		require.NoError(t, back.UnmarshalText(got))
		require.Equal(t, ref, back)
	}
	_, err := Ref{}.MarshalText()
	require.ErrorIs(t, err, ErrInvalidKey)
	kept := Tags("kept")[0]
	for _, bad := range []string{"", "key:", "key:users", "key::42", "tag:", "org:7"} {
		err := kept.UnmarshalText([]byte(bad))
		require.True(t, errors.Is(err, ErrInvalidKey) || errors.Is(err, ErrInvalidTag), "%q: %v", bad, err)
	}
	require.Equal(t, Tags("kept")[0], kept, "what cannot be read changes nothing")
}
