// Package pgtest starts real PostgreSQL servers for tests.
//
// A server belongs to the test that started it and ends with it. It listens on a unix socket in a
// directory of its own, so that no test talks to a server that it did not start. It keeps nothing
// safe from a crash of the machine (fsync is off), and all from one of its own: kill and restart it
// as you like.
//
// It needs initdb and postgres 14 or newer, which PG_BIN may name the directory of: [Require] says
// what happens without.
package pgtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// startTimeout is long: a restart after a kill replays the log.
	startTimeout = time.Minute

	// port only names the socket's file.
	port = "5432"

	pollInterval = 20 * time.Millisecond
)

// install says how to get what is missing.
const install = "postgres and initdb not found; install PostgreSQL 14 or newer, or say by PG_BIN in which directory they are, " +
	"with `apt-get install postgresql` (Debian, Ubuntu) or `dnf install postgresql-server` (Fedora)"

// TB is what a server needs of a test: a [testing.TB] has it. A program that shows something has
// one of its own.
type TB interface {
	Helper()
	Cleanup(end func())
	Fatal(why ...any)
	Fatalf(format string, why ...any)
	Skip(why ...any)
}

// Require skips the test, loudly, if there is no PostgreSQL. If the environment variable CI or
// CACHEASIDE_REQUIRE_POSTGRES is not empty it fails the test instead.
func Require(t TB) {
	t.Helper()
	if _, ok := binaries(); ok {
		return
	}
	if os.Getenv("CI") != "" || os.Getenv("CACHEASIDE_REQUIRE_POSTGRES") != "" {
		t.Fatal("pgtest: " + install)
	}
	t.Skip("SKIPPED, NOT TESTED: " + install)
}

// binaries returns the directory that holds postgres and initdb: the newest.
var binaries = sync.OnceValues(func() (string, bool) {
	dirs := []string{os.Getenv("PG_BIN")}
	if dirs[0] == "" {
		dirs = nil
		if path, err := exec.LookPath("initdb"); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
		for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin"} {
			found, _ := filepath.Glob(pattern) // the patterns are good
			slices.Reverse(found)
			dirs = append(dirs, found...)
		}
	}
	for _, dir := range dirs {
		if isProgram(filepath.Join(dir, "initdb")) && isProgram(filepath.Join(dir, "postgres")) {
			return dir, true
		}
	}
	return "", false
})

func isProgram(path string) bool {
	_, err := exec.LookPath(path)
	return err == nil
}

// Server is a PostgreSQL server.
type Server struct {
	t    TB
	bin  string
	dir  string // of the socket, the log and the data
	args []string

	mu      sync.Mutex
	process *exec.Cmd
	ended   chan struct{}
}

// Start starts a server with settings as "name=value", and returns when it serves. wal_level is
// logical.
func Start(t TB, settings ...string) *Server {
	t.Helper()
	Require(t)
	bin, _ := binaries()
	// A unix socket's path may have 100 bytes, which t.TempDir exceeds, and only root may enter
	// that.
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		t.Fatal("pgtest: ", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &Server{t: t, bin: bin, dir: dir}
	s.own(dir)
	settings = append([]string{
		"listen_addresses=", "unix_socket_directories=" + dir, "fsync=off", "wal_level=logical",
		"max_replication_slots=40", "max_wal_senders=40", "max_connections=100", "shared_buffers=16MB",
		"autovacuum=off", "checkpoint_timeout=1h",
	}, settings...)
	for _, setting := range settings {
		s.args = append(s.args, "-c", setting)
	}
	s.initialize()
	t.Cleanup(s.Kill)
	s.launch()
	return s
}

// DSN returns the connection string of a superuser to a database; "" is the one that is always
// there. More settings may follow, as "user=app".
func (s *Server) DSN(database string, settings ...string) string {
	if database == "" {
		database = "postgres"
	}
	return strings.Join(append([]string{
		"host=" + s.dir, "port=" + port, "user=postgres", "dbname=" + database, "sslmode=disable",
	}, settings...), " ")
}

// Socket returns the path of the server's socket.
func (s *Server) Socket() string { return filepath.Join(s.dir, ".s.PGSQL."+port) }

// Kill ends the server at once, as a crash does, and returns when it is gone. It may be called
// twice.
func (s *Server) Kill() { s.end(crashSignal) }

// Stop shuts the server down in an orderly way, without waiting for its clients to leave.
func (s *Server) Stop() { s.end(endSignal) }

// Restart ends the server if it runs, and starts it again with its data and the same settings.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.launch()
}

// Relaunch starts a server that was ended.
func (s *Server) Relaunch() {
	s.t.Helper()
	s.launch()
}

func (s *Server) end(signal os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return
	}
	_ = s.process.Process.Signal(signal) // it may have ended
	select {
	case <-s.ended:
	case <-time.After(startTimeout):
		_ = s.process.Process.Kill()
		<-s.ended
	}
	s.process = nil
}

func (s *Server) initialize() {
	s.t.Helper()
	c := s.command("initdb", "-D", s.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
	if out, err := c.CombinedOutput(); err != nil {
		s.t.Fatalf("pgtest: initdb: %v\n%s", err, out)
	}
}

func (s *Server) launch() {
	s.t.Helper()
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal("pgtest: ", err)
	}
	defer log.Close()
	c := s.command("postgres", append([]string{"-D", s.data()}, s.args...)...)
	c.Stdout, c.Stderr = log, log
	started, ended := make(chan error), make(chan struct{})
	go run(c, started, ended) // ends with the process
	if err := <-started; err != nil {
		s.t.Fatal("pgtest: ", err)
	}
	s.mu.Lock()
	s.process, s.ended = c, ended
	s.mu.Unlock()
	for deadline := time.Now().Add(startTimeout); !s.isReady(); time.Sleep(pollInterval) {
		select {
		case <-ended:
			s.t.Fatalf("pgtest: the server has ended:\n%s", s.tail())
		default:
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("pgtest: the server does not serve after %v:\n%s", startTimeout, s.tail())
		}
	}
}

// run starts a process and stays until it ends, on one thread: on Linux the parent whose death ends
// the child is the thread that started it.
func run(c *exec.Cmd, started chan<- error, ended chan<- struct{}) {
	defer close(ended)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := c.Start()
	started <- err
	if err == nil {
		_ = c.Wait() // that it was killed is no news
	}
}

// isReady reads it in the file in which the server says so.
func (s *Server) isReady() bool {
	text, err := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
	lines := strings.Split(string(text), "\n")
	return err == nil && len(lines) > 7 && strings.TrimSpace(lines[7]) == "ready" && lines[0] == strconv.Itoa(s.process.Process.Pid)
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }
func (s *Server) log() string  { return filepath.Join(s.dir, "log") }

// tail returns the end of the server's log.
func (s *Server) tail() string {
	text, err := os.ReadFile(s.log())
	if err != nil {
		return fmt.Sprint(err)
	}
	lines := bytes.Split(text, []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-20):], []byte("\n")))
}

// command prepares a program of PostgreSQL's, which refuse to run as root.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(s.bin, name), args...) //nolint:noctx // the server ends by end, and initdb by itself
	c.Dir = s.dir
	c.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	s.lower(c)
	return c
}

// Program returns the path of one of PostgreSQL's programs.
func (s *Server) Program(name string) string {
	if path := filepath.Join(s.bin, name); isProgram(path) {
		return path
	}
	return name
}
