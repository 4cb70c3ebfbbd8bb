package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/cacheaside/cacheaside/internal/pgtest"
)

// lookUps is how often the page is asked for.
const lookUps = 1000

// demo shows that a row that psql has changed is shown at once, though it is cached for an hour.
func demo(ctx context.Context, out io.Writer) (err error) {
	life := new(life)
	defer func() { err = errors.Join(err, life.end(recover())) }()
	server := pgtest.Start(life)
	if err := psql(ctx, server, "CREATE TABLE users (id int PRIMARY KEY, name text); INSERT INTO users VALUES (1, 'Alan'), (42, 'Ada')"); err != nil {
		return err
	}
	s, err := open(ctx, server.DSN(""), io.Discard)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.awaitFeed(ctx); err != nil {
		return err
	}
	before := s.queries.Load()
	for range lookUps {
		s.page()
	}
	fmt.Fprintf(out, "the page shows %q; %d requests, %d query\n", s.page(), lookUps, s.queries.Load()-before)
	for _, change := range []struct{ sql, wanted string }{
		{"UPDATE users SET name = 'Grace' WHERE id = 42", "Grace"},
		{"BEGIN; DELETE FROM users; ROLLBACK", "Grace"},
		{"DELETE FROM users WHERE id = 42", "404 page not found"},
		{"INSERT INTO users VALUES (42, 'Edsger')", "Edsger"},
	} {
		if err := psql(ctx, server, change.sql); err != nil {
			return err
		}
		begun := time.Now()
		for s.page() != change.wanted {
			if time.Since(begun) > 10*time.Second {
				return fmt.Errorf("the page shows %q after %s", s.page(), change.sql)
			}
			time.Sleep(100 * time.Microsecond)
		}
		fmt.Fprintf(out, "psql: %-50s the page shows %q, within %v of psql's end\n", change.sql, change.wanted, time.Since(begun).Round(100*time.Microsecond))
	}
	return nil
}

// awaitFeed waits until the feed is alive, from when on values are kept. One with a temporary slot begins with a gap: what was kept
// before it counts for nothing.
func (s *service) awaitFeed(ctx context.Context) error {
	for begun := time.Now(); time.Since(begun) < 30*time.Second && ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		if feeds := s.users.Stats(); feeds.FeedGaps > 0 && feeds.FeedsLost == 0 {
			return nil
		}
	}
	return errors.New("the feed is not alive")
}

// page returns what a browser would show.
func (s *service) page() string {
	mux := http.NewServeMux()
	mux.Handle("GET /users/{id}", s)
	reply := httptest.NewRecorder()
	mux.ServeHTTP(reply, httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/users/42", nil))
	return strings.TrimSpace(reply.Body.String())
}

func psql(ctx context.Context, server *pgtest.Server, sql string) error {
	said, err := exec.CommandContext(ctx, server.Program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql, server.DSN("")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("psql: %w\n%s", err, said)
	}
	return nil
}

// life is what the server of the demo lives as long as: a test, as far as pgtest can tell.
type life struct{ ends []func() }

func (*life) Helper()                          {}
func (l *life) Cleanup(end func())             { l.ends = append(l.ends, end) }
func (*life) Fatal(why ...any)                 { panic(failure(fmt.Sprint(why...))) }
func (*life) Fatalf(format string, why ...any) { panic(failure(fmt.Sprintf(format, why...))) }
func (l *life) Skip(why ...any)                { l.Fatal(why...) }

// failure is the panic of a Fatal.
type failure string

// end ends the server, and returns why the demo has failed.
func (l *life) end(reason any) error {
	for _, end := range slices.Backward(l.ends) {
		end()
	}
	switch reason := reason.(type) {
	case nil:
		return nil
	case failure:
		return errors.New(string(reason))
	}
	panic(reason)
}
