//go:build unix

package redistest

import (
	"os"
	"syscall"
)

// The signals that freeze a process, let it go on, and ask it to end.
var (
	freezeSignal os.Signal = syscall.SIGSTOP
	thawSignal   os.Signal = syscall.SIGCONT
	endSignal    os.Signal = syscall.SIGTERM
)
