package debug

import (
	"crypto/sha256"
	_ "embed" // for the page's parts
	"encoding/base64"
	"fmt"
	"html/template"
	"math"
	"strconv"
	"strings"
	"time"
)

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

//go:embed page.js
var pageJS string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"count":    count,
	"countInt": func(n int) string { return count(uint64(max(n, 0))) },
	"heat": func(heat int) template.HTML {
		return bar("heat", float64(heat), maxHeat, fmt.Sprintf("heat %d of %d", heat, maxHeat))
	},
}).Parse(pageHTML))

// policy returns the Content-Security-Policy of the page: its own style and script, told by their hashes,
// asking nobody but where it comes from, and nothing else.
func policy(forms bool) string {
	form := "'none'"
	if forms {
		form = "'self'"
	}
	return "default-src 'none'; style-src " + source(pageCSS) + "; script-src " + source(pageJS) +
		"; connect-src 'self'; form-action " + form + "; base-uri 'none'; frame-ancestors 'none'"
}

func source(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// pageView is what the template gets.
type pageView struct {
	report
	CSS    template.CSS
	JS     template.JS
	Uptime string
	Clear  bool
	Keys   bool
	Cards  []card
}

// card is one cache on the page.
type card struct {
	cacheReport
	ID       string // of its parts in the page, which must not depend on what its name has in it
	Tiles    []tile
	Counters []countView
}

// tile is a figure, and what it was like in the last ten minutes.
type tile struct {
	Label   string
	Value   string
	Detail  string
	Alarm   bool
	Picture template.HTML
	Legend  []legend
}

type legend struct{ Class, Text string }

type countView struct {
	Name, Meaning string
	Value         uint64
}

func (h *Handler) view(r report) pageView {
	v := pageView{
		report: r, CSS: template.CSS(pageCSS), JS: template.JS(pageJS),
		Uptime: (time.Duration(r.UptimeSeconds) * time.Second).String(),
		Clear:  h.options.AllowClear, Keys: h.options.ShowKey != nil,
	}
	for i, c := range r.Caches {
		view := card{cacheReport: c, ID: "c" + strconv.Itoa(i), Tiles: tiles(r.Time, c)}
		for _, n := range counters {
			view.Counters = append(view.Counters, countView{n.Name, n.Meaning, c.Counters[n.Name]})
		}
		v.Cards = append(v.Cards, view)
	}
	return v
}

func tiles(now time.Time, c cacheReport) []tile {
	times := make([]time.Time, len(c.History))
	for i, p := range c.History {
		times[i] = p.Time
	}
	over := func(of func(point) float64) []float64 {
		values := make([]float64, len(c.History))
		for i, p := range c.History {
			values[i] = of(p)
		}
		return values
	}
	draw := func(top float64, says string, curves ...curve) template.HTML {
		return spark(now, times, top, says+", over the last ten minutes", curves...)
	}
	ratio := tile{
		Label: "Hit ratio", Value: percent(c.Recent.HitRatio), Detail: "all time " + percent(allTime(c.Counters)),
		Picture: draw(1, "hit ratio", curve{"main", true, over(func(p point) float64 { return orNaN(p.HitRatio) })}),
	}
	lookups := tile{
		Label: "Look-ups", Value: rate(c.Recent.LookupsPerSecond), Detail: count(total(c.Counters)) + " in all",
		Picture: draw(0, "look-ups a second", curve{"main", true, over(func(p point) float64 { return p.LookupsPerSecond })}),
	}
	latency := tile{
		Label: "Fetch time", Value: seconds(c.Recent.FetchP50), Detail: "p90 " + seconds(c.Recent.FetchP90) + " · p99 " + seconds(c.Recent.FetchP99),
		Picture: draw(0, "how long fetches took",
			curve{"second", false, over(func(p point) float64 { return orNaN(p.FetchP99) })},
			curve{"main", false, over(func(p point) float64 { return orNaN(p.FetchP50) })}),
		Legend: []legend{{"main", "median"}, {"second", "p99"}},
	}
	fetches := tile{
		Label: "Fetches", Value: rate(c.Recent.FetchesPerSecond), Detail: failures(c.Recent.FetchErrors), Alarm: c.Recent.FetchErrors > 0,
		Picture: draw(0, "fetches a second, and failed ones",
			curve{"main", true, over(func(p point) float64 { return p.FetchesPerSecond })},
			curve{"bad", false, over(func(p point) float64 { return perSecond(p.FetchErrors, p.Seconds) })}),
		Legend: []legend{{"main", "all"}, {"bad", "failed"}},
	}
	flights := tile{
		Label: "Under way", Value: count(uint64(c.Flights)), Detail: "fetches at this moment",
		Picture: draw(0, "fetches under way", curve{"main", true, over(func(p point) float64 { return float64(p.Flights) })}),
	}
	evictions := tile{
		Label: "Evictions", Value: rate(c.Recent.EvictionsPerSecond), Detail: count(c.Counters["evictions"]) + " in all",
		Picture: draw(0, "evictions a second", curve{"second", true, over(func(p point) float64 { return p.EvictionsPerSecond })}),
	}
	return []tile{ratio, latency, lookups, fetches, flights, evictions, backend(c, draw, over)}
}

func backend(c cacheReport, draw func(float64, string, ...curve) template.HTML, over func(func(point) float64) []float64) tile {
	t := tile{Label: "Backend", Value: "up", Detail: count(c.Recent.BackendErrors) + " errors"}
	switch {
	case c.BackendDown:
		t.Value, t.Alarm = "down", true
	case c.Recent.BackendErrors > 0:
		t.Alarm = true
	}
	if c.Backend == "memory" || c.Backend == "noop" {
		t.Value, t.Detail = "in process", "cannot fail"
	}
	t.Picture = draw(0, "errors of the backend a second",
		curve{"bad", true, over(func(p point) float64 { return perSecond(p.BackendErrors, p.Seconds) })})
	return t
}

// Room is how full the cache is, as a picture; nothing if it has no bound.
func (c card) Room() template.HTML {
	if c.MaxEntries <= 0 || c.Entries == 0 && c.Backend != "memory" {
		return ""
	}
	return bar("main", float64(c.Entries), float64(c.MaxEntries), "how full it is")
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

func failures(n uint64) string {
	if n == 0 {
		return "none failed"
	}
	return count(n) + " failed"
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
