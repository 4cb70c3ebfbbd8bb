package proxies_test

import (
	"context"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
)

// fresh makes keys that have not been read. Where one has, Redis tells rueidis-aside of its own Delete a moment later, and
// what is being fetched by then is not kept.
var fresh atomic.Int64

// requireWorking requires that a cache keeps values and lets them be changed.
func requireWorking(t *testing.T, c *cacheaside.Client[string]) {
	t.Helper()
	ctx := t.Context()
	key := "key " + strconv.FormatInt(fresh.Add(1), 10)
	require.NoError(t, c.Health(ctx))
	fetch := func(v string) string {
		got, err := c.GetWithFetch(ctx, key, time.Hour, give(v))
		require.NoError(t, err)
		return got
	}
	require.Equal(t, "first", fetch("first"))
	require.Equal(t, "first", fetch("second"), "a hit")
	require.NoError(t, c.Set(ctx, key, "set", time.Hour))
	require.Equal(t, "set", fetch("third"))
	require.NoError(t, c.Mutate(ctx, []string{key}, func(context.Context) error { return nil }))
	require.Equal(t, "fourth", fetch("fourth"))
	require.NoError(t, c.Delete(ctx, key))
	_, err := c.Get(ctx, key)
	require.ErrorIs(t, err, cacheaside.ErrMiss)

	large := strings.Repeat("x", 1<<20) // it goes by another connection
	require.NoError(t, c.Set(ctx, key, large, time.Hour))
	require.Equal(t, large, fetch("fifth"))
	require.NoError(t, c.Delete(ctx, key))
	require.Equal(t, "sixth", fetch("sixth"))

	require.NoError(t, c.SetMany(ctx, map[string]string{"a": "1", "b": "2"}, time.Minute))
	many, err := c.GetMany(ctx, []string{"a", "b", "c"})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a": "1", "b": "2"}, many)
	many, err = c.GetManyWithFetch(ctx, []string{"b", "c"}, time.Minute, func(_ context.Context, keys []string) (map[string]string, error) {
		require.Equal(t, []string{"c"}, keys)
		return map[string]string{"c": "3"}, nil
	})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"b": "2", "c": "3"}, many)
	require.NoError(t, c.DeleteMany(ctx, []string{"a", "b", "c"}))
	many, err = c.GetMany(ctx, []string{"a", "b", "c"})
	require.NoError(t, err)
	require.Empty(t, many)
}

// requireHealed requires that a cache soon keeps values: the loss of a connection may still be on its way to it.
func requireHealed(t *testing.T, c *cacheaside.Client[string]) {
	t.Helper()
	require.Eventually(t, func() bool {
		ctx := context.Background()
		if c.Health(ctx) != nil || c.Set(ctx, key, "healed", time.Minute) != nil {
			return false
		}
		time.Sleep(100 * time.Millisecond)
		v, err := c.Get(ctx, key)
		return err == nil && v == "healed"
	}, healing, 10*time.Millisecond)
}

func behindEach(t *testing.T, test func(t *testing.T, m manner, server *redistest.Server)) {
	redistest.Require(t)
	for name, m := range manners {
		t.Run(name, func(t *testing.T) { test(t, m, redistest.Start(t)) })
	}
}

func TestRueidisKeepsValuesBehindAProxy(t *testing.T) {
	behindEach(t, func(t *testing.T, m manner, server *redistest.Server) {
		for _, resp := range []string{"", "?resp=2"} {
			p := startProxy(t, m, server.Addr())
			c := open(t, config(t, "rueidis://"+p.addr()+resp))
			requireWorking(t, c)
			before := p.count("HELLO")
			time.Sleep(time.Second)
			requireWorking(t, c)
			require.Equal(t, before, p.count("HELLO"), "one connection has been enough")
			if resp != "" {
				require.Zero(t, p.count("HELLO"))
				require.Zero(t, p.count("CLIENT"))
				require.Zero(t, p.count("PING"))
			}
			require.NoError(t, c.Close())
			server.Must("FLUSHALL")
		}
	})
}

