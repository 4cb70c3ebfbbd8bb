package redistest

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// A process is one redis-server that the kit started. It can be signalled and killed, and nothing else
// can be: the kit never looks processes up.
type process struct {
	command *exec.Cmd
	exited  chan struct{} // closed when the process has ended and was waited for
}

// startProcess runs the binary, appending what it prints to the log.
func startProcess(binary string, args []string, log string) (*process, error) {
	output, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer output.Close() // the child has its own
	p := &process{command: exec.Command(binary, args...), exited: make(chan struct{})}
	p.command.Stdout, p.command.Stderr = output, output
	p.command.SysProcAttr = childAttributes()
	started := make(chan error)
	go p.run(started) // ends with the process; kill waits for it
	return p, <-started
}

// run starts the process and stays until it ends, on one thread. That matters on Linux, where the parent
// whose death kills the child is the thread that started it: the runtime ends a thread when a goroutine
// that was locked to it returns, and one that anybody might use could take the server along.
func (p *process) run(started chan<- error) {
	defer close(p.exited)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.command.Start()
	started <- err
	if err == nil {
		_ = p.command.Wait() // that it was killed is no news
	}
}

// signal sends a signal, which is lost on a process that has ended already.
func (p *process) signal(s os.Signal) { _ = p.command.Process.Signal(s) }

// kill ends the process, a frozen one too, and returns when it is gone.
func (p *process) kill() {
	p.signal(os.Kill)
	<-p.exited
}

// ended reports whether the process is gone.
func (p *process) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// tail returns the last lines of a file, indented, for the text of a failure.
func tail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return "\t(no log: " + err.Error() + ")"
	}
	all := strings.Split(string(bytes.TrimSpace(text)), "\n")
	return "\t" + strings.Join(all[max(0, len(all)-lines):], "\n\t")
}
