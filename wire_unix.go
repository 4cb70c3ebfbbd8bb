//go:build unix

package cacheaside

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// directly returns the means to use the socket of c without waiting; nil for a connection that is more
// than its socket: what goes by TLS must not pass it by.
func directly(c net.Conn) *socket {
	var raw syscall.RawConn
	switch c := c.(type) {
	case *net.TCPConn:
		raw, _ = c.SyscallConn() // fails when it is closed, which reading will tell
	case *net.UnixConn:
		raw, _ = c.SyscallConn()
	}
	if raw == nil {
		return nil
	}
	return &socket{in: newAttempt(raw.Read, syscall.Read), out: newAttempt(raw.Write, syscall.Write)}
}

// socket reads and writes what can be at once, for one goroutine.
type socket struct {
	in, out *attempt
}

// readNow reads what is there. It returns 0 and no error if nothing is.
func (s *socket) readNow(b []byte) (int, error) {
	n, err := s.in.do(b)
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR) {
		return 0, nil
	}
	return max(n, 0), err
}

// writeNow writes as much of b as there is room for, and returns how much that was.
func (s *socket) writeNow(b []byte) int {
	n, _ := s.out.do(b) // who writes the rest gets the error
	return max(n, 0)
}

// attempt is a system call that does not wait. What it works on is kept here, so that trying costs no
// allocation.
type attempt struct {
	with func(func(fd uintptr) bool) error // lends the socket
	call func(fd int, b []byte) (int, error)
	once func(fd uintptr) bool

	b   []byte
	n   int
	err error
}

func newAttempt(with func(func(fd uintptr) bool) error, call func(fd int, b []byte) (int, error)) *attempt {
	a := &attempt{with: with, call: call}
	a.once = func(fd uintptr) bool {
		a.n, a.err = a.call(int(fd), a.b)
		return true
	}
	return a
}

func (a *attempt) do(b []byte) (n int, err error) {
	a.b, a.n, a.err = b, 0, nil
	err = a.with(a.once)
	a.b = nil
	if err != nil {
		return 0, err
	}
	return a.n, a.err
}
