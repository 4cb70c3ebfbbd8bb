package users

import (
	"context"
	"database/sql"
	"strconv"
	"time"

	"github.com/cacheaside/cacheaside"
)

// ErrNotFound is what the service returns for a user that there is not.
var ErrNotFound = cacheaside.ErrNotFound

// Source is what the service needs of a [Repository].
type Source interface {
	Find(ctx context.Context, id int64) (User, error)
	FindMany(ctx context.Context, ids []int64) ([]User, error)
	Save(ctx context.Context, u User) error
}

// Service answers for users from a cache, which asks the source for what it does not have.
type Service struct {
	source Source
	cache  *cacheaside.Client[User]

	// The functions that fetch are made once, so that a look-up allocates nothing when it hits: the cache
	// gives them the key.
	fetch     cacheaside.FetchFunc[User]
	fetchMany cacheaside.FetchManyFunc[User]
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
	s := &Service{source: source, cache: cache}
	s.fetch = func(ctx context.Context, key string) (User, error) {
		id, err := strconv.ParseInt(key, 10, 64)
		if err != nil {
			return User{}, err
		}
		return source.Find(ctx, id)
	}
	s.fetchMany = s.findMany
	return s, nil
}

// GetUserByID returns the user with this id, and [ErrNotFound] if there is none. It returns when ctx ends,
// even if others still wait for the same user.
func (s *Service) GetUserByID(ctx context.Context, id int64) (User, error) {
	return s.cache.GetWithFetch(ctx, key(id), ttl, s.fetch)
}

// GetUsersByID returns those of the users with these ids that there are.
func (s *Service) GetUsersByID(ctx context.Context, ids []int64) ([]User, error) {
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = key(id)
	}
	found, err := s.cache.GetManyWithFetch(ctx, keys, ttl, s.fetchMany)
	if err != nil {
		return nil, err
	}
	users := make([]User, 0, len(found))
	for _, k := range keys {
		if u, ok := found[k]; ok {
			users = append(users, u)
			delete(found, k) // an id may have been given twice
		}
	}
	return users, nil
}

// SaveUser writes u. From when it returns, nobody is given what was there before.
func (s *Service) SaveUser(ctx context.Context, u User) error {
	return s.cache.Mutate(ctx, []string{key(u.ID)}, func(ctx context.Context) error {
		return s.source.Save(ctx, u)
	})
}

// Forget removes the user with this id from the cache, for one who has changed the database by hand.
func (s *Service) Forget(ctx context.Context, id int64) error { return s.cache.Delete(ctx, key(id)) }

// Cache returns the cache, for those who watch it.
func (s *Service) Cache() *cacheaside.Client[User] { return s.cache }

// Stats returns what the cache has counted.
func (s *Service) Stats() cacheaside.Stats { return s.cache.Stats() }

// Health returns nil if the cache's backend answers. The service works without it, but more slowly.
func (s *Service) Health(ctx context.Context) error { return s.cache.Health(ctx) }

// Close closes the cache.
func (s *Service) Close() error { return s.cache.Close() }

// findMany fetches what a batch of look-ups has missed.
func (s *Service) findMany(ctx context.Context, keys []string) (map[string]User, error) {
	ids := make([]int64, len(keys))
	for i, k := range keys {
		id, err := strconv.ParseInt(k, 10, 64)
		if err != nil {
			return nil, err
		}
		ids[i] = id
	}
	users, err := s.source.FindMany(ctx, ids)
	if err != nil {
		return nil, err
	}
	found := make(map[string]User, len(users))
	for _, u := range users {
		found[key(u.ID)] = u
	}
	return found, nil
}

func key(id int64) string { return strconv.FormatInt(id, 10) }
