// Command mutate breaks the library on purpose, in every way on its list, and sees whether the tests
// notice. A promise whose breach no test notices is one that nobody keeps.
//
//	go run ./internal/mutate [-list | -check] [-only pattern] [-v] [-jobs n] [-timeout d] [-race]
//
// It changes no file of the module. It exits with 1 if a mutant survives, or if one could not be tried: if
// what it changes does not stand in the code, once, or if it does not compile.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	list := flag.Bool("list", false, "list the mutants and end")
	check := flag.Bool("check", false, "see whether what the mutants change stands in the code, without trying them, and end")
	only := flag.String("only", "", "try those only whose name matches this regular expression")
	verbose := flag.Bool("v", false, "show what the tests said of each mutant")
	race := flag.Bool("race", false, "compile the tests with the race detector")
	jobs := flag.Int("jobs", 3*runtime.GOMAXPROCS(0), "how many mutants to try at a time; many of them only wait")
	limit := flag.Duration("timeout", time.Minute, "how long the tests of one mutant may take; then they hang")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	g := gate{out: os.Stdout, verbose: *verbose, jobs: max(*jobs, 1), limit: *limit}
	if *race {
		g.flags = []string{"-race"}
	}
	chosen, err := choose(mutants(), *only)
	switch {
	case err != nil:
	case *list:
		for _, m := range chosen {
			fmt.Fprintf(g.out, "%-14s %-36s %s\n", m.promise, m.name, m.run)
		}
	case *check:
		_, err = (&laboratory{root: "."}).mutate(chosen)
	default:
		err = g.run(ctx, chosen)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to be stopped
	}
}

// choose returns the mutants whose name matches the pattern.
func choose(all []mutant, pattern string) (chosen []mutant, err error) {
	if err := checkNames(all); err != nil {
		return nil, err
	}
	matches, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if matches.MatchString(m.name) {
			chosen = append(chosen, m)
		}
	}
	if chosen == nil {
		return nil, fmt.Errorf("no mutant is called %s", pattern)
	}
	return chosen, nil
}

// gate is what the mutants must not get past.
type gate struct {
	laboratory
	out     io.Writer
	verbose bool
	jobs    int
	limit   time.Duration
}

// run tries the mutants and returns an error unless all are killed.
func (g *gate) run(ctx context.Context, all []mutant) (err error) {
	if g.root == "" {
		if g.root, err = moduleRoot(ctx); err != nil {
			return err
		}
	}
	if g.work, err = os.MkdirTemp("", "mutate"); err != nil {
		return err
	}
	defer os.RemoveAll(g.work)
	begun := time.Now()
	programs, err := g.build(ctx, all)
	if err != nil {
		return err
	}
	fmt.Fprintf(g.out, "%d mutants compiled in %v\n", len(all), since(begun))
	begun = time.Now()
	var checked error
	var checking sync.WaitGroup
	checking.Go(func() { checked = g.check(ctx, all, programs, 5*g.limit) })
	outcomes := g.tryAll(ctx, all, programs)
	checking.Wait()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case checked != nil:
		return checked
	}
	return g.verdict(all, outcomes, since(begun))
}

// tryAll tries the mutants, several at a time.
func (g *gate) tryAll(ctx context.Context, all []mutant, programs map[string]string) []outcome {
	outcomes := make([]outcome, len(all))
	slots := make(chan struct{}, g.jobs)
	var mu sync.Mutex // for the output
	var running sync.WaitGroup
	for i := range all {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			limit := g.limit
			if all[i].within > 0 {
				limit = min(limit, all[i].within)
			}
			outcomes[i] = g.try(ctx, &all[i], programs[all[i].in], limit)
			mu.Lock()
			defer mu.Unlock()
			g.report(&all[i], &outcomes[i])
		})
	}
	running.Wait()
	return outcomes
}

func (g *gate) report(m *mutant, o *outcome) {
	word, how := "SURVIVED", "passed: "+m.run
	switch {
	case o.err != nil:
		word, how = "ERROR", o.err.Error()
	case o.killed:
		word, how = "killed", o.how
	}
	fmt.Fprintf(g.out, "%-8s %-14s %-36s %7v  %s\n", word, m.promise, m.name, o.took.Round(10*time.Millisecond), how)
	if g.verbose || o.err != nil {
		fmt.Fprintf(g.out, "\t%s\n", strings.ReplaceAll(strings.TrimSpace(o.said), "\n", "\n\t"))
	}
}

func (g *gate) verdict(all []mutant, outcomes []outcome, took time.Duration) error {
	killed := 0
	var rest []string
	for i, o := range outcomes {
		if o.killed {
			killed++
		} else {
			rest = append(rest, all[i].name)
		}
	}
	fmt.Fprintf(g.out, "%d of %d mutants killed, and their tests pass without them, in %v\n", killed, len(all), took)
	if rest != nil {
		return errors.New("not killed: " + strings.Join(rest, ", "))
	}
	return nil
}

func since(begun time.Time) time.Duration { return time.Since(begun).Round(100 * time.Millisecond) }

// moduleRoot returns the directory of the module that the command was started in.
func moduleRoot(ctx context.Context) (string, error) {
	said, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", err
	}
	return filepath.Dir(strings.TrimSpace(string(said))), nil
}
