package debug

import (
	"fmt"
	"html/template"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/cacheaside/cacheaside"
)

// tile is a figure, and what it was like in the last ten minutes.
type tile struct {
	Label   string
	Value   string
	Detail  string
	Alarm   bool // it should worry who sees it
	Picture template.HTML
	Legend  []legend
	Peak    string // what the height of the picture stands for
}

type legend struct{ Class, Text string }

// gauge makes the tiles of a cache.
type gauge struct {
	now time.Time
	c   cacheReport
}

// trace is a line in a tile's picture.
type trace struct {
	class  string
	text   string // in the legend; "" if the picture has no other line
	filled bool
	of     func(point) float64
}

func (g gauge) tiles() []tile {
	tiles := []tile{g.hitRatio(), g.fetchTime(), g.lookups(), g.fetches(), g.underWay()}
	if keepsEntries(g.c.Backend) {
		tiles = append(tiles, g.evictions())
	}
	if g.c.Backend == cacheaside.BackendRueidis || g.c.Backend == cacheaside.BackendRueidisAside {
		tiles = append(tiles, g.backend())
	}
	return tiles
}

func (g gauge) hitRatio() tile {
	t := tile{Label: "Hit ratio", Value: percent(g.c.Recent.HitRatio), Detail: "all time " + percent(allTime(g.c.Counters))}
	return g.with(t, 1, func(float64) string { return "100 %" },
		trace{"main", "", true, func(p point) float64 { return orNaN(p.HitRatio) }})
}

func (g gauge) fetchTime() tile {
	t := tile{Label: "Fetch time", Value: seconds(g.c.Recent.FetchP50), Detail: "p99 " + seconds(g.c.Recent.FetchP99)}
	return g.with(t, 0, func(most float64) string { return seconds(&most) },
		trace{"second", "p99", false, func(p point) float64 { return orNaN(p.FetchP99) }},
		trace{"main", "p50", false, func(p point) float64 { return orNaN(p.FetchP50) }})
}

func (g gauge) lookups() tile {
	t := tile{Label: "Look-ups", Value: rate(g.c.Recent.LookupsPerSecond), Detail: count(total(g.c.Counters)) + " in all"}
	return g.with(t, 0, rate, trace{"main", "", true, func(p point) float64 { return p.LookupsPerSecond }})
}

func (g gauge) fetches() tile {
	failed := g.c.Recent.FetchErrors
	t := tile{Label: "Fetches", Value: rate(g.c.Recent.FetchesPerSecond), Detail: "none failed"}
	if failed > 0 {
		t.Detail, t.Alarm = count(failed)+" failed", true
	}
	return g.with(t, 0, rate,
		trace{"main", "all", true, func(p point) float64 { return p.FetchesPerSecond }},
		trace{"bad", "failed", false, func(p point) float64 { return perSecond(p.FetchErrors, p.Seconds) }})
}

func (g gauge) underWay() tile {
	t := tile{Label: "Under way", Value: count(uint64(g.c.Flights)), Detail: "fetches just now"}
	return g.with(t, 0, func(most float64) string { return count(uint64(most)) },
		trace{"main", "", true, func(p point) float64 { return float64(p.Flights) }})
}

func (g gauge) evictions() tile {
	t := tile{Label: "Evictions", Value: rate(g.c.Recent.EvictionsPerSecond), Detail: count(g.c.Counters["evictions"]) + " in all"}
	return g.with(t, 0, rate, trace{"second", "", true, func(p point) float64 { return p.EvictionsPerSecond }})
}

func (g gauge) backend() tile {
	failed := g.c.Recent.BackendErrors
	t := tile{Label: "Backend", Value: "up", Detail: "no errors", Alarm: g.c.BackendDown || g.c.FeedsLost > 0 || failed > 0}
	switch {
	case g.c.BackendDown:
		t.Value = "down"
	case g.c.FeedsLost > 0:
		t.Value = "feed lost"
	}
	if failed > 0 {
		t.Detail = count(failed) + " errors"
	}
	return g.with(t, 0, rate, trace{"bad", "", true, func(p point) float64 { return perSecond(p.BackendErrors, p.Seconds) }})
}

// with returns t with its picture, which goes up to top, or to the highest value if top is 0; peak says what
// that is. A line that never leaves the ground is left out.
func (g gauge) with(t tile, top float64, peak func(most float64) string, traces ...trace) tile {
	times := make([]time.Time, len(g.c.History))
	for i, p := range g.c.History {
		times[i] = p.Time
	}
	var curves []curve
	for _, tr := range traces {
		c := curve{class: tr.class, filled: tr.filled, values: make([]float64, len(g.c.History))}
		for i, p := range g.c.History {
			c.values[i] = tr.of(p)
		}
		if highest(c) == 0 && top == 0 {
			continue
		}
		curves = append(curves, c)
		if tr.text != "" {
			t.Legend = append(t.Legend, legend{tr.class, tr.text})
		}
	}
	if most := max(top, highest(curves...)); most > 0 {
		t.Peak = "to " + peak(most)
	}
	t.Picture = spark(g.now, times, top, t.Label+" over the last ten minutes, "+t.Peak, curves...)
	return t
}

func total(counters map[string]uint64) uint64 {
	return counters["hits"] + counters["misses"] + counters["joined"]
}

func allTime(counters map[string]uint64) *float64 {
	lookups := total(counters)
	if lookups == 0 {
		return nil
	}
	ratio := float64(counters["hits"]) / float64(lookups)
	return &ratio
}

func orNaN(v *float64) float64 {
	if v == nil {
		return math.NaN()
	}
	return *v
}

func perSecond(n uint64, seconds float64) float64 {
	if seconds <= 0 {
		return 0
	}
	return float64(n) / seconds
}

const nothing = "–"

func percent(v *float64) string {
	switch {
	case v == nil:
		return nothing
	case *v > 0.999 && *v < 1:
		return fmt.Sprintf("%.2f %%", math.Floor(*v*10000)/100) // never rounded to all
	}
	return fmt.Sprintf("%.1f %%", math.Floor(*v*1000)/10)
}

func seconds(v *float64) string {
	if v == nil {
		return nothing
	}
	switch s := *v; {
	case s < 1e-3:
		return fmt.Sprintf("%.0f µs", s*1e6)
	case s < 0.1:
		return fmt.Sprintf("%.1f ms", s*1e3)
	case s < 1:
		return fmt.Sprintf("%.0f ms", s*1e3)
	default:
		return fmt.Sprintf("%.1f s", s)
	}
}

func rate(perSecond float64) string {
	switch {
	case perSecond == 0:
		return "0 /s"
	case perSecond < 10:
		return fmt.Sprintf("%.2g /s", perSecond)
	}
	return count(uint64(perSecond+0.5)) + " /s"
}

// count writes a number with its thousands apart.
func count(n uint64) string {
	digits := strconv.FormatUint(n, 10)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteRune('\u202f') // a narrow space that does not break
		}
		b.WriteRune(d)
	}
	return b.String()
}
