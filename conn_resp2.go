package cacheaside

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/redis/rueidis"
)

// A proxy in front of Redis knows the commands that it can send to the server of a key. HELLO, which the client begins
// with, and CLIENT are not among them, nor is PING for an older one: Envoy replies an error of its own, and twemproxy
// hangs up. This file keeps such commands from a proxy, which is configured (Redis.RESP), or is found out.

// plainOption returns o without what the client would send of its own accord. It still says HELLO 2, which plainWire
// leaves out.
func plainOption(o rueidis.ClientOption) rueidis.ClientOption {
	o.AlwaysRESP2 = true
	o.ClientName, o.ClientSetInfo = "", rueidis.DisableClientSetInfo
	o.ClientNoTouch, o.ClientNoEvict, o.EnableReplicaAZInfo = false, false, false
	if o.Username == defaultUser { // AUTH without a name means the same, and all know that
		o.Username = ""
	}
	if keep := o.Dialer.KeepAlive; keep > 0 && !o.Dialer.KeepAliveConfig.Enable {
		o.Dialer.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: keep, Interval: keep, Count: 3}
	}
	o.Dialer.KeepAlive = -1 // no PING
	return o
}

const defaultUser = "default"

// plainWire is a connection without the HELLO 2 that the client begins with, after AUTH if there is a password and
// before SELECT. What stands in the place of its reply comes first: in the client's eyes each must succeed, and no more.
type plainWire struct {
	net.Conn
	greeted, answered bool // the client looks at the reply to its greeting before it has another goroutine write
	unasked           bool // nothing of the greeting was left
}

const hello2 = "*2\r\n$5\r\nHELLO\r\n$1\r\n2\r\n"

func (w *plainWire) Write(b []byte) (int, error) {
	if w.greeted {
		return w.Conn.Write(b)
	}
	w.greeted = true
	greeting := string(b)
	if at := strings.LastIndex(greeting, hello2); at >= 0 { // the last: a password may hold anything
		greeting = greeting[:at] + greeting[at+len(hello2):]
	}
	if w.unasked = greeting == ""; w.unasked {
		return len(b), nil
	}
	if _, err := io.WriteString(w.Conn, greeting); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (w *plainWire) Read(b []byte) (int, error) {
	if w.answered {
		return w.Conn.Read(b)
	}
	w.answered = true
	n := copy(b, "+OK\r\n")
	if w.unasked {
		return n, nil
	}
	more, err := w.Conn.Read(b[n:])
	if more == 0 {
		return 0, err
	}
	return n + more, err
}

// isPlain reports whether what is at the address is taken for a proxy.
func (n *conn) isPlain() bool { return n.wires.plain.Load() }

// mayBePlain reports whether that can be: the nodes of a cluster, and sentinels, are no proxies.
func (n *conn) mayBePlain() bool { return n.option.ForceSingleClient }

// plainKey is a key that no cache uses, and that a proxy sends where it sends ours.
func (n *conn) plainKey() string { return n.unusedKey(n.cfg.Prefix + ":") }

// greet makes the client, and hears from what is there.
func (n *conn) greet() error {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout+writeTimeout)
	defer cancel()
	err := n.fallBack(ctx, n.makeClient())
	c := n.client.Load()
	if err != nil || c == nil || !n.isPlain() {
		return err
	}
	err = n.askFor(ctx, *c) // there was no HELLO to be answered
	if re, ok := rueidis.IsRedisErr(err); ok && !notServing(re) && !refusesConnection(re) {
		return nil
	}
	return err
}

// fallBack looks into err, which a connection that was being made has got. If that is because there is no HELLO, the
// client is made anew. It returns err if there is nothing to be done.
func (n *conn) fallBack(ctx context.Context, err error) error {
	if err == nil || !n.mayBePlain() || n.isPlain() || !n.mayDislikeHello(err) {
		return err
	}
	_, replied := rueidis.IsRedisErr(err)
	if n.ask(ctx, replied) != knowsNoHello {
		return err
	}
	if !n.option.DisableCache {
		return &shortened{"the server, or a proxy before it, does not know HELLO", rueidis.ErrNoCache}
	}
	return n.speak(true)
}

// speak makes the client anew, for a proxy or for a server.
func (n *conn) speak(plain bool) error {
	n.making.Lock()
	if old := n.client.Swap(nil); old != nil {
		(*old).Close()
	}
	n.wires.plain.Store(plain)
	n.making.Unlock()
	n.second.renew()
	return n.makeClient()
}

