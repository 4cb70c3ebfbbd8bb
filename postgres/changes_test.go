package postgres_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/pgtest"
	"github.com/cacheaside/cacheaside/postgres"
)

var changes = flag.Int("postgres.changes", 2000, "how many changes others make, through kills and restarts")

// spread tells of durations.
func spread(all []time.Duration) string {
	if len(all) == 0 {
		return "none"
	}
	slices.Sort(all)
	at := func(share int) time.Duration { return all[(len(all)-1)*share/1000].Round(10 * time.Microsecond) }
	return fmt.Sprintf("%v (median), %v (99 %%), %v (99.9 %%), %v (longest)", at(500), at(990), at(999), at(1000))
}

// psql is a running psql, which somebody types into.
type psql struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Scanner
}

func startPsql(t *testing.T, s *pgtest.Server) *psql {
	t.Helper()
	c := exec.Command(s.Program("psql"), "-X", "-q", "-A", "-t", s.DSN(""))
	in, err := c.StdinPipe()
	require.NoError(t, err)
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	c.Stderr = c.Stdout
	require.NoError(t, c.Start())
	t.Cleanup(func() {
		_ = in.(io.Closer).Close()
		_ = c.Wait()
	})
	return &psql{t, in, bufio.NewScanner(out)}
}

// run runs commands, and returns when they are committed.
func (p *psql) run(sql string) {
	p.t.Helper()
	_, err := fmt.Fprintf(p.in, "%s;\n\\echo done\n", sql)
	require.NoError(p.t, err)
	for p.out.Scan() {
		if p.out.Text() == "done" {
			return
		}
		p.t.Fatal("psql: ", p.out.Text())
	}
	p.t.Fatal("psql has ended")
}

// world is a table that others change, and a cache that is told of it.
type world struct {
	t      *testing.T
	server *pgtest.Server
	pool   *pgxpool.Pool // of the fetches
	cache  *cacheaside.Client[string]
	truth  []string // by id; "" is no row
	last   int      // version
}

const worldRows = 40

