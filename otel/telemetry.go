// Package otel exports what caches do to OpenTelemetry: metrics, and a span for each fetch with links to all
// the callers who waited for it. Its name is that of the API too, so import it under another one:
//
//	import cacheotel "github.com/cacheaside/cacheaside/otel"
//
//	telemetry, err := cacheotel.New(cacheotel.Options{})
//	users, err := cacheaside.NewMemory[User](cfg, cacheaside.WithObserver(telemetry))
//	telemetry.Add(users)
//
// The attribute cacheaside.cache.name is the cache's name; no attribute holds a key. Counters are read from a
// cache when they are collected, so they cost it nothing.
package otel

import (
	"context"
	"fmt"
	"sync"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/cacheaside/cacheaside"
)

// scope is the instrumentation scope of all that is exported.
const scope = "github.com/cacheaside/cacheaside/otel"

// Cache is what is exported; every [cacheaside.Client] is one.
type Cache interface {
	Config() cacheaside.Config
	Stats() cacheaside.Stats
}

// Options configures a Telemetry.
type Options struct {
	// MeterProvider makes the metrics. Defaults to the global one.
	MeterProvider metric.MeterProvider

	// TracerProvider makes the spans. Defaults to the global one.
	TracerProvider trace.TracerProvider

	// RecordErrors puts the errors of fetches on their spans. Their texts are the source's, and may quote
	// keys and values. Defaults to false: a span tells only what kind of failure it was.
	RecordErrors bool
}

// Telemetry is an observer to be given to the caches that it exports: it measures how long their fetches
// take, and makes the spans.
type Telemetry struct {
	tracer       trace.Tracer
	recordErrors bool
	duration     metric.Float64Histogram
	registration metric.Registration
	attributes   sync.Map // of a fetch's duration: fetchKind to metric.MeasurementOption

	mu     sync.RWMutex
	caches map[string]Cache // by name
}

var (
	_ cacheaside.Observer    = (*Telemetry)(nil)
	_ cacheaside.FetchTracer = (*Telemetry)(nil)
)

// New returns a Telemetry of no caches. It returns an error if the meter provider refuses an instrument.
func New(o Options) (*Telemetry, error) {
	if o.MeterProvider == nil {
		o.MeterProvider = otel.GetMeterProvider()
	}
	if o.TracerProvider == nil {
		o.TracerProvider = otel.GetTracerProvider()
	}
	t := &Telemetry{
		tracer:       o.TracerProvider.Tracer(scope),
		recordErrors: o.RecordErrors,
		caches:       make(map[string]Cache),
	}
	if err := t.instrument(o.MeterProvider.Meter(scope)); err != nil {
		return nil, fmt.Errorf("cacheaside/otel: %w", err)
	}
	return t, nil
}

// Add exports c. Caches of one Telemetry need different names: a further one of the same name takes the
// first one's place.
func (t *Telemetry) Add(c Cache) {
	name := c.Config().Name
	t.mu.Lock()
	defer t.mu.Unlock()
	t.caches[name] = c
}

// Remove stops exporting the counters of the cache of this name.
func (t *Telemetry) Remove(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.caches, name)
}

// Close ends the export of counters.
func (t *Telemetry) Close() error { return t.registration.Unregister() }

// The attributes, in the style of the semantic conventions, which have none for caches.
const (
	cacheName  = attribute.Key("cacheaside.cache.name")
	result     = attribute.Key("cacheaside.lookup.result")
	outcome    = attribute.Key("cacheaside.fetch.outcome")
	background = attribute.Key("cacheaside.fetch.background")
	joined     = attribute.Key("cacheaside.fetch.joined")

	errorType = attribute.Key("error.type") // of the conventions
)

// fetchKind is what tells fetches apart.
type fetchKind struct{ cache, outcome string }

// Observe measures fetches.
func (t *Telemetry) Observe(e cacheaside.Event) {
	if e.Kind != cacheaside.EventFetch {
		return
	}
	kind := fetchKind{e.Cache, e.Outcome()}
	option, ok := t.attributes.Load(kind)
	if !ok {
		attributes := append(kind.ended(), cacheName.String(kind.cache))
		option, _ = t.attributes.LoadOrStore(kind, metric.WithAttributeSet(attribute.NewSet(attributes...)))
	}
	t.duration.Record(context.Background(), e.Duration.Seconds(), option.(metric.MeasurementOption))
}

// ended is what is said of how a fetch ended.
func (k fetchKind) ended() []attribute.KeyValue {
	attributes := []attribute.KeyValue{outcome.String(k.outcome)}
	switch k.outcome {
	case "ok", "not_found":
		return attributes
	case "error":
		return append(attributes, errorType.String("_OTHER")) // as the conventions have it for what has no name
	}
	return append(attributes, errorType.String(k.outcome))
}
