package cacheaside

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestAliasModel changes people at random, as the database would, tells the cache of the keys only, and looks everybody up by each
// name: what is returned has the name that it was asked for by, and is as the database has it.
func TestAliasModel(t *testing.T) {
	for _, r := range rigs {
		t.Run(r.name, func(t *testing.T) {
			if r.start != nil {
				r.start(t)
			}
			r.run(t, func(e *env) {
				c, by := openPeople(e, nil)
				round := 0
				rapid.Check(struct{ rapid.TB }{e.T}, func(t *rapid.T) {
					round++
					aliasHistory(t, e, c, by, round)
				})
			})
		})
	}
}

func aliasHistory(t *rapid.T, e *env, c *Client[person], by *AliasClient[person], round int) {
	ctx, s := e.Context(), newPeople()
	ids := rapid.SampledFrom([]string{fmt.Sprint(round, "-1"), fmt.Sprint(round, "-2"), fmt.Sprint(round, "-3")})
	emails := rapid.SampledFrom([]string{fmt.Sprint(round, "a@x"), fmt.Sprint(round, "b@x"), fmt.Sprint(round, "c@x")})
	version := 0
	// One e-mail is one person's.
	change := func(t *rapid.T) (p person, written []string) {
		version++
		p = person{ids.Draw(t, "id"), emails.Draw(t, "email"), version}
		if owner, err := s.byEmail(ctx, p.Email); err == nil && owner.ID != p.ID {
			s.remove(owner.ID)
			written = append(written, owner.ID)
		}
		s.put(p)
		return p, append(written, p.ID)
	}
	agrees := func(t *rapid.T, v person, err error, want person, wantErr error) {
		if wantErr != nil {
			require.ErrorIs(t, err, ErrNotFound)
			return
		}
		require.NoError(t, err)
		require.Equal(t, want, v)
	}
	t.Repeat(map[string]func(*rapid.T){
		"change and delete": func(t *rapid.T) {
			_, written := change(t)
			require.NoError(t, c.DeleteMany(ctx, written))
		},
		"change and set": func(t *rapid.T) {
			p, written := change(t)
			require.NoError(t, c.DeleteMany(ctx, written))
			require.NoError(t, c.Set(ctx, p.ID, p, time.Minute))
		},
		"change in a Mutate": func(t *rapid.T) {
			all := []string{fmt.Sprint(round, "-1"), fmt.Sprint(round, "-2"), fmt.Sprint(round, "-3")}
			require.NoError(t, c.Mutate(ctx, all, func(context.Context) error { change(t); return nil }))
		},
		"remove": func(t *rapid.T) {
			id := ids.Draw(t, "id")
			s.remove(id)
			require.NoError(t, c.Delete(ctx, id))
		},
		"by key": func(t *rapid.T) {
			id := ids.Draw(t, "id")
			want, wantErr := s.byID(ctx, id)
			v, err := c.GetWithFetch(ctx, id, time.Minute, s.byID)
			agrees(t, v, err, want, wantErr)
		},
		"by alias": func(t *rapid.T) {
			email := emails.Draw(t, "email")
			want, wantErr := s.byEmail(ctx, email)
			v, err := by.GetWithFetch(ctx, email, time.Minute, s.byEmail)
			agrees(t, v, err, want, wantErr)
		},
		"what is kept of an alias": func(t *rapid.T) {
			email := emails.Draw(t, "email")
			want, wantErr := s.byEmail(ctx, email)
			if v, err := by.Get(ctx, email); err == nil {
				require.NoError(t, wantErr)
				require.Equal(t, want, v)
			}
		},
		"many by alias": func(t *rapid.T) {
			all, err := by.GetManyWithFetch(ctx, []string{emails.Draw(t, "email"), emails.Draw(t, "another")}, time.Minute, s.manyByEmail)
			require.NoError(t, err)
			for email, v := range all {
				want, wantErr := s.byEmail(ctx, email)
				agrees(t, v, nil, want, wantErr)
			}
		},
	})
}
