// Package prometheus exports what caches do as Prometheus metrics. Its name is that of the client library
// too, so import it under another one:
//
//	import cacheprom "github.com/cacheaside/cacheaside/prometheus"
//
//	metrics := cacheprom.New(cacheprom.Options{})
//	registry.MustRegister(metrics)
//	users, err := cacheaside.NewMemory[User](cfg, cacheaside.WithObserver(metrics))
//	metrics.Add(users)
//
// The label cache is the cache's name; no metric holds a key. Counters are read from a cache when they are
// scraped, so they cost it nothing; as an observer, a Collector measures how long fetches take.
// dashboard.json, beside this file, shows it all in Grafana.
package prometheus

import (
	"maps"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cacheaside/cacheaside"
)

// Cache is what is exported; every [cacheaside.Client] is one.
type Cache interface {
	Config() cacheaside.Config
	Stats() cacheaside.Stats
}

// Options configures a Collector.
type Options struct {
	// ConstLabels are added to every metric. Defaults to none.
	ConstLabels prometheus.Labels

	// Buckets are the upper bounds, in seconds, of the histogram of fetch durations. Whoever scrapes native
	// histograms gets one in any case. Defaults to 14 of them, from half a millisecond to 10 seconds.
	Buckets []float64
}

// Collector is a [prometheus.Collector] to be registered, and an observer to be given to the caches that
// it exports: without that, it knows nothing of how long their fetches take.
type Collector struct {
	metrics  []metric
	duration *prometheus.HistogramVec

	mu      sync.RWMutex
	caches  map[string]Cache    // by name
	removed map[string]struct{} // names whose fetches are not measured until they are added again
}

var (
	_ prometheus.Collector = (*Collector)(nil)
	_ cacheaside.Observer  = (*Collector)(nil)
)

var defaultBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// New returns a Collector of no caches.
func New(o Options) *Collector {
	if len(o.Buckets) == 0 {
		o.Buckets = defaultBuckets
	}
	return &Collector{
		metrics: newMetrics(o.ConstLabels),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:                            "cacheaside_fetch_duration_seconds",
			Help:                            "How long calls of the source took, by how they ended: ok, not_found, error, timeout or panic.",
			ConstLabels:                     o.ConstLabels,
			Buckets:                         o.Buckets,
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: resetAfter,
		}, []string{"cache", "outcome"}),
		caches:  make(map[string]Cache),
		removed: make(map[string]struct{}),
	}
}

// Add exports c. Caches of one Collector need different names: a further one of the same name takes the
// first one's place.
func (c *Collector) Add(cache Cache) {
	name := cache.Config().Name
	c.mu.Lock()
	defer c.mu.Unlock()
	c.caches[name] = cache
	delete(c.removed, name)
}

// Remove stops exporting the cache of this name, and forgets how long its fetches took. Those that end later are
// not measured, until a cache of this name is added.
func (c *Collector) Remove(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.caches, name)
	// A fetch may outlive its cache's Close, and would bring the name back for as long as the process lives. The
	// names are kept rather than those that were added be asked for: an observer measures without Add too.
	c.removed[name] = struct{}{}
	c.duration.DeletePartialMatch(prometheus.Labels{"cache": name})
}

// Observe measures fetches.
func (c *Collector) Observe(e cacheaside.Event) {
	if e.Kind != cacheaside.EventFetch {
		return
	}
	c.mu.RLock() // until it is measured, so that Remove either comes first or takes it away again
	defer c.mu.RUnlock()
	if _, removed := c.removed[e.Cache]; !removed {
		c.duration.WithLabelValues(e.Cache, e.Outcome()).Observe(e.Duration.Seconds())
	}
}

// Describe is for the registry.
func (c *Collector) Describe(to chan<- *prometheus.Desc) {
	for _, m := range c.metrics {
		to <- m.desc
	}
	c.duration.Describe(to)
}

// Collect is for the registry.
func (c *Collector) Collect(to chan<- prometheus.Metric) {
	c.mu.RLock()
	caches := maps.Clone(c.caches) // since whoever reads from the channel must not hold up fetches
	c.mu.RUnlock()
	for name, cache := range caches {
		figures := figuresOf(cache)
		for _, m := range c.metrics {
			m.collect(to, name, &figures)
		}
	}
	c.duration.Collect(to)
}
