package main

import (
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strings"
	"unicode/utf8"
)

// most is how many clauses and pronouns a hundred sentences may hold.
const most = 5

// widest is the number of columns that a line of a comment may take, with a tab for four.
const widest = 100

var (
	// clauses are free relative clauses in the place of a noun.
	clauses = regexp.MustCompile(`(?i)\b(what|who|whoever)\b`)

	// pronouns stand for actors that have names.
	pronouns = regexp.MustCompile(`(?i)\b(nobody|somebody|everybody|anybody|no one|someone|everyone|anyone)\b`)

	// sentenceEnd ends a sentence; an abbreviation such as "e.g." does not.
	sentenceEnd = regexp.MustCompile(`[.!?](\s|$)`)

	// quoted is code and speech, which may say anything.
	quoted = regexp.MustCompile("`[^`]*`|\"[^\"]*\"")
)

// text is the prose of a package, or of a document.
type text struct {
	sentences, clauses, pronouns, wide int
	lines, comments                    int // of code that is no test; zero for a document
	places                             []string
}

func (t *text) good() bool {
	return t.wide == 0 && t.clauses*100 <= most*max(t.sentences, 20) && t.pronouns*100 <= most*max(t.sentences, 20)
}

func (t *text) String() string {
	s := fmt.Sprintf("%4d sentences, %3d clauses, %3d pronouns, %3d wide lines", t.sentences, t.clauses, t.pronouns, t.wide)
	if t.lines > 0 {
		s += fmt.Sprintf(", %2d %% comments", 100*t.comments/t.lines)
	}
	return s
}

// addGo adds the comments of a Go file.
func (t *text) addGo(path string) error {
	source, err := os.ReadFile(path) //nolint:gosec // the files of a repository, named by whoever runs the command
	if err != nil {
		return err
	}
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	lines := strings.Split(string(source), "\n")
	isTest := strings.HasSuffix(path, "_test.go")
	if !isTest {
		t.lines += len(lines)
	}
	for _, group := range file.Comments {
		for _, comment := range group.List {
			at := files.Position(comment.Pos())
			if !isTest {
				t.comments += 1 + strings.Count(comment.Text, "\n")
			}
			if columns(lines[at.Line-1]) > widest && strings.HasPrefix(strings.TrimSpace(lines[at.Line-1]), "//") {
				t.wide++
				t.places = append(t.places, fmt.Sprintf("%s:%d: wider than %d columns", path, at.Line, widest))
			}
		}
		t.addProse(path, files.Position(group.Pos()).Line, group.Text())
	}
	return nil
}

func columns(line string) int { return utf8.RuneCountInString(strings.ReplaceAll(line, "\t", "    ")) }

// addDocument adds the prose of a Markdown file: neither its code nor its headings.
func (t *text) addDocument(path string) error {
	source, err := os.ReadFile(path) //nolint:gosec // the files of a repository, named by whoever runs the command
	if err != nil {
		return err
	}
	code := false
	var paragraph []string
	first := 1
	flush := func() {
		t.addProse(path, first, strings.Join(paragraph, "\n"))
		paragraph = nil
	}
	for i, line := range strings.Split(string(source), "\n") {
		switch trimmed := strings.TrimSpace(line); {
		case strings.HasPrefix(trimmed, "```"):
			code = !code
		case code:
		case trimmed == "", strings.HasPrefix(trimmed, "#"):
			flush()
			first = i + 2
		default:
			paragraph = append(paragraph, trimmed)
		}
	}
	flush()
	return nil
}

// addProse counts a piece of text that begins at a line.
func (t *text) addProse(path string, line int, prose string) {
	if strings.TrimSpace(prose) == "" {
		return
	}
	t.sentences += max(1, len(sentenceEnd.FindAllString(prose, -1)))
	for i, l := range strings.Split(prose, "\n") {
		if strings.HasPrefix(l, "\t") {
			continue // code in a comment
		}
		l = quoted.ReplaceAllString(l, "")
		t.clauses += t.note(path, line+i, l, clauses)
		t.pronouns += t.note(path, line+i, l, pronouns)
	}
}

func (t *text) note(path string, line int, l string, kind *regexp.Regexp) int {
	found := kind.FindAllString(l, -1)
	for _, word := range found {
		t.places = append(t.places, fmt.Sprintf("%s:%d: %s: %s", path, line, strings.ToLower(word), strings.TrimSpace(l)))
	}
	return len(found)
}
