package main

import (
	"archive/zip"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// user builds programs as a user of the modules does: from a proxy, in a module of its own.
type user struct {
	work    string // has the proxy, the user's module cache, and the program
	version string
	env     []string
}

// prepare makes the proxy. Other modules come from the machine's own cache, where it has them.
func (u *user) prepare(ctx context.Context, modules []*module) error {
	proxy := filepath.Join(u.work, "proxy")
	for _, m := range modules {
		if err := m.publish(filepath.Join(proxy, m.Path, "@v"), u.version); err != nil {
			return err
		}
	}
	known, err := command(ctx, ".", nil, "go", "env", "GOMODCACHE", "GOPROXY")
	if err != nil {
		return err
	}
	downloads, rest, _ := strings.Cut(strings.TrimSpace(string(known)), "\n")
	u.env = []string{
		"GOWORK=off", "GOMODCACHE=" + filepath.Join(u.work, "cache"), "GOSUMDB=off", "GOPRIVATE=", "GONOPROXY=",
		"GOPROXY=" + strings.Join([]string{fileURL(proxy), fileURL(filepath.Join(downloads, "cache", "download")), rest}, ","),
		// The cache can be removed, and what is compiled of other modules serves the next run too.
		"GOFLAGS=-mod=mod -modcacherw -trimpath",
	}
	return nil
}

func fileURL(dir string) string { return "file://" + filepath.ToSlash(dir) }

// publish writes what a proxy has of a version of the module.
func (m *module) publish(dir, version string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	goMod, err := os.ReadFile(filepath.Join(m.root, m.dir, "go.mod"))
	if err != nil {
		return err
	}
	info := fmt.Sprintf(`{"Version":%q,"Time":"2000-01-01T00:00:00Z"}`, version)
	for name, text := range map[string][]byte{"list": []byte(version + "\n"), version + ".info": []byte(info), version + ".mod": goMod} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return err
		}
	}
	archive, err := os.Create(filepath.Join(dir, version+".zip"))
	if err != nil {
		return err
	}
	defer archive.Close()
	if err := m.pack(archive, version); err != nil {
		return err
	}
	return archive.Close()
}

// pack writes the module's files as a zip.
func (m *module) pack(to io.Writer, version string) error {
	z := zip.NewWriter(to)
	for _, file := range m.files {
		text, err := os.ReadFile(filepath.Join(m.root, m.dir, file))
		if err != nil {
			return err
		}
		w, err := z.Create(path.Join(m.Path+"@"+version, file))
		if err != nil {
			return err
		}
		if _, err := w.Write(text); err != nil {
			return err
		}
	}
	return z.Close()
}

// build builds a program that imports all packages of the module that a user may import.
func (u *user) build(ctx context.Context, m *module) error {
	dir := filepath.Join(u.work, "program")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	var program strings.Builder
	program.WriteString("package main\n\n")
	for _, p := range m.packages {
		fmt.Fprintf(&program, "import _ %q\n", p)
	}
	program.WriteString("\nfunc main() {}\n")
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(program.String()), 0o600); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"mod", "init", "example.com/program"},
		{"get", m.Path + "@" + u.version},
		{"build", "-o", os.DevNull, "."},
	} {
		if _, err := command(ctx, dir, u.env, "go", args...); err != nil {
			return err
		}
	}
	return nil
}
