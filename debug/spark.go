package debug

import (
	"fmt"
	"html/template"
	"math"
	"strings"
	"time"
)

// The size of a picture, in its own units: it is stretched to the room that it gets.
const (
	sparkWidth  = 300.0
	sparkHeight = 56.0
	sparkPad    = 3.0 // room for the line's width above and below
)

// curve is one line of a picture: its values over time, NaN where there is none.
type curve struct {
	class  string // of the style sheet
	filled bool
	values []float64
}

// spark draws curves over the last ten minutes before now. The values go from 0 to top, or to the highest
// if top is 0. times and values are equally many. says is what the picture says, for who does not see it.
func spark(now time.Time, times []time.Time, top float64, says string, curves ...curve) template.HTML {
	if top == 0 {
		top = highest(curves...)
	}
	if top == 0 {
		top = 1
	}
	x := func(i int) float64 {
		ago := now.Sub(times[i]).Seconds() / keptFor.Seconds()
		return sparkWidth * (1 - min(max(ago, 0), 1))
	}
	y := func(v float64) float64 {
		return sparkHeight - sparkPad - (sparkHeight-2*sparkPad)*min(v/top, 1)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="spark" viewBox="0 0 %g %g" preserveAspectRatio="none" role="img" aria-label="%s">`,
		sparkWidth, sparkHeight, template.HTMLEscapeString(says))
	fmt.Fprintf(&b, `<line class="base" x1="0" x2="%g" y1="%g" y2="%g"/>`, sparkWidth, y(0), y(0))
	for _, c := range curves {
		for _, run := range runs(c.values) {
			draw(&b, c, run, x, y)
		}
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String())
}

// highest returns the highest value of curves, or 0 if there is none.
func highest(curves ...curve) (top float64) {
	for _, c := range curves {
		for _, v := range c.values {
			if v > top { // not NaN
				top = v
			}
		}
	}
	return top
}

// runs returns the stretches of values that are not interrupted by NaN, as pairs of first and end.
func runs(values []float64) (all [][2]int) {
	first := -1
	for i := 0; i <= len(values); i++ {
		there := i < len(values) && !math.IsNaN(values[i])
		switch {
		case there && first < 0:
			first = i
		case !there && first >= 0:
			all = append(all, [2]int{first, i})
			first = -1
		}
	}
	return all
}

func draw(b *strings.Builder, c curve, run [2]int, x func(int) float64, y func(float64) float64) {
	var path strings.Builder
	for i := run[0]; i < run[1]; i++ {
		verb := "L"
		if i == run[0] {
			verb = "M"
		}
		fmt.Fprintf(&path, "%s%.1f %.1f", verb, x(i), y(c.values[i]))
	}
	if run[1]-run[0] == 1 { // a line of no length, which its round ends make a dot
		path.WriteString("h0")
	}
	if c.filled {
		fmt.Fprintf(b, `<path class="%s area" d="%sL%.1f %.1fL%.1f %.1fZ"/>`, c.class, path.String(), x(run[1]-1), y(0), x(run[0]), y(0))
	}
	fmt.Fprintf(b, `<path class="%s line" d="%s"/>`, c.class, path.String())
}

// bar draws how much of a whole there is.
func bar(class string, part, whole float64, says string) template.HTML {
	share := 0.0
	if whole > 0 {
		share = 100 * min(part/whole, 1)
	}
	return template.HTML(fmt.Sprintf(
		`<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label="%s">`+
			`<rect class="rest" width="100" height="6"/><rect class="%s" width="%.1f" height="6"/></svg>`,
		template.HTMLEscapeString(says), class, share))
}
