package cacheaside

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// The example of docs/redis.md, with sentinels that speak TLS and want a password.
func TestTLSOfTheClientReachesSentinels(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		sentinel := redistest.StartSentinel(t, redistest.TLS(), redistest.Password(secret))
		option := WithRueidisOption(func(o *rueidis.ClientOption) {
			o.TLSConfig = &tls.Config{RootCAs: sentinel.Node().TLSConfig().RootCAs, MinVersion: tls.VersionTLS12}
			o.Sentinel.Password = secret
		})
		cfg := Config{Backend: backend, Redis: RedisConfig{Addrs: []string{sentinel.Addr()}, SentinelMaster: sentinel.MasterName()}}
		c, err := Open[string](t.Context(), cfg, option)
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.Set(t.Context(), "k", "v", time.Minute))
		sentinel.Failover()
		require.Eventually(t, func() bool { return c.Set(t.Context(), "k", "w", time.Minute) == nil }, healing, 10*time.Millisecond)
	})
}

// listener accepts connections, says nothing, and keeps what it is sent.
type listener struct {
	net.Listener
	mu   sync.Mutex
	sent []string // by connection
}

func newListener(t *testing.T, network, address string) *listener {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), network, address)
	require.NoError(t, err)
	s := &listener{Listener: l}
	var reading sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		reading.Wait()
	})
	reading.Go(func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			reading.Go(func() { s.read(c) }) // ends with the connection
		}
	})
	return s
}

// shortDir returns a directory whose name leaves room for that of a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tls") //nolint:usetesting // the test's own directory has the test's long name
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// read hangs up when it has been sent enough to tell a handshake from a command.
func (s *listener) read(c net.Conn) {
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	b := make([]byte, 4<<10)
	n, _ := io.ReadAtLeast(c, b, 64)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, string(b[:n]))
}

func (s *listener) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.sent)
}

// However TLS is asked for, and whatever is dialed, a handshake comes before a password.
func TestNoPasswordGoesOutBeforeTheHandshake(t *testing.T) {
	asked := func(o *rueidis.ClientOption) {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		o.Sentinel.Password = secret
	}
	password := func(o *rueidis.ClientOption) { o.Sentinel.Password = secret }
	for _, c := range []struct {
		name, network string
		cfg           func(address string) RedisConfig
		change        func(*rueidis.ClientOption)
	}{
		{"sentinels, by an option", "tcp", func(a string) RedisConfig {
			return RedisConfig{Addrs: []string{a}, SentinelMaster: "m", Password: secret}
		}, asked},
		{"sentinels, and an option that makes the dialer anew", "tcp", func(a string) RedisConfig {
			return RedisConfig{Addrs: []string{a}, SentinelMaster: "m", Password: secret}
		}, func(o *rueidis.ClientOption) {
			asked(o)
			o.Dialer = net.Dialer{FallbackDelay: -1}
			o.Sentinel.Dialer = net.Dialer{FallbackDelay: -1}
		}},
		{"sentinels, by a field", "tcp", func(a string) RedisConfig {
			return RedisConfig{Addrs: []string{a}, SentinelMaster: "m", Password: secret, TLS: true}
		}, password},
		{"sentinels that only the option names", "tcp", func(a string) RedisConfig {
			return RedisConfig{Addrs: []string{a}, Password: secret, TLS: true}
		}, func(o *rueidis.ClientOption) {
			password(o)
			o.Sentinel.MasterSet, o.ForceSingleClient = "m", false
		}},
		{"sentinels in a URL", "tcp", func(a string) RedisConfig {
			return RedisConfig{URL: "rediss://:" + secret + "@" + a + "?master_set=m"}
		}, password},
		{"a cluster", "tcp", func(a string) RedisConfig {
			return RedisConfig{Addrs: []string{a}, Cluster: true, Password: secret}
		}, asked},
		{"a node", "tcp", func(a string) RedisConfig {
			return RedisConfig{Addrs: []string{a}, Password: secret}
		}, asked},
		{"a unix socket", "unix", func(a string) RedisConfig {
			return RedisConfig{Addrs: []string{a}, Password: secret, TLS: true}
		}, password},
		{"a unix socket in a URL", "unix", func(a string) RedisConfig {
			return RedisConfig{URL: "unix://:" + secret + "@" + a, TLS: true}
		}, password},
	} {
		t.Run(c.name, func(t *testing.T) {
			onBothRedisBackends(t, func(t *testing.T, backend string) {
				address := "127.0.0.1:0"
				if c.network == "unix" {
					address = filepath.Join(shortDir(t), "s")
				}
				l := newListener(t, c.network, address)
				ctx, cancel := context.WithTimeout(t.Context(), hang)
				defer cancel()
				client, err := Open[string](ctx, Config{Backend: backend, Redis: c.cfg(l.Addr().String())}, WithRueidisOption(c.change))
				if err == nil {
					require.NoError(t, client.Close())
				}
				require.Eventually(t, func() bool { return len(l.all()) > 0 }, hang, time.Millisecond)
				sent := l.all()
				require.Equal(t, byte(0x16), sent[0][0], "a ClientHello comes first")
				require.NotContains(t, strings.Join(sent, ""), secret)
			})
		})
	}
}

