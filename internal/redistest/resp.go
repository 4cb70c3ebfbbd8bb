package redistest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// A ReplyError is an error that Redis answered with, such as "OOM command not allowed …". It tells a
// server that refuses from one that can't be reached.
type ReplyError string

// Error returns the reply without its leading minus.
func (e ReplyError) Error() string { return string(e) }

// A connection speaks RESP2, one command after another. It is as small as it can be, and independent of
// the client that the library uses.
type connection struct {
	net.Conn
	replies *bufio.Reader
}

// dial connects, and gives everything that happens on the connection the same time limit.
func dial(network, address string, limit time.Duration) (*connection, error) {
	deadline := time.Now().Add(limit)
	conn, err := net.DialTimeout(network, address, limit)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(deadline); err != nil {
		conn.Close()
		return nil, err
	}
	return &connection{conn, bufio.NewReader(conn)}, nil
}

// do sends one command and returns its reply: a string, an int64, nil or a []any of them. An error reply
// is returned as the error; one inside an array stays there, as a [ReplyError].
func (c *connection) do(args ...string) (any, error) {
	if _, err := io.WriteString(c, encode(args)); err != nil {
		return nil, err
	}
	reply, err := c.receive()
	if err != nil {
		return nil, err
	}
	if refused, ok := reply.(ReplyError); ok {
		return nil, refused
	}
	return reply, nil
}

func encode(args []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(arg), arg)
	}
	return b.String()
}

// receive reads one reply of any kind.
func (c *connection) receive() (any, error) {
	line, err := c.replies.ReadString('\n')
	if err != nil {
		return nil, err
	}
	line = strings.TrimSuffix(line, "\r\n")
	if line == "" {
		return nil, fmt.Errorf("redistest: an empty line where a reply should begin")
	}
	switch kind, rest := line[0], line[1:]; kind {
	case '+':
		return rest, nil
	case '-':
		return ReplyError(rest), nil
	case ':':
		return strconv.ParseInt(rest, 10, 64)
	case '$':
		return c.receiveBulk(rest)
	case '*':
		return c.receiveArray(rest)
	default:
		return nil, fmt.Errorf("redistest: a reply of unknown kind: %q", line)
	}
}

func (c *connection) receiveBulk(length string) (any, error) {
	n, err := strconv.Atoi(length)
	if err != nil || n < 0 {
		return nil, err // minus one stands for null
	}
	text := make([]byte, n+len("\r\n"))
	if _, err := io.ReadFull(c.replies, text); err != nil {
		return nil, err
	}
	return string(text[:n]), nil
}

func (c *connection) receiveArray(length string) (any, error) {
	n, err := strconv.Atoi(length)
	if err != nil || n < 0 {
		return nil, err
	}
	items := make([]any, n)
	for i := range items {
		if items[i], err = c.receive(); err != nil {
			return nil, err
		}
	}
	return items, nil
}