func TestRueidisKeepsValuesBehindAProxyWithAPassword(t *testing.T) {
	behindEach(t, func(t *testing.T, m manner, server *redistest.Server) {
		m.password = secret
		p := startProxy(t, m, server.Addr())
		for _, line := range []string{
			"rueidis://:" + secret + "@" + p.addr(),
			"rueidis://:" + secret + "@" + p.addr() + "?resp=2",
			"rueidis://default:" + secret + "@" + p.addr(),
			"rueidis://default:" + secret + "@" + p.addr() + "?resp=2",
		} {
			c := open(t, config(t, line))
			requireWorking(t, c)
			require.NoError(t, c.Close())
			server.Must("FLUSHALL")
		}
		for _, resp := range []string{"", "?resp=2"} {
			_, err := cacheaside.Open[string](t.Context(), config(t, "rueidis://"+p.addr()+resp))
			require.ErrorIs(t, err, cacheaside.ErrInvalidConfig)
			require.ErrorContains(t, err, "wants a password")
			_, err = cacheaside.Open[string](t.Context(), config(t, "rueidis://:other-pass@"+p.addr()+resp))
			require.ErrorContains(t, err, "password")
			require.NotContains(t, err.Error(), "other-pass")
		}
	})
}

func TestRueidisAsideIsRefusedBehindAProxy(t *testing.T) {
	behindEach(t, func(t *testing.T, m manner, server *redistest.Server) {
		for _, password := range []string{"", secret} {
			m.password = password
			p := startProxy(t, m, server.Addr())
			user := ""
			if password != "" {
				user = ":" + password + "@"
			}
			_, err := cacheaside.Open[string](t.Context(), config(t, "rueidis-aside://"+user+p.addr()))
			require.ErrorIs(t, err, cacheaside.ErrInvalidConfig)
			require.ErrorContains(t, err, "RESP3")
			require.ErrorContains(t, err, "use rueidis")
		}
	})
}

func TestAProxyThatComesLaterIsFoundToo(t *testing.T) {
	behindEach(t, func(t *testing.T, m manner, server *redistest.Server) {
		p := startProxy(t, m, server.Addr())
		p.refuse(true)
		c := open(t, config(t, "rueidis://"+p.addr()))
		require.ErrorIs(t, c.Health(t.Context()), cacheaside.ErrUnavailable)
		p.refuse(false)
		requireHealed(t, c)
		requireWorking(t, c)

		p.cut()
		requireHealed(t, c)
		requireWorking(t, c)
	})
}

// What is at an address may change: Redis is put behind a proxy, and the proxy is taken away.
func TestAProxyIsNoneForGood(t *testing.T) {
	behindEach(t, func(t *testing.T, m manner, server *redistest.Server) {
		p := startProxy(t, manner{}, server.Addr())
		c := open(t, config(t, "rueidis://"+p.addr()))
		heals := func() {
			t.Helper()
			p.cut()
			requireHealed(t, c)
			requireWorking(t, c)
		}
		requireWorking(t, c)
		require.Contains(t, server.Must("CLIENT", "LIST"), "resp=3")
		p.become(&m)
		heals()
		require.NotContains(t, server.Must("CLIENT", "LIST"), "resp=3")
		p.become(nil)
		heals()
		require.Contains(t, server.Must("CLIENT", "LIST"), "resp=3")
	})
}

func TestClearSaysThatAProxyDoesNotKnowScan(t *testing.T) {
	behindEach(t, func(t *testing.T, m manner, server *redistest.Server) {
		for _, resp := range []string{"", "?resp=2"} {
			p := startProxy(t, m, server.Addr())
			lost := new(losses)
			c := open(t, config(t, "rueidis://"+p.addr()+resp), cacheaside.WithObserver(lost))
			require.NoError(t, c.Set(t.Context(), key, "v", time.Hour))
			err := c.Clear(t.Context())
			require.ErrorIs(t, err, cacheaside.ErrUnavailable)
			require.ErrorContains(t, err, "does not know SCAN")
			v, err := c.Get(t.Context(), key)
			require.NoError(t, err, "that is no reason to do without it")
			require.Equal(t, "v", v)
			require.Zero(t, lost.count.Load(), "the connection of the others is well")
			require.NoError(t, c.Close())

			m := with(m, func(m *manner) { m.knows = append(m.knows[:len(m.knows):len(m.knows)], "SCAN", "UNLINK") })
			p = startProxy(t, m, server.Addr())
			c = open(t, config(t, "rueidis://"+p.addr()+resp))
			require.NoError(t, c.Clear(t.Context()))
			require.Zero(t, server.Must("DBSIZE"))
			require.NoError(t, c.Close())
		}
	})
}

