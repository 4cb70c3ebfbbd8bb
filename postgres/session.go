package postgres

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cacheaside/cacheaside"
)

const (
	// pollInterval is how often the server is asked how far its log and the slot are.
	pollInterval = 300 * time.Millisecond

	// tablesInterval is how often the tables and the publication are looked at again: a migration
	// may have put another table in the place of one.
	tablesInterval = 3 * time.Second

	// queryTimeout is how long the server may take for that. It says that the connection is dead.
	queryTimeout = 5 * time.Second

	closeTimeout = time.Second

	// lockTimeout is how long a question waits for a table that a migration has locked, in
	// milliseconds. News wait behind the question.
	lockTimeout = "100"
)

// session is one run of a feed. It has a connection for questions, and while it reads one for the
// log.
type session struct {
	feed              *Feed
	figures           *figures
	to                cacheaside.Sink
	slot, publication string
	log               *slog.Logger
	maxRetained       int64

	asking  sync.Mutex
	conn    *pgx.Conn
	version int              // of the server, as 150004
	byOID   map[uint32]table // the feed's tables
	looked  time.Time        // when the tables were
	horizon horizon
}

// run reads the slot, or stands by until it can, and returns when that is broken.
func (s *session) run(ctx context.Context) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	s.conn = conn
	defer s.disconnect()
	if err := s.checkServer(ctx); err != nil {
		return err
	}
	if s.feed.Temporary {
		return s.runTemporary(ctx)
	}
	for {
		free, err := s.prepare(ctx)
		if err != nil {
			return err
		}
		if free {
			if err := s.read(ctx, s.slot); !hasCode(err, codeInUse) {
				return err
			}
		}
		if !sleep(ctx, pollInterval/2+rand.N(pollInterval/2)) {
			return ctx.Err()
		}
	}
}

// runTemporary reads a slot of its own.
func (s *session) runTemporary(ctx context.Context) error {
	lacking, err := s.checkTables(ctx)
	if err != nil {
		return err
	}
	if lacking != nil {
		if err := s.alter(ctx, lacking, ""); err != nil {
			return err
		}
	}
	return s.read(ctx, temporaryName(s.slot))
}

// prepare makes the publication and the slot, where they are missing or of no use, and reports
// whether the slot is free to be read. While another process reads it, that one's progress says
// whether this one is alive.
func (s *session) prepare(ctx context.Context) (free bool, err error) {
	lacking, err := s.checkTablesAgain(ctx)
	if err != nil {
		return false, err
	}
	asked := time.Now()
	slot, err := s.lookAt(ctx, s.slot)
	switch {
	case err != nil:
		return false, err
	case slot.active && lacking != nil:
		return false, nil // by a program that does not look at all these tables: this feed is not alive until that one ends
	case slot.active:
		s.horizon.add(slot.flushed, asked)
		s.reach(slot.confirmed)
		return false, nil
	}
	if reason := s.useless(slot, lacking); reason != "" {
		s.log.Warn("postgres: a replication slot is made anew, and what is cached counts for nothing", "slot", s.slot, "reason", reason)
		return lacking == nil, s.renew(ctx, slot, lacking) // the tables are looked at once more
	}
	return true, nil
}

// useless returns why a slot that is not read cannot be, "" if it can.
func (s *session) useless(slot slotState, lacking *lack) string {
	switch {
	case !slot.exists:
		return "there is none"
	case slot.lost:
		return "the server has removed the log that it needs"
	case lacking != nil:
		return "the publication has lacked a table"
	case slot.retained > s.maxRetained:
		return "it is further behind than MaxRetained"
	}
	return ""
}

// reach is called with a position: up to there all has been told, or confirmed by the reader.
func (s *session) reach(position uint64) {
	if asOf, ok := s.horizon.reach(position); ok && time.Since(asOf) < aliveAge {
		s.to.Alive()
	}
	s.figures.behind.Store(int64(s.horizon.lag()))
}

// connect makes the connection for questions.
func (s *session) connect(ctx context.Context) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(s.feed.DSN)
	if err != nil {
		return nil, err
	}
	name(config.RuntimeParams)
	config.RuntimeParams["synchronous_commit"] = "local" // what is written here need not wait for standbys
	config.RuntimeParams["statement_timeout"] = "0"
	config.RuntimeParams["lock_timeout"] = lockTimeout
	ctx, cancel := context.WithTimeout(ctx, 2*queryTimeout)
	defer cancel()
	return pgx.ConnectConfig(ctx, config)
}

// ask puts a question whose answer is one row.
func (s *session) ask(ctx context.Context, sql string, arguments []any, answer ...any) error {
	s.asking.Lock()
	defer s.asking.Unlock()
	return s.conn.QueryRow(ctx, sql, arguments...).Scan(answer...)
}

func (s *session) disconnect() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = s.conn.Close(ctx) // it was good for questions only
}

// name makes a connection known to the server by the library's name, unless the program has one.
func name(parameters map[string]string) {
	if parameters["application_name"] == "" {
		parameters["application_name"] = "cacheaside"
	}
}

// sleep waits, and reports whether ctx is still good.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
