package cacheaside

import (
	"context"
	"database/sql"
	"fmt"
)

type txContext struct{}

// openTx is the transaction that a context carries.
type openTx struct {
	db *sql.DB
	tx *sql.Tx
}

// InTx runs do in a transaction of db and in a [Change], which the context that do gets carries: it begins the transaction,
// calls do, commits if do returns nil and rolls back otherwise, also after a panic, and then ends the change. So whatever is
// declared by Changed below is removed after the commit, and nothing that the transaction has not committed is cached.
//
// It returns the error of do unchanged; or that of the commit, whose outcome may not be known: the keys are removed all the
// same; or else that of [Change.End], if the commit succeeded and a removal did not reach a backend yet.
//
// An InTx with the same db within do is part of its transaction and of its change, whatever its options: it calls its function,
// and neither commits nor rolls back. Savepoints are the caller's affair. Within a change that was begun by [Begin] it has
// a transaction of its own, after which what was declared so far is removed, and once more when that change ends.
func InTx(ctx context.Context, db *sql.DB, o *sql.TxOptions, do func(ctx context.Context, tx *sql.Tx) error) (err error) {
	switch {
	case db == nil:
		return nilArgument("db", "a database")
	case do == nil:
		return nilArgument("do", "a function")
	}
	if outer, ok := ctx.Value(txContext{}).(*openTx); ok && outer.db == db && changeOf(ctx) != nil {
		return do(ctx, outer.tx)
	}
	ctx, change := begin(ctx, 1)
	tx, err := db.BeginTx(ctx, o)
	if err != nil {
		change.Discard()
		return fmt.Errorf("cacheaside: beginning the transaction: %w", err)
	}
	settled := false
	defer func() {
		if !settled { // a panic, a Goexit, or an error
			_ = tx.Rollback() // the error that matters is do's, and the database ends a transaction whose connection is lost
		}
		if failed := change.End(ctx); err == nil && settled {
			err = failed
		}
	}()
	if err = do(context.WithValue(ctx, txContext{}, &openTx{db, tx}), tx); err != nil {
		return err
	}
	settled = true
	return tx.Commit()
}
