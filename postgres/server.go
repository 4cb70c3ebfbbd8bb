package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATEs.
const (
	codeInUse        = "55006" // the slot is read by another process
	codeNoRight      = "42501"
	codeExists       = "42710"
	codeTable        = "42P07" // there is a table of that name
	codeDuplicate    = "23505" // the same, if both were made at once
	codeNone         = "42704"
	codeNoSlotFree   = "53400"
	codeNoSenderFree = "53300"
	codeLocked       = "55P03"
)

var errStandby = errors.New("the server is a standby, wanted: the primary; a DSN with several hosts finds it by target_session_attrs=primary")

func hasCode(err error, code string) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.Code == code
}

// oldestVersion is that of the first server which writes messages by pgoutput.
const oldestVersion = 140000

// checkServer returns an error for a server that no feed can read.
func (s *session) checkServer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	var level, keep, user string
	var standby bool
	err := s.ask(ctx, `SELECT current_setting('server_version_num')::int, current_setting('wal_level'),
		current_setting('max_slot_wal_keep_size'), pg_is_in_recovery(), current_user`, nil, &s.version, &level, &keep, &standby, &user)
	switch {
	case err != nil:
		return err
	case s.version < oldestVersion:
		return fmt.Errorf("the server is version %d, wanted: PostgreSQL 14 or newer", s.version/10000)
	case standby:
		return errStandby
	case level != "logical":
		return fmt.Errorf("the server's wal_level is %s, wanted: logical; run as a superuser, and restart the server: ALTER SYSTEM SET wal_level = logical "+
			"(on Amazon RDS set rds.logical_replication to 1, on Cloud SQL cloudsql.logical_decoding to on); or follow an Outbox", level)
	}
	if keep == "-1" && !s.feed.Temporary && s.figures.warned.CompareAndSwap(false, true) {
		s.log.Warn("postgres: while no process reads a replication slot, the server keeps its log for it without a limit; "+
			"wanted: ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'", "slot", s.slot)
	}
	return nil
}

// explain adds the remedy to an error of the server.
func (s *session) explain(err error) error {
	user := strconv.Quote(s.conn.Config().User)
	switch {
	case hasCode(err, codeNoRight):
		return fmt.Errorf("the user %s may not read the log: %w; run as a superuser: ALTER ROLE %s REPLICATION "+
			"(on Amazon RDS: GRANT rds_replication TO %s); or follow an Outbox", user, err, user, user)
	case hasCode(err, codeNoSlotFree):
		return fmt.Errorf("%w; run as a superuser, and restart the server: ALTER SYSTEM SET max_replication_slots = <more>", err)
	case hasCode(err, codeNoSenderFree):
		return fmt.Errorf("%w; run as a superuser, and restart the server: ALTER SYSTEM SET max_wal_senders = <more>", err)
	}
	return err
}
