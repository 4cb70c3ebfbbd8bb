package redistest

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// childAttributes make the kernel kill a server when the test's process ends without having cleaned up:
// on a panic, a timeout or a kill.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// reservePort has the kernel choose a loopback port and keeps it by a socket that is bound but does not
// listen. As long as it is kept, the kernel gives the port to nobody who asks for any port, neither to
// listen nor to connect from, a server that names it can still listen there, and while there is none a
// connection is refused. So a server that is down can't be mistaken for another test's, and always gets
// its port back.
func reservePort() (port int, release func(), err error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, fmt.Errorf("reserve a port: %w", err)
	}
	release = func() { syscall.Close(fd) }
	// Both sides must allow the address to be shared; Redis does so for every port it listens on.
	err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	if err == nil {
		err = syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err == nil {
		port, err = boundPort(fd)
	}
	if err != nil {
		release()
		return 0, nil, fmt.Errorf("reserve a port: %w", err)
	}
	return port, release, nil
}

func boundPort(fd int) (int, error) {
	address, err := syscall.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	inet, ok := address.(*syscall.SockaddrInet4)
	if !ok {
		return 0, fmt.Errorf("bound to an address of type %T", address)
	}
	return inet.Port, nil
}

// isStopped reports whether a stop signal has taken effect, which it does shortly after it was sent.
func isStopped(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// The state follows the program's name, which stands in parentheses and may hold anything.
	_, state, _ := strings.Cut(string(text), ") ")
	return strings.HasPrefix(state, "T")
}
