// Command prose checks how the comments and documents of the project are written.
//
//	go run ./internal/prose [-v] [directory or document ...]
//
// The rule of the house: the subject of a sentence is a thing with a name (the caller, the flight, Redis),
// not a clause such as "what is kept", and not "nobody". prose counts both for each package and each
// document, and the widths of comment lines. It exits with 1 if a package or document has more of them than
// the rule allows. Without arguments it looks at the whole module, its nested modules included; with -v it
// prints each place.
package main

import (
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	verbose := flag.Bool("v", false, "print each place that counts")
	flag.Parse()
	roots := flag.Args()
	if len(roots) == 0 {
		roots = []string{"."}
	}
	ok, err := run(os.Stdout, roots, *verbose)
	if err != nil {
		fmt.Fprintln(os.Stderr, "prose:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// run checks everything below roots, and reports whether all of it keeps the rule.
func run(out io.Writer, roots []string, verbose bool) (ok bool, err error) {
	texts := make(map[string]*text) // by package directory, or document
	for _, root := range roots {
		if err := gather(texts, root); err != nil {
			return false, err
		}
	}
	ok = true
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		t := texts[name]
		if verbose {
			for _, p := range t.places {
				fmt.Fprintln(out, p)
			}
		}
		verdict := ""
		if !t.good() {
			ok, verdict = false, "  TOO MANY"
		}
		fmt.Fprintf(out, "%-28s %v%s\n", name, t, verdict)
	}
	return ok, nil
}

// gather reads the Go files and documents below root.
func gather(texts map[string]*text, root string) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		name := entry.Name()
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "bin" || name == "testdata"):
			return filepath.SkipDir
		case entry.IsDir():
			return nil
		case strings.HasSuffix(name, ".go"):
			return at(texts, filepath.Dir(path)).addGo(path)
		case strings.HasSuffix(name, ".md"):
			return at(texts, path).addDocument(path)
		}
		return nil
	})
}

func at(texts map[string]*text, name string) *text {
	if texts[name] == nil {
		texts[name] = new(text)
	}
	return texts[name]
}