// losses counts how often the connection was lost.
type losses struct{ count atomic.Int64 }

func (l *losses) Observe(e cacheaside.Event) {
	if e.Kind == cacheaside.EventBackendDown {
		l.count.Add(1)
	}
}

func TestADatabaseBehindAProxyIsRefused(t *testing.T) {
	behindEach(t, func(t *testing.T, m manner, server *redistest.Server) {
		p := startProxy(t, m, server.Addr())
		for _, resp := range []string{"", "?resp=2"} {
			_, err := cacheaside.Open[string](t.Context(), config(t, "rueidis://"+p.addr()+"/3"+resp))
			require.ErrorIs(t, err, cacheaside.ErrInvalidConfig)
			require.ErrorContains(t, err, "Redis.DB")
			require.ErrorContains(t, err, "SELECT")
		}
	})
}

func TestAUserBehindAProxyThatKnowsNoUsersIsRefused(t *testing.T) {
	redistest.Require(t)
	server := redistest.Start(t)
	p := startProxy(t, with(twemproxy, func(m *manner) { m.password = secret }), server.Addr())
	for _, resp := range []string{"", "?resp=2"} {
		_, err := cacheaside.Open[string](t.Context(), config(t, "rueidis://app:"+secret+"@"+p.addr()+resp))
		require.ErrorIs(t, err, cacheaside.ErrInvalidConfig)
		require.ErrorContains(t, err, "Redis.Username")
		require.NotContains(t, err.Error(), secret)
	}
}

func TestRESP2IsForRedisToo(t *testing.T) {
	redistest.Require(t)
	server := redistest.Start(t, redistest.User("app", ">"+secret, "~cache:proxies:*", "-@all", "+get", "+set", "+del", "+mget", "+select", "+scan", "+unlink"))
	cfg := config(t, server.URL(cacheaside.BackendRueidis))
	cfg.Redis.RESP, cfg.Redis.DB = 2, 2
	c := open(t, cfg)
	requireWorking(t, c)
	require.NotContains(t, server.Must("CLIENT", "LIST"), "resp=3")
	require.NoError(t, c.Set(t.Context(), key, "v", time.Hour))
	require.NoError(t, c.Clear(t.Context()))
	_, err := c.Get(t.Context(), key)
	require.ErrorIs(t, err, cacheaside.ErrMiss)

	server.Freeze()
	require.Error(t, c.Health(t.Context()))
	time.Sleep(4 * time.Second)
	server.Thaw()
	requireHealed(t, c)
	requireWorking(t, c)
}

func TestRESPIsCheckedByNameAndValue(t *testing.T) {
	for line, says := range map[string][]string{
		"rueidis://h:1?resp=3":         {"Redis.RESP", "3", "2"},
		"rueidis://h:1?resp=-1":        {"Redis.RESP", "-1"},
		"rueidis://h:1?resp=two":       {"resp", "two", "whole number"},
		"rueidis-aside://h:1?resp=2":   {"Redis.RESP", "2", "rueidis-aside", "rueidis"},
		"rueidis-aside://h:1?resp=2.0": {"resp"},
	} {
		_, err := cacheaside.ParseConfig(line)
		require.ErrorIs(t, err, cacheaside.ErrInvalidConfig, line)
		for _, part := range says {
			require.ErrorContains(t, err, part, line)
		}
	}
	cfg := config(t, "rueidis://h:1?resp=2")
	require.Equal(t, 2, cfg.Redis.RESP)
	require.Contains(t, cfg.String(), "resp=2")
	cfg.Backend = ""
	_, err := cacheaside.NewRueidisAside[string](t.Context(), cfg)
	require.ErrorIs(t, err, cacheaside.ErrInvalidConfig)
	require.ErrorContains(t, err, "use the backend rueidis")
	_, err = cacheaside.NewRueidisAside[string](t.Context(), cacheaside.Config{}, cacheaside.WithRueidisOption(func(o *rueidis.ClientOption) { o.AlwaysRESP2 = true }))
	require.ErrorIs(t, err, cacheaside.ErrInvalidConfig)
}
