package postgres

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cacheaside/cacheaside"
)

// Beginner begins transactions: a *pgxpool.Pool or a *pgx.Conn.
type Beginner interface {
	BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error)
}

type txContext struct{}

// openTx is the transaction that a context carries.
type openTx struct {
	db    Beginner
	tx    pgx.Tx
	ended atomic.Bool
}

// rollbackTimeout bounds the end of a transaction whose context has ended.
const rollbackTimeout = 5 * time.Second

// InTx runs do in a transaction of db and in a [cacheaside.Change], which the context that do gets
// carries: it begins the transaction, calls do, commits if do returns nil and rolls back otherwise,
// also after a panic, and then ends the change. So the keys declared by Changed below are removed
// after the commit, and nothing that the transaction has not committed is cached.
//
// It returns the error of do unchanged; or that of the commit, whose outcome may not be known: the
// keys are removed all the same; or else that of End, if the commit succeeded and a removal did not
// reach a backend yet.
//
// An InTx with the same db within do is part of its transaction and of its change, whatever its
// options: it calls its function, and neither commits nor rolls back. Savepoints are the caller's
// affair. Within a change that was begun by [cacheaside.Begin] it has a transaction of its own,
// after which the keys declared so far are removed, and once more when that change ends.
//
// Where Feed is followed, call [Emit] in do with the same refs: then a crash after the commit loses
// nothing.
func InTx(ctx context.Context, db Beginner, o pgx.TxOptions, do func(ctx context.Context, tx pgx.Tx) error) (err error) {
	switch {
	case db == nil:
		return errors.New("postgres: InTx without a database")
	case do == nil:
		return errors.New("postgres: InTx without a function")
	}
	if outer, ok := ctx.Value(txContext{}).(*openTx); ok && !outer.ended.Load() && same(outer.db, db) {
		return do(ctx, outer.tx)
	}
	ctx, change := cacheaside.Begin(ctx)
	tx, err := db.BeginTx(ctx, o)
	if err != nil {
		change.Discard()
		return fmt.Errorf("postgres: beginning the transaction: %w", err)
	}
	open := &openTx{db: db, tx: tx}
	settled := false
	defer func() {
		open.ended.Store(true)
		if !settled { // a panic, a Goexit, or an error
			rollback(ctx, tx)
		}
		if failed := change.End(ctx); err == nil && settled {
			err = failed
		}
	}()
	if err = do(context.WithValue(ctx, txContext{}, open), tx); err != nil {
		return err
	}
	settled = true
	return tx.Commit(ctx)
}

// rollback rolls back though ctx may have ended. The error that matters is do's, and the database
// ends a transaction whose connection is lost, which pgx closes then.
func rollback(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	_ = tx.Rollback(ctx)
}

// same reports whether two databases are one. Those of a type that cannot be compared are not.
func same(a, b Beginner) bool {
	return reflect.TypeOf(a) == reflect.TypeOf(b) && reflect.TypeOf(a).Comparable() && a == b
}
