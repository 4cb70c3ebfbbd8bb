package redistest

import (
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// commandTimeout is far more than any command takes, even on a loaded machine, and well under
	// the time a hanging test would take to be noticed.
	commandTimeout = 5 * time.Second
	startTimeout   = 10 * time.Second
	startAttempts  = 5

	// adminName is the kit's own ACL user.
	adminName = "redistest"
)

// A Server is one redis-server of this test. It starts empty, listens on the loopback interface only,
// writes nothing to disk, and allows DEBUG commands. It ends with the test.
type Server struct {
	t       testing.TB
	options options
	binary  string
	version version
	dir     string
	socket  string
	secret  string // the admin user's password
	keys    *authority

	port, busPort int
	release       []func() // of the reserved ports

	// admin is held by every command of the kit, and for itself alone by KillClients, which would
	// otherwise kill the connections of the others.
	admin sync.RWMutex

	mu      sync.Mutex // held while the process is started or ended
	process *process
}

// Start starts a server, and returns when it answers. It requires redis-server as [Require] does.
func Start(t testing.TB, opts ...Option) *Server {
	t.Helper()
	return start(t, newOptions(opts))
}

func start(t testing.TB, o options) *Server {
	t.Helper()
	Require(t)
	if err := o.check(); err != nil {
		t.Fatal(err)
	}
	binary, _ := Path()
	version, err := versionOf(binary)
	if err != nil {
		t.Fatal("redistest: ", err)
	}
	s := &Server{t: t, options: o, binary: binary, version: version, dir: t.TempDir(), socket: socketPath(t), secret: rand.Text(), keys: o.keys}
	if o.tls && s.keys == nil {
		s.keys = newAuthority(t, s.dir)
	}
	t.Cleanup(s.end)
	for attempt := 1; ; attempt++ {
		s.reserve()
		err := s.launch(isUp)
		if err == nil {
			return s
		}
		if attempt == startAttempts || !s.portTaken() {
			s.fatalf("%v", err)
		}
	}
}

// Addr returns host:port, or the path of the unix socket if the server listens on nothing else.
func (s *Server) Addr() string {
	if s.options.socket {
		return s.socket
	}
	return loopback(s.port)
}

// URL returns the server in the one-line form, with user, password and database:
//
//	rueidis://user:password@127.0.0.1:12345/0
//
// Parameters, such as "prefix=app", follow as its query, after "tls=true" on a server with TLS.
func (s *Server) URL(scheme string, parameters ...string) string {
	if s.options.tls {
		parameters = append([]string{"tls=true"}, parameters...)
	}
	place := s.Addr()
	if !s.options.socket {
		place += "/0"
	}
	return oneLine(scheme, s.userinfo()+place, parameters)
}

// Socket returns the path of the server's unix socket. Every server has one: the kit itself uses it.
func (s *Server) Socket() string { return s.socket }

// TLSConfig returns what a client needs to trust the server, a copy for the caller to change, or nil if
// the server was started without [TLS].
func (s *Server) TLSConfig() *tls.Config {
	if s.keys == nil {
		return nil
	}
	return s.keys.client()
}

// Command sends a command as the kit's own all-powerful user, on a connection of its own, and returns
// the reply: a string, an int64, nil, or a []any of them. An error that Redis answered with is a
// [ReplyError]. It takes at most 5 s and may be called from any goroutine.
func (s *Server) Command(args ...string) (any, error) {
	s.admin.RLock()
	defer s.admin.RUnlock()
	return s.run(commandTimeout, args)
}

// Must is [Server.Command] for a command that can't fail: it ends the test if it does.
func (s *Server) Must(args ...string) any {
	s.t.Helper()
	reply, err := s.Command(args...)
	if err != nil {
		s.fatalf("%s: %v", args, err)
	}
	return reply
}

// reserve takes the ports, giving back those of an earlier attempt.
func (s *Server) reserve() {
	s.t.Helper()
	s.releasePorts()
	for _, port := range []*int{&s.port, &s.busPort} {
		number, release, err := reservePort()
		if err != nil {
			s.t.Fatal("redistest: ", err)
		}
		*port, s.release = number, append(s.release, release)
	}
	if s.options.cluster {
		s.busPort = s.version.busPort(s.port, s.busPort)
	}
}

