package postgres_test

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/pgtest"
	"github.com/cacheaside/cacheaside/postgres"
)

// patience is for what happens within a second, on a machine that does much else.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	flag.Parse()
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == parallel.DefValue {
		_ = flag.Set("test.parallel", "6") // the tests mostly wait, for servers above all
	}
	code := m.Run()
	for _, end := range slices.Backward(lasts.cleanups) {
		end()
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goleak:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// start starts a server, which ends with the test.
func start(t *testing.T, settings ...string) *pgtest.Server {
	t.Helper()
	return pgtest.Start(t, settings...)
}

// common is the server of tests that do not break theirs. Each has a database of its own.
var (
	lasts  = new(lasting)
	common = sync.OnceValue(func() *pgtest.Server { return pgtest.Start(lasts) })
)

// lasting is a test, as far as pgtest can tell, that lasts for all tests.
type lasting struct{ cleanups []func() }

func (*lasting) Helper()                           {}
func (l *lasting) Cleanup(f func())                { l.cleanups = append(l.cleanups, f) }
func (*lasting) Fatal(arguments ...any)            { log.Panic(arguments...) }
func (*lasting) Skip(arguments ...any)             { log.Panic(arguments...) }
func (*lasting) Fatalf(f string, arguments ...any) { log.Panicf(f, arguments...) }

// database makes a database on the common server, and a name for a slot that no other test has.
func database(t *testing.T) (dsn, slot string) {
	t.Helper()
	pgtest.Require(t)
	slot = "d" + strings.ToLower(rand.Text()[:8])
	execute(t, connect(t, common().DSN("")), "CREATE DATABASE "+slot)
	return common().DSN(slot), slot
}

// connect returns a connection, which ends with the test.
func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func execute(t *testing.T, conn *pgx.Conn, commands ...string) {
	t.Helper()
	for _, sql := range commands {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
}

// quiet makes a feed that warns nobody.
func quiet(f postgres.Feed) *postgres.Feed {
	f.Logger = slog.New(slog.DiscardHandler)
	return &f
}

// sink notes what a feed tells.
type sink struct {
	alive atomic.Int64
	holds context.Context // Invalidate returns when it has ended; nil for at once

	mu   sync.Mutex
	told []string // refs as text, and "lost"
	lost []error
}

func (s *sink) Invalidate(refs ...cacheaside.Ref) {
	if s.holds != nil {
		<-s.holds.Done()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range refs {
		s.told = append(s.told, r.String())
	}
}

func (s *sink) Alive() { s.alive.Add(1) }

func (s *sink) Lost(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = append(s.told, "lost")
	s.lost = append(s.lost, err)
}

func (s *sink) lastLost() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lost) == 0 {
		return nil
	}
	return s.lost[len(s.lost)-1]
}

// take returns what was told so far, and forgets it.
func (s *sink) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	told := s.told
	s.told = nil
	return told
}

// await waits for refs to be told, and returns all that was told.
func (s *sink) await(t *testing.T, wanted ...string) {
	t.Helper()
	var told []string
	require.Eventually(t, func() bool {
		told = append(told, s.take()...)
		return len(told) >= len(wanted)
	}, patience, time.Millisecond, "%v", wanted)
	require.Equal(t, wanted, told)
}

// running is a feed that runs.
type running struct {
	t     *testing.T
	to    *sink
	stop  context.CancelFunc
	ended chan error
}

// run runs a feed once, until the test ends or it breaks.
func run(t *testing.T, f cacheaside.Feed) *running {
	t.Helper()
	return runInto(t, f, new(sink))
}

func runInto(t *testing.T, f cacheaside.Feed, to *sink) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: t, to: to, stop: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- f.Run(ctx, r.to) }()
	t.Cleanup(func() { _ = r.end() })
	return r
}

// awaitAlive waits until the feed says that nothing was missed up to now.
func (r *running) awaitAlive() {
	r.t.Helper()
	before := r.to.alive.Load()
	deadline := time.After(patience)
	for r.to.alive.Load() < before+2 {
		select {
		case err := <-r.ended:
			r.ended <- err
			r.t.Fatal("the feed has ended: ", err)
		case <-deadline:
			r.t.Fatal("the feed is not alive")
		case <-time.After(time.Millisecond):
		}
	}
}

// end ends the feed, and returns its error.
func (r *running) end() error {
	r.stop()
	err := <-r.ended
	r.ended <- err
	return err
}

// broken waits for the feed to end by itself.
func (r *running) broken() error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		r.ended <- err
		return err
	case <-time.After(patience):
		r.t.Fatal("the feed goes on")
		return nil
	}
}
