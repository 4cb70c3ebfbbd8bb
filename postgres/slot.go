package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
)

// slotState is the server's view of a slot, and of its log.
type slotState struct {
	exists    bool
	active    bool   // a process reads it
	pid       uint32 // of the server's process that serves that one
	lost      bool
	confirmed uint64 // up to here changes have been told
	flushed   uint64 // up to here the log is written
	retained  int64  // bytes of the log that are kept for it
}

// lookAt asks for the state of a slot.
func (s *session) lookAt(ctx context.Context, name string) (slot slotState, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	var usable bool
	err = s.ask(ctx, `SELECT r.slot_name IS NOT NULL, COALESCE(r.plugin = 'pgoutput' AND r.database = current_database(), true),
			COALESCE(r.active, false), COALESCE(r.active_pid, 0)::int8, COALESCE(r.wal_status = 'lost', false),
			COALESCE(r.confirmed_flush_lsn - '0/0', 0)::int8, (l.flushed - '0/0')::int8, COALESCE(l.flushed - r.restart_lsn, 0)::int8
		FROM (SELECT pg_current_wal_flush_lsn() AS flushed) l LEFT JOIN pg_replication_slots r ON r.slot_name = $1`, []any{name},
		&slot.exists, &usable, &slot.active, &slot.pid, &slot.lost, &slot.confirmed, &slot.flushed, &slot.retained)
	if err != nil {
		return slot, err
	}
	if !usable {
		return slot, errors.New("the slot belongs to another database, or to another kind of reader; choose another Feed.Slot")
	}
	s.figures.retained.Store(slot.retained)
	return slot, nil
}

// renew makes a slot anew, and completes the publication. That changes were missed stands in the
// log, behind the place where the slot begins: so any process that reads it tells it, also if this
// one ends first.
func (s *session) renew(ctx context.Context, slot slotState, lacking *lack) error {
	old := ""
	if slot.exists {
		old = s.slot
	}
	var err error
	switch {
	case lacking != nil:
		err = s.alter(ctx, lacking, old)
	case old != "":
		_, err = s.conn.Exec(ctx, "SELECT pg_drop_replication_slot($1)", old)
	}
	if err == nil {
		err = s.create(ctx)
	}
	if hasCode(err, codeInUse) || hasCode(err, codeNone) || hasCode(err, codeExists) {
		return nil // another process was faster
	}
	return err
}

// create makes the slot by copying one that ends with the connection: there is none by that name
// before the message is committed. The server waits for transactions that are open, to begin
// between two.
func (s *session) create(ctx context.Context) error {
	begin := temporaryName(s.slot)
	if _, err := s.conn.Exec(ctx, "SET lock_timeout = 0"); err != nil { // the server waits for transactions by their locks
		return err
	}
	_, err := s.conn.Exec(ctx, "SELECT pg_create_logical_replication_slot($1, 'pgoutput', true)", begin)
	if err != nil {
		return s.explain(err)
	}
	_, err = s.conn.Exec(ctx, "SELECT pg_logical_emit_message(true, $1, $2::text)", lostPrefix, s.slot)
	if err == nil {
		_, err = s.conn.Exec(ctx, "SELECT pg_copy_logical_replication_slot($1, $2, false)", begin, s.slot)
	}
	_, failed := s.conn.Exec(ctx, "SELECT pg_drop_replication_slot($1)", begin)
	_, reset := s.conn.Exec(ctx, "SET lock_timeout = "+lockTimeout)
	return s.explain(errors.Join(err, failed, reset))
}

// temporaryName returns a name that no other slot has.
func temporaryName(slot string) string {
	return slot + "_" + strings.ToLower(rand.Text()[:10])
}
