package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cacheaside/cacheaside"
)

// Outbox is [Emit] and a feed where the database allows no replication: transactions write refs
// into a table, which the feed polls. It tells those refs, and no change of a row by another
// program, unless a trigger writes for that. Use one Outbox for both. All processes follow it; on
// Redis each of them removes the same.
//
// It makes the table where that is missing. Writers need INSERT on it, and a feed SELECT and
// DELETE. Rows are removed about a minute after they have been told.
type Outbox struct {
	// DSN is how to connect, as a URL or as keywords and values. It must lead to the primary.
	// Required by Run.
	DSN string

	// Table is the name of the table, with or without a schema. Defaults to "cacheaside_outbox".
	Table string

	// Every is the pause between two looks at the table, of up to a second. Defaults to 200 ms.
	Every time.Duration

	behind atomic.Int64 // nanoseconds
}

var _ cacheaside.Feed = (*Outbox)(nil)

const (
	defaultOutbox = "cacheaside_outbox"
	defaultEvery  = 200 * time.Millisecond
	maxEvery      = time.Second

	// outboxKeep is for how long rows are kept that could be seen. A feed that has not looked for
	// half as long may have missed some.
	outboxKeep = time.Minute
)

// Emit writes refs into a transaction, to be removed when it is committed. See [Emit] of the
// package.
func (o *Outbox) Emit(ctx context.Context, tx Execer, refs ...cacheaside.Ref) error {
	if tx == nil {
		return errors.New("postgres: Emit without a transaction")
	}
	if len(refs) == 0 {
		return nil
	}
	content, err := encodeRefs(refs)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "INSERT INTO "+o.table()+" (refs) VALUES ($1)", content); err != nil {
		return fmt.Errorf("postgres: Emit into %s: %w", o.table(), err)
	}
	return nil
}

// Lag returns how long ago the table was last looked at with all told that was found, at the end of
// that.
func (o *Outbox) Lag() time.Duration { return time.Duration(o.behind.Load()) }

// Run is [cacheaside.Feed].
func (o *Outbox) Run(ctx context.Context, to cacheaside.Sink) error {
	switch {
	case o.DSN == "":
		return errors.New("postgres: Outbox.DSN is empty, wanted: a connection string")
	case o.Every < 0 || o.Every > maxEvery:
		return fmt.Errorf("postgres: Outbox.Every is %v, allowed: up to %v, or 0 for %v", o.Every, maxEvery, defaultEvery)
	}
	if err := o.run(ctx, to); err != nil {
		return fmt.Errorf("postgres: the outbox %s: %w", o.table(), err)
	}
	return nil
}

// table returns the name as SQL takes it.
func (o *Outbox) table() string {
	return pgx.Identifier(strings.Split(cmp.Or(o.Table, defaultOutbox), ".")).Sanitize()
}

func (o *Outbox) run(ctx context.Context, to cacheaside.Sink) error {
	config, err := pgx.ParseConfig(o.DSN)
	if err != nil {
		return err
	}
	name(config.RuntimeParams)
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		_ = conn.Close(ctx) // nothing is under way
	}()
	if err := o.prepare(ctx, conn); err != nil {
		return err
	}
	for p := (poller{of: o, conn: conn, to: to}); ; {
		if err := p.poll(ctx); err != nil {
			return err
		}
		if !sleep(ctx, cmp.Or(o.Every, defaultEvery)) {
			return ctx.Err()
		}
	}
}

// prepare makes the table, unless it is there.
func (o *Outbox) prepare(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	var exists, standby bool
	err := conn.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL, pg_is_in_recovery()", o.table()).Scan(&exists, &standby)
	switch {
	case err != nil:
		return err
	case standby:
		return errStandby
	case exists:
		return nil
	}
	sql := "CREATE TABLE " + o.table() + " (xid xid8 NOT NULL DEFAULT pg_current_xact_id(), refs bytea NOT NULL); CREATE INDEX ON " + o.table() + " (xid)"
	_, err = conn.Exec(ctx, sql)
	switch {
	case hasCode(err, codeTable) || hasCode(err, codeDuplicate): // another process was faster
		return nil
	case hasCode(err, codeNoRight):
		return fmt.Errorf("there is no such table, and the user %s may not make it (%w); run as one who may: %s; GRANT SELECT, INSERT, DELETE ON %s TO %s",
			conn.Config().User, err, sql, o.table(), pgx.Identifier{conn.Config().User}.Sanitize())
	}
	return err
}

// poller reads the table. It finds the rows that its last snapshot could not see: so a transaction
// that was begun early and is committed late is not missed, and none is waited for.
type poller struct {
	of   *Outbox
	conn *pgx.Conn
	to   cacheaside.Sink

	last *string   // snapshot; nil before the first
	at   time.Time // of that, by the server's clock

	old   string // a snapshot: what it could see may go
	oldAt time.Time
}

// errOverslept is Lost.
var errOverslept = errors.New("postgres: the outbox was not looked at for too long, and rows may be gone")

// poll looks at the table once.
func (p *poller) poll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	begun := time.Now()
	var snapshot string
	var at time.Time
	var found [][]byte
	// One statement has one snapshot.
	err := p.conn.QueryRow(ctx, `SELECT pg_current_snapshot()::text, clock_timestamp(), COALESCE(array_agg(refs), '{}') FROM `+p.of.table()+`
		WHERE $1::pg_snapshot IS NULL OR xid >= pg_snapshot_xmin($1::pg_snapshot) AND NOT pg_visible_in_snapshot(xid, $1::pg_snapshot)`, p.last).
		Scan(&snapshot, &at, &found)
	if err != nil {
		return err
	}
	p.tell(found)
	if p.last != nil && at.Sub(p.at) > outboxKeep/2 {
		p.to.Lost(errOverslept)
	}
	if p.last == nil {
		p.old, p.oldAt = snapshot, at
	}
	p.last, p.at = &snapshot, at
	took := time.Since(begun)
	p.of.behind.Store(int64(took))
	if took < aliveAge {
		p.to.Alive()
	}
	if at.Sub(p.oldAt) > outboxKeep {
		err = p.tidy(ctx)
		p.old, p.oldAt = snapshot, at
	}
	return err
}

func (p *poller) tell(found [][]byte) {
	for _, content := range found {
		refs, err := decodeRefs(content)
		if err != nil { // what it was about is not known
			p.to.Lost(err)
		}
		p.to.Invalidate(refs...)
	}
}

// tidy removes rows that could be seen a minute ago. Those of a transaction that is yet to come
// were written in another cluster, and restored.
func (p *poller) tidy(ctx context.Context) error {
	_, err := p.conn.Exec(ctx, `DELETE FROM `+p.of.table()+` WHERE pg_visible_in_snapshot(xid, $1::pg_snapshot)
		OR xid >= pg_snapshot_xmax(pg_current_snapshot())`, p.old)
	return err
}
