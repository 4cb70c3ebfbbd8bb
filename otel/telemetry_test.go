package otel

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/cacheaside/cacheaside"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a Telemetry whose output a test can read.
type rig struct {
	*Telemetry
	t       *testing.T
	reader  *sdkmetric.ManualReader
	spans   *tracetest.SpanRecorder
	callers trace.Tracer
}

func newRig(t *testing.T, o Options) *rig {
	t.Helper()
	r := &rig{t: t, reader: sdkmetric.NewManualReader(), spans: tracetest.NewSpanRecorder()}
	traces := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r.spans))
	o.MeterProvider, o.TracerProvider = sdkmetric.NewMeterProvider(sdkmetric.WithReader(r.reader)), traces
	var err error
	r.Telemetry, err = New(o)
	require.NoError(t, err)
	r.callers = traces.Tracer("callers")
	return r
}

// cache returns a cache that is exported.
func (r *rig) cache(cfg cacheaside.Config, opts ...cacheaside.Option) *cacheaside.Client[string] {
	r.t.Helper()
	cfg.Name = "users"
	c, err := cacheaside.NewMemory[string](cfg, append(opts, cacheaside.WithObserver(r.Telemetry))...)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { require.NoError(r.t, c.Close()) })
	r.Add(c)
	return c
}

// metrics returns what is exported, as text: name and attributes, and the value or the count.
func (r *rig) metrics() map[string]int64 {
	r.t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(r.t, r.reader.Collect(context.Background(), &all))
	values := make(map[string]int64)
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					values[m.Name+describe(p.Attributes)] = p.Value
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					values[m.Name+describe(p.Attributes)] = int64(p.Count)
				}
			default:
				require.Failf(r.t, "unexpected", "%s is a %T", m.Name, m.Data)
			}
		}
	}
	return values
}

func describe(set attribute.Set) string {
	return " " + set.Encoded(attribute.DefaultEncoder())
}

func give(value string, err error) cacheaside.FetchFunc[string] {
	return func(context.Context, string) (string, error) { return value, err }
}

func TestMetricsTellWhatACacheDid(t *testing.T) {
	r := newRig(t, Options{})
	c := r.cache(cacheaside.Config{NegativeTTL: time.Hour})
	for range 3 {
		_, _ = c.GetWithFetch(t.Context(), "secret", time.Hour, give("v", nil))
		_, _ = c.GetWithFetch(t.Context(), "none", time.Hour, give("", cacheaside.ErrNotFound))
	}
	_, _ = c.GetWithFetch(t.Context(), "bad", time.Hour, give("", errors.New("secret")))
	_, _ = c.GetWithFetch(t.Context(), "bad", time.Hour, func(context.Context, string) (string, error) { panic("secret") })
	got := r.metrics()
	for name, want := range map[string]int64{
		"cacheaside.lookups cacheaside.cache.name=users,cacheaside.lookup.result=hit":                            4,
		"cacheaside.lookups cacheaside.cache.name=users,cacheaside.lookup.result=miss":                           4,
		"cacheaside.lookups cacheaside.cache.name=users,cacheaside.lookup.result=joined":                         0,
		"cacheaside.negative_hits cacheaside.cache.name=users":                                                   2,
		"cacheaside.fetches cacheaside.cache.name=users":                                                         4,
		"cacheaside.failed_fetches cacheaside.cache.name=users":                                                  2,
		"cacheaside.entries cacheaside.cache.name=users":                                                         2,
		"cacheaside.max_entries cacheaside.cache.name=users":                                                     100_000,
		"cacheaside.flights cacheaside.cache.name=users":                                                         0,
		"cacheaside.backend.up cacheaside.cache.name=users":                                                      1,
		"cacheaside.fetch.duration cacheaside.cache.name=users,cacheaside.fetch.outcome=ok":                      1,
		"cacheaside.fetch.duration cacheaside.cache.name=users,cacheaside.fetch.outcome=not_found":               1,
		"cacheaside.fetch.duration cacheaside.cache.name=users,cacheaside.fetch.outcome=error,error.type=_OTHER": 1,
		"cacheaside.fetch.duration cacheaside.cache.name=users,cacheaside.fetch.outcome=panic,error.type=panic":  1,
	} {
		require.Contains(t, got, name)
		require.Equal(t, want, got[name], name)
	}
	for name := range got {
		require.NotContains(t, name, "secret")
	}
	r.Remove("users")
	require.NotContains(t, r.metrics(), "cacheaside.entries cacheaside.cache.name=users")
}

