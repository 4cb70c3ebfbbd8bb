package prometheus

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cacheaside/cacheaside"
)

// resetAfter is how long a native histogram with too many buckets is kept before it begins anew.
const resetAfter = time.Hour

// figures are what metrics are made of.
type figures struct {
	cacheaside.Stats
	maxEntries int // not positive if there is no bound, or nothing in this process that it would bound
}

func figuresOf(c Cache) figures {
	f, cfg := figures{Stats: c.Stats()}, c.Config()
	if cfg.Backend == cacheaside.BackendMemory || cfg.Backend == cacheaside.BackendRueidisAside {
		f.maxEntries = cfg.MaxEntries
	}
	return f
}

// metric is one metric of each cache, or one for each value of a label.
type metric struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	values []value
}

type value struct {
	label string // "" if there is only one value
	of    func(*figures) float64
	known func(*figures) bool // nil: always
}

func (m *metric) collect(to chan<- prometheus.Metric, cache string, f *figures) {
	for _, v := range m.values {
		if v.known != nil && !v.known(f) {
			continue
		}
		labels := []string{cache}
		if v.label != "" {
			labels = append(labels, v.label)
		}
		to <- prometheus.MustNewConstMetric(m.desc, m.kind, v.of(f), labels...)
	}
}

func newMetrics(labels prometheus.Labels) []metric {
	define := func(kind prometheus.ValueType, name, help string, values []value, further ...string) metric {
		names := append([]string{"cache"}, further...)
		return metric{prometheus.NewDesc("cacheaside_"+name, help, names, labels), kind, values}
	}
	counter := func(name, help string, of func(*figures) uint64) metric {
		return define(prometheus.CounterValue, name+"_total", help, []value{{of: func(f *figures) float64 { return float64(of(f)) }}})
	}
	gauge := func(name, help string, of func(*figures) float64, known func(*figures) bool) metric {
		return define(prometheus.GaugeValue, name, help, []value{{of: of, known: known}})
	}
	return []metric{
		define(prometheus.CounterValue, "lookups_total", "Look-ups of a key, by their result: hit, miss, or joined to a fetch under way.", []value{
			{label: "hit", of: func(f *figures) float64 { return float64(f.Hits) }},
			{label: "miss", of: func(f *figures) float64 { return float64(f.Misses) }},
			{label: "joined", of: func(f *figures) float64 { return float64(f.Joined) }},
		}, "result"),
		counter("near_hits", "Hits that were answered without asking Redis.", func(f *figures) uint64 { return f.NearHits }),
		counter("negative_hits", "Hits that were answered by a remembered \"not found\".", func(f *figures) uint64 { return f.Negatives }),
		counter("stale_hits", "Look-ups that were answered past the ttl.", func(f *figures) uint64 { return f.StaleHits }),
		counter("fetches", "Calls of the source.", func(f *figures) uint64 { return f.Fetches }),
		counter("fetch_errors", "Calls of the source that failed. That the source has none is no failure.", func(f *figures) uint64 { return f.FetchErrors }),
		counter("refreshes", "Calls of the source that were begun in the background.", func(f *figures) uint64 { return f.Refreshes }),
		counter("refreshes_refused", "Refreshes that were left out because too many were under way.", func(f *figures) uint64 { return f.RefreshesRefused }),
		counter("fetches_queued", "Fetches that waited for a place under MaxFetches.", func(f *figures) uint64 { return f.Queued }),
		counter("fetches_overloaded", "Fetches that found no place under MaxFetches.", func(f *figures) uint64 { return f.Overloaded }),
		counter("hits_stale_instead", "Look-ups that were answered past the ttl because a fetch found no place.", func(f *figures) uint64 { return f.StaleInstead }),
		counter("observer_panics", "Panics of observers and of the log's handler, which were contained.", func(f *figures) uint64 { return f.ObserverPanics }),
		counter("fills_discarded", "Fetched values not stored because the key was set or deleted, or one of their tags invalidated, meanwhile.",
			func(f *figures) uint64 { return f.Discarded }),
		counter("lookups_voided", "Look-ups that found an entry which a tag has voided. They are misses.", func(f *figures) uint64 { return f.Voided }),
		counter("lookups_repeated", "Look-ups that waited for a fetch whose tags may have been invalidated meanwhile, and looked again.",
			func(f *figures) uint64 { return f.LookedAgain }),
		counter("tags_invalidated", "Tags that this process has invalidated, by any cache of the backend: each of them counts the same.",
			func(f *figures) uint64 { return f.TagsInvalidated }),
		counter("feed_gaps", "How often a feed of the backend was lost. Each of its caches counts the same.", func(f *figures) uint64 { return f.FeedGaps }),
		counter("feed_refs", "Keys and tags that feeds of the backend have told of. Each of its caches counts the same.",
			func(f *figures) uint64 { return f.FeedRefs }),
		counter("lookups_unreadable", "Look-ups that found stored bytes which cannot be read as a value of the cache.", func(f *figures) uint64 { return f.Unreadable }),
		counter("fills_unstorable", "Fetched values not stored because they could not be encoded or were too large.",
			func(f *figures) uint64 { return f.Unstorable }),
		counter("backend_errors", "Operations that the backend did not answer, or refused.", func(f *figures) uint64 { return f.BackendErrors }),
		counter("write_errors", "Backend errors by which a Set, Delete or Clear was not confirmed.", func(f *figures) uint64 { return f.WriteErrors }),
		counter("evictions", "Entries dropped for want of room.", func(f *figures) uint64 { return f.Evictions }),
		counter("expirations", "Entries removed because they had expired.", func(f *figures) uint64 { return f.Expirations }),
		counter("invalidations", "Entries of the near cache dropped because they had changed in Redis.", func(f *figures) uint64 { return f.Invalidations }),
		gauge("entries", "Entries that this process holds.", func(f *figures) float64 { return float64(f.Entries) }, nil),
		gauge("max_entries", "How many entries, or how much weight, this process may hold. Absent: any number, or the backend keeps none here.",
			func(f *figures) float64 { return float64(f.maxEntries) }, func(f *figures) bool { return f.maxEntries > 0 }),
		gauge("flights", "Fetches under way, or waiting for another process to fetch.", func(f *figures) float64 { return float64(f.Flights) }, nil),
		gauge("feeds_lost", "Feeds of the backend that are lost at present: its caches keep nothing.",
			func(f *figures) float64 { return float64(f.FeedsLost) }, nil),
		gauge("feed_lag_seconds", "How long the latest change has waited to be told by a feed of the backend.",
			func(f *figures) float64 { return float64(f.FeedLag) / 1000 }, nil),
		gauge("backend_up", "1 if the backend answers, as far as is known; 0 if it is not asked until it answers a probe.", func(f *figures) float64 {
			if f.BackendDown {
				return 0
			}
			return 1
		}, nil),
	}
}