// find reads a row, again and again while the server is away.
func (w *world) find(ctx context.Context, k string) (version string, err error) {
	for {
		err = w.pool.QueryRow(ctx, "SELECT version::text FROM counters WHERE id = $1::int", k).Scan(&version)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return "", nil
		case err == nil || ctx.Err() != nil:
			return version, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (w *world) lookUp(ctx context.Context, id int) (string, error) {
	return w.cache.GetWithFetch(ctx, strconv.Itoa(id), time.Hour, w.find)
}

// next returns a new version.
func (w *world) next() string {
	w.last++
	return strconv.Itoa(w.last)
}

// change makes up a change of a row, as SQL, and notes what it leads to.
func (w *world) change(id int) string {
	version := w.next()
	switch now := w.truth[id]; {
	case now == "":
		w.truth[id] = version
		return fmt.Sprintf("INSERT INTO counters VALUES (%d, %s)", id, version)
	case rand.N(4) == 0:
		w.truth[id] = ""
		return fmt.Sprintf("DELETE FROM counters WHERE id = %d", id)
	case rand.N(8) == 0: // the row moves
		for other := range w.truth {
			if w.truth[other] == "" {
				w.truth[id], w.truth[other] = "", version
				return fmt.Sprintf("UPDATE counters SET id = %d, version = %s WHERE id = %d", other, version, id)
			}
		}
	}
	w.truth[id] = version
	return fmt.Sprintf("UPDATE counters SET version = %s WHERE id = %d", version, id)
}

// transaction makes up one of several changes, which may be rolled back.
func (w *world) transaction() string {
	before := slices.Clone(w.truth)
	var sql []string
	for range 1 + rand.N(4) {
		sql = append(sql, w.change(rand.N(worldRows)))
	}
	end := "COMMIT"
	if rand.N(3) == 0 {
		end, w.truth = "ROLLBACK", before
	}
	return "BEGIN; " + strings.Join(sql, "; ") + "; " + end
}

// await waits until the cache says of each row what the table says.
func (w *world) await() time.Duration {
	w.t.Helper()
	begun := time.Now()
	for id, wanted := range w.truth {
		for {
			v, err := w.lookUp(w.t.Context(), id)
			require.NoError(w.t, err)
			if v == wanted {
				break
			}
			if time.Since(begun) > patience {
				inTable, err := w.find(w.t.Context(), strconv.Itoa(id))
				w.t.Fatalf("row %d: the cache says %q, the table %q (%v), and was changed to %q; %+v", id, v, inTable, err, wanted, w.cache.Stats())
			}
			time.Sleep(100 * time.Microsecond)
		}
	}
	return time.Since(begun)
}

// awaitKept waits until the cache keeps what is looked up.
func (w *world) awaitKept() {
	require.Eventually(w.t, func() bool {
		_, err := w.lookUp(w.t.Context(), 0)
		require.NoError(w.t, err)
		_, err = w.cache.Get(w.t.Context(), "0")
		return err == nil
	}, patience, time.Millisecond)
}

// Others change rows by psql and in transactions, while the feed's connection is killed and the
// server restarted.
func TestChangesOfOthersAreSeen(t *testing.T) {
	t.Parallel()
	for _, temporary := range []bool{false, true} {
		t.Run(fmt.Sprintf("temporary=%v", temporary), func(t *testing.T) {
			t.Parallel()
			s := start(t)
			execute(t, connect(t, s.DSN("")), "CREATE TABLE counters (id int PRIMARY KEY, version int)")
			cache, err := cacheaside.NewMemory[string](cacheaside.Config{Name: "counters"})
			require.NoError(t, err)
			t.Cleanup(func() { _ = cache.Close() })
			pool, err := pgxpool.New(t.Context(), s.DSN(""))
			require.NoError(t, err)
			t.Cleanup(pool.Close)
			w := &world{t: t, server: s, pool: pool, cache: cache, truth: make([]string, worldRows)}
			feed := quiet(postgres.Feed{DSN: s.DSN(""), Temporary: temporary}).Table("counters", func(r postgres.Row) []cacheaside.Ref {
				return cache.Refs(r.Text("id"))
			})
			require.NoError(t, cache.Backend().Follow(t.Context(), feed))
			w.play(*changes / 2)
			t.Logf("the feed's lag is %v, the server keeps %d bytes", feed.Lag(), feed.Retained())
		})
	}
}

// play makes changes, and sees that the cache follows.
func (w *world) play(changes int) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for ctx.Err() == nil {
				_, _ = w.lookUp(ctx, rand.N(worldRows)) // the end of ctx
				time.Sleep(50 * time.Microsecond)
			}
		})
	}
	defer readers.Wait()
	defer cancel()
	w.awaitKept()
	typed := startPsql(w.t, w.server)
	var seen, faulty []time.Duration
	for i := 1; i <= changes; i++ {
		fault := true
		switch {
		case i%330 == 0:
			w.server.Restart()
			typed = startPsql(w.t, w.server)
		case i%120 == 0:
			typed.run("DO $$ BEGIN PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots; END $$")
		default:
			fault = false
			w.awaitKept()
		}
		if sql := w.transaction(); rand.N(2) == 0 {
			typed.run(sql)
		} else {
			for { // the pool may have connections that the restart has ended
				if _, err := w.pool.Exec(w.t.Context(), sql); err == nil {
					break
				}
			}
		}
		if took := w.await(); fault {
			faulty = append(faulty, took)
		} else {
			seen = append(seen, took)
		}
	}
	w.t.Logf("%d changes were seen after %s", len(seen), spread(seen))
	w.t.Logf("%d changes in the midst of a kill or a restart after %s", len(faulty), spread(faulty))
	w.t.Logf("%+v", w.cache.Stats())
}