// lookAgain looks whether there still is a proxy, if one was found and connections have been lost since: there may be
// a server now.
func (n *conn) lookAgain(ctx context.Context) {
	if !n.doubt.Load() {
		return
	}
	known := n.ask(ctx, true)
	if known != knowsNothing {
		n.doubt.Store(false)
	}
	if known == knowsHello {
		_ = n.speak(false) // the probe gets the same error
	}
}

// apart returns a client of its own for a proxy, for as long as ctx. That its connection is lost means nothing to the
// others.
func (n *conn) apart(ctx context.Context) (rueidis.Client, error) {
	option := plainOption(n.option)
	option.DialCtxFn = func(dialing context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
		dialing, cancel := n.wires.bound(dialing, dialer.Timeout)
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		c, err := n.dial(dialing, address, dialer, named(config, address))
		if err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, func() { _ = c.Close() }) // nothing is asked of it then
		return &plainWire{Conn: c}, nil
	}
	c, err := rueidis.NewClient(option)
	if err != nil && c != nil {
		c.Close()
	}
	return c, err
}

// mayDislikeHello reports whether err may be due to HELLO.
func (n *conn) mayDislikeHello(err error) bool {
	re, ok := rueidis.IsRedisErr(err)
	if !ok {
		return hangsUp(err)
	}
	if strings.HasPrefix(re.Error(), "NOAUTH") { // Redis would have taken the password of HELLO
		return n.option.Password != "" || n.option.AuthCredentialsFn != nil
	}
	return dislikesHello(re.Error())
}

// dislikesHello reports whether a reply says that there is no HELLO, or none for RESP3. Redis, too, has errors that name
// it: NOPERM, NOAUTH and one of its arguments.
func dislikesHello(reply string) bool {
	text := strings.ToLower(reply)
	return strings.HasPrefix(text, "noproto") ||
		strings.Contains(text, "hello") && !strings.HasPrefix(text, "no") && !strings.Contains(text, "syntax error in hello")
}

func hangsUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// knowledge is what a server knows of HELLO.
type knowledge int

const (
	knowsNothing knowledge = iota // it is down, busy, turns this client away, or is no Redis: it cannot be told
	knowsHello
	knowsNoHello
)

// ask finds out whether the server knows HELLO. It sends nothing that is secret. A server that hangs up does not know it
// if it does so each time, right after it has replied to another command: one that restarts, or has too many clients,
// does not. With replies, the server is one that has replied to HELLO, and so had it none if it wants a password first.
func (n *conn) ask(ctx context.Context, replies bool) knowledge {
	const times = 2
	for range times {
		got := n.exchange(ctx, n.getCommand(), hello3)
		first, reply := got[0], got[1]
		switch {
		case strings.HasPrefix(reply, "%"), strings.HasPrefix(reply, "*"), strings.HasPrefix(reply, "-NOAUTH HELLO"):
			return knowsHello
		case replies && strings.HasPrefix(reply, "-NOAUTH"), strings.HasPrefix(reply, "-") && dislikesHello(strings.TrimPrefix(reply[1:], "ERR ")):
			return knowsNoHello
		case reply != hungUp || !serves(first):
			return knowsNothing
		}
	}
	if serves(n.exchange(ctx, n.getCommand())[0]) {
		return knowsNoHello
	}
	return knowsNothing
}

const hello3 = "*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n"

// getCommand is a command that any proxy knows.
func (n *conn) getCommand() string {
	key := n.plainKey()
	return fmt.Sprintf("*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", len(key), key)
}

// serves reports whether a reply to getCommand is one for a client that is welcome, or would be with a password.
func serves(reply string) bool {
	return strings.HasPrefix(reply, "$") || strings.HasPrefix(reply, "-NOAUTH")
}

// hungUp stands for the reply of a server that has closed the connection.
const hungUp = "hung up"

// exchange sends commands on a connection of their own, each when the one before it was replied to, and returns the
// first lines of the replies, "" for what did not come.
func (n *conn) exchange(ctx context.Context, commands ...string) (replies [2]string) {
	ctx, cancel := n.wires.bound(ctx, dialTimeout)
	defer cancel()
	c, err := n.dialApart(ctx, n.option.InitAddress[0], n.option.Dialer, n.option.TLSConfig)
	if err != nil {
		return replies
	}
	in := bufio.NewReader(c)
	for i, command := range commands {
		_, err := io.WriteString(c, command)
		if err == nil {
			replies[i], err = in.ReadString('\n')
		}
		if err == nil {
			continue
		}
		if hangsUp(err) {
			replies[i] = hungUp
		}
		return replies
	}
	return replies
}
