package cacheaside

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"sync"
)

// dialFunc dials a node, as rueidis asks for it.
type dialFunc func(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error)

// wires are the network connections that a client has open. They are watched, so that operations are not
// begun on one that is gone, to wait behind another's dial, which no context bounds; and they can be
// closed from outside, when the client waits for a server that does not answer.
type wires struct {
	mu     sync.Mutex
	open   map[*wire]struct{}
	closed bool
}

type wire struct {
	net.Conn
	once sync.Once
	gone func()
}

// Close calls gone once, before it closes the connection.
func (w *wire) Close() error {
	w.once.Do(w.gone)
	return w.Conn.Close()
}

// watch returns a function that dials with dial, or as rueidis would if that is nil. lost is called when
// one of the connections is closed.
func (ws *wires) watch(dial dialFunc, lost func()) dialFunc {
	if dial == nil {
		dial = dialAddress
	}
	return func(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
		c, err := dial(ctx, address, dialer, config)
		if err != nil {
			return nil, err
		}
		w := &wire{Conn: c}
		w.gone = func() {
			ws.remove(w)
			lost()
		}
		if !ws.add(w) {
			return nil, ErrClosed
		}
		return w, nil
	}
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

// close closes every connection, and lets none be opened.
func (ws *wires) close() {
	ws.mu.Lock()
	ws.closed = true
	open := make([]*wire, 0, len(ws.open))
	for w := range ws.open {
		open = append(open, w)
	}
	ws.mu.Unlock()
	for _, w := range open {
		_ = w.Conn.Close() // whoever uses it gets the error
	}
}
