package prometheus

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cacheaside/cacheaside"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// used returns a registry with a cache that was used in every way that memory knows.
func used(t *testing.T, o Options) *prometheus.Registry {
	t.Helper()
	ctx := t.Context()
	metrics := New(o)
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(metrics))
	c, err := cacheaside.NewMemory[string](cacheaside.Config{Name: "users", NegativeTTL: time.Hour}, cacheaside.WithObserver(metrics))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	metrics.Add(c)
	for range 3 {
		_, err = c.GetWithFetch(ctx, "secret", time.Hour, func(context.Context, string) (string, error) { return "v", nil })
		require.NoError(t, err)
		_, err = c.GetWithFetch(ctx, "none", time.Hour, func(context.Context, string) (string, error) { return "", cacheaside.ErrNotFound })
		require.ErrorIs(t, err, cacheaside.ErrNotFound)
	}
	_, err = c.GetWithFetch(ctx, "bad", time.Hour, func(context.Context, string) (string, error) { return "", errors.New("secret") })
	require.Error(t, err)
	return registry
}

func TestMetricsTellWhatACacheDid(t *testing.T) {
	registry := used(t, Options{ConstLabels: prometheus.Labels{"service": "shop"}})
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP cacheaside_lookups_total Look-ups of a key, by their result: hit, miss, or joined to a fetch under way.
# TYPE cacheaside_lookups_total counter
cacheaside_lookups_total{cache="users",result="hit",service="shop"} 4
cacheaside_lookups_total{cache="users",result="joined",service="shop"} 0
cacheaside_lookups_total{cache="users",result="miss",service="shop"} 3
# HELP cacheaside_negative_hits_total Hits that were answered by a remembered "not found".
# TYPE cacheaside_negative_hits_total counter
cacheaside_negative_hits_total{cache="users",service="shop"} 2
# HELP cacheaside_fetches_total Calls of the source.
# TYPE cacheaside_fetches_total counter
cacheaside_fetches_total{cache="users",service="shop"} 3
# HELP cacheaside_fetch_errors_total Calls of the source that failed. That the source has none is no failure.
# TYPE cacheaside_fetch_errors_total counter
cacheaside_fetch_errors_total{cache="users",service="shop"} 1
# HELP cacheaside_entries Entries that this process holds.
# TYPE cacheaside_entries gauge
cacheaside_entries{cache="users",service="shop"} 2
# HELP cacheaside_max_entries How many entries, or how much weight, this process may hold. Absent: any number, or the backend keeps none here.
# TYPE cacheaside_max_entries gauge
cacheaside_max_entries{cache="users",service="shop"} 100000
# HELP cacheaside_backend_up 1 if the backend answers, as far as is known; 0 if it is not asked until it answers a probe.
# TYPE cacheaside_backend_up gauge
cacheaside_backend_up{cache="users",service="shop"} 1
`), "cacheaside_lookups_total", "cacheaside_negative_hits_total", "cacheaside_fetches_total", "cacheaside_fetch_errors_total",
		"cacheaside_entries", "cacheaside_max_entries", "cacheaside_backend_up"))
}

func TestDurationsAreMeasuredByOutcome(t *testing.T) {
	families, err := used(t, Options{Buckets: []float64{0.25, 100}}).Gather()
	require.NoError(t, err)
	outcomes := make(map[string]uint64)
	for _, f := range families {
		if f.GetName() != "cacheaside_fetch_duration_seconds" {
			continue
		}
		for _, m := range f.GetMetric() {
			require.Equal(t, "users", m.GetLabel()[0].GetValue())
			require.Len(t, m.GetHistogram().GetBucket(), 2)
			outcomes[m.GetLabel()[1].GetValue()] = m.GetHistogram().GetSampleCount()
		}
	}
	require.Equal(t, map[string]uint64{"ok": 1, "not_found": 1, "error": 1}, outcomes)
}

func TestNamesAreGoodStyle(t *testing.T) {
	problems, err := testutil.GatherAndLint(used(t, Options{}))
	require.NoError(t, err)
	require.Empty(t, problems)
}

func TestNoMetricHoldsAKey(t *testing.T) {
	families, err := used(t, Options{}).Gather()
	require.NoError(t, err)
	for _, f := range families {
		require.NotContains(t, f.String(), "secret")
	}
}

// fake is a Cache whose figures a test sets.
type fake struct {
	cacheaside.Config
	stats cacheaside.Stats
}

func (f *fake) Stats() cacheaside.Stats { return f.stats }

// asCache hides the embedded Config behind the method of that name.
type asCache struct{ *fake }

func (a asCache) Config() cacheaside.Config { return a.fake.Config }

func text(t *testing.T, c prometheus.Collector) string {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(c))
	families, err := registry.Gather()
	require.NoError(t, err)
	var b strings.Builder
	for _, f := range families {
		b.WriteString(f.String())
	}
	return b.String()
}

func TestEveryStatisticIsExported(t *testing.T) {
	stats := reflect.TypeFor[cacheaside.Stats]()
	for i := range stats.NumField() {
		f := &fake{}
		c := New(Options{})
		c.Add(asCache{f})
		before := text(t, c)
		switch field := reflect.ValueOf(&f.stats).Elem().Field(i); field.Kind() {
		case reflect.Bool:
			field.SetBool(true)
		case reflect.Int:
			field.SetInt(7)
		default:
			field.SetUint(7)
		}
		require.NotEqual(t, before, text(t, c), stats.Field(i).Name)
	}
}

func TestCachesComeAndGo(t *testing.T) {
	c := New(Options{})
	for _, name := range []string{"users", "orders", "orders"} { // the third takes the second's place
		c.Add(asCache{&fake{Config: cacheaside.Config{Name: name}}})
		c.Observe(cacheaside.Event{Kind: cacheaside.EventFetch, Cache: name})
		c.Observe(cacheaside.Event{Kind: cacheaside.EventMiss, Cache: "nobody"})
	}
	require.Contains(t, text(t, c), `"orders"`)
	c.Remove("orders")
	require.NotContains(t, text(t, c), `"orders"`)
	require.Contains(t, text(t, c), `"users"`)
	require.NotContains(t, text(t, c), `"nobody"`)
	require.NotContains(t, text(t, c), "max_entries", "there is no bound")
}

func TestBoundIsExportedOnlyOfBackendsThatKeepEntriesInTheProcess(t *testing.T) {
	for backend, kept := range map[string]bool{
		cacheaside.BackendMemory:       true,
		cacheaside.BackendRueidisAside: true,
		cacheaside.BackendRueidis:      false,
		cacheaside.BackendNoop:         false,
	} {
		c := New(Options{})
		c.Add(asCache{&fake{Config: cacheaside.Config{Name: "users", Backend: backend, MaxEntries: 100}}})
		require.Equal(t, kept, strings.Contains(text(t, c), "cacheaside_max_entries"), backend)
	}
}

func TestFetchThatOutlivesItsCacheDoesNotBringItBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		metrics := New(Options{})
		open := func() *cacheaside.Client[string] {
			c, err := cacheaside.NewMemory[string](cacheaside.Config{Name: "late"}, cacheaside.WithObserver(metrics))
			require.NoError(t, err)
			metrics.Add(c)
			return c
		}
		first := open()
		go first.GetWithFetch(t.Context(), "k", time.Hour, func(context.Context, string) (string, error) {
			<-time.After(time.Second) // whatever its context says
			return "v", nil
		})
		synctest.Wait()
		require.NoError(t, first.Close())
		metrics.Remove("late")
		<-time.After(time.Minute)
		synctest.Wait()
		require.NotContains(t, text(t, metrics), `"late"`)

		second := open()
		defer second.Close()
		_, err := second.GetWithFetch(t.Context(), "k", time.Hour, func(context.Context, string) (string, error) { return "v", nil })
		require.NoError(t, err)
		require.Equal(t, 1, testutil.CollectAndCount(metrics, "cacheaside_fetch_duration_seconds"), "a new cache of the name is measured")
	})
}

func TestFetchesAreMeasuredWithoutAdd(t *testing.T) {
	c := New(Options{})
	c.Observe(cacheaside.Event{Kind: cacheaside.EventFetch, Cache: "users"})
	require.Contains(t, text(t, c), `"users"`)
}

func TestCollectorIsSafeForConcurrentUse(t *testing.T) {
	c := New(Options{})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 100 {
				c.Add(asCache{&fake{Config: cacheaside.Config{Name: "users"}}})
				c.Observe(cacheaside.Event{Kind: cacheaside.EventFetch, Cache: "users"})
				testutil.CollectAndCount(c)
				c.Remove("users")
			}
		})
	}
	all.Wait()
	require.NotContains(t, text(t, c), `"users"`)
}
