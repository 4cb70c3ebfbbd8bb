package postgres

import (
	"fmt"

	"github.com/cacheaside/cacheaside"
)

// Op is an operation on a row.
type Op byte

// The operations. An UPDATE that moves a row to another partition is one UPDATE.
const (
	Insert   Op = 'I'
	Update   Op = 'U'
	Delete   Op = 'D'
	Truncate Op = 'T' // of the whole table
)

// String returns the SQL command.
func (o Op) String() string {
	switch o {
	case Insert:
		return "INSERT"
	case Update:
		return "UPDATE"
	case Delete:
		return "DELETE"
	case Truncate:
		return "TRUNCATE"
	}
	return fmt.Sprintf("Op(%d)", byte(o))
}

// Row is a row as it was before a change, or as it is after it. It is good until the function
// returns that is called with it.
//
// Which columns are known depends on the table. As it is, a row is known whole, but for values of
// several kilobytes that an UPDATE has not changed. As it was, it is known by the columns of its
// REPLICA IDENTITY: the primary key, unless the table says otherwise. After
//
//	ALTER TABLE users REPLICA IDENTITY FULL
//
// all columns are known, always, for a larger log. That is needed where refs depend on more than
// the key: the list that a row has left.
type Row struct {
	Table string // by its schema and name: "public.users"
	Op    Op
	Old   bool // as it was

	columns []column
	unknown *string // the first column that Text was asked for in vain
}

type column struct {
	name  string
	text  string
	known bool
	null  bool
}

// Text returns the value of a column as text, the form in which psql shows it, and "" for NULL. If
// the column is not known, or there is none of that name, the change cannot be told: the feed is
// Lost, its error has the command that helps, and the backend's caches are cleared. Use [Row.Get]
// for a column that the function can do without.
func (r Row) Text(name string) string {
	text, known := r.Get(name)
	if !known && *r.unknown == "" {
		*r.unknown = name
	}
	return text
}

// Get returns the value of a column as text, "" for NULL, and whether it is known.
func (r Row) Get(name string) (text string, known bool) {
	c := r.column(name)
	return c.text, c.known
}

// IsNull reports whether a column is known to be NULL.
func (r Row) IsNull(name string) bool { return r.column(name).null }

func (r Row) column(name string) column {
	for _, c := range r.columns {
		if c.name == name {
			return c
		}
	}
	return column{}
}

// tell returns the refs of a row by its table's function, or why the change cannot be told.
func (r Row) tell(refs func(Row) []cacheaside.Ref) (told []cacheaside.Ref, lost error) {
	var unknown string
	r.unknown = &unknown
	told = refs(r)
	switch {
	case unknown == "" && r.Op == Truncate && len(told) == 0:
		return nil, fmt.Errorf("postgres: TRUNCATE of %s, and its function returns nothing that covers the table", r.Table)
	case unknown == "":
		return told, nil
	case r.Op == Truncate:
		return nil, fmt.Errorf("postgres: TRUNCATE of %s, and its function asks for the column %s", r.Table, unknown)
	case !r.has(unknown):
		return nil, fmt.Errorf("postgres: the table %s has no column %s, which its function asks for", r.Table, unknown)
	}
	return nil, fmt.Errorf("postgres: the log does not tell the column %s of a row of %s, which its function asks for; run: ALTER TABLE %s REPLICA IDENTITY FULL",
		unknown, r.Table, r.Table)
}

func (r Row) has(name string) bool { return r.column(name).name == name }
