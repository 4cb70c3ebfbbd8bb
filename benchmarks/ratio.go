package main

import (
	"fmt"
	"math"
	"runtime"
	"strconv"
	"sync"
)

// shares are the sizes of the caches, as parts of a trace's keys.
var shares = []float64{0.01, 0.05, 0.10, 0.25}

// A play is one trace played to one contender.
type play struct {
	trace     *trace
	capacity  int
	contender int // the number of contenders is Belady's optimum
	ratio     float64
}

// runRatios plays traces: a look-up, and a write when it missed.
func runRatios(s settings) (report, error) {
	var r report
	traces := syntheticTraces()
	if s.traces != "" {
		more, err := loadTraces(s.traces)
		if err != nil {
			return r, err
		}
		traces = append(more, traces...)
	}
	if s.short {
		for i := range traces {
			traces[i] = traces[i].first(20_000)
		}
	}
	all := ratioContenders()
	plays := playAll(traces, all)

	t := table{
		Title: "Hit ratio",
		Note: "Percent of a trace's requests that hit, a write following each miss, at sizes of 1 %, 5 %, 10 % and 25 % of the trace's keys. " +
			"Who works off reads or writes in the background is made to do it at once, so that the speed of the player does not matter. LRU is golang-lru's. " +
			"The optimum knows the future (Belady).",
		Columns: []string{"trace", "entries"},
	}
	for _, c := range all {
		t.Columns = append(t.Columns, c.name)
	}
	t.Columns = append(t.Columns, "optimum", "ours − best peer")
	sums := make([][]float64, len(all)+1)
	worst, worstAt := math.Inf(1), ""
	for i := 0; i < len(plays); i += len(all) + 1 {
		group := plays[i : i+len(all)+1]
		row := []string{group[0].trace.name, grouped(int64(group[0].capacity))}
		best := 0.0
		for j, p := range group {
			row = append(row, fmt.Sprintf("%.1f", 100*p.ratio))
			sums[j] = append(sums[j], 100*p.ratio)
			if j > 0 && j < len(all) {
				best = max(best, p.ratio)
			}
		}
		lead := 100 * (group[0].ratio - best)
		if lead < worst {
			worst, worstAt = lead, fmt.Sprintf("%s at %s", row[0], row[1])
		}
		t.Rows = append(t.Rows, append(row, fmt.Sprintf("%+.1f", lead)))
	}
	r.aimAtRatios(&t, all, sums, worst, worstAt)
	return r, nil
}

// aimAtRatios adds the means, the chart and the targets.
func (r *report) aimAtRatios(t *table, all []contender[uint32], sums [][]float64, worst float64, worstAt string) {
	row := []string{"**mean**", ""}
	picture := panel{Unit: "%"}
	bestPeer, bestName := 0.0, ""
	for j, sum := range sums {
		m := mean(sum)
		row = append(row, fmt.Sprintf("**%.1f**", m))
		if j == len(all) {
			picture.Bars = append(picture.Bars, bar{"Belady's optimum", "knows the future", m, limit})
			continue
		}
		picture.Bars = append(picture.Bars, bar{all[j].name, "", m, all[j].rank})
		if j > 0 && m > bestPeer {
			bestPeer, bestName = m, all[j].name
		}
	}
	own := mean(sums[0])
	t.Rows = append(t.Rows, append(row, fmt.Sprintf("**%+.1f**", own-bestPeer)))
	r.Tables = append(r.Tables, *t)
	r.Charts = append(r.Charts, chart{
		File: "ratio", Title: "Hit ratio", Panels: []panel{picture.sorted(true)},
		Subtitle: fmt.Sprintf("percent, longer is better; mean over %d traces at four sizes each", len(sums[0])/len(shares)),
	})
	r.aim(own > bestPeer, "hit ratio, mean over traces and sizes", "above every peer", "%.1f %%, best peer %.1f (%s)", own, bestPeer, bestName)
	r.aim(worst >= -2.5, "hit ratio, worst trace and size", "≤ 2.5 points under the best peer", "%+.1f (%s)", worst, worstAt)
}

// ratioContenders are the bounded caches with a policy of their own.
func ratioContenders() []contender[uint32] {
	var all []contender[uint32]
	for _, c := range libraries[uint32]() {
		switch c.name {
		case "golang-lru expirable":
			c.name = "LRU"
			all = append(all, c)
		case "cacheaside", "otter", "theine", "ristretto", "sturdyc":
			all = append(all, c)
		}
	}
	return all
}

// playAll plays every trace at every size to everybody, on all processors. Plays of one trace and size
// follow each other in the result, Belady's last.
func playAll(traces []trace, all []contender[uint32]) []play {
	var plays []play
	most := 0
	for i := range traces {
		most = max(most, traces[i].keys)
		for _, share := range shares {
			for c := range len(all) + 1 {
				plays = append(plays, play{&traces[i], max(1, int(share*float64(traces[i].keys))), c, 0})
			}
		}
	}
	keys := make([]string, most)
	for i := range keys {
		keys[i] = "key:" + strconv.Itoa(i)
	}
	work := make(chan *play)
	var done sync.WaitGroup
	for range runtime.NumCPU() {
		done.Go(func() {
			for p := range work {
				hits := 0
				if p.contender == len(all) {
					hits = belady(*p.trace, p.capacity)
				} else {
					hits = playTo(all[p.contender], p.trace, p.capacity, keys)
				}
				p.ratio = float64(hits) / float64(len(p.trace.requests))
			}
		})
	}
	for i := range plays {
		work <- &plays[i]
	}
	close(work)
	done.Wait()
	return plays
}

func playTo(c contender[uint32], t *trace, capacity int, keys []string) (hits int) {
	h := c.open(setup[uint32]{capacity: capacity, ttl: hour, exact: true})
	defer h.close()
	for _, k := range t.requests {
		if _, ok := h.get(keys[k]); ok {
			hits++
		} else {
			h.set(keys[k], k)
		}
	}
	return hits
}
