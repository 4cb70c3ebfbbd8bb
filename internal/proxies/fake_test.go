package proxies_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// manner is how a proxy treats its clients.
type manner struct {
	knows    []string                    // the commands that it sends on; others it refuses
	refuse   func(command string) string // the reply to a command that it does not know; "" to hang up
	password string                      // of its own, that AUTH without a name must have; "" for none
	noAuth   string                      // the reply to what comes before AUTH
	turnAway string                      // what is said to each client before the connection is closed
}

// The lists hold what the caches of this library may send, and of that what the proxy knows.
var (
	// envoy is Envoy's Redis filter. It answers PING by itself.
	envoy = manner{
		knows:  []string{"GET", "SET", "DEL", "UNLINK", "MGET", "EVAL", "EVALSHA", "STRLEN", "PTTL", "PEXPIRE", "PING"},
		refuse: func(command string) string { return "-unsupported command '" + command + "'" },
		noAuth: "-NOAUTH Authentication required.",
	}

	// laterEnvoy speaks of an unknown command as Redis does.
	laterEnvoy = with(envoy, func(m *manner) {
		m.refuse = func(command string) string {
			return "-ERR unknown command '" + command + "', with args beginning with: "
		}
	})

	// envoyWithHello has a HELLO, but only for RESP2.
	envoyWithHello = with(envoy, func(m *manner) {
		m.refuse = func(command string) string {
			if command == "HELLO" {
				return "-NOPROTO unsupported protocol version"
			}
			return "-unsupported command '" + command + "'"
		}
	})

	// twemproxy is version 0.5 of it, and olderTwemproxy 0.3.
	twemproxy = manner{
		knows:  []string{"GET", "SET", "DEL", "UNLINK", "MGET", "EVAL", "EVALSHA", "STRLEN", "PTTL", "PEXPIRE", "PING"},
		refuse: func(string) string { return "" },
		noAuth: "-NOAUTH Authentication required",
	}
	olderTwemproxy = with(twemproxy, func(m *manner) {
		m.knows = []string{"GET", "SET", "DEL", "MGET", "EVAL", "EVALSHA", "STRLEN", "PTTL", "PEXPIRE"}
	})

	manners = map[string]manner{
		"envoy": envoy, "later envoy": laterEnvoy, "envoy with HELLO 2": envoyWithHello,
		"twemproxy": twemproxy, "older twemproxy": olderTwemproxy,
	}
)

func with(m manner, change func(*manner)) manner {
	change(&m)
	return m
}

// proxy stands before a Redis.
type proxy struct {
	listener net.Listener
	target   string
	workers  sync.WaitGroup

	mu      sync.Mutex
	manner  manner
	open    map[net.Conn]struct{}
	got     map[string]int // how often each command came
	secrets []string       // the arguments of AUTH, in HELLO too
	refuses bool
}

func startProxy(t *testing.T, m manner, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{listener: listener, target: target, manner: m, open: make(map[net.Conn]struct{}), got: make(map[string]int)}
	p.workers.Go(p.accept) // ends when the listener is closed
	t.Cleanup(func() {
		listener.Close()
		p.cut()
		p.workers.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		refuses, words := p.refuses || p.manner.turnAway != "", p.manner.turnAway
		p.open[c] = struct{}{}
		p.mu.Unlock()
		if refuses {
			_, _ = io.WriteString(c, words)
			p.close(c)
			continue
		}
		p.workers.Go(func() { p.serve(c) }) // ends when the connection is closed
	}
}

func (p *proxy) close(c net.Conn) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
}

// cut closes all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		c.Close()
	}
}

// refuse has the proxy close new connections at once.
func (p *proxy) refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuses = on
}

// become changes the manner, for connections from now on. nil: the server itself is what is there now.
func (p *proxy) become(m *manner) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m == nil {
		m = new(manner)
	}
	p.manner = *m
}

func (p *proxy) count(command string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.got[command]
}

func (p *proxy) note(command []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got[strings.ToUpper(command[0])]++
	if at := slices.Index(command, "AUTH"); at >= 0 {
		p.secrets = append(p.secrets, command[at+1:]...)
	}
}

func (p *proxy) serve(c net.Conn) {
	defer p.close(c)
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	p.mu.Lock()
	m := p.manner
	p.mu.Unlock()
	if m.refuse == nil {
		p.workers.Go(func() { // ends when the connection is closed
			_, _ = io.Copy(server, c)
			server.Close()
		})
		_, _ = io.Copy(c, server)
		return
	}
	in, back := bufio.NewReader(c), bufio.NewReader(server)
	authenticated := false
	for {
		command, raw, err := readCommand(in)
		if err != nil {
			return
		}
		p.note(command)
		reply, pass := m.treat(command, &authenticated)
		if pass {
			if _, err := io.WriteString(server, raw); err != nil {
				return
			}
			if reply, err = readReply(back); err != nil {
				return
			}
		}
		if reply == "" {
			return
		}
		if _, err := io.WriteString(c, reply); err != nil {
			return
		}
	}
}

// treat returns the proxy's own reply, "" to hang up, or that the command is to be sent on.
func (m *manner) treat(command []string, authenticated *bool) (reply string, pass bool) {
	name := strings.ToUpper(command[0])
	known := slices.Contains(m.knows, name)
	switch {
	case name == "AUTH" && len(command) == 2:
		switch {
		case m.password == "":
			return "-ERR Client sent AUTH, but no password is set\r\n", false
		case command[1] != m.password:
			return "-ERR invalid password\r\n", false
		}
		*authenticated = true
		return "+OK\r\n", false
	case !known && m.refuse(name) == "":
		return "", false
	case m.password != "" && !*authenticated:
		return m.noAuth + "\r\n", false
	case !known:
		return m.refuse(name) + "\r\n", false
	case name == "PING":
		return "+PONG\r\n", false
	}
	return "", true
}

func readCommand(in *bufio.Reader) (command []string, raw string, err error) {
	count, err := readNumber(in, '*')
	if err != nil {
		return nil, "", err
	}
	raw = fmt.Sprintf("*%d\r\n", count)
	for range count {
		length, err := readNumber(in, '$')
		if err != nil {
			return nil, "", err
		}
		text := make([]byte, length+len("\r\n"))
		if _, err := io.ReadFull(in, text); err != nil {
			return nil, "", err
		}
		command = append(command, string(text[:length]))
		raw += fmt.Sprintf("$%d\r\n%s", length, text)
	}
	return command, raw, nil
}

func readNumber(in *bufio.Reader, kind byte) (int, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return 0, err
	}
	if line[0] != kind {
		return 0, fmt.Errorf("%q where %q should begin", line, kind)
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}

// readReply returns a whole reply as it stands on the wire.
func readReply(in *bufio.Reader) (string, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return "", err
	}
	size, _ := strconv.Atoi(strings.TrimSpace(line[1:]))
	switch line[0] {
	case '$':
		if size < 0 {
			return line, nil
		}
		text := make([]byte, size+len("\r\n"))
		_, err := io.ReadFull(in, text)
		return line + string(text), err
	case '%':
		size *= 2
	case '*':
	default:
		return line, nil
	}
	for range size {
		part, err := readReply(in)
		if err != nil {
			return "", err
		}
		line += part
	}
	return line, nil
}
