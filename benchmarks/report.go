package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// A report is what a section found out. It is kept as JSON, so that sections that are run one by one make
// up one set of figures.
type report struct {
	Section string
	Machine string
	Seconds float64
	Tables  []table
	Charts  []chart
	Targets []target
}

// A table is a table. Its first column holds the contenders.
type table struct {
	Title   string
	Note    string // what to know when reading it
	Columns []string
	Rows    [][]string
}

// A target is one that the project set itself, and what came of it.
type target struct {
	Measure  string
	Wanted   string
	Measured string
	Met      bool
}

func (r *report) aim(met bool, measure, wanted, measured string, args ...any) {
	r.Targets = append(r.Targets, target{measure, wanted, fmt.Sprintf(measured, args...), met})
}

func (r *report) save(folder string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, r.Section+".json"), text, 0o644)
}

// loadReports returns the reports in a folder, in the order of the sections.
func loadReports(folder string) ([]report, error) {
	var all []report
	for _, s := range sections {
		text, err := os.ReadFile(filepath.Join(folder, s.name+".json"))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var r report
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, fmt.Errorf("%s.json: %w", s.name, err)
		}
		all = append(all, r)
	}
	return all, nil
}

// publish prints what is in the folder, draws its charts, and puts the tables into the document.
func publish(folder, doc string) error {
	reports, err := loadReports(folder)
	if err != nil {
		return err
	}
	text := render(reports)
	fmt.Println(text)
	for _, r := range reports {
		for _, c := range r.Charts {
			if err := os.WriteFile(filepath.Join(folder, c.File+".svg"), []byte(c.svg()), 0o644); err != nil {
				return err
			}
		}
	}
	fmt.Fprintln(os.Stderr, "benchmarks: figures and charts are in", folder)
	if doc == "" {
		return nil
	}
	return replaceFigures(doc, text)
}

const (
	beginMark = "<!-- figures: begin -->"
	endMark   = "<!-- figures: end -->"
)

// replaceFigures puts text between the marks of a document.
func replaceFigures(doc, text string) error {
	old, err := os.ReadFile(doc)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(old), beginMark)
	_, after, ok2 := strings.Cut(rest, endMark)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no %s and %s", doc, beginMark, endMark)
	}
	return os.WriteFile(doc, []byte(before+beginMark+"\n\n"+text+"\n"+endMark+after), 0o644)
}

// render returns the reports as Markdown.
func render(reports []report) string {
	var b strings.Builder
	b.WriteString("### Targets\n\n")
	b.WriteString(targetTable(reports).markdown())
	for _, r := range reports {
		for _, t := range r.Tables {
			fmt.Fprintf(&b, "\n### %s\n\n", t.Title)
			if t.Note != "" {
				fmt.Fprintf(&b, "%s\n\n", t.Note)
			}
			b.WriteString(t.markdown())
		}
	}
	b.WriteString("\n### Runs\n\n")
	b.WriteString(runTable(reports).markdown())
	return b.String()
}

func targetTable(reports []report) table {
	t := table{Columns: []string{"measure", "target", "measured", "met"}}
	for _, r := range reports {
		for _, g := range r.Targets {
			met := "no"
			if g.Met {
				met = "yes"
			}
			t.Rows = append(t.Rows, []string{g.Measure, g.Wanted, g.Measured, met})
		}
	}
	return t
}

func runTable(reports []report) table {
	t := table{Columns: []string{"section", "seconds", "machine"}}
	for _, r := range reports {
		t.Rows = append(t.Rows, []string{r.Section, fmt.Sprintf("%.0f", r.Seconds), r.Machine})
	}
	return t
}

func (t table) markdown() string {
	var b strings.Builder
	line := func(cells []string) {
		b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
	}
	line(t.Columns)
	rule := make([]string, len(t.Columns))
	for i := range rule {
		rule[i] = "---"
	}
	line(rule)
	for _, row := range t.Rows {
		line(row)
	}
	return b.String()
}

// describeMachine says on what the figures were made, with the load that others put on it.
func describeMachine(s settings) string {
	timed := ""
	if s.cpu {
		timed = "processor time; "
	}
	return timed + fmt.Sprintf("%s, %d cores, load %s, %s %s/%s, %s", processor(), runtime.NumCPU(), load(), runtime.Version(),
		runtime.GOOS, runtime.GOARCH, time.Now().UTC().Format("2006-01-02 15:04"))
}

func processor() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, ok := strings.CutPrefix(lines.Text(), "model name"); ok {
			return strings.TrimLeft(name, "\t :")
		}
	}
	return runtime.GOARCH
}

// load is the load average over a minute: what is above the measure's own goroutines came from others.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}
