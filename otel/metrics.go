package otel

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/cacheaside/cacheaside"
)

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

// counter is a count of what a cache did.
type counter struct {
	name, unit, description string
	of                      func(*figures) uint64
}

var counters = []counter{
	{
		"cacheaside.near_hits", "{hit}", "Hits that were answered without asking Redis.",
		func(f *figures) uint64 { return f.NearHits },
	},
	{
		"cacheaside.negative_hits", "{hit}", "Hits that were answered by a remembered \"not found\".",
		func(f *figures) uint64 { return f.Negatives },
	},
	{
		"cacheaside.stale_hits", "{lookup}", "Look-ups that were answered past the ttl.",
		func(f *figures) uint64 { return f.StaleHits },
	},
	{"cacheaside.fetches", "{fetch}", "Calls of the source.", func(f *figures) uint64 { return f.Fetches }},
	{
		"cacheaside.failed_fetches", "{fetch}", "Calls of the source that failed. That the source has none is no failure.",
		func(f *figures) uint64 { return f.FetchErrors },
	},
	{
		"cacheaside.refreshes", "{fetch}", "Calls of the source that were begun in the background.",
		func(f *figures) uint64 { return f.Refreshes },
	},
	{
		"cacheaside.refused_refreshes", "{fetch}", "Refreshes that were left out because too many were under way.",
		func(f *figures) uint64 { return f.RefreshesRefused },
	},
	{
		"cacheaside.queued_fetches", "{fetch}", "Fetches that waited for a place under MaxFetches.",
		func(f *figures) uint64 { return f.Queued },
	},
	{
		"cacheaside.overloaded_fetches", "{fetch}", "Fetches that found no place under MaxFetches.",
		func(f *figures) uint64 { return f.Overloaded },
	},
	{
		"cacheaside.stale_instead_hits", "{lookup}", "Look-ups that were answered past the ttl because a fetch found no place.",
		func(f *figures) uint64 { return f.StaleInstead },
	},
	{
		"cacheaside.observer_panics", "{panic}", "Panics of observers and of the log's handler, which were contained.",
		func(f *figures) uint64 { return f.ObserverPanics },
	},
	{
		"cacheaside.discarded_fills", "{value}", "Fetched values not stored because the key was set or deleted, or one of their tags invalidated, meanwhile.",
		func(f *figures) uint64 { return f.Discarded },
	},
	{
		"cacheaside.voided_lookups", "{lookup}", "Look-ups that found an entry which a tag has voided. They are misses.",
		func(f *figures) uint64 { return f.Voided },
	},
	{
		"cacheaside.repeated_lookups", "{lookup}", "Look-ups that waited for a fetch whose tags may have been invalidated meanwhile, and looked again.",
		func(f *figures) uint64 { return f.LookedAgain },
	},
	{
		"cacheaside.backend.invalidated_tags", "{tag}", "Tags that this process has invalidated, by any cache of the backend: each of them counts the same.",
		func(f *figures) uint64 { return f.TagsInvalidated },
	},
	{
		"cacheaside.feed.gaps", "{gap}", "How often a feed of the backend was lost. Each of its caches counts the same.",
		func(f *figures) uint64 { return f.FeedGaps },
	},
	{
		"cacheaside.feed.refs", "{ref}", "Keys and tags that feeds of the backend have told of. Each of its caches counts the same.",
		func(f *figures) uint64 { return f.FeedRefs },
	},
	{
		"cacheaside.unreadable_lookups", "{lookup}", "Look-ups that found stored bytes which cannot be read as a value of the cache.",
		func(f *figures) uint64 { return f.Unreadable },
	},
	{
		"cacheaside.unstorable_fills", "{value}", "Fetched values not stored because they could not be encoded or were too large.",
		func(f *figures) uint64 { return f.Unstorable },
	},
	{
		"cacheaside.backend.errors", "{operation}", "Operations that the backend did not answer, or refused.",
		func(f *figures) uint64 { return f.BackendErrors },
	},
	{
		"cacheaside.backend.write_errors", "{operation}", "Backend errors by which a Set, Delete or Clear was not confirmed.",
		func(f *figures) uint64 { return f.WriteErrors },
	},
	{
		"cacheaside.evictions", "{entry}", "Entries dropped for want of room.",
		func(f *figures) uint64 { return f.Evictions },
	},
	{
		"cacheaside.expirations", "{entry}", "Entries removed because they had expired.",
		func(f *figures) uint64 { return f.Expirations },
	},
	{
		"cacheaside.invalidations", "{entry}", "Entries of the near cache dropped because they had changed in Redis.",
		func(f *figures) uint64 { return f.Invalidations },
	},
}

