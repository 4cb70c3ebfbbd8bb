// Command release sees whether the modules of the project can be used once their tags are there.
//
//	go run ./internal/release
//
// Within the repository, replace lines join the modules. A user's build ignores those lines, so it
// needs what the require lines say. release looks at those of every module, and builds a program
// outside of the repository against each that can be imported, from a module proxy on the disk that
// has the files of the repository as if all of them were tagged. The program has a module cache of
// its own, since the one of the machine must not take these files for a release.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, "."); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to be stopped
	}
}

// run checks the repository at root.
func run(ctx context.Context, out io.Writer, root string) error {
	version, err := nextVersion(filepath.Join(root, "CHANGELOG.md"))
	if err != nil {
		return err
	}
	modules, err := findModules(ctx, root)
	if err != nil {
		return err
	}
	if err := checkRequirements(modules, version); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "release")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	u := user{work: work, version: version}
	if err := u.prepare(ctx, modules); err != nil {
		return err
	}
	for _, m := range modules {
		if len(m.packages) == 0 {
			continue
		}
		fmt.Fprintf(out, "%s@%s\n", m.Path, version)
		if err := u.build(ctx, m); err != nil {
			return fmt.Errorf("a program that uses %s@%s: %w", m.Path, version, err)
		}
	}
	return nil
}