// A URL says that there is TLS, and not what each node's certificate is for.
func TestEachConnectionChecksTheNameItDials(t *testing.T) {
	onBothRedisBackends(t, func(t *testing.T, backend string) {
		server := redistest.Start(t, redistest.TLS(), redistest.Args("--bind", "127.0.0.1", "127.0.0.2"))
		_, port, err := net.SplitHostPort(server.Addr())
		require.NoError(t, err)
		roots := server.TLSConfig().RootCAs // of a certificate for 127.0.0.1 and localhost
		own := func(ctx context.Context, address string, d *net.Dialer, config *tls.Config) (net.Conn, error) {
			c, err := d.DialContext(ctx, "tcp", address)
			if err != nil {
				return nil, err
			}
			t := tls.Client(c, config)
			return t, t.HandshakeContext(ctx)
		}
		for name, dial := range map[string]func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error){
			"the dialer of the library": nil, "a dialer of the user's": own,
		} {
			open := func(r RedisConfig) error {
				c, err := Open[string](t.Context(), Config{Backend: backend, Redis: r}, WithRueidisOption(func(o *rueidis.ClientOption) {
					o.TLSConfig.RootCAs, o.DialCtxFn = roots, dial
				}))
				if err != nil {
					return err
				}
				defer c.Close()
				return c.Set(t.Context(), "k", "v", time.Minute)
			}
			elsewhere := url.URL{Scheme: "rediss", Host: "elsewhere.example:1"}
			right, wrong := net.JoinHostPort("127.0.0.1", port), net.JoinHostPort("127.0.0.2", port)
			require.NoError(t, open(RedisConfig{URL: elsewhere.String(), Addrs: []string{right}}), "%s: addrs win over the URL", name)
			require.NoError(t, open(RedisConfig{URL: "rediss://" + right}), name)
			var bad *tls.CertificateVerificationError
			require.ErrorAs(t, open(RedisConfig{URL: "rediss://" + right, Addrs: []string{wrong}}), &bad, "%s: not by the URL's name", name)
			require.ErrorAs(t, open(RedisConfig{URL: "rediss://" + wrong}), &bad, name)
			require.ErrorAs(t, open(RedisConfig{Addrs: []string{wrong}, TLS: true}), &bad, name)
		}
	})
}

func TestAURLOfAUnixSocketIsItsPath(t *testing.T) {
	server := redistest.Start(t)
	for _, backend := range []string{BackendRueidis, BackendRueidisAside} {
		for _, u := range []string{"unix://", "unix://run/redis.sock"} {
			_, err := Open[string](t.Context(), Config{Backend: backend, Redis: RedisConfig{URL: u}})
			require.ErrorIs(t, err, ErrInvalidConfig, u)
			require.ErrorContains(t, err, "unix:///path", u)
		}
		cfg := config(t, server.URL(backend))
		cfg.Redis.URL = "unix:///nowhere"
		c, err := Open[string](t.Context(), cfg)
		require.NoError(t, err)
		require.NoError(t, c.Set(t.Context(), "k", "v", time.Minute), "addrs win over the URL")
		require.NoError(t, c.Close())
	}
}