func (s *Server) releasePorts() {
	for _, release := range s.release {
		release()
	}
	s.release = nil
}

// launch starts the process and waits until ready says so about the answer to a PING. It is not the port
// that is asked but the socket, and Redis opens that only after it has got all its ports.
func (s *Server) launch(ready func(error) bool, args ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.options.config != nil {
		if err := os.WriteFile(s.configPath(), []byte(s.options.config()), 0o600); err != nil {
			return err
		}
	}
	p, err := startProcess(s.binary, append(s.arguments(), args...), s.logPath())
	if err != nil {
		return err
	}
	s.process = p
	err = await(startTimeout, func() error {
		if p.ended() {
			return nil
		}
		if _, err := s.run(time.Second, []string{"PING"}); !ready(err) {
			return fmt.Errorf("not ready: %w", err)
		}
		return nil
	})
	if err != nil {
		p.kill()
	} else if p.ended() {
		err = fmt.Errorf("redis-server ended as soon as it was started")
	}
	return err
}

// isUp takes any answer that is not an error.
func isUp(err error) bool { return err == nil }

// arguments are the command line of every start of this server.
func (s *Server) arguments() []string {
	var args []string
	if s.options.config != nil {
		args = append(args, s.configPath())
	}
	args = append(args,
		"--bind", "127.0.0.1", "--unixsocket", s.socket, "--dir", s.dir,
		"--daemonize", "no", "--save", "", "--appendonly", "no")
	args = append(args, s.version.arguments()...)
	args = append(append(args, "--user", adminName, "on", ">"+s.secret), s.version.rules([]string{"~*", "&*", "+@all"})...)
	for _, u := range s.options.users {
		args = append(append(args, "--user", u.name, "on"), s.version.rules(u.rules)...)
	}
	if s.options.password != "" {
		args = append(args, "--requirepass", s.options.password)
	}
	return append(append(args, s.listenArguments()...), s.options.args...)
}

func (s *Server) listenArguments() []string {
	var args []string
	switch port := strconv.Itoa(s.port); {
	case s.options.socket:
		args = append(args, "--port", "0")
	case s.options.tls:
		args = append(append(args, "--port", "0", "--tls-port", port), s.keys.arguments()...)
	default:
		args = append(args, "--port", port)
	}
	if s.options.cluster {
		args = append(append(args, "--cluster-enabled", "yes"), s.version.clusterArguments(s.busPort)...)
	}
	return args
}

// run sends one command on a connection of its own.
func (s *Server) run(limit time.Duration, args []string) (any, error) {
	c, err := s.login(limit)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.do(args...)
}

// login opens a connection as the kit's own user.
func (s *Server) login(limit time.Duration) (*connection, error) {
	c, err := dial("unix", s.socket, limit)
	if err != nil {
		return nil, err
	}
	if _, err := c.do("AUTH", adminName, s.secret); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// end is the cleanup of the test.
func (s *Server) end() {
	s.Kill()
	s.releasePorts()
}

// fatalf ends the test with the last lines of the server's log.
func (s *Server) fatalf(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("redistest: %s: %s; the end of its log:\n%s", s.Addr(), fmt.Sprintf(format, args...), tail(s.logPath(), 20))
}

// portTaken reports whether the server ended because somebody else has its port.
func (s *Server) portTaken() bool {
	return strings.Contains(tail(s.logPath(), 20), "already in use")
}

func (s *Server) logPath() string    { return filepath.Join(s.dir, "redis.log") }
func (s *Server) configPath() string { return filepath.Join(s.dir, "redis.conf") }

func (s *Server) userinfo() string {
	name, password := s.options.credentials()
	if name == "" && password == "" {
		return ""
	}
	return url.UserPassword(name, password).String() + "@"
}

func loopback(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

func oneLine(scheme, place string, parameters []string) string {
	line := scheme + "://" + place
	if len(parameters) > 0 {
		line += "?" + strings.Join(parameters, "&")
	}
	return line
}

// socketPath returns where to put a unix socket. Its path may have about 100 bytes, which a test's own
// directory, named after the test, easily exceeds.
func socketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "redis")
	if err != nil {
		t.Fatal("redistest: ", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}
