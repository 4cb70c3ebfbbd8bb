package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// outcome is how a mutant fared.
type outcome struct {
	killed bool
	how    string // of one who was killed: the tests that failed, or that the tests crashed or hung
	took   time.Duration
	err    error  // neither killed nor a survivor: the tests could not be run
	said   string // by the tests
}

// try runs the tests of m against it. A test that fails kills it, and so does one that crashes or does not
// end. Tests that do not compile have not run, and kill nobody: see build.
func (l *laboratory) try(ctx context.Context, m *mutant, program string, limit time.Duration) (o outcome) {
	begun := time.Now()
	o.said, o.err = l.test(ctx, program, m.in, m.name, m.run, limit)
	o.took = time.Since(begun)
	switch {
	case o.err == nil && !strings.Contains(o.said, "=== RUN"):
		o.err = fmt.Errorf("no test is called %s", m.run)
	case o.err == nil || ctx.Err() != nil:
	default:
		if o.how = howItEnded(o.said); o.how != "" {
			o.killed, o.err = true, nil
		}
	}
	return o
}

// check runs all the tests that mutants are tried with, against none of them: what fails without reason can
// kill nobody.
func (l *laboratory) check(ctx context.Context, all []mutant, programs map[string]string, limit time.Duration) error {
	for in, program := range programs {
		var runs []string
		seen := make(map[string]bool)
		for _, m := range all {
			if m.in == in && !seen[m.run] {
				seen[m.run] = true
				runs = append(runs, m.run)
			}
		}
		said, err := l.test(ctx, program, in, "", strings.Join(runs, "|"), limit)
		if err != nil {
			return fmt.Errorf("the tests fail without any mutant, %s: %w\n%s", howItEnded(said), err, said)
		}
	}
	return nil
}

// test runs tests, with the mutant of this name in them.
func (l *laboratory) test(ctx context.Context, program, directory, name, run string, limit time.Duration) (said string, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit+limit/2)
	defer cancel()
	args := []string{"-test.v", "-test.failfast", "-test.timeout", limit.String(), "-test.run", run}
	c := exec.CommandContext(ctx, program, args...) //nolint:gosec // it was just compiled
	c.Dir = filepath.Join(l.root, directory)
	c.Env = append(os.Environ(), variable+"="+name)
	c.WaitDelay = 5 * time.Second // what the tests have started may hold on to their output
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err = c.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	return out.String(), err
}

var failed = regexp.MustCompile(`^\s*--- FAIL: (\S+)`)

// howItEnded says how tests ended that did not end well, by what they said; "" if they said nothing of that.
func howItEnded(said string) string {
	if strings.Contains(said, "panic: test timed out") {
		return "hung"
	}
	name := ""
	for lines := bufio.NewScanner(strings.NewReader(said)); lines.Scan(); {
		if found := failed.FindStringSubmatch(lines.Text()); found != nil && len(found[1]) > len(name) {
			name = found[1] // the name of a part begins with that of the whole
		}
	}
	switch {
	case name != "":
		return "failed " + name
	case strings.Contains(said, "\npanic: "), strings.Contains(said, "\nfatal error: "):
		return "crashed"
	default:
		return ""
	}
}
