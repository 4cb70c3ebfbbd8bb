package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// lack is a command that completes the publication.
type lack struct{ sql string }

// relation is a table as the server knows it.
type relation struct {
	oids        []uint32       // its own, and those of its partitions
	name        pgx.Identifier // schema and name
	partitioned bool
}

// checkTablesAgain is checkTables, unless the tables were looked at a moment ago.
func (s *session) checkTablesAgain(ctx context.Context) (*lack, error) {
	if time.Since(s.looked) < tablesInterval {
		return nil, nil
	}
	lacking, err := s.checkTables(ctx)
	if err == nil && lacking == nil {
		s.looked = time.Now()
	}
	return lacking, err
}

// checkTables finds the tables, and returns the lack of the publication. A lack that the feed does
// not mend is an error.
func (s *session) checkTables(ctx context.Context) (*lack, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	s.byOID = make(map[uint32]table, len(s.feed.tables))
	relations := make([]relation, 0, len(s.feed.tables))
	for _, t := range s.feed.tables {
		r, err := s.find(ctx, t.name)
		if err != nil {
			return nil, err
		}
		for _, oid := range r.oids {
			if other, ok := s.byOID[oid]; ok {
				return nil, fmt.Errorf("Feed.Table names a table twice, as %s and as %s", other.name, t.name)
			}
			s.byOID[oid] = t
		}
		relations = append(relations, r)
	}
	return s.checkPublication(ctx, relations)
}

// find looks a table up, and sees that the log will tell of it.
func (s *session) find(ctx context.Context, name string) (r relation, err error) {
	var oid uint32
	var schema, table, kind string
	var partition bool
	err = s.ask(ctx, `SELECT c.oid, n.nspname, c.relname, c.relkind::text, c.relispartition
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)`, []any{name},
		&oid, &schema, &table, &kind, &partition)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return r, fmt.Errorf("there is no table %s that the user %s sees; is its schema missing?", name, s.conn.Config().User)
	case err != nil:
		return r, err
	case kind != "r" && kind != "p":
		return r, fmt.Errorf("%s is not a table", name)
	case partition:
		return r, fmt.Errorf("%s is a partition, wanted: the table that it belongs to", name)
	}
	r.name, r.partitioned = pgx.Identifier{schema, table}, kind == "p"
	var mend []string
	r.oids, mend, err = s.family(ctx, oid)
	if err == nil && len(mend) > 0 {
		err = fmt.Errorf("the log cannot tell which row of %s has changed, and an UPDATE of a published table without a replica identity fails; "+
			"partitions need that of their table; run: %s", name, strings.Join(mend, "; "))
	}
	return r, err
}

// family returns a table with those that inherit from it, and the commands that mend their replica
// identities. If those of partitions differ, the log tells values that it does not know as NULL.
func (s *session) family(ctx context.Context, oid uint32) (oids []uint32, mend []string, err error) {
	s.asking.Lock()
	defer s.asking.Unlock()
	rows, err := s.conn.Query(ctx, `WITH RECURSIVE family AS (
			SELECT $1::oid AS id UNION SELECT i.inhrelid FROM pg_inherits i JOIN family ON i.inhparent = family.id)
		SELECT c.oid, c.oid::regclass::text, c.relreplident = 'f', CASE c.relreplident
			WHEN 'f' THEN true
			WHEN 'd' THEN EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
			WHEN 'i' THEN EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident)
			ELSE false END
		FROM pg_class c JOIN family ON c.oid = family.id ORDER BY c.oid <> $1, 2`, oid)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	var wanted bool
	for rows.Next() {
		var id uint32
		var name string
		var full, good bool
		if err := rows.Scan(&id, &name, &full, &good); err != nil {
			return nil, nil, err
		}
		if id == oid {
			wanted = full
		}
		switch {
		case !good || wanted && !full:
			mend = append(mend, "ALTER TABLE "+name+" REPLICA IDENTITY FULL")
		case full && !wanted:
			mend = append(mend, "ALTER TABLE "+name+" REPLICA IDENTITY DEFAULT")
		}
		oids = append(oids, id)
	}
	return oids, mend, rows.Err()
}

func (s *session) checkPublication(ctx context.Context, relations []relation) (*lack, error) {
	quoted := pgx.Identifier{s.publication}.Sanitize()
	var operations, viaRoot bool
	err := s.ask(ctx, `SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate, pubviaroot FROM pg_publication WHERE pubname = $1`,
		[]any{s.publication}, &operations, &viaRoot)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return &lack{"CREATE PUBLICATION " + quoted + forTables(" FOR TABLE ", relations) + " WITH (publish_via_partition_root = true)"}, nil
	case err != nil:
		return nil, err
	case !operations:
		return nil, fmt.Errorf("the publication %s leaves changes out; run: ALTER PUBLICATION %s SET (publish = 'insert, update, delete, truncate')",
			quoted, quoted)
	}
	var missing []relation
	for _, r := range relations {
		if r.partitioned && !viaRoot {
			return nil, fmt.Errorf("the publication %s names the partitions of %s in its place; run: ALTER PUBLICATION %s SET (publish_via_partition_root = true)",
				quoted, r.name.Sanitize(), quoted)
		}
		var published bool
		err := s.ask(ctx, `SELECT EXISTS (SELECT FROM pg_publication_tables WHERE pubname = $1 AND schemaname = $2 AND tablename = $3)`,
			[]any{s.publication, r.name[0], r.name[1]}, &published)
		if err != nil {
			return nil, err
		}
		if !published {
			missing = append(missing, r)
		}
	}
	if len(missing) == 0 {
		return nil, nil
	}
	return &lack{"ALTER PUBLICATION " + quoted + forTables(" ADD TABLE ", missing)}, nil
}

func forTables(verb string, relations []relation) string {
	if len(relations) == 0 {
		return ""
	}
	names := make([]string, len(relations))
	for i, r := range relations {
		names[i] = r.name.Sanitize()
	}
	return verb + strings.Join(names, ", ")
}

// alter completes the publication. A slot from before that is dropped with it, if there is one: it
// has not told of these tables.
func (s *session) alter(ctx context.Context, lacking *lack, slot string) error {
	err := pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '3s'"); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, lacking.sql); err != nil {
			return err
		}
		if slot == "" {
			return nil
		}
		// It is gone at once, whatever becomes of the transaction: without it the next try begins
		// here.
		_, err := tx.Exec(ctx, "SELECT pg_drop_replication_slot($1)", slot)
		return err
	})
	switch {
	case hasCode(err, codeNoRight):
		drop := ""
		if slot != "" {
			drop = "; SELECT pg_drop_replication_slot('" + slot + "')"
		}
		return fmt.Errorf("the publication is not complete, and the user %s may not change it (%w); run as the owner of the tables: %s%s",
			s.conn.Config().User, err, lacking.sql, drop)
	case hasCode(err, codeExists) || hasCode(err, codeDuplicate): // another process was faster
		return nil
	}
	return err
}
