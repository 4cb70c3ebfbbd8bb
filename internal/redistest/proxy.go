package redistest

import (
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Proxy stands between clients and a server, and is the network that fails. Its faults hold for all
// connections, those already open as well as new ones, unless a method says otherwise. Its methods may
// be called from any goroutine. It ends with the test.
type Proxy struct {
	listener net.Listener
	workers  sync.WaitGroup // every goroutine of the proxy; close waits for them

	mu        sync.Mutex
	network   string
	target    string
	links     map[*link]struct{}
	closed    bool
	refuse    bool
	blackHole bool
	delay     time.Duration
	cutAfter  int          // reply bytes to pass before the cut; negative for no cut
	rate      [2]int       // bytes a second, of requests and of replies; zero for no limit
	busy      [2]time.Time // until when what has been let in takes
}

// A link is one client's connection and its continuation to the server.
type link struct {
	client net.Conn
	server net.Conn      // nil until it is dialed
	lossy  bool          // something was swallowed, so that the rest would make no sense
	done   chan struct{} // closed when the link is
}

// NewProxy starts a proxy to a server's address, which must be on this machine: a loopback host:port or
// the path of a unix socket. The server need not be up.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	network, err := networkOf(target)
	if err != nil {
		t.Fatalf("redistest: proxy to %q: %v", target, err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal("redistest: ", err)
	}
	p := &Proxy{listener: listener, network: network, target: target, links: map[*link]struct{}{}, cutAfter: -1}
	p.workers.Add(1)
	go p.serve() // close ends it and waits for it
	t.Cleanup(p.close)
	return p
}

// Addr returns host:port for clients to connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// CutAfter lets n more bytes of replies pass, then closes the connection that the last of them went
// through, in the middle of a reply if n says so. With 0 the next reply is cut before its first byte.
// Other connections stay, and so does what comes after: it is one cut.
func (p *Proxy) CutAfter(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutAfter = n
}

// CutAll closes all connections.
func (p *Proxy) CutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		p.closeLocked(l)
	}
}

// Refuse closes new connections as soon as they are accepted. Open ones stay.
func (p *Proxy) Refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = on
}

// Delay holds replies back for at least d: each piece of up to 64 KiB that the server sent, one after
// another, so that what arrives meanwhile goes together with the next. Zero ends it, for what is not
// held back yet.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Rate limits what passes to so many bytes of requests and of replies a second, of all connections together: they take
// turns, in pieces of 16 KiB or less. Zero is no limit.
func (p *Proxy) Rate(requests, replies int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate, p.busy = [2]int{requests, replies}, [2]time.Time{}
}

// Retarget makes the proxy lead new connections to another server, as a name does that is moved. Open ones stay
// where they are.
func (p *Proxy) Retarget(t testing.TB, target string) {
	t.Helper()
	network, err := networkOf(target)
	if err != nil {
		t.Fatalf("redistest: proxy to %q: %v", target, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.network, p.target = network, target
}

// BlackHole accepts everything and passes nothing on, in both directions, the end of a connection
// included. When it is turned off, the connections on which something was lost are closed: TCP never
// goes on after a gap, and a client must not be tested with replies that belong to other requests.
func (p *Proxy) BlackHole(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blackHole = on
	if on {
		return
	}
	for l := range p.links {
		if l.lossy {
			p.closeLocked(l)
		}
	}
}

// Connections returns how many connections of clients are open.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// networkOf returns the network of an address that is on this machine.
func networkOf(target string) (string, error) {
	if strings.HasPrefix(target, "/") {
		return "unix", nil
	}
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return "", errors.New("not a loopback address")
	}
	return "tcp", nil
}

func (p *Proxy) close() {
	p.listener.Close()
	p.mu.Lock()
	p.closed = true
	for l := range p.links {
		p.closeLocked(l)
	}
	p.mu.Unlock()
	p.workers.Wait()
}

// serve accepts until the listener is closed.
func (p *Proxy) serve() {
	defer p.workers.Done()
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.admit(client)
	}
}

// admit opens a link for a client, or turns it away.
func (p *Proxy) admit(client net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse || p.closed {
		client.Close()
		return
	}
	l := &link{client: client, done: make(chan struct{}), lossy: p.blackHole}
	p.links[l] = struct{}{}
	p.workers.Add(1)
	go p.connect(l) // ends when the link is closed, and so do the pumps
}

// connect continues a link to the server and pumps. In a black hole a client must not even notice that
// there is no server.
func (p *Proxy) connect(l *link) {
	defer p.workers.Done()
	if l.isLossy(p) {
		p.pump(l, l.client, nil, false)
		return
	}
	p.mu.Lock()
	network, target := p.network, p.target
	p.mu.Unlock()
	server, err := net.DialTimeout(network, target, commandTimeout)
	if err != nil || !p.attach(l, server) {
		p.drop(l)
		return
	}
	p.pump(l, l.client, server, false)
}

// attach gives a link its server and starts the pump of the replies, unless the link was closed.
func (p *Proxy) attach(l *link, server net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, open := p.links[l]; !open {
		server.Close()
		return false
	}
	l.server = server
	p.workers.Go(func() { p.pump(l, server, l.client, true) }) // ends when the link is closed
	return true
}

// drop closes a link.
func (p *Proxy) drop(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closeLocked(l)
}

// closeLocked closes both sides of a link, which ends its goroutines. It does nothing to a closed one.
func (p *Proxy) closeLocked(l *link) {
	if _, open := p.links[l]; !open {
		return
	}
	delete(p.links, l)
	close(l.done)
	l.client.Close()
	if l.server != nil {
		l.server.Close()
	}
}

func (l *link) isLossy(p *Proxy) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return l.lossy
}
