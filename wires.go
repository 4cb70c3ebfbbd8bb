package cacheaside

import (
	"context"
	"crypto/tls"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// dialFunc dials a node, as rueidis asks for it.
type dialFunc func(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error)

// credentialsFunc finds out the credentials for a connection, as rueidis asks for them.
type credentialsFunc = func(rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error)

// wires are the network connections that a client has open. They are watched, so that operations are not
// begun on one that is gone, to wait behind another's dial, which no context bounds; and they can be
// closed from outside, when the client waits for a server that does not answer.
type wires struct {
	underWay  func() int64 // how many operations are under way
	plain     atomic.Bool  // HELLO is left out; see conn_resp2.go
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
		dial = leavingBehind(dial)
	case o.DialFn != nil: // deprecated, and still what a program may have
		dial = leavingBehind(func(_ context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
			return o.DialFn(address, dialer, config)
		})
	case o.TLSConfig != nil: // it may call functions of the user's
		dial = leavingBehind(dialAddress)
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

// leavingBehind makes a dialFunc of one that may not heed its context: it is left when that ends. What it dials
// after that is closed.
func leavingBehind(dial dialFunc) dialFunc {
	return func(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
		type outcome struct {
			c   net.Conn
			err error
		}
		dialed := make(chan outcome)
		go func() { // ends when dial returns
			var o outcome
			o.c, o.err = dial(ctx, address, dialer, config)
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

// watch returns a function that dials with dial, for the wires of a line, which lineOf finds by the address.
func (ws *wires) watch(dial dialFunc, lineOf func(address string) *line) dialFunc {
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
		l := lineOf(address)
		w := newWire(c, ws.underWay)
		if ws.plain.Load() {
			w.Conn = &plainWire{Conn: c}
		}
		w.settle, w.line = settle, l
		w.dog.patience, w.dog.bark = l.patience, func() { _ = c.Close() } // the reader gets the error
		w.gone = func() {
			settle()
			ws.remove(w)
			if !w.dropped.Load() {
				l.lost()
			}
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
	stop := context.AfterFunc(ws.untilClosed(), cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// untilClosed returns a context that ends when the client is closed.
func (ws *wires) untilClosed() context.Context {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.ctx == nil {
		ws.ctx, ws.cancel = context.WithCancel(context.Background())
		if ws.closed {
			ws.cancel()
		}
	}
	return ws.ctx
}

// credentials returns a function that calls fn, and leaves it when the client is closed: fn takes no context, and
// may ask a service that does not answer.
func (ws *wires) credentials(fn credentialsFunc) credentialsFunc {
	return func(about rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
		type outcome struct {
			credentials rueidis.AuthCredentials
			err         error
		}
		got := make(chan outcome, 1)
		go func() { // ends when fn returns
			var o outcome
			o.credentials, o.err = fn(about)
			got <- o
		}()
		select {
		case o := <-got:
			if o.err != nil {
				return o.credentials, &credentialsError{o.err}
			}
			return o.credentials, nil
		case <-ws.untilClosed().Done():
			return rueidis.AuthCredentials{}, ErrClosed
		}
	}
}

// isConnected reports whether there is a connection.
func (ws *wires) isConnected() bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return len(ws.open) > 0
}

// drop closes the connections that there are. That is no loss to be told of.
func (ws *wires) drop() {
	ws.mu.Lock()
	open := slices.Collect(maps.Keys(ws.open))
	ws.mu.Unlock()
	for _, w := range open {
		w.dropped.Store(true)
		_ = w.Conn.Close() // whoever uses it gets the error
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
