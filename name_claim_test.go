package cacheaside

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// The types are those of other tests, since each further type of a cache takes the compiler long: int and int64 are
// stored alike, and string is not.

// claimer opens caches on one server.
type claimer struct {
	*testing.T
	server *redistest.Server
}

func (s claimer) config(backend, name string) Config {
	cfg := config(s.T, s.server.URL(backend))
	cfg.Name = name
	return cfg
}

// mustOpen opens a cache that is to be closed in the end, if the test does not.
func mustOpen[T any](t *testing.T, cfg Config, opts ...Option) *Client[T] {
	t.Helper()
	c, err := Open[T](t.Context(), cfg, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// refused requires that a cache of T cannot be opened, for a reason that says which cache is in the way.
func refused[T any](t *testing.T, cfg Config, by string) {
	t.Helper()
	c, err := Open[T](t.Context(), cfg)
	if err == nil {
		require.NoError(t, c.Close())
	}
	require.ErrorIs(t, err, ErrInvalidConfig)
	require.ErrorContains(t, err, "Name is")
	require.ErrorContains(t, err, by)
	require.ErrorContains(t, err, "?name=")
}

func TestTwoTypesDoNotMeetUnderTheDefaultName(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		s := claimer{t, redistest.Start(t)}
		numbers := mustOpen[int](t, s.config(backend, ""))
		require.NoError(t, numbers.Set(t.Context(), "42", 7, time.Minute))
		for _, other := range []string{BackendRueidis, BackendRueidisAside} {
			refused[string](t, s.config(other, ""), "cache of int ")
			refused[string](t, s.config(other, "default"), "cache of int ")
			refused[int64](t, s.config(other, ""), "cache of int ") // 42 is somebody's number everywhere
		}
		got, err := numbers.Get(t.Context(), "42")
		require.NoError(t, err, "the first one goes on")
		require.Equal(t, 7, got)

		mustOpen[string](t, s.config(backend, "orders"))
		elsewhere := s.config(backend, "")
		elsewhere.Prefix = "shop"
		mustOpen[string](t, elsewhere)
		elsewhere = s.config(backend, "")
		elsewhere.Redis.DB = 1
		mustOpen[string](t, elsewhere)
		mustOpen[string](t, claimer{t, redistest.Start(t)}.config(backend, ""))

		require.NoError(t, numbers.Close())
		mustOpen[string](t, s.config(backend, ""))
		refused[int](t, s.config(backend, ""), "cache of string ")
	})
}

func TestANameGivenTwiceIsForOneFormOfValues(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		s := claimer{t, redistest.Start(t)}
		log := new(logRecorder)
		cfg := s.config(backend, "users")
		one, two := mustOpen[int](t, cfg), mustOpen[int](t, cfg, WithLogger(log.logger()))
		alike := mustOpen[int64](t, cfg, WithLogger(log.logger()))
		require.NoError(t, one.Set(t.Context(), "42", 7, time.Minute))
		got, err := two.Get(t.Context(), "42")
		require.NoError(t, err)
		require.Equal(t, 7, got)
		wide, err := alike.Get(t.Context(), "42")
		require.NoError(t, err)
		require.Equal(t, int64(7), wide)
		require.Empty(t, log.lines(t))
		refused[string](t, cfg, "cache of int ")
	})
}

func TestSharingByTheDefaultNameIsLogged(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		s := claimer{t, redistest.Start(t)}
		log := new(logRecorder)
		cfg := s.config(backend, "")
		for i, wanted := range []int{0, 1, 0} {
			mustOpen[string](t, cfg, WithLogger(log.logger()))
			lines := log.lines(t)
			require.Len(t, lines, wanted, i)
			if wanted > 0 {
				require.Equal(t, "WARN", lines[0]["level"])
				require.Contains(t, lines[0]["msg"], "name=")
				require.Equal(t, "default", lines[0]["cache"])
				require.Equal(t, "string", lines[0]["type"])
			}
		}
	})
}

func TestSharingByTheDefaultNameIsLoggedWithoutALogger(t *testing.T) {
	s := claimer{t, redistest.Start(t)}
	log := new(logRecorder)
	before := slog.Default()
	slog.SetDefault(log.logger())
	defer slog.SetDefault(before)
	mustOpen[string](t, s.config(BackendRueidis, ""))
	require.Empty(t, log.lines(t))
	mustOpen[string](t, s.config(BackendRueidis, "default"))
	require.Len(t, log.lines(t), 1)
}

func TestCachesOfTwoBackendsDoNotMeetEither(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		s := claimer{t, redistest.Start(t)}
		one, err := Connect(t.Context(), s.config(backend, ""))
		require.NoError(t, err)
		defer one.Close()
		two, err := Connect(t.Context(), s.config(backend, ""))
		require.NoError(t, err)
		defer two.Close()
		_, err = New[int](one, "")
		require.NoError(t, err)
		_, err = New[string](two, "")
		require.ErrorIs(t, err, ErrInvalidConfig)
		refused[string](t, s.config(backend, ""), "cache of int ")
		_, err = New[int](one, "people")
		require.NoError(t, err)
		_, err = New[int64](two, "people")
		require.NoError(t, err)
		require.NoError(t, one.Close())
		_, err = New[string](two, "")
		require.NoError(t, err, "a backend takes the names of its caches along")
	})
}

func TestAFailedOpenLeavesTheNameToOthers(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		s := claimer{t, redistest.Start(t, redistest.User("app", ">secret", "+@all", "-set", "~*", "&*"))}
		_, err := Open[int](t.Context(), s.config(backend, ""))
		require.ErrorContains(t, err, "SET")
		cfg := s.config(backend, "")
		cfg.Redis.Username, cfg.Redis.Password = "default", ""
		mustOpen[string](t, cfg)
	})
}

func TestOfTwoTypesThatAreOpenedAtOnceOneIsRefused(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		cfg := Config{Backend: backend, Redis: RedisConfig{Addrs: []string{"127.0.0.1:1"}}, Prefix: "atonce" + backend} // nobody listens there
		for range 20 {
			var both sync.WaitGroup
			var numbers *Client[int]
			var texts *Client[string]
			var err1, err2 error
			both.Go(func() { numbers, err1 = Open[int](context.Background(), cfg) })
			both.Go(func() { texts, err2 = Open[string](context.Background(), cfg) })
			both.Wait()
			require.NotEqual(t, err1 == nil, err2 == nil)
			if err1 == nil {
				require.NoError(t, numbers.Close())
			} else {
				require.NoError(t, texts.Close())
			}
		}
	})
}

func TestCachesInMemoryDoNotMeet(t *testing.T) {
	for _, backend := range []string{BackendMemory, BackendNoop} {
		log := new(logRecorder)
		cfg := Config{Backend: backend}
		users, texts := mustOpen[string](t, cfg, WithLogger(log.logger())), mustOpen[string](t, cfg, WithLogger(log.logger()))
		mustOpen[string](t, cfg, WithLogger(log.logger()))
		require.NoError(t, users.Set(t.Context(), "42", "Ada", time.Minute))
		_, err := texts.Get(t.Context(), "42")
		require.ErrorIs(t, err, ErrMiss)
		require.Empty(t, log.lines(t))
	}
}
