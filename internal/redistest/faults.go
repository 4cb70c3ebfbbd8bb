package redistest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Freeze stops the server's process, as if the machine hung: connections stay open and new ones are
// accepted by the kernel, but nothing is answered until [Server.Thaw]. What is sent meanwhile is not
// lost.
func (s *Server) Freeze() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process.signal(freezeSignal)
	err := await(commandTimeout, func() error {
		if !isStopped(s.process.command.Process.Pid) {
			return errors.New("still running")
		}
		return nil
	})
	if err != nil {
		s.fatalf("freeze: %v", err)
	}
}

// Thaw lets a frozen server go on. It does nothing to one that is not frozen.
func (s *Server) Thaw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process.signal(thawSignal)
}

// Kill ends the server without a word to its clients, even if it is frozen, and returns when it is gone.
// Connecting is refused until [Server.Restart]. It may be called twice, and from any goroutine.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		s.process.kill()
	}
}

// Stop shuts the server down in an orderly way, as an operator would. It kills one that takes too long.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process.signal(thawSignal)
	s.process.signal(endSignal)
	select {
	case <-s.process.exited:
	case <-time.After(commandTimeout):
		s.process.kill()
	}
}

// Restart ends the server if it runs, and starts it again with the same port and arguments, without its
// data and without what was configured at run time.
func (s *Server) Restart() {
	s.t.Helper()
	s.Kill()
	s.dropFile()
	if err := s.relaunch(isUp); err != nil {
		s.fatalf("restart: %v", err)
	}
}

// relaunch starts the server on the port it had, again and again if somebody else has it for the moment,
// which can only happen where ports can't be reserved.
func (s *Server) relaunch(ready func(error) bool, args ...string) error {
	return await(startTimeout, func() error { return s.launch(ready, args...) })
}

// ReadOnly turns the server into a replica whose master can't be reached: reads are served from what is
// there, writes get READONLY. Turned off it is a master again, with its data. A node of a cluster can't.
func (s *Server) ReadOnly(on bool) {
	s.t.Helper()
	if !on {
		s.Must("REPLICAOF", "NO", "ONE")
		return
	}
	s.Must("CONFIG", "SET", "replica-read-only", "yes", "replica-serve-stale-data", "yes")
	s.Must("REPLICAOF", "127.0.0.1", "0") // a port where nobody can ever listen
}

// FillMemory makes every command that may need memory fail with OOM. Reading and deleting still work.
func (s *Server) FillMemory() {
	s.t.Helper()
	s.Must("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1")
}

// FreeMemory ends [Server.FillMemory]. There is no limit to the memory then.
func (s *Server) FreeMemory() {
	s.t.Helper()
	s.Must("CONFIG", "SET", "maxmemory", "0")
}

// KillClients closes the connections of all clients, whether they send commands or are subscribed to
// something, and leaves the server itself as it is. It returns how many there were.
func (s *Server) KillClients() int {
	s.t.Helper()
	s.admin.Lock()
	defer s.admin.Unlock()
	killed := 0
	for _, kind := range []string{"normal", "pubsub"} {
		reply, err := s.run(commandTimeout, []string{"CLIENT", "KILL", "TYPE", kind})
		n, ok := reply.(int64)
		if err != nil || !ok {
			s.fatalf("CLIENT KILL TYPE %s: %v, %v", kind, reply, err)
		}
		killed += int(n)
	}
	return killed
}

// What is loaded to keep a server loading: so many keys, each larger than the number of bytes after
// which Redis looks after its clients, and with a pause after each. It lasts for about a minute. A longer
// pause would make the server slow to answer, too.
const (
	fillerKeys     = 10_000
	fillerBytes    = 1100
	fillerPause    = 5 * time.Millisecond
	fillerDatabase = "15" // the last there is; loaded last
	eventBytes     = "1024"
	eventBytesLong = "2097152" // what Redis defaults to
)

// Loading restarts the server in the state in which it loads its data from disk: it accepts connections,
// and answers nearly every command with LOADING, for at most about a minute. Unlike [Server.Restart] it
// keeps the data. Turned off it finishes loading, and then has what it had before.
func (s *Server) Loading(on bool) {
	s.t.Helper()
	if on {
		s.startLoading()
	} else {
		s.finishLoading()
	}
}

func (s *Server) startLoading() {
	s.t.Helper()
	if s.options.cluster {
		s.t.Fatal("redistest: the node of a cluster has one database only, so it can't be kept loading")
	}
	s.script(
		[]string{"CONFIG", "SET", "rdbcompression", "no"},
		[]string{"SELECT", fillerDatabase},
		[]string{"DEBUG", "POPULATE", strconv.Itoa(fillerKeys), "filler", strconv.Itoa(fillerBytes)},
		[]string{"SAVE"},
	)
	s.Kill()
	err := s.relaunch(isLoading,
		"--key-load-delay", strconv.FormatInt(fillerPause.Microseconds(), 10),
		"--loading-process-events-interval-bytes", eventBytes)
	if err != nil {
		s.fatalf("loading: %v", err)
	}
}

func (s *Server) finishLoading() {
	s.t.Helper()
	s.Must("CONFIG", "SET", "key-load-delay", "0", "loading-process-events-interval-bytes", eventBytesLong)
	err := await(startTimeout, func() error {
		_, err := s.Command("PING")
		return err
	})
	if err != nil {
		s.fatalf("finish loading: %v", err)
	}
	s.script([]string{"SELECT", fillerDatabase}, []string{"FLUSHDB", "SYNC"})
	s.dropFile()
}

func isLoading(err error) bool {
	var refused ReplyError
	return errors.As(err, &refused) && strings.HasPrefix(string(refused), "LOADING")
}

// script sends commands on one connection.
func (s *Server) script(commands ...[]string) {
	s.t.Helper()
	s.admin.RLock()
	defer s.admin.RUnlock()
	c, err := s.login(commandTimeout)
	if err != nil {
		s.fatalf("log in: %v", err)
	}
	defer c.Close()
	for _, args := range commands {
		if _, err := c.do(args...); err != nil {
			s.fatalf("%s: %v", args, err)
		}
	}
}

// dropFile removes the data that [Server.Loading] wrote to disk, which the next start would load.
func (s *Server) dropFile() {
	s.t.Helper()
	err := os.Remove(filepath.Join(s.dir, "dump.rdb"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.fatalf("%v", fmt.Errorf("drop the data: %w", err))
	}
}
