package debug

import (
	"cmp"
	"context"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/cacheaside/cacheaside"
)

// report is what the page shows, as JSON has it. Durations are in seconds.
type report struct {
	Time          time.Time     `json:"time"`
	UptimeSeconds float64       `json:"uptime_seconds"` // of the page
	GoVersion     string        `json:"go_version"`
	Caches        []cacheReport `json:"caches"` // by name
}

type cacheReport struct {
	Name        string            `json:"name"`
	Backend     string            `json:"backend"`
	BackendDown bool              `json:"backend_down"`
	FeedsLost   int               `json:"feeds_lost,omitempty"`
	FeedLag     int               `json:"feed_lag_ms,omitempty"`
	Config      string            `json:"config"`                // in the one-line form, without its password
	MaxEntries  int               `json:"max_entries,omitempty"` // 0 if the backend keeps none in this process
	Entries     int               `json:"entries"`               // in this process
	Flights     int               `json:"flights"`
	Counters    map[string]uint64 `json:"counters"`             // since the cache was made
	Recent      recent            `json:"recent"`               // of the last ten minutes
	History     []point           `json:"history"`              // the same, the oldest first
	KeySample   *keySample        `json:"key_sample,omitempty"` // nil unless keys are shown
}

// rates are what happened in a stretch of time. A ratio or a quantile of nothing is absent.
type rates struct {
	Seconds            float64  `json:"seconds"` // how long it was
	HitRatio           *float64 `json:"hit_ratio,omitempty"`
	LookupsPerSecond   float64  `json:"lookups_per_second"`
	FetchesPerSecond   float64  `json:"fetches_per_second"`
	EvictionsPerSecond float64  `json:"evictions_per_second"`
	FetchErrors        uint64   `json:"fetch_errors"`
	BackendErrors      uint64   `json:"backend_errors"`
	FetchP50           *float64 `json:"fetch_p50_seconds,omitempty"`
	FetchP99           *float64 `json:"fetch_p99_seconds,omitempty"`
}

type recent struct {
	rates
	FetchP90 *float64 `json:"fetch_p90_seconds,omitempty"`
}

// point is a stretch of the history.
type point struct {
	Time time.Time `json:"time"` // when it ended
	rates
	Flights int  `json:"flights"` // at its end
	Down    bool `json:"backend_down,omitempty"`
}

// keySample is which keys were asked for most in a moment.
type keySample struct {
	Lookups int      `json:"lookups"`
	Seconds float64  `json:"seconds"`
	Keys    []hotKey `json:"keys"` // the hottest first
}

type hotKey struct {
	Key   string  `json:"key"`
	Share float64 `json:"share"` // of the sample's look-ups
}

func (h *Handler) report(ctx context.Context) report {
	now := h.now()
	r := report{Time: now, UptimeSeconds: now.Sub(h.begun).Seconds(), GoVersion: runtime.Version()}
	h.mu.RLock()
	all := make([]*series, 0, len(h.caches))
	for _, s := range h.caches {
		all = append(all, s)
	}
	h.mu.RUnlock()
	r.Caches = make([]cacheReport, len(all))
	var done sync.WaitGroup
	for i, s := range all { // at once, since samples of keys take their time
		done.Go(func() { r.Caches[i] = h.reportOn(ctx, s, now) })
	}
	done.Wait()
	slices.SortFunc(r.Caches, func(a, b cacheReport) int { return cmp.Compare(a.Name, b.Name) })
	return r
}

func (h *Handler) reportOn(ctx context.Context, s *series, now time.Time) cacheReport {
	cfg, stats, samples := s.cache.Config(), s.cache.Stats(), s.upTo(now)
	r := cacheReport{
		Name: cfg.Name, Backend: cfg.Backend, BackendDown: stats.BackendDown, Config: cfg.String(),
		FeedsLost: stats.FeedsLost, FeedLag: stats.FeedLag,
		Entries: stats.Entries, Flights: stats.Flights,
		Counters: make(map[string]uint64), History: []point{},
	}
	if keepsEntries(cfg.Backend) {
		r.MaxEntries = cfg.MaxEntries
	}
	for _, c := range counters {
		r.Counters[c.Name] = c.of(&stats)
	}
	var total histogram
	for i := 1; i < len(samples); i++ {
		before, after := &samples[i-1], &samples[i]
		total.merge(&after.latency)
		r.History = append(r.History, point{
			Time: after.at, rates: between(before, after, &after.latency),
			Flights: after.stats.Flights, Down: after.stats.BackendDown,
		})
	}
	r.Recent.rates = between(&samples[0], &samples[len(samples)-1], &total)
	r.Recent.FetchP90 = quantile(&total, 0.9)
	if show := h.options.ShowKey; show != nil {
		sample := s.hotKeys(ctx)
		r.KeySample = &keySample{Lookups: sample.Lookups, Seconds: sample.Took.Seconds(), Keys: []hotKey{}}
		for _, k := range sample.Keys {
			share := float64(k.Lookups) / float64(sample.Lookups)
			r.KeySample.Keys = append(r.KeySample.Keys, hotKey{Key: show(cfg.Name, k.Key), Share: share})
		}
	}
	return r
}

