// Command postgresfeed serves users from a PostgreSQL, with a cache in between that the database
// tells of its changes.
//
//	DATABASE_URL='postgres://app@db/shop' go run ./postgresfeed
//
// With -demo it starts a PostgreSQL of its own, changes a row by psql, and looks at what the page
// shows.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/postgres"
)

func main() {
	asDemo := flag.Bool("demo", false, "show what the feed does, on a server of its own")
	listen := flag.String("listen", "127.0.0.1:8080", "where to serve")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var err error
	if *asDemo {
		err = demo(ctx, os.Stdout)
	} else {
		err = serve(ctx, os.Stdout, os.Getenv("DATABASE_URL"), *listen)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "postgresfeed:", err)
		os.Exit(1)
	}
}

// service is users, cached.
type service struct {
	pool    *pgxpool.Pool
	users   *cacheaside.Client[string]
	queries atomic.Int64
}

// open connects, and follows the feed of the table users.
func open(ctx context.Context, dsn string, log io.Writer) (*service, error) {
	pool, err := pgxpool.New(ctx, dsn)
	if err != nil {
		return nil, err
	}
	logger := slog.New(slog.NewTextHandler(log, nil))
	s := &service{pool: pool}
	s.users, err = cacheaside.NewMemory[string](cacheaside.Config{Name: "users"},
		cacheaside.WithLogger(logger), cacheaside.WithNotFound(pgx.ErrNoRows))
	if err != nil {
		pool.Close()
		return nil, err
	}
	feed := postgres.Feed{DSN: dsn, Temporary: true, Logger: logger}.Table("users", func(row postgres.Row) []cacheaside.Ref {
		return s.users.Refs(row.Text("id"))
	})
	if err := s.users.Backend().Follow(ctx, feed); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *service) close() error {
	err := s.users.Close()
	s.pool.Close()
	return err
}

func (s *service) find(ctx context.Context, id string) (name string, err error) {
	s.queries.Add(1)
	err = s.pool.QueryRow(ctx, "SELECT name FROM users WHERE id::text = $1", id).Scan(&name)
	return name, err
}

// ServeHTTP shows a user.
func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, err := s.users.GetWithFetch(r.Context(), r.PathValue("id"), time.Hour, s.find)
	switch {
	case errors.Is(err, cacheaside.ErrNotFound):
		http.NotFound(w, r)
	case err != nil:
		http.Error(w, "the database does not answer", http.StatusServiceUnavailable)
	default:
		fmt.Fprintln(w, name)
	}
}

// serve serves until ctx ends.
func serve(ctx context.Context, out io.Writer, dsn, listen string) error {
	s, err := open(ctx, dsn, out)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return errors.Join(err, s.close())
	}
	fmt.Fprintf(out, "serving http://%s/users/{id}\n", listener.Addr())
	mux := http.NewServeMux()
	mux.Handle("GET /users/{id}", s)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err = server.Serve(listener); errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, s.close())
}
