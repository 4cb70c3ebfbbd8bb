package proxies_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
)

// A server that is in trouble may hang up, or reply an error, where a proxy does.
func TestAServerInTroubleIsNoProxy(t *testing.T) {
	redistest.Require(t)
	for name, trouble := range map[string]func(t *testing.T, server *redistest.Server, p *proxy) (over func()){
		"its place closes connections": func(_ *testing.T, _ *redistest.Server, p *proxy) func() {
			p.refuse(true)
			return func() { p.refuse(false) }
		},
		"it is down": func(_ *testing.T, server *redistest.Server, _ *proxy) func() {
			server.Stop()
			return server.Restart
		},
		"it loads": func(_ *testing.T, server *redistest.Server, _ *proxy) func() {
			server.Loading(true)
			return func() { server.Loading(false) }
		},
		"it is full of clients": func(_ *testing.T, _ *redistest.Server, p *proxy) func() {
			p.become(&manner{turnAway: "-ERR max number of clients reached\r\n"})
			return func() { p.become(nil) }
		},
		"it loses connections": func(_ *testing.T, _ *redistest.Server, p *proxy) func() {
			ctx, cancel := context.WithCancel(context.Background())
			var worker sync.WaitGroup
			worker.Go(func() {
				for ctx.Err() == nil {
					p.cut()
					time.Sleep(time.Millisecond)
				}
			})
			return func() {
				cancel()
				worker.Wait()
			}
		},
		"it denies": func(_ *testing.T, _ *redistest.Server, p *proxy) func() {
			p.become(&manner{refuse: func(string) string { return "-DENIED Redis is running in protected mode" }})
			return func() { p.become(nil) }
		},
		"it speaks TLS": func(t *testing.T, _ *redistest.Server, p *proxy) func() {
			p.become(&manner{refuse: func(string) string { return "\x15\x03\x01\x00\x02\x02\x46" }})
			return func() { p.become(nil) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // a test waits most of the time
			for _, backend := range []string{cacheaside.BackendRueidis, cacheaside.BackendRueidisAside} {
				t.Run(backend, func(t *testing.T) {
					server := redistest.Start(t)
					p := startProxy(t, manner{}, server.Addr())
					c := open(t, config(t, backend+"://"+p.addr()))
					over := trouble(t, server, p)
					p.cut()
					time.Sleep(2 * time.Second)
					over()
					requireHealed(t, c)
					requireWorking(t, c)
					require.Contains(t, server.Must("CLIENT", "LIST"), "resp=3")
				})
			}
		})
	}
}

// The same at the start: nothing that passes makes it fail.
func TestAServerInTroubleIsNoProxyAtTheStart(t *testing.T) {
	redistest.Require(t)
	for _, backend := range []string{cacheaside.BackendRueidis, cacheaside.BackendRueidisAside} {
		t.Run(backend, func(t *testing.T) {
			server := redistest.Start(t)
			p := startProxy(t, manner{}, server.Addr())
			p.refuse(true)
			c := open(t, config(t, backend+"://"+p.addr()))
			require.Error(t, c.Health(t.Context()))
			p.refuse(false)
			requireHealed(t, c)
			requireWorking(t, c)
			require.Contains(t, server.Must("CLIENT", "LIST"), "resp=3")
		})
	}
}

func TestRueidisAsideSaysThatAProxyHasTakenThePlaceOfRedis(t *testing.T) {
	behindEach(t, func(t *testing.T, m manner, server *redistest.Server) {
		p := startProxy(t, manner{}, server.Addr())
		c := open(t, config(t, "rueidis-aside://"+p.addr()))
		requireWorking(t, c)
		p.become(&m)
		p.cut()
		require.Eventually(t, func() bool {
			err := c.Health(context.Background())
			return err != nil && (strings.Contains(err.Error(), "HELLO") || strings.Contains(err.Error(), "RESP3"))
		}, healing, 10*time.Millisecond)
		v, err := c.GetWithFetch(t.Context(), "other", time.Minute, give("v"))
		require.NoError(t, err)
		require.Equal(t, "v", v)

		p.become(nil)
		requireHealed(t, c)
		requireWorking(t, c)
	})
}

// What is sent to find a proxy out has no password in it: that goes where it went before, and where it is needed.
func TestFindingOutSendsNoPassword(t *testing.T) {
	behindEach(t, func(t *testing.T, m manner, server *redistest.Server) {
		m.password = secret
		p := startProxy(t, m, server.Addr())
		c := open(t, config(t, "rueidis://:"+secret+"@"+p.addr()))
		require.NoError(t, c.Set(t.Context(), key, "v", time.Minute)) // by the one connection
		p.mu.Lock()
		defer p.mu.Unlock()
		require.Subset(t, [][]string{{"default", secret, secret}, {"default", secret, "default", secret, secret}}, [][]string{p.secrets},
			"with HELLO, and then by AUTH")
	})
}
