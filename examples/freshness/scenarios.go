package main

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/examples/userservice/users"
)

// scenario is a policy, and a database that shows what it is for.
type scenario struct {
	policy, about, source string

	ttl     time.Duration
	keys    []string
	users   int                              // of the crowd; 0: usualCrowd
	always  func(*cacheaside.Config)         // of both caches
	with    func(*cacheaside.Config)         // of the one with the policy
	trouble func(context.Context, *database) // begins when the keys are cached
}

const (
	manyUsers = 200
	lasting   = time.Minute // longer than a scenario
	plays     = 700 * time.Millisecond
)

var one = []string{"42"}

// all are the keys of every user.
var all = func() (keys []string) {
	for id := range manyUsers {
		keys = append(keys, strconv.Itoa(id))
	}
	return keys
}()

func slow(latency time.Duration) func(context.Context, *database) {
	return func(_ context.Context, d *database) { d.latency.Store(int64(latency)) }
}

func down(_ context.Context, d *database) { d.down.Store(true) }

var scenarios = []scenario{
	{
		policy: "StaleFor", about: "a value past its ttl is returned at once, while one query replaces it",
		source: "every query takes 60 ms; the ttl is 100 ms",
		ttl:    100 * time.Millisecond, keys: one, trouble: slow(60 * time.Millisecond),
		with: func(c *cacheaside.Config) { c.StaleFor = lasting },
	},
	{
		policy: "RefreshAhead", about: "a value is replaced before its ttl is over, so that nobody waits and nothing is stale",
		source: "every query takes 60 ms; the ttl is 300 ms, and half of it over means refresh",
		ttl:    300 * time.Millisecond, keys: one, trouble: slow(60 * time.Millisecond),
		with: func(c *cacheaside.Config) { c.RefreshAhead = 0.5 },
	},
	{
		policy: "SoftTimeout", about: "who would wait for longer gets the stale value, and the query goes on",
		source: "every query takes 200 ms; the ttl is 100 ms, and nobody is to wait for more than 10 ms",
		ttl:    100 * time.Millisecond, keys: one, trouble: slow(200 * time.Millisecond),
		always: func(c *cacheaside.Config) { c.StaleIfError = lasting },
		with:   func(c *cacheaside.Config) { c.SoftTimeout = 10 * time.Millisecond },
	},
	{
		policy: "StaleIfError", about: "when a query fails, users get the last value that there was",
		source: "every query fails; the ttl is 100 ms",
		ttl:    100 * time.Millisecond, keys: one, trouble: down,
		with: func(c *cacheaside.Config) { c.StaleIfError = lasting },
	},
	{
		policy: "ErrorCooldown", about: "a database that fails is left alone for a while",
		source: "every query fails; the ttl is 100 ms",
		ttl:    100 * time.Millisecond, keys: one, trouble: down,
		with: func(c *cacheaside.Config) { c.ErrorCooldown = 200 * time.Millisecond },
	},
	{
		policy: "NegativeTTL", about: "that there is no such user is remembered",
		source: "there is no user 12345; every query takes 5 ms",
		ttl:    lasting, keys: []string{"12345"}, trouble: slow(5 * time.Millisecond),
		with: func(c *cacheaside.Config) { c.NegativeTTL = 300 * time.Millisecond },
	},
	{
		policy: "Jitter", about: "what was cached together does not expire together",
		source: "200 users are cached at the same moment, for 400 ms",
		ttl:    400 * time.Millisecond, keys: all, users: manyUsers, // each key is asked for by somebody
		with: func(c *cacheaside.Config) { c.Jitter = 0.8 },
	},
}

// play lets a crowd use a cache without the policy, and at the same time another one use a cache with it.
func (s scenario) play(ctx context.Context, cfg cacheaside.Config, repository *users.Repository) (r result, err error) {
	if s.always != nil {
		s.always(&cfg)
	}
	with := cfg
	s.with(&with)
	var both sync.WaitGroup
	var err1, err2 error
	both.Go(func() { r.without, err1 = s.use(ctx, cfg, "without", repository) })
	both.Go(func() { r.with, err2 = s.use(ctx, with, "with", repository) })
	both.Wait()
	return r, errors.Join(err1, err2)
}

func (s scenario) use(ctx context.Context, cfg cacheaside.Config, name string, repository *users.Repository) (o outcome, err error) {
	cache, err := open(ctx, cfg, s.policy+"-"+name, s.keys)
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, cache.Close()) }()
	d := &database{repository: repository}
	cached := time.Now()
	fetchMany := func(ctx context.Context, keys []string) (map[string]users.User, error) { return findMany(ctx, d, keys) }
	if _, err := cache.GetManyWithFetch(ctx, s.keys, s.ttl, fetchMany); err != nil {
		return o, err
	}
	if s.trouble != nil {
		s.trouble(ctx, d)
	}
	return crowd(ctx, cache, d, s, cached), nil
}

// open opens a cache of users that holds none of keys. On Redis, an earlier run may have left them there.
func open(ctx context.Context, cfg cacheaside.Config, name string, keys []string) (*cacheaside.Client[users.User], error) {
	cfg.Name = "freshness-" + name
	cache, err := cacheaside.Open[users.User](ctx, cfg, cacheaside.WithNotFound(sql.ErrNoRows))
	if err != nil {
		return nil, err
	}
	if err := cache.DeleteMany(ctx, keys); err != nil {
		return nil, errors.Join(err, cache.Close())
	}
	return cache, nil
}
