//go:build unix

package cacheaside

import (
	"context"
	"crypto/tls"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// Tests that need what only Unix systems have: the options of a socket, and processes that can be frozen.

func TestDisableTCPNoDelayReachesTheSocket(t *testing.T) {
	redistest.Require(t)
	server := redistest.Start(t)
	for _, off := range []bool{false, true} {
		var socket atomic.Pointer[net.TCPConn]
		openOn(t, server, server.Addr(), BackendRueidis, 3*time.Second, WithRueidisOption(func(o *rueidis.ClientOption) {
			o.DisableTCPNoDelay = off
			o.DialCtxFn = func(ctx context.Context, address string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
				c, err := d.DialContext(ctx, "tcp", address)
				if err == nil {
					socket.Store(c.(*net.TCPConn))
				}
				return c, err
			}
		}))
		raw, err := socket.Load().SyscallConn()
		require.NoError(t, err)
		var noDelay int
		require.NoError(t, raw.Control(func(fd uintptr) {
			noDelay, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_NODELAY)
		}))
		require.NoError(t, err)
		require.Equal(t, off, noDelay == 0)
	}
}

func TestAFrozenHolderLosesItsLease(t *testing.T) {
	s := redistest.Start(t)
	cfg := asideConfig(t, s, BackendRueidisAside)
	cfg.LeaseTTL = time.Second
	c := openAside[string](t, cfg)
	holder := startHolder(t, cfg)
	require.NoError(t, holder.command.Process.Signal(syscall.SIGSTOP))
	v, err := c.GetWithFetch(t.Context(), key, time.Minute, serve("mine").fetch)
	require.NoError(t, err)
	require.Equal(t, "mine", v)

	require.NoError(t, holder.command.Process.Signal(syscall.SIGCONT))
	holder.tell("too late")
	var got string
	var discarded int
	holder.hear(&got)
	require.Equal(t, "too late", got, "its own caller gets what it has fetched")
	holder.hear(&discarded)
	require.Equal(t, 1, discarded)
	v, err = openAside[string](t, cfg).Get(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, "mine", v)
}