// level is a number that goes up and down.
type level struct {
	name, unit, description string
	of                      func(*figures) int64
	known                   func(*figures) bool // nil: always
}

var levels = []level{
	{
		"cacheaside.entries", "{entry}", "Entries that this process holds.",
		func(f *figures) int64 { return int64(f.Entries) }, nil,
	},
	{
		"cacheaside.max_entries", "{entry}", "How many entries, or how much weight, this process may hold.",
		func(f *figures) int64 { return int64(f.maxEntries) }, func(f *figures) bool { return f.maxEntries > 0 },
	},
	{
		"cacheaside.flights", "{fetch}", "Fetches under way, or waiting for another process to fetch.",
		func(f *figures) int64 { return int64(f.Flights) }, nil,
	},
	{
		"cacheaside.feed.lost", "{feed}", "Feeds of the backend that are lost at present: its caches keep nothing.",
		func(f *figures) int64 { return int64(f.FeedsLost) }, nil,
	},
	{
		"cacheaside.feed.lag", "s", "How long the latest change has waited to be told by a feed of the backend, rounded up.",
		func(f *figures) int64 { return int64(f.FeedLag+999) / 1000 }, nil,
	},
	{"cacheaside.backend.up", "1", "1 if the backend answers, as far as is known; 0 if it is not asked until it answers a probe.", func(f *figures) int64 {
		if f.BackendDown {
			return 0
		}
		return 1
	}, nil},
}

// durationBounds are those that the semantic conventions give for the duration of a database's operations.
var durationBounds = []float64{0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10}

// instrument makes the instruments, and has them read when they are collected.
func (t *Telemetry) instrument(m metric.Meter) (err error) {
	t.duration, err = m.Float64Histogram("cacheaside.fetch.duration",
		metric.WithUnit("s"), metric.WithDescription("How long calls of the source took."),
		metric.WithExplicitBucketBoundaries(durationBounds...))
	errs := []error{err}
	lookups, err := m.Int64ObservableCounter("cacheaside.lookups",
		metric.WithUnit("{lookup}"), metric.WithDescription("Look-ups of a key."))
	errs = append(errs, err)
	all := []metric.Observable{lookups}
	counts := make([]metric.Int64ObservableCounter, len(counters))
	for i, c := range counters {
		counts[i], err = m.Int64ObservableCounter(c.name, metric.WithUnit(c.unit), metric.WithDescription(c.description))
		errs, all = append(errs, err), append(all, counts[i])
	}
	gauges := make([]metric.Int64ObservableUpDownCounter, len(levels))
	for i, l := range levels {
		gauges[i], err = m.Int64ObservableUpDownCounter(l.name, metric.WithUnit(l.unit), metric.WithDescription(l.description))
		errs, all = append(errs, err), append(all, gauges[i])
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	t.registration, err = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		t.each(func(name attribute.KeyValue, f *figures) {
			for value, n := range map[string]uint64{"hit": f.Hits, "miss": f.Misses, "joined": f.Joined} {
				o.ObserveInt64(lookups, int64(n), metric.WithAttributes(name, result.String(value)))
			}
			only := metric.WithAttributeSet(attribute.NewSet(name))
			for i, c := range counters {
				o.ObserveInt64(counts[i], int64(c.of(f)), only)
			}
			for i, l := range levels {
				if l.known == nil || l.known(f) {
					o.ObserveInt64(gauges[i], l.of(f), only)
				}
			}
		})
		return nil
	}, all...)
	return err
}

// each calls visit with the figures of each cache.
func (t *Telemetry) each(visit func(name attribute.KeyValue, f *figures)) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for name, c := range t.caches {
		f := figuresOf(c)
		visit(cacheName.String(name), &f)
	}
}
