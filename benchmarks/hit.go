package main

import (
	"fmt"
	"math/rand"
	"slices"
	"time"
)

// procs are the GOMAXPROCS that measures in memory run with, and as many goroutines each.
var procs = []int{1, 2, 8}

// runHits measures look-ups of keys that are all there.
func runHits(s settings) (report, error) {
	var r report
	var structs, pointers, bytes standing
	keys := keyNames(universe)
	hits(s, &structs, append(libraries[user](), limits[user]()...), newUser, keys, patterns, procs)
	hits(s, &pointers, append(libraries[*user](), limits[*user]()...), newUserPointer, keys, patterns, procs)
	oursAlone := append(libraries[[]byte]()[:1], byteCaches()...)
	hits(s, &bytes, oursAlone, newUserBytes, keys, patterns[1:2], procs)

	note := fmt.Sprintf("A hit with %s entries cached, ns an operation over all goroutines together; in brackets how many times ours, "+
		"as the median over rounds. \"2 × Zipf\" is two goroutines at GOMAXPROCS 2.", grouped(universe))
	r.Tables = append(r.Tables,
		structs.table("Memory hit, struct values (24 bytes)", note),
		pointers.table("Memory hit, pointer values", note),
		bytes.table("Memory hit, byte values (24 bytes)", note))
	r.Charts = append(r.Charts, chart{
		File: "hit", Title: "A hit in memory", Subtitle: "ns an operation, shorter is better; 100,000 entries, Zipf 1.01, struct values",
		Panels: []panel{structs.panel("1 goroutine", "1 × Zipf 1.01", "ns"), structs.panel("2 goroutines on 2 cores", "2 × Zipf 1.01", "ns")},
	})
	for _, t := range []struct {
		name string
		*standing
	}{{"struct", &structs}, {"pointer", &pointers}} {
		aimAtHits(&r, t.name, t.standing)
	}
	return r, nil
}

// lives is how often the contenders of a measure are opened and filled anew. Where a map's memory happens
// to lie decides a good part of what a look-up costs, so no life's luck should decide a median.
const lives = 3

// hits measures the contenders for each number of procs and each pattern.
func hits[V any](s settings, t *standing, all []contender[V], value func(int) V, keys []string, patterns []pattern, procs []int) {
	sequences := make([]sequence, len(patterns))
	for i, p := range patterns {
		sequences[i] = newSequence(keys, p.next(rand.New(rand.NewSource(1)), len(keys)))
	}
	for _, n := range s.byLife(procs) {
		atProcs(n, func() {
			opened := openAll(all, setup[V]{capacity: 2 * len(keys), ttl: hour}, keys, value)
			defer closeAll(opened)
			for i, p := range patterns {
				measured := interleave(s.life(), subjects(opened, func(e *entrant[V]) func(int) time.Duration {
					return readers(n, sequences[i], e.get)
				}))
				t.add(fmt.Sprintf("%d × %s", n, p.name), labels(opened), measured)
			}
		})
	}
}

// byLife is procs, each as often as there are lives.
func (s settings) byLife(procs []int) (all []int) {
	for _, n := range procs {
		all = append(all, slices.Repeat([]int{n}, pick(s, lives, 1))...)
	}
	return all
}

// life returns the settings of one of several lives.
func (s settings) life() settings {
	if !s.short {
		s.rounds = max(1, s.rounds/lives)
	}
	return s
}

// readers returns a run in which so many goroutines look up the keys of a sequence, each from a place of
// its own on.
func readers[V any](goroutines int, sequence sequence, get func(string) (V, bool)) func(int) time.Duration {
	return func(operations int) time.Duration {
		start := rand.Intn(len(sequence))
		return parallel(goroutines, operations, func(g, n int) {
			at := (start + g*len(sequence)/goroutines) % len(sequence)
			for range n {
				if at++; at == len(sequence) {
					at = 0
				}
				get(sequence[at])
			}
		})
	}
}

// subjects makes a subject of each entrant.
func subjects[V any](opened []entrant[V], run func(*entrant[V]) func(int) time.Duration) []subject {
	var all []subject
	for i := range opened {
		all = append(all, subject{name: opened[i].name, run: run(&opened[i])})
	}
	return all
}

func labels[V any](opened []entrant[V]) []label {
	var all []label
	for _, e := range opened {
		all = append(all, label{e.name, e.less, e.rank})
	}
	return all
}

func aimAtHits(r *report, value string, t *standing) {
	var next, otter, coarse, plain []float64
	for _, c := range t.columns {
		_, over := t.fastestPeer(c)
		next = append(next, over)
		otter = append(otter, t.over("otter", c))
		coarse = append(coarse, t.over("otter (coarse clock)", c))
		plain = append(plain, 1/t.over("plain map", c))
	}
	what := "memory hit, " + value + " values, "
	r.aim(slices.Min(otter) >= 1.4, what+"beside otter", "≥ 1.4 × everywhere", "%s; with its coarse clock %s", span(otter), span(coarse))
	r.aim(slices.Min(next) >= 1, what+"beside the fastest bounded peer", "≥ 1 × everywhere", "%s", span(next))
	r.aim(slices.Max(plain) <= 1.7, what+"beside a plain map", "≤ 1.7 × its time everywhere", "%s", span(plain))
	r.aim(t.allocates() < 0.01, "memory hit, "+value+" values, allocations", "0", "%s", whole(t.allocates()))
}

// span tells the smallest and the largest of some ratios.
func span(ratios []float64) string {
	return fmt.Sprintf("%.2f to %.2f ×", slices.Min(ratios), slices.Max(ratios))
}