func TestNamesAndUnitsFollowTheConventions(t *testing.T) {
	r := newRig(t, Options{})
	c := r.cache(cacheaside.Config{})
	_, _ = c.GetWithFetch(t.Context(), "k", time.Hour, give("v", nil))
	var all metricdata.ResourceMetrics
	require.NoError(t, r.reader.Collect(t.Context(), &all))
	require.Len(t, all.ScopeMetrics, 1)
	require.Equal(t, scope, all.ScopeMetrics[0].Scope.Name)
	require.Len(t, all.ScopeMetrics[0].Metrics, len(counters)+len(levels)+2)
	for _, m := range all.ScopeMetrics[0].Metrics {
		require.Regexp(t, `^cacheaside(\.[a-z]+(_[a-z]+)*)+$`, m.Name)
		require.NotRegexp(t, `total|count$`, m.Name, "the kind of instrument says that")
		require.Regexp(t, `^(s|1|\{[a-z]+\})$`, m.Unit)
		require.NotEmpty(t, m.Description)
		if sum, ok := m.Data.(metricdata.Sum[int64]); ok {
			isLevel := false
			for _, l := range levels {
				isLevel = isLevel || l.name == m.Name
			}
			require.Equal(t, !isLevel, sum.IsMonotonic, m.Name)
		}
	}
}

// fake is a Cache whose figures a test sets.
type fake struct {
	backend    string
	maxEntries int
	stats      cacheaside.Stats
}

func (f *fake) Config() cacheaside.Config {
	return cacheaside.Config{Name: "users", Backend: f.backend, MaxEntries: f.maxEntries}
}

func (f *fake) Stats() cacheaside.Stats { return f.stats }

func TestEveryStatisticIsExported(t *testing.T) {
	stats := reflect.TypeFor[cacheaside.Stats]()
	for i := range stats.NumField() {
		r, f := newRig(t, Options{}), &fake{}
		r.Add(f)
		before := r.metrics()
		require.NotContains(t, before, "cacheaside.max_entries cacheaside.cache.name=users")
		switch field := reflect.ValueOf(&f.stats).Elem().Field(i); field.Kind() {
		case reflect.Bool:
			field.SetBool(true)
		case reflect.Int:
			field.SetInt(7)
		default:
			field.SetUint(7)
		}
		require.NotEqual(t, before, r.metrics(), stats.Field(i).Name)
	}
}

func TestBoundIsExportedOnlyOfBackendsThatKeepEntriesInTheProcess(t *testing.T) {
	for backend, kept := range map[string]bool{
		cacheaside.BackendMemory:       true,
		cacheaside.BackendRueidisAside: true,
		cacheaside.BackendRueidis:      false,
		cacheaside.BackendNoop:         false,
	} {
		r := newRig(t, Options{})
		r.Add(&fake{backend: backend, maxEntries: 100})
		_, exported := r.metrics()["cacheaside.max_entries cacheaside.cache.name=users"]
		require.Equal(t, kept, exported, backend)
	}
}

func TestClosedTelemetryCountsNoMore(t *testing.T) {
	r := newRig(t, Options{})
	r.cache(cacheaside.Config{})
	require.NotEmpty(t, r.metrics())
	require.NoError(t, r.Close())
	require.Empty(t, r.metrics())
}

// ended returns the span of this name that has ended.
func (r *rig) ended(name string) sdktrace.ReadOnlySpan {
	r.t.Helper()
	for _, s := range r.spans.Ended() {
		if s.Name() == name {
			return s
		}
	}
	require.Failf(r.t, "no span", "%s", name)
	return nil
}

func attributesOf(s sdktrace.ReadOnlySpan) string {
	return describe(attribute.NewSet(s.Attributes()...))
}

func linked(s sdktrace.ReadOnlySpan) (to []trace.SpanID) {
	for _, l := range s.Links() {
		to = append(to, l.SpanContext.SpanID())
	}
	return to
}

