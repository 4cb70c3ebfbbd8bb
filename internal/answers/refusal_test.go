package answers_test

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
)

// countingDials counts the connections that a client dials.
func countingDials(dials *atomic.Int64) cacheaside.Option {
	return cacheaside.WithRueidisOption(func(o *rueidis.ClientOption) {
		o.DialCtxFn = func(ctx context.Context, address string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
			dials.Add(1)
			return d.DialContext(ctx, "tcp", address)
		}
	})
}

// stormy is how many connections in three seconds are a storm.
const stormy = 30

func TestRefusedConnectionsAreNoStorm(t *testing.T) {
	for _, mode := range []struct {
		name           string
		refuse, accept []string
		code           string
	}{
		{"the user is off", []string{"ACL", "SETUSER", "app", "off"}, []string{"ACL", "SETUSER", "app", "on"}, "WRONGPASS"},
		{"the password has changed", []string{"ACL", "SETUSER", "app", "resetpass", ">other"}, []string{"ACL", "SETUSER", "app", ">" + secret}, "WRONGPASS"},
		{"the database may not be chosen", []string{"ACL", "SETUSER", "app", "-select"}, []string{"ACL", "SETUSER", "app", "+select"}, "NOPERM"},
	} {
		t.Run(mode.name, func(t *testing.T) {
			onBothBackends(t, func(t *testing.T, backend string) {
				server := redistest.Start(t, redistest.User("app", ">"+secret, "~*", "&*", "+@all"))
				logged, seen := new(journal), newWatcher()
				cfg := config(t, server.URL(backend))
				cfg.Redis.DB = 1
				var dials atomic.Int64
				c := open(t, cfg, countingDials(&dials), cacheaside.WithObserver(seen), cacheaside.WithLogger(slog.New(slog.NewTextHandler(logged, nil))))
				require.NoError(t, c.Set(t.Context(), key, "v", time.Minute))
				before := dials.Load()
				underLoad(t, c, func() {
					server.Must(mode.refuse...)
					server.KillClients()
					time.Sleep(3 * time.Second)
				})
				require.Less(t, dials.Load()-before, int64(stormy))
				require.Zero(t, seen.count(cacheaside.EventBackendUp))
				require.LessOrEqual(t, seen.count(cacheaside.EventBackendDown), 2, "the loss, and why it lasts")
				require.ErrorContains(t, c.Health(t.Context()), mode.code)
				lines := logged.lines()
				require.NotEmpty(t, lines)
				require.LessOrEqual(t, len(lines), 3)
				require.Contains(t, lines[len(lines)-1], "Redis replied "+mode.code)

				server.Must(mode.accept...)
				require.Eventually(t, func() bool { return c.Health(context.Background()) == nil }, healing, 10*time.Millisecond)
				require.NoError(t, c.Set(t.Context(), key, "v", time.Minute))
				require.Equal(t, 1, seen.count(cacheaside.EventBackendUp))
			})
		})
	}
}

func TestCredentialsThatCannotBeHadAreNoStorm(t *testing.T) {
	onBothBackends(t, func(t *testing.T, backend string) {
		server := redistest.Start(t, redistest.User("app", ">"+secret, "~*", "&*", "+@all"))
		cfg := config(t, backend+"://"+server.Addr())
		var calls atomic.Int64
		var fails atomic.Bool
		seen := newWatcher()
		c := open(t, cfg, cacheaside.WithObserver(seen), cacheaside.WithRueidisOption(func(o *rueidis.ClientOption) {
			o.AuthCredentialsFn = func(rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
				calls.Add(1)
				if fails.Load() {
					return rueidis.AuthCredentials{}, errors.New("no token")
				}
				return rueidis.AuthCredentials{Username: "app", Password: secret}, nil
			}
		}))
		before := calls.Load()
		underLoad(t, c, func() {
			fails.Store(true)
			server.KillClients()
			time.Sleep(3 * time.Second)
		})
		require.Less(t, calls.Load()-before, int64(stormy))
		require.Zero(t, seen.count(cacheaside.EventBackendUp))
		require.ErrorContains(t, c.Health(t.Context()), "no token")
		fails.Store(false)
		require.Eventually(t, func() bool { return c.Health(context.Background()) == nil }, healing, 10*time.Millisecond)
	})
}

// What a program gives the client to call while it connects may hang. It is left when the cache is closed.
func TestWhatHangsWhileConnectingHoldsNeitherOpenNorClose(t *testing.T) {
	onBothBackends(t, func(t *testing.T, backend string) {
		server := redistest.Start(t)
		for name, hanging := range map[string]func(o *rueidis.ClientOption, released chan struct{}){
			"AuthCredentialsFn": func(o *rueidis.ClientOption, released chan struct{}) {
				o.AuthCredentialsFn = func(rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
					<-released
					return rueidis.AuthCredentials{}, nil
				}
			},
			"DialCtxFn": func(o *rueidis.ClientOption, released chan struct{}) {
				o.DialCtxFn = func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) {
					<-released
					return nil, errors.New("too late")
				}
			},
		} {
			for _, canceled := range []bool{true, false} {
				t.Run(name, func(t *testing.T) {
					released := make(chan struct{})
					defer close(released)
					ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
					defer cancel()
					if canceled {
						ctx, cancel = context.WithCancel(t.Context())
						time.AfterFunc(200*time.Millisecond, cancel)
					}
					done := make(chan struct{})
					cfg := config(t, server.URL(backend))
					go func() {
						defer close(done)
						c, err := cacheaside.Open[string](ctx, cfg, cacheaside.WithRueidisOption(func(o *rueidis.ClientOption) {
							hanging(o, released)
						}))
						if canceled {
							if !errors.Is(err, context.Canceled) {
								t.Errorf("Open: %v", err)
							}
							return
						}
						if err != nil {
							t.Errorf("Open: %v", err)
							return
						}
						if v, err := c.GetWithFetch(context.Background(), key, time.Minute, give("v")); err != nil || v != "v" {
							t.Errorf("%q, %v", v, err)
						}
						if err := c.Close(); err != nil {
							t.Errorf("Close: %v", err)
						}
					}()
					select {
					case <-done:
					case <-time.After(healing):
						t.Error("it hangs")
					}
				})
			}
		}
	})
}