// keepsEntries reports whether a backend keeps entries in this process.
func keepsEntries(backend string) bool {
	return backend == cacheaside.BackendMemory || backend == cacheaside.BackendRueidisAside
}

// between returns what happened from one sample to another, with the latencies of the fetches meanwhile.
func between(before, after *sample, latency *histogram) rates {
	b, a := &before.stats, &after.stats
	hits := a.Hits - b.Hits
	lookups := hits + a.Misses - b.Misses + a.Joined - b.Joined
	r := rates{
		Seconds:       after.at.Sub(before.at).Seconds(),
		FetchErrors:   a.FetchErrors - b.FetchErrors,
		BackendErrors: a.BackendErrors - b.BackendErrors,
		FetchP50:      quantile(latency, 0.5),
		FetchP99:      quantile(latency, 0.99),
	}
	if r.Seconds > 0 {
		r.LookupsPerSecond = float64(lookups) / r.Seconds
		r.FetchesPerSecond = float64(a.Fetches-b.Fetches) / r.Seconds
		r.EvictionsPerSecond = float64(a.Evictions-b.Evictions) / r.Seconds
	}
	if lookups > 0 {
		ratio := float64(hits) / float64(lookups)
		r.HitRatio = &ratio
	}
	return r
}

func quantile(h *histogram, q float64) *float64 {
	if h.total == 0 {
		return nil
	}
	seconds := h.quantile(q).Seconds()
	return &seconds
}

// counter is a count of [cacheaside.Stats] and what it means.
type counter struct {
	Name, Meaning string
	of            func(*cacheaside.Stats) uint64
}

var counters = []counter{
	{"hits", "look-ups answered by a kept entry", func(s *cacheaside.Stats) uint64 { return s.Hits }},
	{"near_hits", "of these, without asking Redis", func(s *cacheaside.Stats) uint64 { return s.NearHits }},
	{"negatives", "of these, by a remembered “not found”", func(s *cacheaside.Stats) uint64 { return s.Negatives }},
	{"misses", "look-ups that found nothing usable", func(s *cacheaside.Stats) uint64 { return s.Misses }},
	{"joined", "look-ups that waited for the fetch of another", func(s *cacheaside.Stats) uint64 { return s.Joined }},
	{"stale_hits", "look-ups answered past the ttl", func(s *cacheaside.Stats) uint64 { return s.StaleHits }},
	{"fetches", "calls of the source", func(s *cacheaside.Stats) uint64 { return s.Fetches }},
	{"fetch_errors", "of these, failed", func(s *cacheaside.Stats) uint64 { return s.FetchErrors }},
	{"refreshes", "fetches begun in the background", func(s *cacheaside.Stats) uint64 { return s.Refreshes }},
	{"refreshes_refused", "refreshes left out, too many under way", func(s *cacheaside.Stats) uint64 { return s.RefreshesRefused }},
	{"queued", "fetches that waited for a place under max_fetches", func(s *cacheaside.Stats) uint64 { return s.Queued }},
	{"overloaded", "fetches that found none", func(s *cacheaside.Stats) uint64 { return s.Overloaded }},
	{"stale_instead", "look-ups answered past the ttl for want of a place", func(s *cacheaside.Stats) uint64 { return s.StaleInstead }},
	{"observer_panics", "panics of observers, which were contained", func(s *cacheaside.Stats) uint64 { return s.ObserverPanics }},
	{"discarded", "fetched, not stored: set, deleted or invalidated meanwhile", func(s *cacheaside.Stats) uint64 { return s.Discarded }},
	{"tags_invalidated", "tags invalidated by this process, through any cache of the backend", func(s *cacheaside.Stats) uint64 { return s.TagsInvalidated }},
	{"voided", "look-ups that found an entry which a tag has voided", func(s *cacheaside.Stats) uint64 { return s.Voided }},
	{"looked_again", "look-ups that waited for a fetch, and looked again for its tags' sake", func(s *cacheaside.Stats) uint64 { return s.LookedAgain }},
	{"feed_gaps", "how often a feed of the backend was lost", func(s *cacheaside.Stats) uint64 { return s.FeedGaps }},
	{"feed_refs", "keys and tags that feeds of the backend have told of", func(s *cacheaside.Stats) uint64 { return s.FeedRefs }},
	{"unreadable", "look-ups that found bytes which cannot be read", func(s *cacheaside.Stats) uint64 { return s.Unreadable }},
	{"unstorable", "fetched, not stored: not encodable or too large", func(s *cacheaside.Stats) uint64 { return s.Unstorable }},
	{"backend_errors", "operations the backend did not answer, or refused", func(s *cacheaside.Stats) uint64 { return s.BackendErrors }},
	{"write_errors", "of these, a Set, Delete or Clear", func(s *cacheaside.Stats) uint64 { return s.WriteErrors }},
	{"evictions", "entries dropped for want of room", func(s *cacheaside.Stats) uint64 { return s.Evictions }},
	{"expirations", "entries removed when they had expired", func(s *cacheaside.Stats) uint64 { return s.Expirations }},
	{"invalidations", "near entries dropped, changed elsewhere", func(s *cacheaside.Stats) uint64 { return s.Invalidations }},
}
