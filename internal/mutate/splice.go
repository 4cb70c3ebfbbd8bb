package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
)

// All mutants live in one program, so that it is compiled once and not once for each of them: a function
// that some of them change is there in its own form and in theirs, and what has its name calls the one
// that the environment asks for.

// variable is the name of the environment variable that says which mutant to be.
const variable = "CACHEASIDE_MUTANT"

// helper is a file of every package that has mutants.
const helper = `package %s

import "os"

var presentMutant = os.Getenv(%q)
`

// source is a file of the library.
type source struct {
	text    string
	tree    *ast.File
	files   *token.FileSet
	mutated map[*ast.FuncDecl][]variant
}

// variant is what a mutant makes of a function.
type variant struct {
	mutant *mutant
	edits  []edit // of this function
}

func parse(path, text string) (*source, error) {
	s := &source{text: text, files: token.NewFileSet(), mutated: make(map[*ast.FuncDecl][]variant)}
	var err error
	s.tree, err = parser.ParseFile(s.files, path, text, parser.ParseComments|parser.SkipObjectResolution)
	return s, err
}

// mutate notes an edit of m.
func (s *source) mutate(m *mutant, e edit) error {
	at, err := e.place(s.text)
	if err != nil {
		return err
	}
	f := s.function(at, at+len(e.old))
	if f == nil {
		return fmt.Errorf("%s: the text %q does not stand in the body of one function", e.file, e.old)
	}
	all := s.mutated[f]
	if i := slices.IndexFunc(all, func(v variant) bool { return v.mutant == m }); i >= 0 {
		all[i].edits = append(all[i].edits, e)
		return nil
	}
	s.mutated[f] = append(all, variant{m, []edit{e}})
	return nil
}

// function returns the function whose body holds all from one offset to the other.
func (s *source) function(from, to int) *ast.FuncDecl {
	for _, d := range s.tree.Decls {
		f, ok := d.(*ast.FuncDecl)
		if ok && f.Body != nil && s.offset(f.Body.Pos()) <= from && to <= s.offset(f.Body.End()) {
			return f
		}
	}
	return nil
}

func (s *source) offset(p token.Pos) int { return s.files.Position(p).Offset }

func (s *source) slice(n ast.Node) string { return s.text[s.offset(n.Pos()):s.offset(n.End())] }

// spliced returns the file with all that was noted.
func (s *source) spliced() (string, error) {
	var b strings.Builder
	rest := 0
	for _, d := range s.tree.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || s.mutated[f] == nil {
			continue
		}
		start, end := s.offset(f.Type.Pos()), s.offset(f.End()) // without its comment, which may be a directive
		b.WriteString(s.text[rest:start])
		b.WriteString(s.chooser(f))
		b.WriteString(s.copied(f, s.text[start:end], "__whole"))
		for _, v := range s.mutated[f] {
			text := s.text[start:end]
			for _, e := range v.edits {
				if strings.Count(text, e.old) != 1 {
					return "", errors.New(v.mutant.name + ": its edits overlap")
				}
				text = strings.Replace(text, e.old, e.new, 1)
			}
			b.WriteString(s.copied(f, text, v.mutant.suffix()))
		}
		rest = end
	}
	b.WriteString(s.text[rest:])
	return b.String(), nil
}

// copied returns a function's text under another name. The name stands at the same place in every variant,
// since edits lie in the body.
func (s *source) copied(f *ast.FuncDecl, text, suffix string) string {
	at := s.offset(f.Name.End()) - s.offset(f.Type.Pos())
	return text[:at] + suffix + text[at:] + "\n\n"
}

// chooser returns the function that stands under the name of f, and calls its present variant.
func (s *source) chooser(f *ast.FuncDecl) string {
	head, call := s.signature(f)
	var b strings.Builder
	b.WriteString(head + " {\n\tswitch presentMutant {\n")
	for _, v := range s.mutated[f] {
		fmt.Fprintf(&b, "\tcase %q:\n\t\t%s\n", v.mutant.name, call(v.mutant.suffix()))
		if f.Type.Results == nil {
			b.WriteString("\t\treturn\n")
		}
	}
	b.WriteString("\t}\n\t" + call("__whole") + "\n}\n\n")
	return b.String()
}

// signature returns the head of a function, with names for everything, and what calls the function with that
// suffix with the same arguments.
func (s *source) signature(f *ast.FuncDecl) (head string, call func(suffix string) string) {
	callee := f.Name.Name
	head = "func "
	if f.Recv != nil {
		head += "(self " + s.slice(f.Recv.List[0].Type) + ") "
		callee = "self." + callee
	}
	head += f.Name.Name
	instance := ""
	if f.Type.TypeParams != nil {
		head += s.slice(f.Type.TypeParams)
		var names []string
		for _, field := range f.Type.TypeParams.List {
			for _, name := range field.Names {
				names = append(names, name.Name)
			}
		}
		instance = "[" + strings.Join(names, ", ") + "]"
	}
	parameters, arguments := s.parameters(f)
	head += "(" + strings.Join(parameters, ", ") + ")"
	result := ""
	if f.Type.Results != nil {
		head += " (" + strings.Join(s.results(f), ", ") + ")"
		result = "return "
	}
	return head, func(suffix string) string {
		return result + callee + suffix + instance + "(" + strings.Join(arguments, ", ") + ")"
	}
}

func (s *source) parameters(f *ast.FuncDecl) (parameters, arguments []string) {
	for _, field := range f.Type.Params.List {
		for range max(len(field.Names), 1) {
			name := fmt.Sprintf("p%d", len(parameters))
			parameters = append(parameters, name+" "+s.slice(field.Type))
			if _, variadic := field.Type.(*ast.Ellipsis); variadic {
				name += "..."
			}
			arguments = append(arguments, name)
		}
	}
	return parameters, arguments
}

func (s *source) results(f *ast.FuncDecl) (types []string) {
	for _, field := range f.Type.Results.List {
		for range max(len(field.Names), 1) {
			types = append(types, s.slice(field.Type))
		}
	}
	return types
}
