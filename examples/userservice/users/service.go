package users

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"strconv"
	"time"

	"github.com/cacheaside/cacheaside"
)

// ErrNotFound is what the service returns for a user that there is not.
var ErrNotFound = cacheaside.ErrNotFound

// Source is what the service needs of a [Repository].
type Source interface {
	Find(ctx context.Context, id int64) (User, error)
	FindByEmail(ctx context.Context, email string) (User, error)
	FindMany(ctx context.Context, ids []int64) (map[int64]User, error)
	Save(ctx context.Context, u User) error

	Members(ctx context.Context, p Page) ([]Member, error)
	Roles(ctx context.Context, user int64) ([]Role, error)
	SetRole(ctx context.Context, organisation, user int64, role string) error
	Move(ctx context.Context, user, from, to int64) error
}

// Service answers for users, pages of members and roles from a cache each, which asks the source for missing values.
// The three share a backend, so one call can invalidate in all of them.
type Service struct {
	source  Source
	backend *cacheaside.Backend
	cache   *cacheaside.KeyedClient[int64, User]
	byEmail *cacheaside.AliasClient[User] // of cache
	roles   *cacheaside.KeyedClient[int64, []Role]
	members *cacheaside.KeyedClient[Page, []Member]
	pages   *cacheaside.KeyedLoader[Page, []Member] // of members
}

// ttl is how long a user may be served without asking the database again. Changes made through the
// service are seen at once; this bounds how long one goes unseen that was made behind its back.
const ttl = 10 * time.Minute

// Open opens the caches that cfg describes, in front of source. The caller closes the service, and the
// source after it.
func Open(ctx context.Context, cfg cacheaside.Config, source Source, options ...cacheaside.Option) (*Service, error) {
	// That there is no such user is an answer, and worth remembering (for Config.NegativeTTL).
	options = append(options, cacheaside.WithNotFound(sql.ErrNoRows))
	backend, err := cacheaside.Connect(ctx, cfg, options...)
	if err != nil {
		return nil, err
	}
	cache, err1 := cacheaside.New[User](backend, cmp.Or(cfg.Name, "users"))
	roles, err2 := cacheaside.New[[]Role](backend, "roles")
	members, err3 := cacheaside.New[[]Member](backend, "members", cacheaside.WithTags(tagsOfPage))
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, errors.Join(err, backend.Close())
	}
	s := &Service{source: source, backend: backend}
	s.cache = cacheaside.Keyed(cache, cacheaside.IntKeys[int64]())
	s.byEmail = cacheaside.Alias(cache, "email", func(u User) (key string, emails []string) {
		return strconv.FormatInt(u.ID, 10), []string{u.Email}
	})
	s.roles = cacheaside.Keyed(roles, cacheaside.IntKeys[int64]())
	s.members = cacheaside.Keyed(members, pageKeys{})
	s.pages = s.members.Bind(ttl, s.fetchPage)
	return s, nil
}

// GetUserByID returns the user with this id, and [ErrNotFound] if there is none. It returns when ctx ends,
// even if others still wait for the same user.
func (s *Service) GetUserByID(ctx context.Context, id int64) (User, error) {
	return s.cache.GetWithFetch(ctx, id, ttl, s.source.Find)
}

// GetUserByEmail is GetUserByID by e-mail: the same user, in the same place. Nothing else need know of e-mails: [Service.SaveUser] names the
// id only, and a user is not found by an e-mail of before.
func (s *Service) GetUserByEmail(ctx context.Context, email string) (User, error) {
	return s.byEmail.GetWithFetch(ctx, email, ttl, s.source.FindByEmail)
}

// GetUsersByID returns those of the users with these ids that there are.
func (s *Service) GetUsersByID(ctx context.Context, ids []int64) ([]User, error) {
	found, err := s.cache.GetManyWithFetch(ctx, ids, ttl, s.source.FindMany)
	if err != nil {
		return nil, err
	}
	users := make([]User, 0, len(found))
	for _, id := range ids {
		if u, ok := found[id]; ok {
			users = append(users, u)
			delete(found, id) // an id may have been given twice
		}
	}
	return users, nil
}

// SaveUser writes u. After it has returned, no caller is given the user from before, nor a page with that user.
func (s *Service) SaveUser(ctx context.Context, u User) error {
	refs := append(s.cache.Refs(u.ID), cacheaside.Tags(userTag(u.ID))...)
	return s.backend.Mutate(ctx, refs, func(ctx context.Context) error {
		return s.source.Save(ctx, u)
	})
}

// Forget removes the user with this id from the cache, for one who has changed the database by hand.
func (s *Service) Forget(ctx context.Context, id int64) error { return s.cache.Delete(ctx, id) }

// Caches returns the caches, for metrics and the debug page.
func (s *Service) Caches() (*cacheaside.Client[User], *cacheaside.Client[[]Role], *cacheaside.Client[[]Member]) {
	return s.cache.Client(), s.roles.Client(), s.members.Client()
}

// Stats returns the counts of the users' cache.
func (s *Service) Stats() cacheaside.Stats { return s.cache.Stats() }

// Health returns nil if the cache's backend answers. The service works without it, but more slowly.
func (s *Service) Health(ctx context.Context) error { return s.cache.Health(ctx) }

// Close closes the caches.
func (s *Service) Close() error { return s.backend.Close() }
