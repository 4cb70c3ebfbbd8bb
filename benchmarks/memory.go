package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"unsafe"
)

// A footprint is what a full cache weighs, and what it costs the garbage collector.
type footprint struct {
	bytes  []float64 // of heap an entry
	cycles []float64 // milliseconds of processor time that a collection takes
	pauses []float64 // milliseconds in which it stopped the program
	share  float64   // of the entries that were there at the end
}

// runMemory measures the heap and the collector with a million entries, each contender alone.
func runMemory(s settings) (report, error) {
	var r report
	entries := pick(s, 1_000_000, 20_000)
	keys := keyNames(entries)
	keyBytes := float64(len(keys[0]))
	structs := footprints(s, append(libraries[user](), plainMap[user](), nothing[user]()), keys, newUser)
	bytes := footprints(s, append(libraries[[]byte]()[:1], byteCaches()...), keys, newUserBytes)

	const keyHeader = float64(unsafe.Sizeof(""))
	value := float64(unsafe.Sizeof(user{}))
	beyond := func(f *footprint) float64 { return median(f.bytes) - keyHeader - value }
	t := table{
		Title: fmt.Sprintf("Memory and garbage collection, %s entries", grouped(int64(entries))),
		Note: "Heap an entry, with a string key (16 bytes, its text not counted) and a struct value of 24 bytes; beyond them; the processor time of a whole collection; the time in it that " +
			"the program stood still. Room for an eighth more. Each alone in the process; \"nothing\" is the collector's work on the keys that the measure itself holds.",
		Columns: []string{"", "bytes an entry", "beyond key and value", "collection, ms", "stopped, ms"},
	}
	chart := chart{
		File: "memory", Title: "Memory an entry", Panels: []panel{{Unit: "bytes"}},
		Subtitle: "bytes beyond key and value, shorter is better; " + grouped(int64(entries)) + " entries",
	}
	for _, f := range structs {
		row := []string{f.name, figure(median(f.bytes)), figure(beyond(&f.footprint)), figure(median(f.cycles)), figure(median(f.pauses))}
		if f.name == "nothing" {
			row[1], row[2] = "–", "–"
		} else if beyond(&f.footprint) > 0 {
			chart.Panels[0].Bars = append(chart.Panels[0].Bars, bar{f.name, f.less, beyond(&f.footprint), f.rank})
		}
		if f.share < 0.999 {
			row[0] += fmt.Sprintf(" (kept %.0f %%)", 100*f.share)
		}
		t.Rows = append(t.Rows, row)
	}
	chart.Panels[0] = chart.Panels[0].sorted(false)
	b := table{
		Title:   "Memory and garbage collection, byte values",
		Note:    "The same with values of 24 bytes in a slice. Heap an entry with everything, the text of the key too. Caches of bytes are allocated in advance.",
		Columns: []string{"", "bytes an entry", "collection, ms", "stopped, ms"},
	}
	for i, f := range bytes {
		total := median(f.bytes)
		if i == 0 {
			total += keyBytes // ours keeps the key that it was given; the others have copied it
		}
		b.Rows = append(b.Rows, []string{f.name, figure(total), figure(median(f.cycles)), figure(median(f.pauses))})
	}
	r.Tables = append(r.Tables, t, b)
	r.Charts = append(r.Charts, chart)
	own := beyond(&structs[0].footprint)
	r.aim(own <= 95, "bytes an entry beyond key and value, 1 M", "≤ 95", "%.0f", own)
	return r, nil
}

type weighed struct {
	label
	footprint
}

// nothing holds no entries: what is measured of it is what the measure itself adds.
func nothing[V any]() contender[V] {
	return contender[V]{"nothing", "", limit, func(setup[V]) handle[V] {
		return handle[V]{
			get:   func(string) (v V, ok bool) { return v, true },
			set:   func(string, V) {},
			close: func() {},
		}
	}}
}

func footprints[V any](s settings, all []contender[V], keys []string, value func(int) V) []weighed {
	found := make([]weighed, len(all))
	for range pick(s, 2, 1) {
		for _, i := range rand.Perm(len(all)) {
			found[i].label = label{all[i].name, all[i].less, all[i].rank}
			weigh(&found[i].footprint, all[i], keys, value)
		}
	}
	return found
}

// weigh opens a contender, fills it, and adds what it weighs.
func weigh[V any](f *footprint, c contender[V], keys []string, value func(int) V) {
	before := liveHeap()
	h := c.open(setup[V]{capacity: len(keys) + len(keys)/8, ttl: hour})
	h.fill(keys, value)
	for i := range min(len(keys), 1000) { // a table that grows little by little, as ours, comes to the end of that
		h.set(keys[i], value(i))
	}
	f.bytes = append(f.bytes, (liveHeap()-before)/float64(len(keys)))
	var cycles, pauses []float64
	for range 3 {
		took, paused := collect()
		cycles = append(cycles, took)
		pauses = append(pauses, paused)
	}
	f.cycles = append(f.cycles, median(cycles))
	f.pauses = append(f.pauses, median(pauses))
	f.share = h.share(keys)
	h.close()
	runtime.KeepAlive(h)
}

// liveHeap is what is alive on the heap. A collection frees what the one before found dead, so it takes two.
func liveHeap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// collect runs the garbage collector, and returns in milliseconds the processor time that it took, and for
// how long the program stood still.
func collect() (took, paused float64) {
	begun := cpuTime()
	runtime.GC()
	took = (cpuTime() - begun).Seconds() * 1e3
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return took, float64(m.PauseNs[(m.NumGC+255)%256]) / 1e6
}

// share is which part of the keys is there, going by a sample of them.
func (h *handle[V]) share(keys []string) float64 {
	found, asked := 0, 0
	for i := 0; i < len(keys); i += 97 {
		if _, ok := h.get(keys[i]); ok {
			found++
		}
		asked++
	}
	return float64(found) / math.Max(1, float64(asked))
}
