package main

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// repository makes one of two modules, the second of which requires this version of the first.
func repository(t *testing.T, changelog, required string) (root string) {
	t.Helper()
	root = t.TempDir()
	for name, text := range map[string]string{
		"CHANGELOG.md":           changelog,
		"go.mod":                 "module example.com/core\n\ngo 1.25\n",
		"core.go":                "package core\n\nconst Answer = 42\n",
		"internal/tool/main.go":  "package main\n\nfunc main() {}\n",
		"extra/go.mod":           "module example.com/core/extra\n\ngo 1.25\n\nrequire example.com/core " + required + "\n\nreplace example.com/core => ../\n",
		"extra/extra.go":         "package extra\n\nimport \"example.com/core\"\n\nvar _ = core.Answer\n",
		"extra/sub/sub.go":       "package sub\n",
		"programs/go.mod":        "module example.com/core/programs\n\ngo 1.25\n",
		"programs/first/main.go": "package main\n\nfunc main() {}\n",
	} {
		file := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o750))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	}
	_, err := command(t.Context(), root, nil, "git", "init", "-q")
	require.NoError(t, err)
	return root
}

const unreleased = "# Changelog\n\n## [Unreleased]\n\nTo be released as v0.3.0.\n\n## [0.2.0] - 2026-01-02\n"

func TestModulesThatRequireTheReleaseBuildOutsideOfTheRepository(t *testing.T) {
	t.Setenv("GOPROXY", "off")
	require.NoError(t, run(t.Context(), io.Discard, repository(t, unreleased, "v0.3.0")))
}

func TestARequirementThatOnlyAReplaceLineMeetsIsFound(t *testing.T) {
	for _, version := range []string{"v0.0.0", "v0.0.0-00010101000000-000000000000", "v0.2.0"} {
		err := run(t.Context(), io.Discard, repository(t, unreleased, version))
		require.EqualError(t, err, "extra/go.mod requires example.com/core "+version+
			", allowed: v0.3.0, which CHANGELOG.md prepares")
	}
}

// TestAUsersBuildIgnoresReplaceLines: were the requirement not looked at, the build would find it.
func TestAUsersBuildIgnoresReplaceLines(t *testing.T) {
	t.Setenv("GOPROXY", "off")
	modules, err := findModules(t.Context(), repository(t, unreleased, "v0.2.0"))
	require.NoError(t, err)
	u := user{work: t.TempDir(), version: "v0.3.0"}
	require.NoError(t, u.prepare(t.Context(), modules))
	for _, m := range modules {
		if m.dir == "extra" {
			require.Equal(t, []string{"example.com/core/extra", "example.com/core/extra/sub"}, m.packages)
			require.ErrorContains(t, u.build(t.Context(), m), "downloading example.com/core v0.2.0")
		} else {
			require.Equal(t, m.dir == "programs", len(m.packages) == 0)
		}
	}
}

func TestAFileThatGitIgnoresIsNoPartOfAModule(t *testing.T) {
	t.Setenv("GOPROXY", "off")
	root := repository(t, unreleased, "v0.3.0")
	require.NoError(t, os.WriteFile(filepath.Join(root, ".gitignore"), []byte("/core.go\n"), 0o600))
	require.ErrorContains(t, run(t.Context(), io.Discard, root), "example.com/core")
}

func TestTheChangelogNamesTheRelease(t *testing.T) {
	for text, want := range map[string]string{
		unreleased: "v0.3.0",
		"## [Unreleased]\n\n## [0.2.0] - 2026-01-02\n\n## [0.1.0] - 2026-01-01\n": "v0.2.0",
	} {
		file := filepath.Join(t.TempDir(), "CHANGELOG.md")
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		got, err := nextVersion(file)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	file := filepath.Join(t.TempDir(), "CHANGELOG.md")
	require.NoError(t, os.WriteFile(file, []byte("## [Unreleased]\n"), 0o600))
	_, err := nextVersion(file)
	require.ErrorContains(t, err, "names no release")
}
