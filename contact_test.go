package cacheaside

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

const secret = "s3cret-pass"

// minimalRules are what a user of Redis needs at least. They are those that docs/redis.md gives.
func minimalRules(backend string) []string {
	rules := []string{">" + secret, "resetchannels", "~cache:*", "-@all", "+get", "+set", "+del", "+mget"}
	if backend == BackendRueidisAside {
		rules = append(rules, "+client|tracking", "+evalsha", "+eval", "+type", "+strlen", "+getrange", "+pttl", "+pexpire")
	}
	return rules
}

// clearRules are what Clear needs besides, and what the client sends without needing it.
var clearRules = []string{"+scan", "+unlink", "+ping", "+echo"}

func TestMissingPermissionsAreNamedAtTheStart(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		rules := minimalRules(backend)
		server := redistest.Start(t, redistest.User("app", rules...))
		start := func() error {
			c, err := Open[string](t.Context(), config(t, server.URL(backend)))
			if err == nil {
				require.NoError(t, c.Close())
			}
			return err
		}
		require.NoError(t, start())
		for _, rule := range rules {
			if !strings.HasPrefix(rule, "+") {
				continue
			}
			command := rule[1:]
			server.Must("ACL", "SETUSER", "app", "-"+command)
			err := start()
			require.ErrorIs(t, err, ErrInvalidConfig, command)
			require.Contains(t, strings.ToLower(err.Error()), strings.ReplaceAll(command, "|", " "), command)
			require.NotContains(t, err.Error(), secret)
			server.Must("ACL", "SETUSER", "app", "+"+command)
		}
		server.Must("ACL", "SETUSER", "app", "resetkeys", "~elsewhere:*")
		err := start()
		require.ErrorIs(t, err, ErrInvalidConfig)
		require.ErrorContains(t, err, "cache:default:*")
		require.ErrorContains(t, err, "NOPERM")
		size, err := server.Command("DBSIZE")
		require.NoError(t, err)
		require.Zero(t, size, "asking changes nothing")
	})
}

// Leases have keys of their own only where stale entries are of use while they are replaced.
func TestOneCachesKeysAreEnoughWithoutStaleEntries(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		server := redistest.Start(t, redistest.User("app", append(minimalRules(backend), "resetkeys", "~cache:default:*", "+ping", "+echo")...))
		cfg := config(t, server.URL(backend))
		c := openAside[string](t, cfg)
		for i, expired := range []bool{false, true} {
			if expired { // by the clock of this process; by that of Redis it is not
				writer := openAside[string](t, Config{Backend: backend, Redis: RedisConfig{Addrs: []string{server.Addr()}}, StaleFor: time.Hour})
				require.NoError(t, writer.Set(t.Context(), key, "expired", time.Millisecond))
				awaitStale(t, c, key) // which has heard of the write then
			}
			s := serve(strconv.Itoa(i))
			v, err := c.GetWithFetch(t.Context(), key, time.Minute, s.fetch)
			require.NoError(t, err)
			require.Equal(t, strconv.Itoa(i), v)
			require.EqualValues(t, 1, s.calls.Load())
			v, err = c.Get(t.Context(), key)
			require.NoError(t, err)
			require.Equal(t, strconv.Itoa(i), v)
		}
		require.NoError(t, c.Health(t.Context()))
		require.Zero(t, c.Stats().BackendErrors)

		for _, change := range []func(*Config){
			func(cfg *Config) { cfg.StaleFor = time.Minute },
			func(cfg *Config) { cfg.StaleIfError = time.Minute },
			func(cfg *Config) { cfg.RefreshAhead = 0.8 },
		} {
			other := cfg
			change(&other)
			if backend == BackendRueidis {
				openAside[string](t, other)
				continue
			}
			_, err := Open[string](t.Context(), other)
			require.ErrorIs(t, err, ErrInvalidConfig)
			require.ErrorContains(t, err, "cache::default:*")
		}
	})
}

func TestTheLeastPermissionsOfADatabaseAndOfACluster(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		server := redistest.Start(t, redistest.User("app", append(minimalRules(backend), "+select")...))
		cfg := config(t, server.URL(backend))
		cfg.Redis.DB = 3
		cluster := redistest.StartCluster(t, 1, redistest.User("app", append(minimalRules(backend), "+cluster|slots", "+cluster|shards")...))
		for _, cfg := range []Config{cfg, config(t, cluster.URL(backend))} {
			c, err := Open[string](t.Context(), cfg)
			require.NoError(t, err)
			isStored := serve("v")
			for range 3 {
				_, err := c.GetWithFetch(t.Context(), key, time.Minute, isStored.fetch)
				require.NoError(t, err)
			}
			require.EqualValues(t, 1, isStored.calls.Load())
			require.NoError(t, c.Health(t.Context()))
			require.NoError(t, c.Delete(t.Context(), key))
			require.Zero(t, c.Stats().BackendErrors)
			require.NoError(t, c.Close())
		}
	})
}

