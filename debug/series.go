package debug

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/cacheaside/cacheaside"
)

// series is one cache and what became of it in the last ten minutes.
type series struct {
	cache Cache

	sampling sync.Mutex // held by who samples keys; guards keys and sampled
	keys     cacheaside.KeySample
	sampled  time.Time // when keys was taken

	mu      sync.Mutex
	samples []sample  // the oldest first; the first has no histogram of its own
	latency histogram // of the fetches since the last sample
}

// sample is what was counted by a moment.
type sample struct {
	at      time.Time
	stats   cacheaside.Stats
	latency histogram // of the fetches since the sample before
}

const (
	sampleEvery = 5 * time.Second
	keptFor     = 10 * time.Minute
)

func newSeries(c Cache, now time.Time) *series {
	return &series{cache: c, samples: []sample{{at: now, stats: c.Stats()}}}
}

// fetched counts a fetch, and takes a sample if it is time for one.
func (s *series) fetched(took time.Duration, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latency.add(took)
	s.sampleLocked(now)
}

// sampleLocked takes a sample unless the last one is not long ago.
func (s *series) sampleLocked(now time.Time) {
	if now.Sub(s.samples[len(s.samples)-1].at) < sampleEvery {
		return
	}
	s.samples = append(s.samples, s.currentLocked(now))
	s.latency = histogram{}
	s.samples = append(s.samples[:0], recentOf(s.samples, now)...)
}

// recentOf leaves out what is long ago: of the samples from before, only the last one is needed, to tell
// what has happened since.
func recentOf(samples []sample, now time.Time) []sample {
	for len(samples) > 2 && now.Sub(samples[1].at) > keptFor {
		samples = samples[1:]
	}
	return samples
}

func (s *series) currentLocked(now time.Time) sample {
	return sample{at: now, stats: s.cache.Stats(), latency: s.latency}
}

// The sampling of keys.
const (
	sampleFor  = 100 * time.Millisecond
	sampleKept = time.Second // for others who look at the page at the same time
	hotKeys    = 10
)

// hotKeys returns which keys were asked for most lately.
func (s *series) hotKeys(ctx context.Context) cacheaside.KeySample {
	s.sampling.Lock()
	defer s.sampling.Unlock()
	if time.Since(s.sampled) > sampleKept {
		s.keys = s.cache.SampleKeys(ctx, sampleFor, hotKeys)
		s.sampled = time.Now()
	}
	return s.keys
}

// upTo returns the samples up to now, which the last one of them is about.
func (s *series) upTo(now time.Time) []sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sampleLocked(now)
	samples := slices.Clone(recentOf(s.samples, now))
	if now.Sub(samples[len(samples)-1].at) >= time.Second {
		samples = append(samples, s.currentLocked(now))
	}
	return samples
}
