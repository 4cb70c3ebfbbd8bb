package prometheus

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// dashboard is what a test looks at of the file for Grafana.
type dashboard struct {
	Panels []struct {
		Title   string
		GridPos struct{ X, Y, W, H int }
		Targets []struct{ Expr, LegendFormat string }
	}
	Templating struct {
		List []struct{ Name, Definition string }
	}
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	data, err := os.ReadFile("dashboard.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &d))
	require.NotEmpty(t, d.Panels)
	return d
}

// exported returns the labels of each series that a used cache exports, by its name.
func exported(t *testing.T) map[string][]string {
	t.Helper()
	families, err := used(t, Options{}).Gather()
	require.NoError(t, err)
	series := make(map[string][]string)
	for _, f := range families {
		labels := []string{"job", "instance"} // whoever scrapes adds these
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		series[f.GetName()] = labels
		if f.GetMetric()[0].GetHistogram() != nil {
			delete(series, f.GetName())
			series[f.GetName()+"_bucket"] = append(labels, "le")
			series[f.GetName()+"_count"], series[f.GetName()+"_sum"] = labels, labels
		}
	}
	return series
}

var (
	metricName = regexp.MustCompile(`cacheaside_[a-z_]+`)
	selector   = regexp.MustCompile(`(cacheaside_[a-z_]+)\{([^}]*)\}`)
	grouping   = regexp.MustCompile(`by \(([^)]*)\)`)
	variable   = regexp.MustCompile(`\$\{?([a-zA-Z_]+)`)
)

func TestDashboardUsesOnlyWhatIsExported(t *testing.T) {
	d, series := readDashboard(t), exported(t)
	var expressions []string
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			expressions = append(expressions, target.Expr)
		}
	}
	known := map[string]bool{"__rate_interval": true}
	for _, v := range d.Templating.List {
		known[v.Name] = true
		if v.Definition != "" {
			expressions = append(expressions, v.Definition)
		}
	}
	for _, e := range expressions {
		require.Equal(t, strings.Count(e, "("), strings.Count(e, ")"), e)
		names := metricName.FindAllString(e, -1)
		require.NotEmpty(t, names, e)
		all := make(map[string]bool)
		for _, name := range names {
			require.Contains(t, series, name, e)
			for _, l := range series[name] {
				all[l] = true
			}
		}
		for _, s := range selector.FindAllStringSubmatch(e, -1) {
			for part := range strings.SplitSeq(s[2], ",") {
				label, _, _ := strings.Cut(part, "=")
				require.Contains(t, series[s[1]], label, e)
			}
		}
		for _, g := range grouping.FindAllStringSubmatch(e, -1) {
			for label := range strings.SplitSeq(g[1], ", ") {
				require.True(t, all[label], "%s in %s", label, e)
			}
		}
		for _, v := range variable.FindAllStringSubmatch(e, -1) {
			require.True(t, known[v[1]], "%s in %s", v[1], e)
		}
	}
}

func TestDashboardShowsEveryMetric(t *testing.T) {
	data, err := os.ReadFile("dashboard.json")
	require.NoError(t, err)
	for name := range exported(t) {
		if strings.HasSuffix(name, "_sum") {
			continue // of the histogram, the buckets and the count are shown
		}
		require.True(t, regexp.MustCompile(name+`\b`).Match(data), name)
	}
}

func TestPanelsOfTheDashboardDoNotOverlap(t *testing.T) {
	taken := make(map[[2]int]string)
	for _, p := range readDashboard(t).Panels {
		require.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24, p.Title)
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				require.Empty(t, taken[at], p.Title)
				taken[at] = p.Title
			}
		}
	}
}
