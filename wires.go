package cacheaside

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// dialFunc dials a node, as rueidis asks for it.
type dialFunc func(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error)

// wires are the network connections that a client has open. They are watched, so that operations are not
// begun on one that is gone, to wait behind another's dial, which no context bounds; and they can be
// closed from outside, when the client waits for a server that does not answer.
type wires struct {
	underWay  func() int64 // how many operations are under way
	unsettled atomic.Int32 // connections that are being made, up to the first byte that comes

	mu     sync.Mutex
	open   map[*wire]struct{}
	closed bool
	ctx    context.Context // of dials; made with the first, ends with close
	cancel context.CancelFunc
}

// dialer returns how o says that a node is to be dialed. What the client does to a connection of its own
// accord, where it can see what it is, is done here.
func dialer(o *rueidis.ClientOption) dialFunc {
	dial := dialFunc(o.DialCtxFn)
	switch {
	case dial != nil:
	case o.DialFn != nil: // deprecated, and still what a program may have
		dial = leavingBehind(o.DialFn)
	default:
		dial = dialAddress
	}
	if !o.DisableTCPNoDelay {
		return dial
	}
	return func(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
		c, err := dial(ctx, address, dialer, config)
		if err == nil {
			delay(c)
		}
		return c, err
	}
}

// leavingBehind makes a dialFunc of a function that takes no context, which is left when that ends. What it
// dials after that is closed.
func leavingBehind(dial func(string, *net.Dialer, *tls.Config) (net.Conn, error)) dialFunc {
	return func(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
		type outcome struct {
			c   net.Conn
			err error
		}
		dialed := make(chan outcome)
		go func() { // ends when dial returns
			var o outcome
			o.c, o.err = dial(address, dialer, config)
			select {
			case dialed <- o:
			case <-ctx.Done():
				if o.c != nil {
					_ = o.c.Close() // nothing was sent on it
				}
			}
		}()
		select {
		case o := <-dialed:
			return o.c, o.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// delay turns Nagle's algorithm on, where there is TCP.
func delay(c net.Conn) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetNoDelay(false) // it fails only when it is closed
	}
}

// watch returns a function that dials with dial. lost is called when one of the connections is closed.
func (ws *wires) watch(dial dialFunc, lost func()) dialFunc {
	return func(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
		ws.unsettled.Add(1)
		settle := sync.OnceFunc(func() { ws.unsettled.Add(-1) })
		ctx, cancel := ws.bound(ctx, dialer.Timeout)
		defer cancel()
		c, err := dial(ctx, address, dialer, named(config, address))
		if err != nil {
			settle()
			return nil, err
		}
		w := newWire(c, ws.underWay)
		w.settle = settle
		w.gone = func() {
			settle()
			ws.remove(w)
			lost()
		}
		if !ws.add(w) {
			settle()
			return nil, ErrClosed
		}
		return w, nil
	}
}

// named returns config with the host of address as the name to check, unless it has one: a dialer of the
// user's may do the handshake itself, and would have to find out.
func named(config *tls.Config, address string) *tls.Config {
	host, _, err := net.SplitHostPort(address)
	if config == nil || config.ServerName != "" || err != nil {
		return config
	}
	config = config.Clone()
	config.ServerName = host
	return config
}

func dialAddress(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
	network := "tcp"
	if strings.HasPrefix(address, "/") {
		network = "unix"
	}
	if config == nil {
		return dialer.DialContext(ctx, network, address)
	}
	d := tls.Dialer{NetDialer: dialer, Config: config}
	return d.DialContext(ctx, network, address)
}

// bound returns a context that ends when ctx does, after the timeout, or when the client is closed. A dialer
// of the user's might forget the timeout.
func (ws *wires) bound(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.ctx == nil {
		ws.ctx, ws.cancel = context.WithCancel(context.Background())
		if ws.closed {
			ws.cancel()
		}
	}
	stop := context.AfterFunc(ws.ctx, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// add notes a connection, or closes it if the client is being closed.
func (ws *wires) add(w *wire) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.closed {
		_ = w.Conn.Close() // nothing was sent on it
		return false
	}
	if ws.open == nil {
		ws.open = make(map[*wire]struct{})
	}
	ws.open[w] = struct{}{}
	return true
}

func (ws *wires) remove(w *wire) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.open, w)
}

// close closes every connection, ends the dials under way, and lets none be opened.
func (ws *wires) close() {
	ws.mu.Lock()
	ws.closed = true
	if ws.cancel != nil {
		ws.cancel()
	}
	open := make([]*wire, 0, len(ws.open))
	for w := range ws.open {
		open = append(open, w)
	}
	ws.mu.Unlock()
	for _, w := range open {
		_ = w.Conn.Close() // whoever uses it gets the error
	}
}