func TestWhatRedisRefusesIsSaidAtTheStart(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		server := redistest.Start(t, redistest.User("app", ">"+secret, "~*", "&*", "+@all"), redistest.Password("other-"+secret))
		encrypted, open := redistest.Start(t, redistest.TLS()), redistest.Start(t)
		for _, c := range []struct {
			name, url string
			says      string
		}{
			{"wrong password", fmt.Sprintf("%s://app:wrong-%s@%s", backend, secret, server.Addr()), `user "app"`},
			{"unknown user", fmt.Sprintf("%s://nobody:%s@%s", backend, secret, server.Addr()), `user "nobody"`},
			{"wrong password of the default user", fmt.Sprintf("%s://:wrong-%s@%s", backend, secret, server.Addr()), `user "default"`},
			{"no password", fmt.Sprintf("%s://%s", backend, server.Addr()), "wants a password"},
			{"a database that is not there", fmt.Sprintf("%s://app:%s@%s/99", backend, secret, server.Addr()), "Redis.DB is 99"},
			{"TLS to a plain port", fmt.Sprintf("%s://app:%s@%s?tls=true", backend, secret, server.Addr()), "does not speak it"},
			{"plain to a TLS port", fmt.Sprintf("%s://app:%s@%s", backend, secret, encrypted.Addr()), "speaks TLS"},
			{"a certificate of an authority that is not trusted", fmt.Sprintf("%s://app:%s@%s?tls=true", backend, secret, encrypted.Addr()), "certificate"},
			{"no sentinel", fmt.Sprintf("%s://app:%s@%s?sentinel_master=m", backend, secret, open.Addr()), "no sentinel"},
			{"a sentinel's password", fmt.Sprintf("%s://app:%s@%s?sentinel_master=m", backend, secret, server.Addr()), "sentinel, wants a password"},
		} {
			begun := time.Now()
			opened, err := Open[string](t.Context(), config(t, c.url))
			for range 3 { // under load a handshake may take longer than it may, which is no refusal
				if err == nil {
					require.NoError(t, opened.Close())
					begun = time.Now()
					opened, err = Open[string](t.Context(), config(t, c.url))
				}
			}
			require.Error(t, err, c.name)
			t.Logf("%s: %v: %v", c.name, time.Since(begun).Round(time.Millisecond), err)
			require.ErrorContains(t, err, c.says, c.name)
			require.NotContains(t, err.Error(), secret, c.name)
			require.NotErrorIs(t, err, ErrUnavailable, c.name)
			require.Less(t, time.Since(begun), hang, c.name)
		}
	})
}

func TestABadRedisURLIsAnError(t *testing.T) {
	for _, backend := range []string{BackendRueidis, BackendRueidisAside} {
		for _, c := range []struct{ url, says string }{
			{"http://app:" + secret + "@localhost:6379", "Redis.URL"},
			{"redis://app:" + secret + "@localhost:port", "Redis.URL"},
			{"redis://app:" + secret + "@localhost:6379/zero", "Redis.URL"},
			{"redis://app:" + secret + "@localhost:6379?max_reties=3", `"max_reties"`},
			{"redis://app:" + secret + "@localhost:99999", "address"},
			{"app:" + secret + "@localhost:6379", "Redis.URL"},
			{"redis://app:%zz" + secret + "@localhost:6379", "Redis.URL"},
		} {
			_, err := Open[string](context.Background(), Config{Backend: backend, Redis: RedisConfig{URL: c.url}})
			require.ErrorIs(t, err, ErrInvalidConfig, c.url)
			require.ErrorContains(t, err, c.says, c.url)
			require.NotContains(t, err.Error(), secret, c.url)
		}
		for _, addr := range []string{"localhost:port", "localhost:99999", "a:b:c", "http://localhost:6379"} {
			_, err := Open[string](context.Background(), Config{Backend: backend, Redis: RedisConfig{Addrs: []string{addr}}})
			require.ErrorIs(t, err, ErrInvalidConfig, addr)
			require.ErrorContains(t, err, "host:port", addr)
		}
		_, err := Open[string](context.Background(), Config{Backend: backend, Redis: RedisConfig{Addrs: []string{"a", "b"}, DB: 1}})
		require.ErrorContains(t, err, "Redis.DB")
		_, err = Open[string](context.Background(), Config{Backend: backend, Redis: RedisConfig{SentinelMaster: "m", Cluster: true}})
		require.ErrorContains(t, err, "Redis.Cluster")
	}
	_, err := ParseConfig("rueidis://app:" + secret + "@localhost:6379?prefx=a")
	require.ErrorIs(t, err, ErrInvalidConfig)
	require.ErrorContains(t, err, `"prefx"`)
	require.NotContains(t, err.Error(), secret)
}

