package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// module is a directory of the repository that has a go.mod.
type module struct {
	Path     string
	Require  []requirement
	root     string   // of the repository
	dir      string   // from there, "." for the root itself
	files    []string // of the module, from its directory
	packages []string // that a user may import; none of a module of programs
}

type requirement struct{ Path, Version string }

// version finds the one that the changelog prepares, or else its newest release.
var version = regexp.MustCompile(`(?m)^To be released as (v\S+)\.$|^## \[(\d\S*)\]`)

// nextVersion returns the version that the changelog prepares.
func nextVersion(changelog string) (string, error) {
	text, err := os.ReadFile(changelog)
	if err != nil {
		return "", err
	}
	found := version.FindSubmatch(text)
	switch {
	case found == nil:
		return "", fmt.Errorf("%s names no release: write %q below [Unreleased]", changelog, "To be released as v1.2.3.")
	case len(found[1]) > 0:
		return string(found[1]), nil
	default:
		return "v" + string(found[2]), nil
	}
}

// findModules returns the modules of the repository, with the files that git knows, or would add.
func findModules(ctx context.Context, root string) ([]*module, error) {
	listed, err := command(ctx, root, nil, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
	if err != nil {
		return nil, err
	}
	files := strings.FieldsFunc(string(listed), func(r rune) bool { return r == 0 })
	files = slices.DeleteFunc(files, func(file string) bool {
		info, err := os.Stat(filepath.Join(root, file))
		return err != nil || !info.Mode().IsRegular() // deleted, and git has not been told
	})
	var modules []*module
	for _, file := range files {
		if path.Base(file) != "go.mod" {
			continue
		}
		m := &module{dir: path.Dir(file), root: root}
		if err := m.read(ctx); err != nil {
			return nil, err
		}
		modules = append(modules, m)
	}
	for _, file := range files {
		if m := innermost(modules, file); m != nil {
			m.files = append(m.files, strings.TrimPrefix(file, m.dir+"/"))
		}
	}
	return modules, nil
}

// innermost returns the module that the file belongs to.
func innermost(modules []*module, file string) (in *module) {
	for _, m := range modules {
		if (m.dir == "." || strings.HasPrefix(file, m.dir+"/")) && (in == nil || in.dir == "." || len(in.dir) < len(m.dir)) {
			in = m
		}
	}
	return in
}

// read reads the module's go.mod, and lists its packages.
func (m *module) read(ctx context.Context) error {
	dir := filepath.Join(m.root, m.dir)
	text, err := command(ctx, dir, nil, "go", "mod", "edit", "-json")
	if err != nil {
		return err
	}
	var parsed struct {
		Module  struct{ Path string }
		Require []requirement
	}
	if err := json.Unmarshal(text, &parsed); err != nil {
		return err
	}
	m.Path, m.Require = parsed.Module.Path, parsed.Require
	packages, err := command(ctx, dir, []string{"GOWORK=off"}, "go", "list", "-f", "{{if .GoFiles}}{{.Name}} {{.ImportPath}}{{end}}", "./...")
	if err != nil {
		return err
	}
	m.packages = importable(string(packages))
	return nil
}

// importable returns the packages that a user may import, of a list with a name and a path in each
// line. With a program among them, as in the examples and the benchmarks, there are none: nothing is
// made to be imported there, and what those programs need takes minutes to compile.
func importable(list string) (packages []string) {
	for line := range strings.Lines(list) {
		name, importPath, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case name == "" || strings.Contains(importPath+"/", "/internal/"):
		case name == "main":
			return nil
		default:
			packages = append(packages, importPath)
		}
	}
	return packages
}

// checkRequirements returns an error for each requirement of one of the modules by another that is
// not of the version.
func checkRequirements(modules []*module, version string) (err error) {
	for _, m := range modules {
		for _, r := range m.Require {
			ours := slices.ContainsFunc(modules, func(m *module) bool { return m.Path == r.Path })
			if ours && r.Version != version {
				err = errors.Join(err, fmt.Errorf("%s requires %s %s, allowed: %s, which CHANGELOG.md prepares",
					path.Join(m.dir, "go.mod"), r.Path, r.Version, version))
			}
		}
	}
	return err
}

// command runs a program in a directory and returns its output. Its error has what it wrote there.
func command(ctx context.Context, dir string, env []string, name string, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir, c.Env = dir, append(os.Environ(), env...)
	var complaint bytes.Buffer
	c.Stderr = &complaint
	output, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s%s", strings.Join(c.Args, " "), err, complaint.Bytes(), output)
	}
	return output, nil
}
