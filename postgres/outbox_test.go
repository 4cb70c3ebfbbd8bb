package postgres_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/postgres"
)

// emit emits a tag in a transaction of its own.
func emit(t *testing.T, o *postgres.Outbox, db *pgx.Conn, tag string) {
	t.Helper()
	require.NoError(t, postgres.InTx(t.Context(), db, pgx.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
		return o.Emit(ctx, tx, cacheaside.Tags(tag)...)
	}))
}

func TestAnOutboxTellsWhatWasCommitted(t *testing.T) {
	t.Parallel()
	s := start(t, "wal_level=replica")
	db, late := connect(t, s.DSN("")), connect(t, s.DSN(""))
	o := &postgres.Outbox{DSN: s.DSN("")}
	r := run(t, o)
	r.awaitAlive()
	emit(t, o, db, "first\x00\xff")
	r.to.await(t, "tag:first\x00\xff")

	open, err := late.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, o.Emit(t.Context(), open, cacheaside.Tags("late")...))
	inner, err := open.Begin(t.Context()) // a savepoint
	require.NoError(t, err)
	require.NoError(t, o.Emit(t.Context(), inner, cacheaside.Tags("within")...))
	require.NoError(t, inner.Commit(t.Context()))
	emit(t, o, db, "early")
	r.to.await(t, "tag:early") // a transaction that is open holds nothing up
	r.awaitAlive()
	require.NoError(t, open.Commit(t.Context()))
	r.to.await(t, "tag:late", "tag:within") // though it was begun before what was told
	rolledBack, err := late.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, o.Emit(t.Context(), rolledBack, cacheaside.Tags("never")...))
	require.NoError(t, rolledBack.Rollback(t.Context()))
	r.awaitAlive()
	require.Empty(t, r.to.take())
	require.Less(t, o.Lag(), patience)

	require.Error(t, r.end())
	emit(t, o, db, "meanwhile")
	next := run(t, o)
	next.awaitAlive()
	require.Contains(t, next.to.take(), "tag:meanwhile", "a process that begins tells what the last one may not have")

	execute(t, db, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cacheaside'")
	require.Error(t, next.broken())
}

func TestAnOutboxWithoutTheRightToMakeItsTable(t *testing.T) {
	t.Parallel()
	s := start(t)
	db := connect(t, s.DSN(""))
	execute(t, db, "CREATE USER app")
	o := &postgres.Outbox{DSN: s.DSN("", "user=app"), Table: "public.news"}
	err := run(t, o).broken()
	_, sql, found := strings.Cut(err.Error(), "run as one who may: ")
	require.True(t, found, err)
	execute(t, db, sql)
	r := run(t, o)
	r.awaitAlive()
	emit(t, o, connect(t, s.DSN("", "user=app")), "tag")
	r.to.await(t, "tag:tag")
}

func TestAnOutboxRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	require.ErrorContains(t, (&postgres.Outbox{}).Run(t.Context(), new(sink)), "Outbox.DSN is empty")
	require.ErrorContains(t, (&postgres.Outbox{DSN: "host=x", Every: 2 * time.Second}).Run(t.Context(), new(sink)), "Outbox.Every is 2s")
	require.ErrorContains(t, (&postgres.Outbox{}).Emit(t.Context(), nil, cacheaside.Tags("tag")...), "without a transaction")
}
