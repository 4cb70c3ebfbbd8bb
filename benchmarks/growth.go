package main

import (
	"fmt"
	"math"
	"runtime"
	"time"

	"github.com/cacheaside/cacheaside"
)

// runGrowth measures ours at sizes a thousand times apart.
func runGrowth(s settings) (report, error) {
	var r report
	t := table{
		Title: "Growth",
		Note: "Hits are uniform over all keys, one goroutine, so that beyond some thousand entries each is a handful of cache misses; " +
			"the plain map's cost grows by the same. " +
			"Bytes are those beyond key and value. In the last columns all entries expire at one moment, while a reader reads 1,000 others.",
		Columns: []string{
			"entries", "hit, ns", "plain map, ns", "hit over plain map", "bytes an entry", "gone after, s", "reader's p99.99, ms", "reader's worst, ms",
		},
	}
	var over, bytes, stalls []float64
	ratios, weights := panel{Title: "a hit, times a plain map's"}, panel{Title: "memory beyond key and value, of each entry", Unit: "bytes"}
	for _, entries := range pick(s, []int{10_000, 100_000, 1_000_000, 10_000_000}, []int{1_000, 10_000}) {
		keys := keyNames(entries)
		hit, plain, ratio := growthHits(s, keys)
		var f footprint
		weigh(&f, libraries[user]()[0], keys, newUser)
		e := allAtOnce(s, keys)
		over = append(over, ratio)
		bytes = append(bytes, median(f.bytes)-40)
		stalls = append(stalls, e.stalls.quantile(0.9999))
		name := grouped(int64(entries)) + " entries"
		ratios.Bars = append(ratios.Bars, bar{name, "", ratio, ours})
		weights.Bars = append(weights.Bars, bar{name, "", median(f.bytes) - 40, ours})
		t.Rows = append(t.Rows, []string{
			grouped(int64(entries)), figure(hit), figure(plain), fmt.Sprintf("%.2f", ratio), figure(median(f.bytes) - 40),
			figure(e.released), figure(e.stalls.quantile(0.9999)), figure(e.stalls.worst()),
		})
	}
	r.Tables = append(r.Tables, t)
	r.Charts = append(r.Charts, chart{File: "growth", Title: "Growth", Subtitle: "shorter is better, and the same length everywhere is the aim", Panels: []panel{ratios, weights}})
	last := len(over) - 1
	r.aim(over[last] <= 1.5*over[0], "growth, hit over plain map, first to last size", "grows at most by half", "%.2f to %.2f", over[0], over[last])
	r.aim(quantile(bytes, 1) <= 1.15*quantile(bytes, 0), "growth, bytes an entry", "within 15 %", "%.0f to %.0f", quantile(bytes, 0), quantile(bytes, 1))
	r.aim(stalls[last] <= max(0.5, 2*stalls[0]), "growth, p99.99 of a reader while all expires", "≤ 0.5 ms, or twice that of the first size", "%s ms to %s ms",
		figure(stalls[0]), figure(stalls[last]))
	return r, nil
}

func growthHits(s settings, keys []string) (hit, plain, ratio float64) {
	var t standing
	hits(s, &t, []contender[user]{libraries[user]()[0], plainMap[user]()}, newUser, keys, patterns[:1], []int{1})
	c := t.columns[0]
	return t.our(c).median(), t.of("plain map", c).median(), 1 / t.over("plain map", c)
}

// allAtOnce fills ours with entries that expire at one moment.
func allAtOnce(s settings, keys []string) ending {
	e := ending{released: math.Inf(1)}
	c := must(cacheaside.NewMemory[user](cacheaside.Config{MaxEntries: len(keys) + len(keys)/8 + 2000}))
	defer c.Close()
	h := handle[user]{
		get: func(key string) (user, bool) {
			v, err := c.Get(background, key)
			return v, err == nil
		},
		set: func(key string, u user) { _ = c.Set(background, key, u, hour) },
	}
	// Twice the time that the fill takes on an idle machine, and a little more.
	deadline := time.Now().Add(pick(s, 2*time.Second, 200*time.Millisecond) + time.Duration(len(keys))*2*time.Microsecond)
	for i, k := range keys {
		_ = c.Set(background, k, newUser(i), max(time.Millisecond, time.Until(deadline)))
	}
	runtime.GC()
	hot := make([]string, 1000)
	for i := range hot {
		hot[i] = keyName(len(keys) + i)
	}
	reader := startReader(h, hot)
	time.Sleep(time.Until(deadline))
	reader.reset()
	for end := deadline.Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		since := time.Since(deadline).Seconds()
		if c.Stats().Entries <= len(keys)/100+len(hot) {
			e.released = min(e.released, since)
			if since > pick(s, 2.0, 0.1) {
				break
			}
		}
	}
	e.stalls = reader.stop()
	return e
}
