// Command freshness shows what users see of a database that is slow, down or asked for too much, with each
// policy of the cache and without it. It takes some seconds.
//
// The database is SQLite, made slow and made to fail on purpose. CACHE chooses the backend, as for the user
// service: CACHE=rueidis-aside://localhost:6379 shows the same on Redis.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/examples/userservice/users"
)

func main() {
	cfg, err := cacheaside.ParseConfig(cmp.Or(os.Getenv("CACHE"), "memory://"))
	if err == nil {
		_, err = run(context.Background(), os.Stdout, cfg)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "freshness:", err)
		os.Exit(1)
	}
}

// result is what a scenario came to.
type result struct{ without, with outcome }

// run shows every scenario, and returns the results by the names of the policies.
func run(ctx context.Context, out io.Writer, cfg cacheaside.Config) (results map[string]result, err error) {
	dir, err := os.MkdirTemp("", "freshness")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	repository, err := users.OpenRepository(ctx, filepath.Join(dir, "users.db"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, repository.Close()) }()
	for id := range int64(manyUsers) {
		if err := repository.Save(ctx, users.User{ID: id, Name: fmt.Sprint("user ", id)}); err != nil {
			return nil, err
		}
	}
	results = make(map[string]result)
	for _, s := range scenarios {
		r, err := s.play(ctx, cfg, repository)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.policy, err)
		}
		results[s.policy] = r
		s.print(out, r)
	}
	if err := showConditional(ctx, out, cfg, repository); err != nil {
		return nil, err
	}
	if err := showBatch(ctx, out, cfg, repository); err != nil {
		return nil, err
	}
	return results, showMutate(ctx, out, cfg, repository)
}

func (s scenario) print(out io.Writer, r result) {
	fmt.Fprintf(out, "%s: %s\n  %s\n", s.policy, s.about, s.source)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tlook-ups\tfailed\twaited\tstale\tqueries\tmost in 20ms\tp50\tp99\tlongest\t")
	r.without.print(w, "without")
	r.with.print(w, "with")
	_ = w.Flush() // as with every line printed here
	fmt.Fprintln(out)
}
