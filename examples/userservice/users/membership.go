package users

import (
	"context"
	"database/sql"
	"errors"
)

// Member is a user as an organisation's page shows one.
type Member struct {
	User User   `json:"user"`
	Role string `json:"role"`
}

// Role is the role of a user in an organisation.
type Role struct {
	Organisation int64  `json:"organisation"`
	Role         string `json:"role"`
}

// Page is a page of an organisation's members. The first has the number 1.
type Page struct{ Organisation, Number int64 }

// PageSize is how many members a page shows.
const PageSize = 20

// Members returns the members on a page, by their ids.
func (r *Repository) Members(ctx context.Context, p Page) ([]Member, error) {
	rows, err := r.db.QueryContext(ctx, `SELECT id, name, email, role FROM members JOIN users ON id = user
		WHERE organisation = ? ORDER BY id LIMIT ? OFFSET ?`, p.Organisation, PageSize, (p.Number-1)*PageSize)
	return scanAll(rows, err, func(m *Member) []any { return []any{&m.User.ID, &m.User.Name, &m.User.Email, &m.Role} })
}

// Roles returns the roles of a user in all organisations.
func (r *Repository) Roles(ctx context.Context, user int64) ([]Role, error) {
	rows, err := r.db.QueryContext(ctx, `SELECT organisation, role FROM members WHERE user = ? ORDER BY organisation`, user)
	return scanAll(rows, err, func(r *Role) []any { return []any{&r.Organisation, &r.Role} })
}

// SetRole makes a user a member of an organisation, or changes the member's role. It returns [sql.ErrNoRows] if
// there is no such user.
func (r *Repository) SetRole(ctx context.Context, organisation, user int64, role string) error {
	return changed(r.db.ExecContext(ctx, `INSERT INTO members (organisation, user, role) SELECT ?, id, ? FROM users WHERE id = ?
		ON CONFLICT (organisation, user) DO UPDATE SET role = excluded.role`, organisation, role, user))
}

// Move moves a member with the role to another organisation. It returns [sql.ErrNoRows] if the user is no member
// of the first.
func (r *Repository) Move(ctx context.Context, user, from, to int64) error {
	return changed(r.db.ExecContext(ctx, `UPDATE OR REPLACE members SET organisation = ? WHERE user = ? AND organisation = ?`, to, user, from))
}

// changed returns the error of a write, and [sql.ErrNoRows] if it has changed nothing.
func changed(done sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := done.RowsAffected()
	if err == nil && n == 0 {
		err = sql.ErrNoRows
	}
	return err
}

// scanAll reads rows, each into the places that columns returns, and closes them.
func scanAll[T any](rows *sql.Rows, err error, columns func(*T) []any) (all []T, _ error) {
	if err != nil {
		return nil, err
	}
	all = []T{} // an empty page is a page
	for rows.Next() {
		var row T
		if err := rows.Scan(columns(&row)...); err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		all = append(all, row)
	}
	return all, errors.Join(rows.Err(), rows.Close())
}
