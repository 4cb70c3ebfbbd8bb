package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/examples/userservice/users"
)

// ada is the user that everybody asks for.
var ada = users.User{ID: 42, Name: "Ada Lovelace", Email: "ada@example.org"}

// demo shows that many concurrent requests for a user whom nobody has asked for yet reach the database
// once and, if the cache is in Redis, that other processes share it. It returns an error if not.
func demo(ctx context.Context, out io.Writer, cfg cacheaside.Config, requests, processes int) (err error) {
	isShared := cfg.Backend == cacheaside.BackendRueidis || cfg.Backend == cacheaside.BackendRueidisAside
	if processes == 0 {
		processes = 1
		if isShared {
			processes = 2
		}
	}
	dir, err := os.MkdirTemp("", "userservice")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	database := filepath.Join(dir, "users.db")
	repository, err := users.OpenRepository(ctx, database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, repository.Close()) }()
	if err := repository.Save(ctx, ada); err != nil {
		return err
	}
	source := &counted{Source: repository}
	service, err := users.Open(ctx, cfg, source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, service.Close()) }()

	fmt.Fprintf(out, "cache     %s\ndatabase  SQLite, %s\n\n", cfg, database)
	if err := stampede(ctx, out, service, source, requests); err != nil {
		return err
	}
	if processes > 1 {
		return share(ctx, out, service, isShared, database, requests, processes-1)
	}
	return nil
}

// counted counts the queries that reach the database, and holds those for one user until wait returns.
type counted struct {
	users.Source
	queries atomic.Int64 // for one user
	batches atomic.Int64 // for several
	lists   atomic.Int64 // for pages and roles
	wait    func(context.Context)
}

func (c *counted) Find(ctx context.Context, id int64) (users.User, error) {
	c.queries.Add(1)
	if c.wait != nil {
		c.wait(ctx)
	}
	return c.Source.Find(ctx, id)
}

func (c *counted) FindByEmail(ctx context.Context, email string) (users.User, error) {
	c.queries.Add(1)
	return c.Source.FindByEmail(ctx, email)
}

func (c *counted) FindMany(ctx context.Context, ids []int64) (map[int64]users.User, error) {
	c.batches.Add(1)
	return c.Source.FindMany(ctx, ids)
}

func (c *counted) Members(ctx context.Context, p users.Page) ([]users.Member, error) {
	c.lists.Add(1)
	return c.Source.Members(ctx, p)
}

func (c *counted) Roles(ctx context.Context, user int64) ([]users.Role, error) {
	c.lists.Add(1)
	return c.Source.Roles(ctx, user)
}

// patience is how long the demo waits for what comes soon.
const patience = 20 * time.Second

// stampede sends the requests over HTTP, all at once, and fails unless they cost one query.
func stampede(ctx context.Context, out io.Writer, service *users.Service, source *counted, requests int) error {
	if err := service.Forget(ctx, ada.ID); err != nil { // an earlier demo may have left her in Redis
		return err
	}
	// The query does not return before all requests wait: the worst moment for a cache.
	source.wait = func(ctx context.Context) {
		poll(ctx, func() bool {
			s := service.Stats()
			return s.Misses+s.Joined+s.Hits >= uint64(requests)
		})
	}
	address, stop, err := listen(service)
	if err != nil {
		return err
	}
	defer stop()
	begun := time.Now()
	answered, failure := request(ctx, fmt.Sprintf("http://%s/users/%d", address, ada.ID), requests)
	took := time.Since(begun)
	stats, queries := service.Stats(), source.queries.Load()

	fmt.Fprintf(out, "%d concurrent requests GET /users/%d, nothing cached:\n", requests, ada.ID)
	fmt.Fprintf(out, "  %6d answered with 200, in %v\n", answered, took.Round(time.Millisecond))
	fmt.Fprintf(out, "  %6d started the query\n", stats.Misses)
	fmt.Fprintf(out, "  %6d waited for it\n", stats.Joined)
	fmt.Fprintf(out, "  %6d came later, and were answered from the cache\n", stats.Hits)
	fmt.Fprintf(out, "  %6d database queries\n\n", queries)
	switch {
	case failure != nil:
		return failure
	case queries != 1:
		return fmt.Errorf("%d concurrent requests made %d database queries, not 1", requests, queries)
	}
	return nil
}

// listen serves the service at a port of its own. stop ends that.
func listen(service *users.Service) (address string, stop func(), err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: handler(service), ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener) // until stop
	}()
	return listener.Addr().String(), func() { _ = server.Close(); <-ended }, nil
}

// request sends n requests at once, each on a connection of its own, and returns how many were answered
// with 200, and what was wrong with one of the others.
func request(ctx context.Context, url string, n int) (answered int64, failure error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	transport := &http.Transport{MaxIdleConnsPerHost: n, DialContext: politely(64)}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var ok atomic.Int64
	var failed atomic.Pointer[error]
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			if err := get(ctx, client, url); err != nil {
				failed.CompareAndSwap(nil, &err)
				return
			}
			ok.Add(1)
		})
	}
	all.Wait()
	if err := failed.Load(); err != nil {
		return ok.Load(), *err
	}
	return ok.Load(), nil
}

func get(ctx context.Context, client *http.Client, url string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", url, response.Status, body)
	}
	return err
}

// politely dials a few connections at a time: some systems refuse what does not fit into a short queue.
func politely(atOnce int) func(context.Context, string, string) (net.Conn, error) {
	turns := make(chan struct{}, atOnce)
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		turns <- struct{}{}
		defer func() { <-turns }()
		return new(net.Dialer).DialContext(ctx, network, address)
	}
}

// poll returns when condition holds, or ctx has ended, or it takes too long.
func poll(ctx context.Context, condition func() bool) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}
