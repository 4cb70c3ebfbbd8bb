package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/examples/userservice/users"
)

// database is a repository that can be made slow, and made to fail.
type database struct {
	repository *users.Repository
	latency    atomic.Int64 // of a query, a time.Duration
	down       atomic.Bool

	mu    sync.Mutex
	asked []time.Time // when each query came
}

var errDown = errors.New("the database is down")

// fetch is the function that the cache fetches by.
func (d *database) fetch(ctx context.Context, key string) (users.User, error) {
	if err := d.query(ctx); err != nil {
		return users.User{}, err
	}
	id, err := strconv.ParseInt(key, 10, 64)
	if err != nil {
		return users.User{}, err
	}
	return d.repository.Find(ctx, id)
}

// query takes note of a query, and makes it slow or fail.
func (d *database) query(ctx context.Context) error {
	d.mu.Lock()
	d.asked = append(d.asked, time.Now())
	d.mu.Unlock()
	select {
	case <-time.After(time.Duration(d.latency.Load())):
	case <-ctx.Done():
		return ctx.Err()
	}
	if d.down.Load() {
		return errDown
	}
	return nil
}

// since returns when the queries came that came since begun.
func (d *database) since(begun time.Time) []time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(d.asked), func(t time.Time) bool { return t.Before(begun) })
}

// outcome is what a crowd of users saw.
type outcome struct {
	lookups, failed, waited, stale int
	queries, atOnce, early         int             // early: before anything was due that was cached before the crowd came
	took                           []time.Duration // sorted
}

const (
	usualCrowd = 20                     // users who look something up at a time
	pace       = 100 * time.Microsecond // between two look-ups of a crowd, whatever its size
)

// crowd lets users look all keys up over and over for a while. The keys were cached no sooner than cached.
func crowd(ctx context.Context, cache *cacheaside.Client[users.User], d *database, s scenario, cached time.Time) outcome {
	size := cmp.Or(s.users, usualCrowd)
	var mu sync.Mutex
	var o outcome
	var all sync.WaitGroup
	begun := time.Now()
	for user := range size {
		all.Go(func() {
			for i := user * len(s.keys) / size; time.Since(begun) < plays; i++ {
				asked := time.Now()
				r, err := cache.Lookup(ctx, s.keys[i%len(s.keys)], s.ttl, d.fetch)
				took := time.Since(asked)
				mu.Lock()
				o.note(r.Source, err, took)
				mu.Unlock()
				time.Sleep(time.Duration(size) * pace) // a user thinks
			}
		})
	}
	all.Wait()
	slices.Sort(o.took)
	o.countQueries(d.since(begun), cached.Add(s.ttl))
	return o
}

func (o *outcome) note(from cacheaside.Source, err error, took time.Duration) {
	o.lookups++
	o.took = append(o.took, took)
	switch {
	case err != nil && !errors.Is(err, cacheaside.ErrNotFound):
		o.failed++
	case from == cacheaside.SourceFetched, from == cacheaside.SourceJoined:
		o.waited++
	case from == cacheaside.SourceStale:
		o.stale++
	}
}

// countQueries counts those that came at these times, the most of them within 20 ms, and those before due.
func (o *outcome) countQueries(asked []time.Time, due time.Time) {
	o.queries = len(asked)
	for i, first := 0, 0; i < len(asked); i++ {
		for asked[i].Sub(asked[first]) > 20*time.Millisecond {
			first++
		}
		o.atOnce = max(o.atOnce, i-first+1)
		if asked[i].Before(due) {
			o.early++
		}
	}
}

func (o *outcome) print(w io.Writer, name string) {
	at := func(fraction float64) time.Duration {
		return o.took[int(fraction*float64(len(o.took)-1))].Round(time.Microsecond)
	}
	fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%v\t%v\t%v\t\n",
		name, o.lookups, o.failed, o.waited, o.stale, o.queries, o.atOnce, at(0.5), at(0.99), at(1))
}
