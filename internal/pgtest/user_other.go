//go:build !unix

package pgtest

import (
	"os"
	"os/exec"
)

// No server is started here: there are no unix sockets to trust. The package still builds.
var crashSignal, endSignal = os.Kill, os.Kill

func (s *Server) own(string) {}

func (s *Server) lower(*exec.Cmd) {}
