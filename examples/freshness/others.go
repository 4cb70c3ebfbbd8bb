package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/examples/userservice/users"
)

// document is a user as another service sends it, and the version of that.
type document struct {
	ETag string
	User users.User
}

// showConditional fetches from a service that knows ETags: what has not changed is not sent again. The
// value that has expired is at hand inside the fetch, since StaleIfError keeps it.
func showConditional(ctx context.Context, out io.Writer, cfg cacheaside.Config, repository *users.Repository) (err error) {
	url, stop, err := serveWithETags(repository)
	if err != nil {
		return err
	}
	defer stop()
	cfg.Name, cfg.StaleIfError = "freshness-conditional", lasting
	cache, err := cacheaside.Open[document](ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cache.Close()) }()
	if err := cache.Delete(ctx, "42"); err != nil {
		return err
	}

	var whole, unchanged atomic.Int64
	fetch := func(ctx context.Context, key string) (d document, err error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/users/"+key, nil)
		if err != nil {
			return d, err
		}
		previous, ok := cacheaside.Previous[document](ctx)
		if ok {
			request.Header.Set("If-None-Match", previous.ETag)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return d, err
		}
		defer response.Body.Close()
		if response.StatusCode == http.StatusNotModified {
			unchanged.Add(1)
			return previous, nil // kept for another ttl
		}
		whole.Add(1)
		d.ETag = response.Header.Get("ETag")
		return d, json.NewDecoder(response.Body).Decode(&d.User)
	}
	for range 10 {
		if _, err := cache.GetWithFetch(ctx, "42", 20*time.Millisecond, fetch); err != nil {
			return err
		}
		time.Sleep(30 * time.Millisecond) // past the ttl
	}
	fmt.Fprintf(out, "Previous: a fetch can ask whether the value that has expired is still right\n"+
		"  10 look-ups, each past the ttl: %d sent the user, %d answered 304 Not Modified\n\n", whole.Load(), unchanged.Load())
	return nil
}

// serveWithETags serves users over HTTP, and says so if they have not changed.
func serveWithETags(repository *users.Repository) (url string, stop func(), err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /users/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64) // there is no user 0.
		u, err := repository.Find(r.Context(), id)
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		etag := strconv.Quote(u.Name + u.Email)
		w.Header().Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_ = json.NewEncoder(w).Encode(u) // the client has gone, then
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener) // until stop
	}()
	return "http://" + listener.Addr().String(), func() {
		http.DefaultClient.CloseIdleConnections()
		_ = server.Close() // nobody uses it any more
		<-ended
	}, nil
}

// showBatch looks up a hundred users of whom ninety are cached.
func showBatch(ctx context.Context, out io.Writer, cfg cacheaside.Config, repository *users.Repository) (err error) {
	keys := all[:100]
	cache, err := open(ctx, cfg, "batch", keys)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cache.Close()) }()
	d := &database{repository: repository}
	d.latency.Store(int64(2 * time.Millisecond))
	queries := 0
	fetchMany := func(ctx context.Context, keys []string) (map[string]users.User, error) {
		queries++
		return findMany(ctx, d, keys)
	}
	if _, err := cache.GetManyWithFetch(ctx, keys[:90], lasting, fetchMany); err != nil {
		return err
	}
	queries = 0
	begun := time.Now()
	found, err := cache.GetManyWithFetch(ctx, keys, lasting, fetchMany)
	if err != nil {
		return err
	}
	batch := time.Since(begun)

	if err := cache.DeleteMany(ctx, keys[90:]); err != nil {
		return err
	}
	begun = time.Now()
	for _, key := range keys {
		if _, err := cache.GetWithFetch(ctx, key, lasting, d.fetch); err != nil {
			return err
		}
	}
	singles := len(d.since(begun))
	fmt.Fprintf(out, "GetManyWithFetch: 100 users, 90 of them cached; a query takes 2 ms\n"+
		"  one by one   %2d queries, %v\n  as a batch   %2d query, %v, %d users\n\n",
		singles, time.Since(begun).Round(100*time.Microsecond), queries, batch.Round(100*time.Microsecond), len(found))
	return nil
}

func findMany(ctx context.Context, d *database, keys []string) (map[string]users.User, error) {
	if err := d.query(ctx); err != nil {
		return nil, err
	}
	ids := make([]int64, len(keys))
	for i, key := range keys {
		id, err := strconv.ParseInt(key, 10, 64)
		if err != nil {
			return nil, err
		}
		ids[i] = id
	}
	rows, err := d.repository.FindMany(ctx, ids)
	if err != nil {
		return nil, err
	}
	found := make(map[string]users.User, len(rows))
	for _, u := range rows {
		found[strconv.FormatInt(u.ID, 10)] = u
	}
	return found, nil
}

// showMutate changes a user while others look that user up, in the wrong order and in the right one.
func showMutate(ctx context.Context, out io.Writer, cfg cacheaside.Config, repository *users.Repository) (err error) {
	cache, err := open(ctx, cfg, "mutate", one)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cache.Close()) }()
	d := &database{repository: repository}

	// change writes the user's name into the database; before the write, somebody looks the user up.
	change := func(name string) func(context.Context) error {
		return func(ctx context.Context) error {
			if _, err := cache.GetWithFetch(ctx, one[0], lasting, d.fetch); err != nil {
				return err
			}
			return repository.Save(ctx, users.User{ID: 42, Name: name})
		}
	}
	if err := cache.Delete(ctx, one[0]); err != nil {
		return err
	}
	if err := change("renamed")(ctx); err != nil {
		return err
	}
	wrong, err := cache.GetWithFetch(ctx, one[0], lasting, d.fetch)
	if err != nil {
		return err
	}
	if err := cache.Mutate(ctx, one, change("renamed again")); err != nil {
		return err
	}
	right, err := cache.GetWithFetch(ctx, one[0], lasting, d.fetch)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Mutate: somebody looks a user up just before the write\n"+
		"  Delete, then write \"renamed\":      users find %q\n"+
		"  Mutate, writing \"renamed again\":   users find %q\n", wrong.Name, right.Name)
	return nil
}
