package debug

import (
	"crypto/sha256"
	_ "embed" // for the page's parts
	"encoding/base64"
	"html/template"
	"strconv"
	"time"

	"github.com/cacheaside/cacheaside"
)

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

//go:embed page.js
var pageJS string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"count":        count,
	"countInt":     countInt,
	"milliseconds": func(seconds float64) float64 { return seconds * 1e3 },
	"percent":      func(share float64) string { return percent(&share) },
	"heat": func(share, most float64) template.HTML {
		return bar("heat", share, most, "")
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

type countView struct {
	Name, Meaning string
	Value         uint64
}

func (h *Handler) view(r report) pageView {
	v := pageView{
		report: r,
		CSS:    template.CSS(pageCSS),
		JS:     template.JS(pageJS),
		Uptime: (time.Duration(r.UptimeSeconds) * time.Second).String(),
		Clear:  h.options.AllowClear, Keys: h.options.ShowKey != nil,
	}
	for i, c := range r.Caches {
		view := card{cacheReport: c, ID: "c" + strconv.Itoa(i), Tiles: gauge{r.Time, c}.tiles()}
		for _, n := range counters {
			view.Counters = append(view.Counters, countView{n.Name, n.Meaning, c.Counters[n.Name]})
		}
		v.Cards = append(v.Cards, view)
	}
	return v
}

// Room is how full this process's part of the cache is, as a picture; nothing if that has no bound.
func (c card) Room() template.HTML {
	if c.MaxEntries <= 0 {
		return ""
	}
	return bar("main", float64(c.Entries), float64(c.MaxEntries), "how full it is")
}

// Holds says how much this process holds of the cache, or who holds it.
func (c card) Holds() string {
	switch {
	case c.Backend == cacheaside.BackendRueidis:
		return "values are kept in Redis"
	case c.Backend == cacheaside.BackendNoop:
		return "nothing is kept"
	case c.MaxEntries > 0:
		return countInt(c.Entries) + " entries of " + countInt(c.MaxEntries)
	}
	return countInt(c.Entries) + " entries"
}

func countInt(n int) string { return count(uint64(max(n, 0))) }
