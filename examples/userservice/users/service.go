package users

import (
	"context"
	"database/sql"
	"time"

	"github.com/cacheaside/cacheaside"
)

// ErrNotFound is what the service returns for a user that there is not.
var ErrNotFound = cacheaside.ErrNotFound

// Source is what the service needs of a [Repository].
type Source interface {
	Find(ctx context.Context, id int64) (User, error)
	FindMany(ctx context.Context, ids []int64) (map[int64]User, error)
	Save(ctx context.Context, u User) error
}

// Service answers for users from a cache, which asks the source for what it does not have.
type Service struct {
	source Source
	cache  *cacheaside.KeyedClient[int64, User]
}

// ttl is how long a user may be served without asking the database again. Changes made through the
// service are seen at once; this bounds how long one goes unseen that was made behind its back.
const ttl = 10 * time.Minute

// Open opens the cache that cfg describes, in front of source. The caller closes the service, and the
// source after it.
func Open(ctx context.Context, cfg cacheaside.Config, source Source, options ...cacheaside.Option) (*Service, error) {
	if cfg.Name == "" {
		cfg.Name = "users"
	}
	// That there is no such user is an answer, and worth remembering (for Config.NegativeTTL).
	options = append(options, cacheaside.WithNotFound(sql.ErrNoRows))
	cache, err := cacheaside.Open[User](ctx, cfg, options...)
	if err != nil {
		return nil, err
	}
	return &Service{source: source, cache: cacheaside.Keyed(cache, cacheaside.IntKeys[int64]())}, nil
}

// GetUserByID returns the user with this id, and [ErrNotFound] if there is none. It returns when ctx ends,
// even if others still wait for the same user.
func (s *Service) GetUserByID(ctx context.Context, id int64) (User, error) {
	return s.cache.GetWithFetch(ctx, id, ttl, s.source.Find)
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

// SaveUser writes u. From when it returns, nobody is given what was there before.
func (s *Service) SaveUser(ctx context.Context, u User) error {
	return s.cache.Mutate(ctx, []int64{u.ID}, func(ctx context.Context) error {
		return s.source.Save(ctx, u)
	})
}

// Forget removes the user with this id from the cache, for one who has changed the database by hand.
func (s *Service) Forget(ctx context.Context, id int64) error { return s.cache.Delete(ctx, id) }

// Cache returns the cache, for those who watch it.
func (s *Service) Cache() *cacheaside.Client[User] { return s.cache.Client() }

// Stats returns what the cache has counted.
func (s *Service) Stats() cacheaside.Stats { return s.cache.Stats() }

// Health returns nil if the cache's backend answers. The service works without it, but more slowly.
func (s *Service) Health(ctx context.Context) error { return s.cache.Health(ctx) }

// Close closes the cache.
func (s *Service) Close() error { return s.cache.Close() }
