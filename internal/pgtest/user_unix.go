//go:build unix

package pgtest

import (
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

const (
	crashSignal = syscall.SIGQUIT // the server and all its processes end at once, and recover at the next start
	endSignal   = syscall.SIGINT  // "fast": transactions are rolled back, and clients disconnected
)

// unprivileged returns the user that runs servers if root runs the tests: that of Debian's package,
// or nobody.
func (s *Server) unprivileged() (uid, gid int, needed bool) {
	if os.Getuid() != 0 {
		return 0, 0, false
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			uid, errUID := strconv.Atoi(u.Uid)
			gid, errGID := strconv.Atoi(u.Gid)
			if errUID == nil && errGID == nil {
				return uid, gid, true
			}
		}
	}
	s.t.Fatal("pgtest: no user postgres or nobody, and postgres does not run as root")
	return 0, 0, false
}

// own gives a directory to the user that runs the server.
func (s *Server) own(dir string) {
	if uid, gid, needed := s.unprivileged(); needed {
		if err := os.Chown(dir, uid, gid); err != nil {
			s.t.Fatal("pgtest: ", err)
		}
	}
}

// lower makes a command run as that user, in a group of processes of its own: an interrupt of the
// tests is not for it.
func (s *Server) lower(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if uid, gid, needed := s.unprivileged(); needed {
		c.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	dieWithParent(c.SysProcAttr)
}
