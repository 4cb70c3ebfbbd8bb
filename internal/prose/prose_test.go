package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// check writes a file and returns the report on it.
func check(t *testing.T, name, content string) (string, bool) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	var out strings.Builder
	ok, err := run(&out, []string{dir}, true)
	require.NoError(t, err)
	return out.String(), ok
}

func TestSentencesWithNamedSubjectsPass(t *testing.T) {
	out, ok := check(t, "a.go", "// Package a keeps entries. The reader, which holds no lock, finds them.\npackage a\n")
	require.True(t, ok, out)
	require.Contains(t, out, "2 sentences,   0 clauses")
}

func TestClausesAndPronounsAreFound(t *testing.T) {
	out, ok := check(t, "a.go", "package a\n\n"+strings.Repeat("// What is kept is kept, and nobody asks whoever waits.\n", 3))
	require.False(t, ok)
	require.Contains(t, out, "a.go:3: what")
	require.Contains(t, out, "3 sentences,   6 clauses,   3 pronouns")
	require.Contains(t, out, "TOO MANY")
}

func TestCodeAndQuotationsDoNotCount(t *testing.T) {
	out, ok := check(t, "a.md", "# Who\n\nIt prints `what` and \"nobody\".\n\n```go\n// what who nobody\n```\n")
	require.True(t, ok, out)
	require.Contains(t, out, "1 sentences,   0 clauses,   0 pronouns")
}

func TestWideCommentsAreFound(t *testing.T) {
	out, ok := check(t, "a.go", "package a\n\n// "+strings.Repeat("long ", 30)+"\n")
	require.False(t, ok)
	require.Contains(t, out, "wider than 100 columns")
}

func TestABrokenFileIsAnError(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.go"), []byte("no go"), 0o600))
	_, err := run(new(strings.Builder), []string{dir}, false)
	require.Error(t, err)
}
