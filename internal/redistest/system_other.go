//go:build !linux

package redistest

import (
	"net"
	"syscall"
)

// childAttributes are none: only Linux ties a child's life to its parent's.
func childAttributes() *syscall.SysProcAttr { return nil }

// reservePort has the kernel choose a loopback port. Elsewhere than on Linux it can't be kept, and
// starting a server is tried again if somebody else was faster.
func reservePort() (port int, release func(), err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, nil, err
	}
	return listener.Addr().(*net.TCPAddr).Port, func() {}, listener.Close()
}

// isStopped takes the signal's word for it.
func isStopped(int) bool { return true }
