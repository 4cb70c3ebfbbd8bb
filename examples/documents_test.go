// Package examples checks what the documents say: their programs run, their fragments compile, their links
// lead somewhere, and the README's table of settings is complete.
package examples

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/pgxpool" // what the prelude imports belongs to this module
	_ "github.com/prometheus/client_golang/prometheus"
	_ "github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	_ "github.com/cacheaside/cacheaside/debug"
	_ "github.com/cacheaside/cacheaside/otel"
	_ "github.com/cacheaside/cacheaside/postgres"
	_ "github.com/cacheaside/cacheaside/prometheus"
)

// documents returns the project's texts, by the paths of their files.
func documents(t *testing.T) map[string]string {
	t.Helper()
	texts := make(map[string]string)
	for _, pattern := range []string{"../*.md", "../docs/*.md"} {
		paths, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, path := range paths {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			texts[path] = string(text)
		}
	}
	require.Contains(t, texts, "../README.md")
	return texts
}

var fence = regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$")

// blocks returns the fenced blocks of a text in a language. Ours in Go are marked "go", those that show
// how another library is used "golang".
func blocks(text, language string) (found []string) {
	for _, match := range fence.FindAllStringSubmatch(text, -1) {
		if match[1] == language {
			found = append(found, match[2])
		}
	}
	return found
}

// goTool runs the go command on a file that holds source, and returns what it prints.
func goTool(t *testing.T, source string, arguments ...string) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "main.go")
	require.NoError(t, os.WriteFile(path, []byte(source), 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	output, err := exec.CommandContext(ctx, "go", append(arguments, path)...).CombinedOutput()
	return string(output), err
}

func TestTheReadmesProgramPrintsWhatTheReadmeSays(t *testing.T) {
	readme := documents(t)["../README.md"]
	printed, err := goTool(t, blocks(readme, "go")[0], "run")
	require.NoError(t, err, printed)
	require.Equal(t, blocks(readme, "text")[0], printed)
}

// prelude declares what fragments of programs use without saying where it comes from.
const prelude = `package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/debug"
	cacheotel "github.com/cacheaside/cacheaside/otel"
	"github.com/cacheaside/cacheaside/postgres"
	cacheprom "github.com/cacheaside/cacheaside/prometheus"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/rueidis"
)

type Event = cacheaside.Event

type Queue interface {
	Next(ctx context.Context, wait time.Duration) ([]string, error)
}

var (
	_ = errors.New
	_ = fmt.Print
	_ = os.Getenv
	_ slog.Level
	_ http.Handler
	_ = slices.Clone[[]string]
	_ rueidis.Client
	_ = sql.ErrNoRows
	_ = strconv.Itoa
	_ pgx.Tx
	_ postgres.Feed
)

type User struct{ ID, Name, Org, Email string }

type tenantKey struct{}

type Repository struct{ db *sql.DB }

func (Repository) Find(ctx context.Context, id string) (User, error)                          { return User{}, nil }
func (Repository) FindMany(ctx context.Context, ids []string) (map[string]User, error) { return nil, nil }
func (Repository) FindByEmail(ctx context.Context, email string) (User, error)          { return User{}, nil }
func (Repository) FindManyByEmail(ctx context.Context, emails []string) (map[string]User, error) { return nil, nil }
func (Repository) Update(ctx context.Context, u User) error                            { return nil }
func (Repository) Members(ctx context.Context, page Page) ([]User, error)              { return nil, nil }

type Order struct{ ID int64 }

type Shop struct{}

func (Shop) Find(ctx context.Context, id int64) (Order, error)                    { return Order{}, nil }
func (Shop) FindMany(ctx context.Context, ids []int64) (map[int64]Order, error) { return nil, nil }
func (Shop) Save(ctx context.Context, o Order) error                              { return nil }

type Page struct {
	Org    string
	Number int
}

var (
	shop       Shop
	ctx        context.Context
	cfg        cacheaside.Config
	users      *cacheaside.Client[User]
	members    *cacheaside.Client[[]User]
	permissions *cacheaside.Client[[]string]
	org, role  string
	messages   chan []byte
	queue      Queue
	db         *sql.DB
	repository Repository
	primary, replica Repository
	user       User
	id         string
	ids, emails []string
	ttl        time.Duration
	logger     *slog.Logger
	pool       *x509.CertPool
	pg         *pgxpool.Pool
	feed       *postgres.Feed
	_          *tls.Config
	registry   *prometheus.Registry
	internal   *http.ServeMux

	sentinelPassword string
)

func main() {}
`

// declaration matches a fragment of declarations; others are statements.
var declaration = regexp.MustCompile(`(?m)\A(//.*\n)*(func|type|var|const) `)

func TestFragmentsOfGoCompile(t *testing.T) {
	source := new(strings.Builder)
	source.WriteString(prelude)
	count := 0
	for path, text := range documents(t) {
		for i, block := range blocks(text, "go") {
			fmt.Fprintf(source, "\n//line %s.block%d:1\n", strings.ReplaceAll(filepath.Base(path), ".", "_"), i+1)
			switch {
			case strings.HasPrefix(block, "package "):
				continue // a program
			case declaration.MatchString(block):
				source.WriteString(block)
			default:
				fmt.Fprintf(source, "func _() error {\n%s\nreturn nil\n}\n", block)
			}
			count++
		}
	}
	require.NotZero(t, count)
	output, err := goTool(t, source.String(), "build", "-o", os.DevNull, "-gcflags=-e")
	if err == nil {
		return
	}
	for line := range strings.Lines(output) {
		// A fragment shows how something is called, and does nothing with it.
		if !strings.HasPrefix(line, "#") && !strings.Contains(line, "declared and not used") {
			t.Errorf("%s", line)
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

func TestLinksBetweenDocumentsLeadSomewhere(t *testing.T) {
	for path, text := range documents(t) {
		for _, match := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			_, err := os.Stat(filepath.Join(filepath.Dir(path), match[1]))
			require.NoErrorf(t, err, "%s links to %s", path, match[1])
		}
	}
}

func TestTheReadmeHasARowForEverySetting(t *testing.T) {
	readme := documents(t)["../README.md"]
	_, err := cacheaside.ParseConfig("memory://?no_such_parameter=1")
	require.ErrorIs(t, err, cacheaside.ErrInvalidConfig)
	_, names, found := strings.Cut(err.Error(), "allowed: ")
	require.True(t, found)
	settings := strings.Split(names, ", ")
	require.Greater(t, len(settings), 20)
	for _, name := range settings {
		rows := regexp.MustCompile("(?m)^\\| [^|]*`"+name+"` \\|").FindAllString(readme, -1)
		require.Lenf(t, rows, 1, "the table of settings has one row for %s", name)
	}
}

// commands are those that documents may show in a sh block: each is run by CI, or by a test.
var commands = regexp.MustCompile(`^(make (help|test|race|lint|fmt|cover|bench|compare|demo|demo-postgres|mutate|fuzz|soak|coherence|ci)( [A-Z]+=('[^']+'|\S+))*|CACHE=\S+ make demo)$`)

func TestEveryCommandOfTheDocumentsIsOneThatIsRun(t *testing.T) {
	for path, text := range documents(t) {
		for _, block := range blocks(text, "sh") {
			for line := range strings.Lines(block) {
				command, _, _ := strings.Cut(line, "#")
				if command = strings.TrimSpace(command); command != "" {
					require.Regexp(t, commands, command, path)
				}
			}
		}
	}
}
