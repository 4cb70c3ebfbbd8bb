package postgres_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/postgres"
)

const key = "42"

// openUsers opens a cache in memory.
func openUsers(t *testing.T) *cacheaside.Client[string] {
	t.Helper()
	users, err := cacheaside.NewMemory[string](cacheaside.Config{Name: "users"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = users.Close() })
	return users
}

// serve returns a fetch that finds a value.
func serve(value string) func(context.Context, string) (string, error) {
	return func(context.Context, string) (string, error) { return value, nil }
}

// lyingCommit lets a commit happen, or not, and answers with an error.
type lyingCommit struct {
	*pgx.Conn
	commit bool
	before func()
	err    error
}

type lyingTx struct {
	pgx.Tx
	of lyingCommit
}

func (c lyingCommit) BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error) {
	tx, err := c.Conn.BeginTx(ctx, o)
	return lyingTx{tx, c}, err
}

func (t lyingTx) Commit(ctx context.Context) error {
	t.of.before()
	if !t.of.commit {
		_ = t.Rollback(ctx)
		return t.of.err
	}
	return errors.Join(t.Tx.Commit(ctx), t.of.err)
}

func TestInTx(t *testing.T) {
	t.Parallel()
	dsn, _ := database(t)
	db := connect(t, dsn)
	execute(t, db, "CREATE TABLE users (id text PRIMARY KEY, name text)", "INSERT INTO users VALUES ('42', 'old')")
	errDo, errCommit := errors.New("do"), errors.New("commit")
	for name, test := range map[string]struct {
		do, commit error
		panics     bool
		commits    bool
	}{
		"commits":                              {commits: true},
		"rolls back after an error":            {do: errDo},
		"rolls back after a panic":             {panics: true},
		"does not know that it has committed":  {commit: errCommit, commits: true},
		"does not know that it has not":        {commit: errCommit},
		"does not commit under an ended outer": {do: context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			execute(t, db, "UPDATE users SET name = 'old'")
			users := openUsers(t)
			find := func(ctx context.Context, _ string) (name string, err error) {
				other := connect(t, dsn)
				err = other.QueryRow(ctx, "SELECT name FROM users").Scan(&name)
				return name, err
			}
			lying := lyingCommit{Conn: db, commit: test.commits, err: test.commit, before: func() {
				v, err := users.GetWithFetch(t.Context(), key, time.Minute, find)
				require.NoError(t, err)
				require.Equal(t, "old", v, "another caller reads the old row just before the commit")
			}}
			require.NoError(t, users.Set(t.Context(), key, "old", time.Minute))
			run := func() error {
				return postgres.InTx(t.Context(), lying, pgx.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
					require.NoError(t, users.Changed(ctx, key))
					_, err := tx.Exec(ctx, "UPDATE users SET name = 'new'")
					require.NoError(t, err)
					v, err := users.GetWithFetch(ctx, key, time.Minute, func(ctx context.Context, _ string) (name string, err error) {
						err = tx.QueryRow(ctx, "SELECT name FROM users").Scan(&name)
						return name, err
					})
					require.NoError(t, err)
					require.Equal(t, "new", v)
					if test.panics {
						panic(errDo)
					}
					return test.do
				})
			}
			switch {
			case test.panics:
				require.PanicsWithError(t, "do", func() { _ = run() })
			case test.do != nil:
				require.Same(t, test.do, run())
			case test.commit != nil:
				require.ErrorIs(t, run(), test.commit)
			default:
				require.NoError(t, run())
			}
			require.EqualValues(t, 'I', db.PgConn().TxStatus(), "no transaction is left open")
			wanted := map[bool]string{true: "new", false: "old"}[test.commits]
			v, err := users.GetWithFetch(t.Context(), key, time.Minute, find)
			require.NoError(t, err)
			require.Equal(t, wanted, v)
			v, err = users.GetWithFetch(t.Context(), key, time.Minute, serve("another"))
			require.NoError(t, err)
			require.Equal(t, wanted, v, "it is kept again")
		})
	}
}

func TestInTxJoinsATransactionOfTheSameDatabase(t *testing.T) {
	t.Parallel()
	dsn, _ := database(t)
	db, other := connect(t, dsn), connect(t, dsn)
	users := openUsers(t)
	require.NoError(t, users.Set(t.Context(), key, "old", time.Minute))
	do := func(ctx context.Context, db postgres.Beginner, see func(context.Context, pgx.Tx)) error {
		return postgres.InTx(ctx, db, pgx.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
			see(ctx, tx)
			return nil
		})
	}
	var ended context.Context
	require.NoError(t, do(t.Context(), db, func(ctx context.Context, outer pgx.Tx) {
		ended = ctx
		require.NoError(t, do(ctx, db, func(ctx context.Context, inner pgx.Tx) {
			require.Same(t, outer, inner)
			require.NoError(t, users.Changed(ctx, key))
		}))
		require.NoError(t, do(ctx, other, func(_ context.Context, inner pgx.Tx) {
			require.NotSame(t, outer, inner, "that is another database")
		}))
		_, err := users.Get(ctx, key)
		require.ErrorIs(t, err, cacheaside.ErrMiss)
	}))
	require.NoError(t, do(ended, db, func(ctx context.Context, tx pgx.Tx) {
		_, err := tx.Exec(ctx, "SELECT 1")
		require.NoError(t, err, "a transaction that has ended is not joined")
	}))
}

func TestInTxThatDoesNotBegin(t *testing.T) {
	t.Parallel()
	dsn, _ := database(t)
	db := connect(t, dsn)
	require.NoError(t, db.Close(t.Context()))
	nothing := func(context.Context, pgx.Tx) error { return nil }
	require.ErrorContains(t, postgres.InTx(t.Context(), db, pgx.TxOptions{}, nothing), "postgres: beginning the transaction: ")
	require.ErrorContains(t, postgres.InTx(t.Context(), nil, pgx.TxOptions{}, nothing), "without a database")
	require.ErrorContains(t, postgres.InTx(t.Context(), db, pgx.TxOptions{}, nil), "without a function")
}
