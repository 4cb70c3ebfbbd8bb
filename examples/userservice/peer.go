package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/examples/userservice/users"
)

// report is what a peer tells the demo.
type report struct {
	Name    string           // of the user that it found
	Queries int64            // that it sent to the database
	Stats   cacheaside.Stats // of its cache
}

// What a peer is asked to do.
const (
	look   = "look"   // look the user up many times
	rename = "rename" // give the user another name
)

// share lets other processes look up what this one has cached, and then change it.
func share(ctx context.Context, out io.Writer, service *users.Service, isShared bool, database string, lookups, peers int) error {
	for i := range peers {
		r, err := start(ctx, database, look, lookups)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "process %d, just started, looks user %d up %d times:\n", i+2, ada.ID, lookups)
		fmt.Fprintf(out, "  %6d found in the cache\n  %6d database queries\n\n", r.Stats.Hits+r.Stats.Joined, r.Queries)
		if isShared && (r.Queries != 0 || r.Name != ada.Name) {
			return fmt.Errorf("process %d made %d database queries, not 0", i+2, r.Queries)
		}
	}
	if !isShared {
		fmt.Fprintln(out, "a cache in memory is not shared: each process asked the database once")
		return nil
	}
	r, err := start(ctx, database, rename, 1)
	if err != nil {
		return err
	}
	begun := time.Now()
	var seen users.User
	poll(ctx, func() bool {
		seen, err = service.GetUserByID(ctx, ada.ID)
		return err != nil || seen.Name == r.Name
	})
	if err == nil && seen.Name != r.Name {
		err = fmt.Errorf("process 1 still finds the name %q, not %q", seen.Name, r.Name)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "process %d renames the user, and process 1 finds the new name %v after that process has ended\n",
		peers+2, time.Since(begun).Round(time.Millisecond))
	return nil
}

// start runs this program again as a peer, and returns what it reports.
func start(ctx context.Context, database, as string, lookups int) (r report, err error) {
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	command := exec.CommandContext(ctx, self, "-peer", as, "-database", database, "-requests", strconv.Itoa(lookups))
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return r, fmt.Errorf("another process: %w: %s", err, stderr.Bytes())
	}
	return r, json.Unmarshal(stdout.Bytes(), &r)
}

// peer is the other process: it does as it is asked, and reports.
func peer(ctx context.Context, out io.Writer, cfg cacheaside.Config, database, as string, lookups int) (err error) {
	repository, err := users.OpenRepository(ctx, database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, repository.Close()) }()
	source := &counted{Source: repository}
	service, err := users.Open(ctx, cfg, source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, service.Close()) }()
	u := ada
	switch as {
	case look:
		u, err = lookUp(ctx, service, lookups)
	case rename:
		u.Name = "Ada King"
		err = service.SaveUser(ctx, u)
	default:
		err = fmt.Errorf("-peer is %q, allowed: %s, %s", as, look, rename)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(report{Name: u.Name, Queries: source.queries.Load(), Stats: service.Stats()})
}

// lookUp looks the user up n times at once.
func lookUp(ctx context.Context, service *users.Service, n int) (users.User, error) {
	var mu sync.Mutex
	var found users.User
	var failure error
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			u, err := service.GetUserByID(ctx, ada.ID)
			mu.Lock()
			defer mu.Unlock()
			found, failure = u, errors.Join(failure, err)
		})
	}
	all.Wait()
	return found, failure
}
