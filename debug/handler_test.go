package debug

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cacheaside/cacheaside"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func get(h http.Handler, target, accept string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, target, nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// says reports whether an answer contains text. A failure shall not print the whole page.
func says(w *httptest.ResponseRecorder, text string) bool {
	return strings.Contains(w.Body.String(), text)
}

func getReport(t *testing.T, h http.Handler) (r report) {
	t.Helper()
	w := get(h, "/?format=json", "")
	require.Equal(t, http.StatusOK, w.Code)
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &r))
	return r
}

// fake is a Cache whose figures a test sets.
type fake struct {
	name    string
	backend string // memory if there is none
	mu      sync.Mutex
	stats   cacheaside.Stats
	asked   int // how often for its keys
	cleared int
	err     error // of Clear
}

func (f *fake) Config() cacheaside.Config {
	return cacheaside.Config{Name: f.name, Backend: cmp.Or(f.backend, cacheaside.BackendMemory), MaxEntries: 100}
}

func (f *fake) Stats() cacheaside.Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

func (f *fake) SampleKeys(context.Context, time.Duration, int) cacheaside.KeySample {
	f.asked++
	return cacheaside.KeySample{Lookups: 40, Took: time.Second, Keys: []cacheaside.HotKey{{Key: "<b>person</b>:42", Lookups: 10}}}
}

func (f *fake) Clear(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cleared++
	return f.err
}

func (f *fake) change(change func(*cacheaside.Stats)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.stats)
}

func TestReportTellsWhatACacheDid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(Options{})
		c, err := cacheaside.NewMemory[string](cacheaside.Config{Name: "users", MaxEntries: 50}, cacheaside.WithObserver(h))
		require.NoError(t, err)
		defer c.Close()
		h.Add(c)
		slow := func(context.Context, string) (string, error) {
			<-time.After(100 * time.Millisecond)
			return "v", nil
		}
		for range 60 { // a minute
			for range 4 {
				_, err := c.GetWithFetch(t.Context(), fmt.Sprint("key", time.Now().Unix()), time.Hour, slow)
				require.NoError(t, err)
			}
			<-time.After(900 * time.Millisecond)
		}
		go c.GetWithFetch(t.Context(), "another", time.Hour, func(ctx context.Context, _ string) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		})
		synctest.Wait()
		r := getReport(t, h)
		require.Len(t, r.Caches, 1)
		got := r.Caches[0]
		require.Equal(t, "users", got.Name)
		require.Equal(t, "memory", got.Backend)
		require.Equal(t, 50, got.MaxEntries)
		require.LessOrEqual(t, got.Entries, 50)
		require.Equal(t, 1, got.Flights)
		require.EqualValues(t, 180, got.Counters["hits"])
		require.EqualValues(t, 61, got.Counters["misses"])
		require.InDelta(t, 180.0/241, *got.Recent.HitRatio, 1e-9)
		require.InDelta(t, 4, got.Recent.LookupsPerSecond, 0.05)
		require.InDelta(t, 1, got.Recent.FetchesPerSecond, 0.05)
		require.Positive(t, got.Recent.EvictionsPerSecond)
		require.InEpsilon(t, 0.1, *got.Recent.FetchP50, 0.13)
		require.InEpsilon(t, 0.1, *got.Recent.FetchP99, 0.13)
		require.InDelta(t, 12, len(got.History), 1)
		require.Nil(t, got.KeySample)
	})
}

func TestHistoryGoesBackTenMinutes(t *testing.T) {
	h, clock := withClock()
	f := &fake{name: "users"}
	h.Add(f)
	for range 1000 {
		clock.pass(time.Second)
		f.change(func(s *cacheaside.Stats) { s.Hits += 3; s.Misses++; s.Fetches++ })
		h.Observe(cacheaside.Event{Kind: cacheaside.EventFetch, Cache: "users", Duration: time.Millisecond})
	}
	clock.pass(2 * time.Second)
	r := getReport(t, h).Caches[0]
	require.InDelta(t, keptFor/sampleEvery, len(r.History), 2)
	for i, p := range r.History {
		require.WithinRange(t, p.Time, clock.time().Add(-keptFor), clock.time())
		if i < len(r.History)-1 {
			require.InDelta(t, 0.75, *p.HitRatio, 1e-9)
			require.InDelta(t, 5, p.Seconds, 1e-9)
			require.InDelta(t, 4, p.LookupsPerSecond, 1e-9)
			require.InEpsilon(t, 0.001, *p.FetchP50, 0.13)
		}
	}
	require.Equal(t, clock.time(), r.History[len(r.History)-1].Time, "the last point is about now")
}

func TestQuietTimesAreOnePoint(t *testing.T) {
	h, clock := withClock()
	f := &fake{name: "users"}
	h.Add(f)
	clock.pass(time.Hour)
	f.change(func(s *cacheaside.Stats) { s.Misses = 7200 })
	r := getReport(t, h).Caches[0]
	require.Len(t, r.History, 1)
	require.InDelta(t, 3600, r.History[0].Seconds, 1e-9)
	require.InDelta(t, 2, r.History[0].LookupsPerSecond, 1e-9)
	require.Zero(t, *r.History[0].HitRatio)
	require.Nil(t, r.History[0].FetchP50)
}

func TestEveryStatisticIsReported(t *testing.T) {
	h, _ := withClock()
	stats := reflect.TypeFor[cacheaside.Stats]()
	for i := range stats.NumField() {
		f := &fake{name: "users"}
		h.Add(f)
		before := get(h, "/?format=json", "").Body.String()
		field := reflect.ValueOf(&f.stats).Elem().Field(i)
		switch field.Kind() {
		case reflect.Bool:
			field.SetBool(true)
		case reflect.Int:
			field.SetInt(7)
		default:
			field.SetUint(7)
		}
		require.NotEqual(t, before, get(h, "/?format=json", "").Body.String(), stats.Field(i).Name)
	}
}

