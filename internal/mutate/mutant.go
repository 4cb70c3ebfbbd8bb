package main

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// A mutant is a known way to break the library, and the tests that must notice.
type mutant struct {
	name    string // in lower case, with dashes
	promise string // of the design's list of guarantees, or the policy, that it breaks
	edits   []edit
	run     string // the tests that must fail, as -test.run takes them
	in      string // the directory of their package; "" is the root's

	within time.Duration // how long they may take; 0 is what the command was told
}

// An edit replaces a piece of a function's body.
type edit struct {
	file     string // from the module's root
	old, new string // old stands in the file exactly once
}

// change is an edit list of one edit.
func change(file, old, replacement string) []edit { return []edit{{file, old, replacement}} }

// suffix makes the names of a mutant's functions.
func (m *mutant) suffix() string { return "__" + strings.ReplaceAll(m.name, "-", "_") }

// place returns where in src the old text stands.
func (e *edit) place(src string) (int, error) {
	switch n := strings.Count(src, e.old); n {
	case 1:
		return strings.Index(src, e.old), nil
	case 0:
		return 0, fmt.Errorf("%s does not hold the text %q", e.file, e.old)
	default:
		return 0, fmt.Errorf("%s holds the text %q %d times", e.file, e.old, n)
	}
}

// checkNames returns an error unless each mutant has a name of its own.
func checkNames(all []mutant) error {
	seen := make(map[string]bool)
	for _, m := range all {
		if m.name == "" || strings.Trim(m.name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return fmt.Errorf("%q is no name of a mutant", m.name)
		}
		if seen[m.name] {
			return fmt.Errorf("two mutants are called %s", m.name)
		}
		if m.run == "" || len(m.edits) == 0 {
			return errors.New(m.name + " has no edit, or no test")
		}
		seen[m.name] = true
	}
	return nil
}