func TestSpanOfAFetchBelongsToItsStarterAndLinksThoseWhoJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		c := r.cache(cacheaside.Config{})
		var inside trace.SpanContext
		slow := func(ctx context.Context, _ string) (string, error) {
			inside = trace.SpanContextFromContext(ctx)
			<-time.After(time.Second)
			return "v", nil
		}
		for i := range 3 {
			go func() {
				ctx, span := r.callers.Start(t.Context(), fmt.Sprint("caller", i))
				defer span.End()
				_, _ = c.GetWithFetch(ctx, "secret", time.Hour, slow)
			}()
			synctest.Wait()
		}
		<-time.After(2 * time.Second)
		synctest.Wait()
		fetch, starter := r.ended("fetch users"), r.ended("caller0")
		require.Equal(t, fetch.SpanContext().SpanID(), inside.SpanID(), "what the source does is part of the span")
		require.Equal(t, starter.SpanContext().SpanID(), fetch.Parent().SpanID())
		require.Equal(t, starter.SpanContext().TraceID(), fetch.SpanContext().TraceID())
		require.Equal(t, []trace.SpanID{r.ended("caller1").SpanContext().SpanID(), r.ended("caller2").SpanContext().SpanID()}, linked(fetch))
		require.Equal(t, []trace.SpanID{fetch.SpanContext().SpanID()}, linked(r.ended("caller1")))
		require.Empty(t, linked(starter))
		require.Equal(t, " cacheaside.cache.name=users,cacheaside.fetch.background=false,cacheaside.fetch.joined=2,cacheaside.fetch.outcome=ok", attributesOf(fetch))
		require.Equal(t, codes.Unset, fetch.Status().Code)
		require.Equal(t, time.Second, fetch.EndTime().Sub(fetch.StartTime()))
	})
}

func TestRefreshInTheBackgroundIsATraceOfItsOwnLinkedToItsStarter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		c := r.cache(cacheaside.Config{StaleFor: time.Hour})
		require.NoError(t, c.Set(t.Context(), "k", "old", time.Second))
		<-time.After(2 * time.Second)
		ctx, span := r.callers.Start(t.Context(), "caller")
		_, err := c.GetWithFetch(ctx, "k", time.Minute, give("new", nil))
		require.NoError(t, err)
		span.End()
		synctest.Wait()
		fetch := r.ended("fetch users")
		require.False(t, fetch.Parent().IsValid())
		require.NotEqual(t, span.SpanContext().TraceID(), fetch.SpanContext().TraceID())
		require.Equal(t, []trace.SpanID{span.SpanContext().SpanID()}, linked(fetch))
		require.Contains(t, attributesOf(fetch), "cacheaside.fetch.background=true")
	})
}

func TestFetchWhoseContextWasReplacedIsLinkedToItsStarter(t *testing.T) {
	r := newRig(t, Options{})
	c := r.cache(cacheaside.Config{}, cacheaside.WithFetchContext(func(context.Context) context.Context { return context.Background() }))
	ctx, span := r.callers.Start(t.Context(), "caller")
	_, err := c.GetWithFetch(ctx, "k", time.Minute, give("v", nil))
	require.NoError(t, err)
	span.End()
	fetch := r.ended("fetch users")
	require.False(t, fetch.Parent().IsValid())
	require.Equal(t, []trace.SpanID{span.SpanContext().SpanID()}, linked(fetch))
}

func TestFailedFetchIsAnErrorWithoutItsTextUnlessTold(t *testing.T) {
	for _, told := range []bool{false, true} {
		r := newRig(t, Options{RecordErrors: told})
		c := r.cache(cacheaside.Config{})
		_, err := c.GetWithFetch(t.Context(), "k", time.Minute, give("", errors.New("a secret")))
		require.Error(t, err)
		fetch := r.ended("fetch users")
		require.Equal(t, sdktrace.Status{Code: codes.Error, Description: "error"}, fetch.Status())
		require.Contains(t, attributesOf(fetch), "error.type=_OTHER")
		if told {
			require.Len(t, fetch.Events(), 1)
		} else {
			require.Empty(t, fetch.Events())
		}
	}
	r := newRig(t, Options{})
	_, err := r.cache(cacheaside.Config{}).GetWithFetch(t.Context(), "k", time.Minute, give("", cacheaside.ErrNotFound))
	require.ErrorIs(t, err, cacheaside.ErrNotFound)
	require.Equal(t, codes.Unset, r.ended("fetch users").Status().Code)
}

func TestLinksOfABurstAreBounded(t *testing.T) {
	r := newRig(t, Options{})
	ctx, fetch := r.TraceFetch(t.Context(), cacheaside.FetchInfo{Cache: "users", Starter: t.Context()})
	for range 3 * maxLinks {
		caller, span := r.callers.Start(t.Context(), "caller")
		fetch.Joined(caller)
		span.End()
	}
	fetch.Joined(t.Context()) // a caller without a span
	fetch.End(cacheaside.Event{Cache: "users"})
	require.True(t, trace.SpanContextFromContext(ctx).IsValid())
	require.Len(t, r.ended("fetch users").Links(), maxLinks)
	require.Contains(t, attributesOf(r.ended("fetch users")), "cacheaside.fetch.joined=301")
}
