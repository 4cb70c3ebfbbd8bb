package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/cacheaside/cacheaside"
)

// Messages in the log by their prefixes.
const (
	refsPrefix = "cacheaside"      // refs, by Emit
	lostPrefix = "cacheaside:lost" // the name of a slot that was made anew
	beatPrefix = "cacheaside:beat" // nothing
)

// Execer is a transaction as Emit needs it: a pgx.Tx is one.
type Execer interface {
	Exec(ctx context.Context, sql string, arguments ...any) (pgconn.CommandTag, error)
}

// Emit writes refs into a transaction, to be removed when it is committed. Each [Feed] of the
// database tells its backend; after a rollback nothing is told. It needs no table and no right.
// Refs reach caches of the same names only.
//
// It does not replace Changed or [InTx]: those keep this process right at once, and do not wait for
// the log. Emit makes up for a process that ends between its commit and the removal.
//
// With a pool or a connection in place of a transaction, refs are a transaction of their own, which
// says nothing of any other.
func Emit(ctx context.Context, tx Execer, refs ...cacheaside.Ref) error {
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
	if _, err := tx.Exec(ctx, "SELECT pg_logical_emit_message(true, $1, $2::bytea)", refsPrefix, content); err != nil {
		return fmt.Errorf("postgres: Emit: %w", err)
	}
	return nil
}

// encodeRefs writes refs as text, each after its length: keys may hold any byte.
func encodeRefs(refs []cacheaside.Ref) (content []byte, err error) {
	for _, r := range refs {
		text, err := r.MarshalText()
		if err != nil {
			return nil, fmt.Errorf("postgres: %w", err)
		}
		content = binary.AppendUvarint(content, uint64(len(text)))
		content = append(content, text...)
	}
	return content, nil
}

var errContent = errors.New("postgres: a message in the log is not one of Emit's")

// decodeRefs is the reverse of encodeRefs.
func decodeRefs(content []byte) (refs []cacheaside.Ref, err error) {
	for len(content) > 0 {
		length, n := binary.Uvarint(content)
		if n <= 0 || length > uint64(len(content)-n) {
			return nil, errContent
		}
		var r cacheaside.Ref
		if err := r.UnmarshalText(content[n : n+int(length)]); err != nil {
			return nil, fmt.Errorf("%w: %w", errContent, err)
		}
		refs = append(refs, r)
		content = content[n+int(length):]
	}
	return refs, nil
}
