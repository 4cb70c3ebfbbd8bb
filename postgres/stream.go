package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"golang.org/x/sync/errgroup"
)

const (
	// statusInterval is how often the server hears how much has been told, and is asked where it is
	// while something is waited for.
	statusInterval = 50 * time.Millisecond

	// senderTimeout is how long the server waits for that before it takes the reader for dead, and
	// the slot from it.
	senderTimeout = "5s"

	// beatAfter is how long a mark is waited for before a message is written behind it: the mark
	// may stand in the middle of a record, whose end is not flushed by itself.
	beatAfter = 600 * time.Millisecond
)

// stream is the log as the server sends it.
type stream struct {
	conn    *pgconn.PgConn
	teller  *teller
	decoder *decoder

	wanted  atomic.Uint64 // the server is asked for its position until this is told
	pending news          // of a transaction that has not been read to its end
}

// read reads a slot and tells the news of the log, until that is broken. Of a slot that another
// process reads the error has codeInUse.
func (s *session) read(ctx context.Context, slot string) error {
	conn, err := s.connectStream(ctx)
	if err != nil {
		return s.explain(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		_ = conn.Close(ctx) // the server drops what was not confirmed
	}()
	if err := s.sameServer(ctx, conn); err != nil {
		return err
	}
	if slot != s.slot {
		o := pglogrepl.CreateReplicationSlotOptions{Temporary: true, Mode: pglogrepl.LogicalReplication, SnapshotAction: "NOEXPORT_SNAPSHOT"}
		if _, err := pglogrepl.CreateReplicationSlot(ctx, conn, slot, "pgoutput", o); err != nil {
			return s.explain(err)
		}
		s.to.Lost(errSlotIsNew)
	}
	starting, cancel := context.WithTimeout(ctx, 2*queryTimeout)
	defer cancel()
	err = pglogrepl.StartReplication(starting, conn, slot, 0, pglogrepl.StartReplicationOptions{
		Mode: pglogrepl.LogicalReplication,
		PluginArgs: []string{
			"proto_version '2'", "messages 'true'", "publication_names " + literal(`"`+strings.ReplaceAll(s.publication, `"`, `""`)+`"`),
		},
	})
	if err != nil {
		return s.explain(err)
	}
	return s.follow(ctx, slot, &stream{
		conn: conn, teller: newTeller(s.to, s.awaitVisible),
		decoder: &decoder{slot: s.slot, tables: s.byOID, relations: make(map[uint32]*pglogrepl.RelationMessageV2)},
	})
}

func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

func (s *session) connectStream(ctx context.Context) (*pgconn.PgConn, error) {
	config, err := pgconn.ParseConfig(s.feed.DSN)
	if err != nil {
		return nil, err
	}
	name(config.RuntimeParams)
	config.RuntimeParams["replication"] = "database"
	config.RuntimeParams["wal_sender_timeout"] = senderTimeout
	config.RuntimeParams["statement_timeout"] = "0" // they would end the making of a slot
	config.RuntimeParams["lock_timeout"] = "0"
	ctx, cancel := context.WithTimeout(ctx, 2*queryTimeout)
	defer cancel()
	return pgconn.ConnectConfig(ctx, config)
}

// sameServer sees that both connections lead to one server. With several hosts they might not.
func (s *session) sameServer(ctx context.Context, conn *pgconn.PgConn) error {
	const started = "SELECT pg_postmaster_start_time()::text"
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	results, err := conn.Exec(ctx, started).ReadAll()
	if err != nil {
		return err
	}
	var here string
	if err := s.ask(ctx, started, nil, &here); err != nil {
		return err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || string(results[0].Rows[0][0]) != here {
		return errors.New("two connections by the DSN have reached two servers")
	}
	return nil
}

// follow has three parts: the log is read here, told by the teller, and its end watched.
func (s *session) follow(ctx context.Context, slot string, st *stream) error {
	group, ctx := errgroup.WithContext(ctx)
	ctx, cancel := context.WithCancel(ctx)
	s.horizon = horizon{}
	group.Go(func() error { return st.teller.run(ctx) })     // ends with ctx
	group.Go(func() error { return s.watch(ctx, slot, st) }) // ends with ctx
	finished := false
	var err error
	defer func() {
		cancel()
		if !finished { // a table's function has panicked
			_ = group.Wait()
		}
	}()
	err = st.receive(ctx)
	finished = true
	cancel()
	if failed := group.Wait(); failed != nil {
		return failed // the reading ended with it
	}
	return err
}

// watch asks how far the log is, and says that the feed is alive when that has been told.
func (s *session) watch(ctx context.Context, slot string, st *stream) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	var beaten time.Time
	for {
		asked := time.Now()
		state, err := s.lookAt(ctx, slot)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case state.pid != st.conn.PID():
			return errors.New("the server has taken the slot from this process")
		}
		s.horizon.add(state.flushed, asked)
		st.wanted.Store(state.flushed)
		if _, since := s.horizon.waiting(); time.Since(since) > beatAfter && time.Since(beaten) > beatAfter {
			beaten = time.Now()
			if err := s.beat(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		}
		if err := s.tablesAreAsBefore(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		for ticked := false; !ticked; {
			s.reach(st.teller.position())
			select {
			case <-st.teller.advanced:
			case <-ticker.C:
				ticked = true
			case <-ctx.Done():
				return nil
			}
		}
	}
}

func (s *session) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	return s.ask(ctx, "SELECT pg_logical_emit_message(true, $1, '') IS NULL", []any{beatPrefix}, new(bool))
}

var errTables = errors.New("the tables have changed, or the publication")

// tablesAreAsBefore looks now and then whether the log still tells of all tables.
func (s *session) tablesAreAsBefore(ctx context.Context) error {
	before := s.byOID
	defer func() { s.byOID = before }() // it is the decoder's, too
	lacking, err := s.checkTablesAgain(ctx)
	switch {
	case hasCode(err, codeLocked):
		return nil // a migration has locked a table, and writes to it, if any, when it commits
	case err != nil:
		return err
	case lacking != nil || !maps.EqualFunc(before, s.byOID, func(a, b table) bool { return a.name == b.name }):
		return errTables
	}
	return nil
}

// receive reads the log, until the connection ends.
func (st *stream) receive(ctx context.Context) error {
	for {
		until, cancel := context.WithTimeout(ctx, statusInterval)
		err := st.receiveUntil(ctx, until)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !pgconn.Timeout(err):
			return err
		}
		if err := st.report(ctx); err != nil {
			return err
		}
	}
}

