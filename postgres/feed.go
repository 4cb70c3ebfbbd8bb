package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cacheaside/cacheaside"
)

// Feed tells a backend of the changes in a database's log: give it to [cacheaside.Backend.Follow].
// Name the tables by [Feed.Table]; without any, the feed tells the refs of [Emit] only.
//
// It makes its publication and its slot where they are missing, and returns an error with the SQL
// to run where it may not. A slot is read by one process at a time. The others stand by: they take
// over within a second of its end, or within six if it hangs, and are alive as long as the reader
// keeps up. A slot that is new, or that the server has given up, has missed changes, and is Lost.
//
// A change arrives when it is committed, in the order of commits, and when the log is flushed: with
// synchronous_commit off that is up to 0.6 s later. Changes of one transaction may be told in
// parts, one after the other.
type Feed struct {
	// DSN is how to connect, as a URL or as keywords and values. It must lead to the primary, and
	// past any pooler. Required.
	DSN string

	// Slot is the name of the replication slot: up to 50 of a-z, 0-9 and _. Processes with the same
	// name share the work: one of them reads. So it stands for one set of caches, one prefix on one
	// Redis. Take another name when a new version of the program looks at other tables or derives
	// other refs, since the old one tells what it knows as long as it runs. Defaults to
	// "cacheaside".
	Slot string

	// Publication is the name of the publication, which says which tables the log tells of.
	// Defaults to "cacheaside".
	Publication string

	// Temporary gives each process a slot of its own, which ends with its connection: for caches in
	// memory, where each process must hear of every change. A connection that was lost has then
	// missed changes. Defaults to one slot for all.
	Temporary bool

	// MaxRetained is how many bytes of the log a slot may be behind when a feed begins to read it.
	// With more, the feed makes the slot anew, which is Lost, rather than read on for minutes.
	// While no process reads, only the server's max_slot_wal_keep_size limits what a slot keeps on
	// its disk: a feed warns if there is none. Defaults to 1 GiB.
	MaxRetained int64

	// Logger is warned of a server without a limit. Defaults to [slog.Default].
	Logger *slog.Logger

	tables []table
	shared *figures // nil until it is asked for
}

// figures are the gauges of a feed that runs.
type figures struct {
	behind   atomic.Int64 // nanoseconds
	retained atomic.Int64 // bytes
	warned   atomic.Bool  // the logger was, of a server without a limit
}

var figuresMu sync.Mutex // guards Feed.shared: a mutex in a Feed would forbid that Table copies it

func (f *Feed) figures() *figures {
	figuresMu.Lock()
	defer figuresMu.Unlock()
	if f.shared == nil {
		f.shared = new(figures)
	}
	return f.shared
}

// table is one that the feed looks at.
type table struct {
	name string
	refs func(Row) []cacheaside.Ref
}

const (
	defaultName     = "cacheaside"
	defaultRetained = 1 << 30
)

var (
	_ cacheaside.Feed = (*Feed)(nil)

	slotName = regexp.MustCompile(`^[a-z0-9_]{1,50}$`)
)

// Table returns a feed that also looks at a table, by its name as SQL takes it: "users",
// "app.users". Partitions of a table are looked at by the name of the table.
//
// For each row that has changed, refs returns the refs to remove. It is called with the row as it
// was and as it is: with the former on UPDATE and DELETE, with the latter on INSERT and UPDATE. The
// known columns of the former depend on the table's REPLICA IDENTITY: see [Row]. TRUNCATE calls it
// once, with a row of which no column is known. It must return refs that cover all of the table
// then, such as a tag; if it returns none, the feed is Lost.
func (f Feed) Table(name string, refs func(Row) []cacheaside.Ref) *Feed {
	f.tables = append(slices.Clip(f.tables), table{name, refs})
	f.shared = nil
	return &f
}

// Lag returns how far behind the log the telling is, in this process or in the reader.
// [cacheaside.Stats] shows it as FeedLag.
func (f *Feed) Lag() time.Duration { return time.Duration(f.figures().behind.Load()) }

// Retained returns how many bytes of its log the server keeps for the slot. It is as of the last
// half second in which the feed had a connection.
func (f *Feed) Retained() int64 { return f.figures().retained.Load() }

// Run is [cacheaside.Feed].
func (f *Feed) Run(ctx context.Context, to cacheaside.Sink) error {
	if err := f.check(); err != nil {
		return err
	}
	s := &session{
		feed: f, figures: f.figures(), to: to, slot: cmp.Or(f.Slot, defaultName), publication: cmp.Or(f.Publication, defaultName),
		log: cmp.Or(f.Logger, slog.Default()), maxRetained: cmp.Or(f.MaxRetained, defaultRetained),
	}
	if err := s.run(ctx); err != nil {
		return fmt.Errorf("postgres: the feed of the slot %s: %w", s.slot, err)
	}
	return nil
}

func (f *Feed) check() error {
	switch {
	case f.DSN == "":
		return errors.New("postgres: Feed.DSN is empty, wanted: a connection string")
	case f.Slot != "" && !slotName.MatchString(f.Slot):
		return fmt.Errorf("postgres: Feed.Slot is %q, allowed: 1 to 50 of a-z, 0-9 and _", f.Slot)
	case f.MaxRetained < 0:
		return fmt.Errorf("postgres: Feed.MaxRetained is %d, allowed: a number of bytes, or 0 for 1 GiB", f.MaxRetained)
	}
	for _, t := range f.tables {
		if t.name == "" || t.refs == nil {
			return fmt.Errorf("postgres: Feed.Table(%q, …) without a name or a function", t.name)
		}
	}
	return nil
}
