package main

import (
	"fmt"
	"math"
	"slices"
)

// A standing is a table in the making: contenders by what was measured of them.
type standing struct {
	columns []string
	rows    []standingRow
}

type standingRow struct {
	name, less string
	rank       rank
	cells      map[string]*series
}

// add enters the series of one column, or more of them if the column is there already.
func (t *standing) add(column string, who []label, measured []*series) {
	if !slices.Contains(t.columns, column) {
		t.columns = append(t.columns, column)
	}
	for i, s := range measured {
		row := t.row(who[i])
		if old := row.cells[column]; old != nil {
			old.join(s)
		} else {
			row.cells[column] = s
		}
	}
}

// A label is what a contender is called in a table.
type label struct {
	name, less string
	rank       rank
}

func (t *standing) row(who label) *standingRow {
	for i := range t.rows {
		if t.rows[i].name == who.name {
			return &t.rows[i]
		}
	}
	t.rows = append(t.rows, standingRow{who.name, who.less, who.rank, map[string]*series{}})
	return &t.rows[len(t.rows)-1]
}

// our returns our series in a column.
func (t *standing) our(column string) *series {
	for _, r := range t.rows {
		if r.rank == ours {
			return r.cells[column]
		}
	}
	return nil
}

// of returns a contender's series in a column, or nil.
func (t *standing) of(name, column string) *series {
	for _, r := range t.rows {
		if r.name == name {
			return r.cells[column]
		}
	}
	return nil
}

// over returns a contender's time over ours in a column: above 1 is slower than we are.
func (t *standing) over(name, column string) float64 {
	if s := t.of(name, column); s != nil {
		return s.ratio(t.our(column))
	}
	return math.NaN()
}

// fastestPeer returns the peer with a ttl and a bound that comes nearest to us, or is ahead, in a column.
func (t *standing) fastestPeer(column string) (name string, over float64) {
	over = math.Inf(1)
	for _, r := range t.rows {
		if r.rank != peer || r.cells[column] == nil {
			continue
		}
		if o := t.over(r.name, column); o < over {
			name, over = r.name, o
		}
	}
	return name, over
}

// allocates returns the most allocations that an operation of ours made, in any column.
func (t *standing) allocates() float64 {
	most := 0.0
	for _, c := range t.columns {
		most = max(most, t.our(c).allocs)
	}
	return most
}

// table shows for each contender and column the median and, in brackets, by how much it is slower than ours.
func (t *standing) table(title, note string) table {
	out := table{Title: title, Note: note, Columns: append([]string{"ns, and times ours"}, t.columns...)}
	out.Columns = append(out.Columns, "allocations, bytes", "does less")
	for _, r := range t.rows {
		cells := []string{r.name}
		if r.rank == ours {
			cells[0] = "**" + r.name + "**"
		}
		allocs := "–"
		for _, c := range t.columns {
			s := r.cells[c]
			if s == nil {
				cells = append(cells, "–")
				continue
			}
			cells = append(cells, fmt.Sprintf("%s (%.2f)", figure(s.median()), s.ratio(t.our(c))))
			allocs = fmt.Sprintf("%s, %s", whole(s.allocs), whole(s.bytes))
		}
		out.Rows = append(out.Rows, append(cells, allocs, r.less))
	}
	return out
}

// whole rounds what background goroutines add to a count by the way.
func whole(v float64) string {
	if v < 0.01 {
		return "0"
	}
	return figure(math.Round(v*10) / 10)
}

// panel is one column as a picture.
func (t *standing) panel(title, column, unit string) panel {
	p := panel{Title: title, Unit: unit}
	for _, r := range t.rows {
		if s := r.cells[column]; s != nil {
			p.Bars = append(p.Bars, bar{r.name, r.less, s.median(), r.rank})
		}
	}
	return p.sorted(false)
}
