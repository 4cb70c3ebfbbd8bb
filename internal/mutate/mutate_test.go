package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// toy is a module with one function, and tests of a part of what it does.
var toy = map[string]string{
	"go.mod": "module toy\n\ngo 1.25\n",
	"toy.go": `package toy

type box[T any] struct{ value T }

func (b *box[T]) pair(n int, _ ...string) (first, second int) {
	first = n + 1
	second = n + 2
	return first, second
}

func each[K comparable, V any](m map[K]V, do func(K)) {
	for k := range m {
		do(k)
	}
}
`,
	"toy_test.go": `package toy

import "testing"

func TestFirst(t *testing.T) {
	if first, _ := new(box[string]).pair(1, "a", "b"); first != 2 {
		t.Fatal(first)
	}
}

func TestEach(t *testing.T) {
	n := 0
	each(map[string]int{"a": 1}, func(string) { n++ })
	if n != 1 {
		t.Fatal(n)
	}
}
`,
}

// gateOn returns a gate for the toy, and what it prints.
func gateOn(t *testing.T) (*gate, *strings.Builder) {
	t.Helper()
	root := t.TempDir()
	for name, text := range toy {
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o600))
	}
	out := new(strings.Builder)
	return &gate{laboratory: laboratory{root: root}, out: out, jobs: 2, limit: 10 * time.Second}, out
}

func TestTheGateTellsWhoIsKilledAndWhoSurvives(t *testing.T) {
	g, out := gateOn(t)
	err := g.run(t.Context(), []mutant{
		{name: "first", edits: change("toy.go", "first = n + 1", "first = n"), run: "TestFirst"},
		{name: "second", edits: change("toy.go", "second = n + 2", "second = n"), run: "TestFirst"},
		{name: "crash", edits: change("toy.go", "return first, second", "panic(n)"), run: "TestFirst"},
		{name: "hang", edits: change("toy.go", "do(k)", "do(k)\n\t\tselect {}"), run: "TestEach", within: time.Second},
		{name: "nobody", edits: change("toy.go", "for k := range m", "for k := range map[K]V(nil)"), run: "TestNobody"},
	})
	require.EqualError(t, err, "not killed: second, nobody")
	for _, want := range []string{
		`killed +first +.*failed TestFirst`, `SURVIVED +second`, `killed +crash`, `killed +hang`,
		`ERROR +nobody.*no test is called TestNobody`, `3 of 5 mutants killed`,
	} {
		require.Regexp(t, want, out.String())
	}
	text, err := os.ReadFile(filepath.Join(g.root, "toy.go"))
	require.NoError(t, err)
	require.Equal(t, toy["toy.go"], string(text), "the work tree stays as it is")
	entries, err := os.ReadDir(g.root)
	require.NoError(t, err)
	require.Len(t, entries, len(toy))
}

func TestTheGateRefusesWhatIsNoMutant(t *testing.T) {
	for name, c := range map[string]struct {
		mutant mutant
		want   string
	}{
		"text that is not there":   {mutant{edits: change("toy.go", "n + 3", "n")}, "does not hold the text"},
		"text that is there twice": {mutant{edits: change("toy.go", "n + ", "n - ")}, "2 times"},
		"text outside of functions": {
			mutant{edits: change("toy.go", "struct{ value T }", "struct{}")}, "does not stand in the body of one function",
		},
		"what does not compile": {mutant{edits: change("toy.go", "first = n + 1", "var x int")}, "are no mutants: me"},
	} {
		g, _ := gateOn(t)
		c.mutant.name, c.mutant.run = "me", "TestFirst"
		require.ErrorContains(t, g.run(t.Context(), []mutant{c.mutant}), c.want, name)
	}
}

func TestTheGateRefusesTestsThatFailByThemselves(t *testing.T) {
	g, _ := gateOn(t)
	test := strings.Replace(toy["toy_test.go"], "first != 2", "first != 3", 1)
	require.NoError(t, os.WriteFile(filepath.Join(g.root, "toy_test.go"), []byte(test), 0o600))
	err := g.run(t.Context(), []mutant{{name: "me", edits: change("toy.go", "first = n + 1", "first = n"), run: "TestFirst"}})
	require.ErrorContains(t, err, "fail without any mutant")
}

func TestEveryMutantOfTheListFitsTheCode(t *testing.T) {
	all := mutants()
	require.NoError(t, checkNames(all))
	l := laboratory{root: filepath.Join("..", "..")}
	_, err := l.mutate(all)
	require.NoError(t, err)
}

func TestMutantsAreChosenByName(t *testing.T) {
	chosen, err := choose(mutants(), "^no-lease$")
	require.NoError(t, err)
	require.Len(t, chosen, 1)
	_, err = choose(mutants(), "nobody is called so")
	require.Error(t, err)
	_, err = choose([]mutant{{name: "A b"}}, "")
	require.Error(t, err)
}