// receiveUntil reads messages, until the time for the next status.
func (st *stream) receiveUntil(ctx, until context.Context) error {
	for until.Err() == nil {
		message, err := st.conn.ReceiveMessage(until)
		if err != nil {
			return err
		}
		switch m := message.(type) {
		case *pgproto3.CopyData:
			if err := st.take(ctx, m.Data); err != nil {
				return err
			}
		case *pgproto3.ErrorResponse:
			return pgconn.ErrorResponseToPgError(m)
		case *pgproto3.CopyDone:
			return errors.New("the server has ended the replication")
		}
	}
	return nil
}

// take queues the news in a message of the server.
func (st *stream) take(ctx context.Context, data []byte) error {
	if len(data) == 0 {
		return errors.New("the server has sent an empty message")
	}
	switch data[0] {
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		m, err := pglogrepl.ParsePrimaryKeepaliveMessage(data[1:])
		if err != nil {
			return err
		}
		st.pending.position = uint64(m.ServerWALEnd)
		return st.flush(ctx)
	case pglogrepl.XLogDataByteID:
		m, err := pglogrepl.ParseXLogData(data[1:])
		if err != nil {
			return err
		}
		n, err := st.decoder.decode(m.WALData)
		if err != nil {
			return err
		}
		st.pending.refs = append(st.pending.refs, n.refs...)
		st.pending.lost, st.pending.position = n.lost, n.position
		if n.lost != nil || n.position != 0 || len(st.pending.refs) >= tellAtOnce {
			return st.flush(ctx)
		}
		return nil
	}
	return fmt.Errorf("the server has sent a message of the type %q", data[0])
}

// flush queues the pending news. While there is no room the server hears from its reader all the
// same.
func (st *stream) flush(ctx context.Context) error {
	n := st.pending
	if len(n.refs) > 0 || n.lost != nil {
		n.xids = []uint32{st.decoder.xid}
	}
	st.pending = news{}
	for {
		select {
		case st.teller.queue <- n:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(statusInterval):
		}
		if err := st.report(ctx); err != nil {
			return err
		}
	}
}

// report tells the server up to where changes have been told, and asks it how far it is if more is
// wanted.
func (st *stream) report(ctx context.Context) error {
	told := st.teller.position()
	confirmed := pglogrepl.LSN(st.teller.confirm())
	return pglogrepl.SendStandbyStatusUpdate(ctx, st.conn, pglogrepl.StandbyStatusUpdate{
		WALWritePosition: confirmed, ReplyRequested: told < st.wanted.Load(),
	})
}
