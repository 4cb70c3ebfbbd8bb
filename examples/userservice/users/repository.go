// Package users keeps users in a SQL database, and answers for them from a cache.
package users

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	_ "modernc.org/sqlite" // the driver "sqlite"; pure Go, so that nothing has to be installed
)

// User is a row of the table of users. It holds no pointers: what a cache shares can't be changed through
// a copy of it.
type User struct {
	ID    int64  `json:"id"`
	Name  string `json:"name"`
	Email string `json:"email"`
}

// Repository reads and writes users in a database. It knows nothing of caches.
type Repository struct{ db *sql.DB }

// connections to the database are few: it is a file.
const connections = 4

// OpenRepository opens the SQLite database at path, making its tables if there are none. The caller closes it.
func OpenRepository(ctx context.Context, path string) (*Repository, error) {
	// Several processes may have the file open: a writer waits for another one instead of failing.
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)")
	if err != nil {
		return nil, err
	}
	// Opening one more costs more than waiting for one of these.
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	const schema = `
		CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL);
		CREATE TABLE IF NOT EXISTS members (organisation INTEGER NOT NULL, user INTEGER NOT NULL, role TEXT NOT NULL,
			PRIMARY KEY (organisation, user));
		CREATE INDEX IF NOT EXISTS roles ON members (user)`
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return nil, errors.Join(fmt.Errorf("making the tables: %w", err), db.Close())
	}
	return &Repository{db: db}, nil
}

// Close closes the database.
func (r *Repository) Close() error { return r.db.Close() }

// Find returns the user with this id, and [sql.ErrNoRows] if there is none.
func (r *Repository) Find(ctx context.Context, id int64) (u User, err error) {
	row := r.db.QueryRowContext(ctx, `SELECT id, name, email FROM users WHERE id = ?`, id)
	err = row.Scan(&u.ID, &u.Name, &u.Email)
	return u, err
}

// FindByEmail returns the user with this e-mail, and [sql.ErrNoRows] if there is none.
func (r *Repository) FindByEmail(ctx context.Context, email string) (u User, err error) {
	row := r.db.QueryRowContext(ctx, `SELECT id, name, email FROM users WHERE email = ?`, email)
	err = row.Scan(&u.ID, &u.Name, &u.Email)
	return u, err
}

// FindMany returns those of the users with these ids that there are, by one query.
func (r *Repository) FindMany(ctx context.Context, ids []int64) (found map[int64]User, err error) {
	found = make(map[int64]User, len(ids))
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	marks := strings.TrimSuffix(strings.Repeat("?,", len(ids)), ",")
	query := `SELECT id, name, email FROM users WHERE id IN (` + marks + `)`
	rows, err := r.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var u User
		if err := rows.Scan(&u.ID, &u.Name, &u.Email); err != nil {
			return nil, err
		}
		found[u.ID] = u
	}
	return found, rows.Err()
}

// Save writes u, whether there was such a user or not.
func (r *Repository) Save(ctx context.Context, u User) error {
	_, err := r.db.ExecContext(ctx, `INSERT INTO users (id, name, email) VALUES (?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name, email = excluded.email`, u.ID, u.Name, u.Email)
	return err
}
