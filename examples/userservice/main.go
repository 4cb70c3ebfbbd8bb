// Command userservice serves users from an SQL database over HTTP, with a cache in between.
//
//	CACHE=memory://                          values in this process (the default)
//	CACHE=rueidis://localhost:6379           values in Redis
//	CACHE=rueidis-aside://localhost:6379     values in Redis, and coherent copies in this process
//	CACHE=noop://                            no cache; concurrent look-ups still share a query
//
// It serves organisations, pages of their members, and roles too: users/members.go shows how a change of a role reaches
// all of these by a tag. One environment variable chooses; nothing else changes. The parameters of the one-line form apply:
// CACHE='memory://?max_entries=1000&stale_for=1m'. With -demo it shows what that does, and ends.
package main

import (
	"cmp"
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
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/debug"
	"github.com/cacheaside/cacheaside/examples/userservice/users"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "userservice:", err)
		os.Exit(1)
	}
}

// defaultCache remembers for a while that there is no such user, which costs a query like any other.
const defaultCache = "memory://?negative_ttl=5s"

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("userservice", flag.ContinueOnError)
	flags.SetOutput(out)
	listen := flags.String("listen", "127.0.0.1:8080", "where to serve")
	watch := flags.String("debug", "", "where to serve a page about the cache, to operators only; nowhere if empty")
	database := flags.String("database", "users.db", "the file of the SQLite database")
	asDemo := flags.Bool("demo", false, "show what the cache does, on a database of its own")
	requests := flags.Int("requests", 1000, "with -demo: how many ask for one user at once")
	processes := flags.Int("processes", 0, "with -demo: how many processes share the cache (default 2 with Redis, else 1)")
	as := flags.String("peer", "", "used by -demo for its other processes: look or rename")
	if err := flags.Parse(args); err != nil {
		return err
	}
	cfg, err := cacheaside.ParseConfig(cmp.Or(os.Getenv("CACHE"), defaultCache))
	if err != nil {
		return fmt.Errorf("reading CACHE: %w", err)
	}
	switch {
	case *asDemo:
		return demo(ctx, out, cfg, *requests, *processes)
	case *as != "":
		return peer(ctx, out, cfg, *database, *as, *requests)
	default:
		return serve(ctx, out, cfg, *database, *listen, *watch)
	}
}

// serve serves until ctx ends, then finishes what it has begun.
func serve(ctx context.Context, out io.Writer, cfg cacheaside.Config, database, listen, watch string) (err error) {
	repository, err := users.OpenRepository(ctx, database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, repository.Close()) }()
	page := debug.New(debug.Options{ShowKey: debug.PlainKeys}) // a key is an id, which operators may see
	log := slog.New(slog.NewTextHandler(out, nil))
	service, err := users.Open(ctx, cfg, repository, cacheaside.WithObserver(page), cacheaside.WithLogger(log))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, service.Close()) }() // before the repository that it uses
	cache, roles, members := service.Caches()
	page.Add(cache)
	page.Add(roles)
	page.Add(members)

	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "serving http://%s/users/{id} with %s\n", listener.Addr(), cfg)
	if watch == "" {
		return serveUntil(ctx, listener, handler(service))
	}
	watching, err := net.Listen("tcp", watch)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	fmt.Fprintf(out, "serving http://%s/debug/cacheaside\n", watching.Addr())
	mux := http.NewServeMux()
	mux.Handle("/debug/cacheaside", page)
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() error { return serveUntil(ctx, listener, handler(service)) })
	both.Go(func() error { return serveUntil(ctx, watching, mux) })
	return both.Wait()
}

// serveUntil serves until ctx ends, and lets what has begun come to its end.
func serveUntil(ctx context.Context, listener net.Listener, h http.Handler) error {
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }() // ends at Shutdown
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return server.Shutdown(ctx)
}