func TestARedisAddressHasADefaultPort(t *testing.T) {
	for given, want := range map[string]string{
		"localhost": "localhost:6379", "localhost:1": "localhost:1", "[::1]": "[::1]:6379", "[::1]:7": "[::1]:7",
		"/run/redis.sock": "/run/redis.sock", ":6379": ":6379",
	} {
		o, err := clientOption(RedisConfig{Addrs: []string{given}})
		require.NoError(t, err, given)
		require.Equal(t, []string{want}, o.InitAddress)
	}
	o, err := clientOption(RedisConfig{URL: "rediss://u:p@host", Username: "v", DB: 2})
	require.NoError(t, err)
	require.Equal(t, []string{"host:6379"}, o.InitAddress)
	require.Equal(t, "v", o.Username, "a field wins over the URL")
	require.Equal(t, "p", o.Password)
	require.Equal(t, 2, o.SelectDB)
	require.NotNil(t, o.TLSConfig)
}

func TestAServerThatCannotTrackIsRefusedByAsideOnly(t *testing.T) {
	redistest.Require(t)
	server := redistest.Start(t, redistest.User("old", ">"+secret, "~*", "&*", "+@all", "-client|tracking"))
	_, err := Open[string](t.Context(), config(t, server.URL(BackendRueidisAside)))
	require.ErrorIs(t, err, ErrInvalidConfig)
	require.ErrorContains(t, err, "CLIENT TRACKING")
	require.ErrorContains(t, err, "NOPERM", "what Redis said")
	require.ErrorIs(t, err, rueidis.ErrNoCache)
	require.NotContains(t, err.Error(), "DisableCache", "nobody can set it")
	plain, err := Open[string](t.Context(), config(t, server.URL(BackendRueidis)))
	require.NoError(t, err)
	require.NoError(t, plain.Close())

	// A server before Redis 6 knows no HELLO.
	ancient := redistest.Start(t, redistest.Args("--rename-command", "HELLO", ""))
	_, err = Open[string](t.Context(), config(t, ancient.URL(BackendRueidisAside)))
	require.ErrorIs(t, err, ErrInvalidConfig)
	require.ErrorContains(t, err, "does not speak RESP3")
	plain, err = Open[string](t.Context(), config(t, ancient.URL(BackendRueidis)))
	require.NoError(t, err)
	require.NoError(t, plain.Set(t.Context(), key, "v", time.Minute))
	v, err := plain.Get(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, "v", v)
	require.NoError(t, plain.Close())

	for _, change := range []func(*rueidis.ClientOption){
		func(o *rueidis.ClientOption) { o.DisableCache = true },
		func(o *rueidis.ClientOption) { o.AlwaysRESP2 = true },
	} {
		_, err = Open[string](t.Context(), config(t, server.URL(BackendRueidisAside)), WithRueidisOption(change))
		require.ErrorIs(t, err, ErrInvalidConfig)
	}
}

func TestAServerBehindAURLWorks(t *testing.T) {
	redistest.Require(t)
	server := redistest.Start(t, redistest.User("app", ">"+secret, "~*", "&*", "+@all"))
	place := url.URL{Scheme: "redis", User: url.UserPassword("app", secret), Host: server.Addr(), Path: "/3"}
	for _, u := range []string{place.String(), "unix://app:" + secret + "@" + server.Socket() + "?db=3"} {
		c, err := Open[string](t.Context(), Config{Backend: BackendRueidis, Redis: RedisConfig{URL: u}})
		require.NoError(t, err)
		require.NoError(t, c.Set(t.Context(), key, "v", time.Minute))
		require.NoError(t, c.Close())
	}
	info, err := server.Command("INFO", "keyspace")
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(strings.Split(info.(string), "\r\n"), func(l string) bool { return strings.HasPrefix(l, "db3:keys=1") }))
}

func config(t *testing.T, line string) Config {
	t.Helper()
	cfg, err := ParseConfig(line)
	require.NoError(t, err)
	return cfg
}
