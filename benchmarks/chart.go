package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// A chart is a picture of horizontal bars, in one panel or several below each other.
type chart struct {
	File     string // without the ending
	Title    string
	Subtitle string // which way is better, and the unit
	Log      bool   // bars show the logarithm
	Panels   []panel
}

// A panel is a group of bars with a scale of its own.
type panel struct {
	Title string
	Unit  string
	Bars  []bar
}

type bar struct {
	Name  string
	Note  string // what it does less of
	Value float64
	Rank  rank
}

// sorted returns p with its best bar first: the smallest, or the largest.
func (p panel) sorted(largest bool) panel {
	p.Bars = slices.Clone(p.Bars)
	slices.SortStableFunc(p.Bars, func(a, b bar) int {
		less := a.Value - b.Value
		if largest {
			less = -less
		}
		return int(math.Copysign(1, less))
	})
	return p
}

const (
	chartWidth = 760
	barsLeft   = 190
	barsRight  = 640
	barHeight  = 14
	rowHeight  = 30
)

// chartStyle makes the same picture readable on a light and on a dark page: nothing is painted behind it.
const chartStyle = `text{font:12px system-ui,-apple-system,"Segoe UI",sans-serif;fill:#24292f}
.title{font-size:16px;font-weight:600}.sub,.note{fill:#57606a}.note{font-size:10px}.panel{font-weight:600}
.ours{fill:#0a7d4f}.peer{fill:#6e8bb5}.loose{fill:#a9bbd4}.limit{fill:#c4c8cc}.oursText{font-weight:700}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.sub,.note{fill:#9aa4af}
.ours{fill:#2fbf85}.peer{fill:#6f93c8}.loose{fill:#4a6487}.limit{fill:#555c64}}`

var rankClass = [...]string{ours: "ours", peer: "peer", loose: "loose", limit: "limit"}

// svg draws the chart.
func (c chart) svg() string {
	var b strings.Builder
	y := 56
	for _, p := range c.Panels {
		y = c.drawPanel(&b, p, y)
	}
	var head strings.Builder
	fmt.Fprintf(&head, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">`+"\n",
		chartWidth, y, chartWidth, y, html.EscapeString(c.Title))
	fmt.Fprintf(&head, "<style>%s</style>\n", chartStyle)
	text(&head, 12, 24, "title", "start", c.Title)
	text(&head, 12, 43, "sub", "start", c.Subtitle)
	return head.String() + b.String() + "</svg>\n"
}

// drawPanel draws p from y on, and returns where it ends.
func (c chart) drawPanel(b *strings.Builder, p panel, y int) int {
	if p.Title != "" {
		text(b, 12, y+16, "panel", "start", p.Title)
		y += 26
	}
	most := 0.0
	for _, r := range p.Bars {
		most = max(most, r.Value)
	}
	for _, r := range p.Bars {
		class := rankClass[r.Rank]
		nameClass := ""
		if r.Rank == ours {
			nameClass = "oursText"
		}
		text(b, barsLeft-8, y+13, nameClass, "end", r.Name)
		length := max(1, c.length(r.Value, most))
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" rx="2" class="%s"/>`+"\n", barsLeft, y+2, length, barHeight, class)
		text(b, barsLeft+int(length)+6, y+13, nameClass, "start", figure(r.Value)+" "+p.Unit)
		if r.Note != "" {
			text(b, barsLeft, y+26, "note", "start", r.Note)
		}
		y += rowHeight
	}
	return y + 10
}

func (c chart) length(value, most float64) float64 {
	if most <= 0 {
		return 0
	}
	if c.Log {
		return math.Log1p(value) / math.Log1p(most) * (barsRight - barsLeft)
	}
	return value / most * (barsRight - barsLeft)
}

func text(b *strings.Builder, x, y int, class, anchor, s string) {
	fmt.Fprintf(b, `<text x="%d" y="%d" class="%s" text-anchor="%s">%s</text>`+"\n", x, y, class, anchor, html.EscapeString(s))
}

// figure prints a number with three digits that count.
func figure(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "–"
	case a >= 100 || v == 0:
		return grouped(int64(math.Round(v)))
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 0.1:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.2g", v)
	}
}

// grouped prints a whole number with commas between its thousands.
func grouped(n int64) string {
	if n < 0 {
		return "-" + grouped(-n)
	}
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", grouped(n/1000), n%1000)
}
