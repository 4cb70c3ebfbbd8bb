package postgres_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
	"github.com/cacheaside/cacheaside/postgres"
)

var kills = flag.Int("postgres.kills", 20, "how many processes are killed between their commit and the removal")

// killTask is what a process needs that will be killed.
type killTask struct{ DSN, Redis string }

// killOrder is how it ends.
type killOrder struct {
	ID, Version int
	Before      bool // it is killed before the commit, in place of after it
}

// openAside opens the cache that all processes share.
func openAside(t *testing.T, url string) *cacheaside.Client[int] {
	t.Helper()
	cfg, err := cacheaside.ParseConfig(url)
	require.NoError(t, err)
	cache, err := cacheaside.Open[int](t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = cache.Close() })
	return cache
}

// beKilled follows a feed of what transactions emit, until it is told to make a change in whose
// midst it ends.
func beKilled(t *testing.T, p *parent) {
	var task killTask
	p.task(&task)
	cache := openAside(t, task.Redis)
	require.NoError(t, cache.Backend().Follow(t.Context(), quiet(postgres.Feed{DSN: task.DSN})))
	db := connect(t, task.DSN)
	p.tell(true)
	var order killOrder
	p.hear(&order)
	_ = postgres.InTx(t.Context(), mortal{db, order.Before}, pgx.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
		k := fmt.Sprint(order.ID)
		if _, err := tx.Exec(ctx, "UPDATE counters SET version = $2 WHERE id = $1", order.ID, order.Version); err != nil {
			return err
		}
		if err := cache.Changed(ctx, k); err != nil {
			return err
		}
		return postgres.Emit(ctx, tx, cache.Refs(k)...)
	})
	t.Fatal("it lives")
}

// mortal is a database whose commits are the end of the process.
type mortal struct {
	*pgx.Conn
	before bool
}

type mortalTx struct {
	pgx.Tx
	before bool
}

func (m mortal) BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error) {
	tx, err := m.Conn.BeginTx(ctx, o)
	return mortalTx{tx, m.before}, err
}

func (m mortalTx) Commit(ctx context.Context) error {
	if !m.before {
		if err := m.Tx.Commit(ctx); err != nil {
			panic(err)
		}
	}
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Kill()
	}
	if err != nil {
		panic(err)
	}
	select {}
}

// A process that is killed between its commit and the removal has written into the log what is to
// be removed, and the next one removes it.
func TestAProcessKilledBetweenCommitAndRemovalLeavesNothingStale(t *testing.T) {
	t.Parallel()
	s, redis := start(t), redistest.Start(t)
	db := connect(t, s.DSN(""))
	const rows = 10
	execute(t, db, "CREATE TABLE counters (id int PRIMARY KEY, version int NOT NULL)",
		fmt.Sprintf("INSERT INTO counters SELECT i, 0 FROM generate_series(0, %d) i", rows-1))
	task := killTask{s.DSN(""), redis.URL("rueidis-aside", "name=counters")}
	cache := openAside(t, task.Redis)
	find := func(ctx context.Context, id int) (version int, err error) {
		err = db.QueryRow(ctx, "SELECT version FROM counters WHERE id = $1", id).Scan(&version)
		return version, err
	}
	lookUp := func(id int) int {
		v, err := cache.GetWithFetch(t.Context(), fmt.Sprint(id), time.Hour, func(ctx context.Context, _ string) (int, error) { return find(ctx, id) })
		require.NoError(t, err)
		return v
	}
	var ready bool
	reader := startChild(t, "killed", task)
	reader.hear(&ready)
	awaitConfirmed(t, db) // the slot is new, which clears the caches
	took := make([]time.Duration, 0, *kills)
	for version := 1; version <= *kills; version++ {
		next := startChild(t, "killed", task)
		next.hear(&ready)
		for id := range rows {
			lookUp(id)
		}
		order := killOrder{ID: rand.N(rows), Version: version, Before: rand.N(4) == 0}
		reader.tell(order)
		_ = reader.command.Wait() // it was killed
		begun := time.Now()
		wanted, err := find(t.Context(), order.ID)
		require.NoError(t, err)
		require.Equal(t, !order.Before, wanted == version)
		require.Eventually(t, func() bool { return lookUp(order.ID) == wanted }, patience, time.Millisecond, "%+v", order)
		if !order.Before {
			took = append(took, time.Since(begun))
		}
		reader = next
	}
	for id := range rows {
		wanted, err := find(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, wanted, lookUp(id))
	}
	t.Logf("%d processes were killed, %d of them after the commit; it was removed after %s", *kills, len(took), spread(took))
}

// awaitConfirmed waits until the slot is confirmed up to the end of the log.
func awaitConfirmed(t *testing.T, db *pgx.Conn) {
	t.Helper()
	require.Eventually(t, func() bool {
		var done bool
		err := db.QueryRow(t.Context(), "SELECT COALESCE(bool_and(confirmed_flush_lsn >= pg_current_wal_flush_lsn()), false) FROM pg_replication_slots").Scan(&done)
		return err == nil && done
	}, patience, 10*time.Millisecond)
}