func TestFormatFollowsTheRequest(t *testing.T) {
	h := New(Options{})
	for _, tc := range []struct{ target, accept, want string }{
		{"/", "text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"},
		{"/", "", "text/html; charset=utf-8"},
		{"/", "*/*", "text/html; charset=utf-8"},
		{"/", "application/json", "application/json"},
		{"/", "Application/JSON;q=0.9, */*", "application/json"},
		{"/", "text/html, application/json", "text/html; charset=utf-8"},
		{"/", "application/json;q=0, text/html", "text/html; charset=utf-8"},
		{"/", "application/json; charset=utf-8; Q=0.000", "text/html; charset=utf-8"},
		{"/", "text/html;q=0, application/json;q=0.001", "application/json"},
		{"/?format=json", "text/html", "application/json"},
		{"/?format=html", "application/json", "text/html; charset=utf-8"},
	} {
		w := get(h, tc.target, tc.accept)
		require.Equal(t, http.StatusOK, w.Code)
		require.Equal(t, tc.want, w.Header().Get("Content-Type"), tc)
		require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		require.Equal(t, "Accept", w.Header().Get("Vary"))
	}
}

func TestOnlyBackendsThatHoldEntriesAreSaidToHoldSome(t *testing.T) {
	for backend, want := range map[string]string{
		cacheaside.BackendMemory:       "7 entries of 100<",
		cacheaside.BackendRueidisAside: "7 entries of 100<",
		cacheaside.BackendRueidis:      ">values are kept in Redis<",
		cacheaside.BackendNoop:         ">nothing is kept<",
	} {
		h := New(Options{})
		f := &fake{name: "users", backend: backend}
		holds := backend == cacheaside.BackendMemory || backend == cacheaside.BackendRueidisAside
		if holds {
			f.stats.Entries = 7
		}
		h.Add(f)
		page := get(h, "/", "")
		require.True(t, says(page, want), backend)
		require.Equal(t, holds, says(page, "how full it is"), backend)
		require.Equal(t, holds, says(get(h, "/?format=json", ""), `"max_entries":100`), backend)
		require.Equal(t, holds, says(get(h, "/?format=json", ""), `"max_entries"`), backend)
	}
}

func TestPageTakesNothingFromElsewhere(t *testing.T) {
	h, _ := withClock()
	h.Add(&fake{name: "users"})
	w := get(h, "/", "")
	csp := w.Header().Get("Content-Security-Policy")
	require.Contains(t, csp, "default-src 'none'")
	require.Contains(t, csp, "form-action 'none'")
	require.NotContains(t, csp, "unsafe")
	require.NotContains(t, csp, "http")
	for _, outside := range []string{"http://", "https://", " src=", "href=\"/", "@import", "url("} {
		require.False(t, says(w, outside), outside)
	}
}

func TestKeysAreNeitherAskedForNorShownUnlessTold(t *testing.T) {
	f := &fake{name: "users"}
	hidden := New(Options{})
	hidden.Add(f)
	require.False(t, says(get(hidden, "/", ""), "person"))
	require.False(t, says(get(hidden, "/?format=json", ""), "person"))
	require.Zero(t, f.asked)

	plain := New(Options{ShowKey: PlainKeys})
	plain.Add(f)
	require.True(t, says(get(plain, "/", ""), "&lt;b&gt;person&lt;/b&gt;:42"))
	require.Equal(t, &keySample{40, 1, []hotKey{{"<b>person</b>:42", 0.25}}}, getReport(t, plain).Caches[0].KeySample)
	require.Equal(t, 1, f.asked, "those who look at the same time share a sample")

	hashed := New(Options{ShowKey: HashedKeys([]byte("secret"))})
	hashed.Add(f)
	shown := getReport(t, hashed).Caches[0].KeySample.Keys[0].Key
	require.Len(t, shown, 16)
	require.False(t, says(get(hashed, "/", ""), "person"))
	require.Equal(t, shown, HashedKeys([]byte("secret"))("users", "<b>person</b>:42"))
	require.NotEqual(t, shown, HashedKeys([]byte("other"))("users", "<b>person</b>:42"))
	require.NotEqual(t, shown, HashedKeys([]byte("secret"))("users", "<b>person</b>:43"))
}

func TestRemovedCacheIsNotShown(t *testing.T) {
	h := New(Options{})
	h.Add(&fake{name: "users"})
	h.Add(&fake{name: "orders"})
	h.Remove("users")
	h.Observe(cacheaside.Event{Kind: cacheaside.EventFetch, Cache: "users"})
	r := getReport(t, h)
	require.Len(t, r.Caches, 1)
	require.Equal(t, "orders", r.Caches[0].Name)
}

func TestPageIsSafeForConcurrentUse(t *testing.T) {
	h := New(Options{ShowKey: PlainKeys})
	h.now = func() time.Time { return time.Now().Add(time.Since(h.begun) * 10_000) }
	c, err := cacheaside.NewMemory[int](cacheaside.Config{}, cacheaside.WithObserver(h))
	require.NoError(t, err)
	defer c.Close()
	h.Add(c)
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for i := range 200 {
				_, _ = c.GetWithFetch(t.Context(), fmt.Sprint(g, i), time.Minute, func(context.Context, string) (int, error) { return i, nil })
				if i%20 == 0 {
					get(h, "/", "")
				}
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 800, getReport(t, h).Caches[0].Counters["fetches"])
}

// clock is a time that a test moves on.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func withClock() (*Handler, *clock) {
	c := &clock{at: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	h := New(Options{})
	h.now, h.begun = c.time, c.at
	return h, c
}

func (c *clock) time() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}
