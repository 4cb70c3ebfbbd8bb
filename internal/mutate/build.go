package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A laboratory is a module whose mutants are made and tested. Its files are not changed: the mutated ones
// stand in a directory of their own, and go's -overlay puts them in the others' place.
type laboratory struct {
	root  string // of the module
	work  string // a directory that is the laboratory's
	flags []string
}

// build compiles the tests of the packages of the mutants, all of whom they contain, and returns where each
// program is, by the package's directory.
func (l *laboratory) build(ctx context.Context, all []mutant) (map[string]string, error) {
	overlay, err := l.overlay(all)
	if err != nil {
		return nil, err
	}
	programs := make(map[string]string)
	for _, m := range all {
		if programs[m.in] != "" {
			continue
		}
		programs[m.in] = filepath.Join(l.work, "tests"+strconv.Itoa(len(programs)))
		if err := l.compile(ctx, overlay, m.in, programs[m.in]); err != nil {
			return nil, cmp.Or(l.checkBuild(ctx, overlay), err)
		}
	}
	return programs, nil
}

// overlay writes the files of all mutants and returns the overlay's.
func (l *laboratory) overlay(all []mutant) (string, error) {
	sources, err := l.mutate(all)
	if err != nil {
		return "", err
	}
	replace := make(map[string]string)
	write := func(path, text string) error {
		place := filepath.Join(l.work, fmt.Sprintf("%d-%s", len(replace), filepath.Base(path)))
		replace[filepath.Join(l.root, path)] = place
		return os.WriteFile(place, []byte(text), 0o600)
	}
	for _, path := range slices.Sorted(maps.Keys(sources)) {
		s := sources[path]
		text, err := s.spliced()
		if err == nil {
			err = write(path, text)
		}
		if err == nil {
			err = write(filepath.Join(filepath.Dir(path), "present_mutant.go"), fmt.Sprintf(helper, s.tree.Name.Name, variable))
		}
		if err != nil {
			return "", err
		}
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	place := filepath.Join(l.work, "overlay.json")
	return place, os.WriteFile(place, text, 0o600)
}

// mutate returns the files that the mutants change, by their paths. It finds all that is wrong with their
// edits, not only the first.
func (l *laboratory) mutate(all []mutant) (map[string]*source, error) {
	sources := make(map[string]*source)
	var wrong []error
	for i := range all {
		m := &all[i]
		for _, e := range m.edits {
			if sources[e.file] == nil {
				text, err := os.ReadFile(filepath.Join(l.root, e.file))
				if err != nil {
					return nil, err
				}
				if sources[e.file], err = parse(e.file, string(text)); err != nil {
					return nil, err
				}
			}
			if err := sources[e.file].mutate(m, e); err != nil {
				wrong = append(wrong, fmt.Errorf("%s: %w", m.name, err))
			}
		}
	}
	return sources, errors.Join(wrong...)
}

func (l *laboratory) compile(ctx context.Context, overlay, directory, program string) error {
	in, pkg := l.root, "./"+directory
	if _, err := os.Stat(filepath.Join(l.root, directory, "go.mod")); err == nil { // a module of its own
		in, pkg = filepath.Join(l.root, directory), "."
	}
	args := append([]string{"test", "-c", "-vet=off", "-overlay", overlay, "-o", program}, l.flags...)
	said, err := goCommand(ctx, in, append(args, pkg)...)
	if err != nil {
		return fmt.Errorf("the tests of ./%s do not compile: %w\n%s", directory, err, said)
	}
	return nil
}

// checkBuild tells whether the mutants or the tests are to blame for tests that do not compile. It compiles
// the packages without their tests. A mutant that does not compile is no mutant: checkBuild returns an error
// that names those who do not.
func (l *laboratory) checkBuild(ctx context.Context, overlay string) error {
	said, err := goCommand(ctx, l.root, "build", "-overlay", overlay, "./...")
	if err == nil {
		return nil
	}
	return fmt.Errorf("mutants that do not compile are no mutants: %s: %w\n%s", strings.Join(l.guilty(said), ", "), err, said)
}

func goCommand(ctx context.Context, directory string, args ...string) (said string, err error) {
	c := exec.CommandContext(ctx, "go", args...) //nolint:gosec // of this laboratory
	c.Dir = directory
	out, err := c.CombinedOutput()
	return string(out), err
}

var (
	complaint = regexp.MustCompile(`([^/\s]+\.go):(\d+):\d+: `)
	copyOf    = regexp.MustCompile(`^func .*__(\w+?)(\[.*)?\(`)
)

// guilty returns the names of the mutants whose functions the compiler complains of.
func (l *laboratory) guilty(said string) (names []string) {
	for _, found := range complaint.FindAllStringSubmatch(said, -1) {
		text, err := os.ReadFile(filepath.Join(l.work, found[1]))
		if err != nil {
			continue // it is not a file that mutants are in
		}
		at, _ := strconv.Atoi(found[2]) // it is a number
		if name := inFunction(strings.Split(string(text), "\n"), at); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// inFunction returns which mutant's copy of a function a line, counted from 1, stands in.
func inFunction(lines []string, line int) string {
	for i := min(line, len(lines)) - 1; i >= 0; i-- {
		if !strings.HasPrefix(lines[i], "func ") {
			continue
		}
		if found := copyOf.FindStringSubmatch(lines[i]); found != nil {
			return strings.ReplaceAll(found[1], "_", "-")
		}
		return ""
	}
	return ""
}
