package postgres_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	neturl "net/url"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
	"github.com/cacheaside/cacheaside/postgres"
)

var transactions = flag.Int("postgres.transactions", 1000, "how many transactions two processes run")

const (
	transactRows    = 12
	transactWorkers = 4 // in each process

	// acrossProcesses is how long another process may see what was before a change.
	acrossProcesses = time.Second
)

type transactTask struct {
	DSN, Redis   string
	Process      int
	Transactions int
}

// version is a state of a row: the how many-th, and of which transaction. Number and name of what
// was rolled back are of no other state.
type version struct {
	Number int
	By     string
}

// wrote is a state that a transaction has made, or tried to.
type wrote struct {
	ID        int
	Version   version
	Before    int64 // just before its commit, as Unix nanoseconds
	Ended     int64 // when InTx had returned
	Committed bool
	Unknown   bool
}

// saw is what a lookup outside of any transaction has returned.
type saw struct {
	ID         int
	Version    version
	From, Till int64
}

// history is what a process has done.
type history struct {
	Process int
	Wrote   []wrote
	Saw     []saw
	Inside  int // lookups inside
	Kept    int // hits outside
}

// transactor is a process that runs transactions, and looks rows up inside and outside of them.
type transactor struct {
	t     *testing.T
	task  transactTask
	pool  *pgxpool.Pool
	cache *cacheaside.Client[version]

	mu sync.Mutex
	history
}

// errRollBack is why a transaction of the test is rolled back.
var errRollBack = errors.New("roll back")

// transact is a child.
func transact(t *testing.T, p *parent) {
	w := &transactor{t: t}
	p.task(&w.task)
	cfg, err := cacheaside.ParseConfig(w.task.Redis)
	require.NoError(t, err)
	w.cache, err = cacheaside.Open[version](t.Context(), cfg)
	require.NoError(t, err)
	defer w.cache.Close()
	config, err := pgxpool.ParseConfig(w.task.DSN)
	require.NoError(t, err)
	config.MaxConns = 4 * transactWorkers
	w.pool, err = pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	defer w.pool.Close()
	p.tell(true)
	var begin bool
	p.hear(&begin)
	var workers sync.WaitGroup
	for n := range transactWorkers {
		workers.Go(func() {
			for i := range w.task.Transactions / transactWorkers {
				w.transaction(fmt.Sprintf("%d.%d.%d", w.task.Process, n, i))
			}
		})
		workers.Go(func() {
			for range w.task.Transactions / transactWorkers * 4 {
				w.look(t.Context(), rand.N(transactRows))
			}
		})
	}
	workers.Wait()
	w.Process, w.Kept = w.task.Process, int(w.cache.Stats().Hits)
	p.tell(w.history)
	p.hear(&begin)
}

// look notes what a lookup outside returns.
func (w *transactor) look(ctx context.Context, id int) {
	from := time.Now().UnixNano()
	v, err := w.cache.GetWithFetch(ctx, strconv.Itoa(id), time.Hour, w.find(w.pool, id))
	till := time.Now().UnixNano()
	if err != nil {
		w.t.Error("a lookup outside: ", err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Saw = append(w.Saw, saw{id, v, from, till})
}

type querier interface {
	QueryRow(ctx context.Context, sql string, arguments ...any) pgx.Row
}

func (w *transactor) find(db querier, id int) cacheaside.FetchFunc[version] {
	return func(ctx context.Context, _ string) (v version, err error) {
		err = db.QueryRow(ctx, "SELECT number, by FROM versions WHERE id = $1", id).Scan(&v.Number, &v.By)
		return v, err
	}
}

// transaction changes up to three rows, some of them in calls within, looks them up inside and
// others outside, and commits most often.
func (w *transactor) transaction(by string) {
	var mine []wrote
	var before int64
	rollBack := rand.N(4) == 0
	err := postgres.InTx(w.t.Context(), w.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(ctx context.Context, _ pgx.Tx) error {
		ids := rand.Perm(transactRows)[:1+rand.N(3)]
		slices.Sort(ids) // in another order two would wait for each other
		for _, id := range ids {
			state, err := w.changeWithin(ctx, id, by)
			if err != nil {
				return err
			}
			mine = append(mine, state)
		}
		if rand.N(2) == 0 {
			w.look(w.t.Context(), ids[0]) // outside, while it is changed
		}
		before = time.Now().UnixNano()
		if rollBack {
			return errRollBack
		}
		return nil
	})
	ended := time.Now().UnixNano()
	if err != nil && !errors.Is(err, errRollBack) {
		w.t.Error("a transaction: ", err)
	}
	w.mu.Lock()
	for _, state := range mine {
		state.Before, state.Ended, state.Committed = before, ended, err == nil
		w.Wrote = append(w.Wrote, state)
	}
	w.mu.Unlock()
	if len(mine) > 0 {
		w.look(w.t.Context(), mine[0].ID) // at once
	}
}

// changeWithin is a method of a service, which has its own transaction, or takes part in its
// caller's.
func (w *transactor) changeWithin(ctx context.Context, id int, by string) (state wrote, err error) {
	err = postgres.InTx(ctx, w.pool, pgx.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
		k := strconv.Itoa(id)
		early := rand.N(2) == 0
		if early {
			if err := w.cache.Changed(ctx, k); err != nil {
				return err
			}
		}
		state = wrote{ID: id, Version: version{By: by}}
		err := tx.QueryRow(ctx, "UPDATE versions SET number = number + 1, by = $2 WHERE id = $1 RETURNING number", id, by).Scan(&state.Version.Number)
		if err != nil {
			return err
		}
		if !early {
			if err := w.cache.Changed(ctx, k); err != nil {
				return err
			}
		}
		v, err := w.cache.GetWithFetch(ctx, k, time.Hour, w.find(tx, id))
		if err == nil && v != state.Version {
			err = fmt.Errorf("inside, row %d is %v after it was written as %v", id, v, state.Version)
		}
		w.mu.Lock()
		w.Inside++
		w.mu.Unlock()
		return err
	})
	return state, err
}

// Two processes run random transactions with rollbacks, nested calls and lookups inside and
// outside.
func TestNobodyOutsideSeesWhatIsNotCommitted(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]func(*redistest.Server) string{
		"rueidis-aside": func(redis *redistest.Server) string { return redis.URL("rueidis-aside", "name=versions") },
		"memory with a bus": func(redis *redistest.Server) string {
			return "memory://?name=versions&bus=" + neturl.QueryEscape(redis.URL("redis"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, redis := start(t), redistest.Start(t)
			db := connect(t, s.DSN(""))
			execute(t, db, "CREATE TABLE versions (id int PRIMARY KEY, number int NOT NULL, by text NOT NULL)",
				fmt.Sprintf("INSERT INTO versions SELECT i, 0, '' FROM generate_series(0, %d) i", transactRows-1))
			var children []*child
			for i := range 2 {
				c := startChild(t, "transacting", transactTask{s.DSN(""), url(redis), i, *transactions / 2})
				var ready bool
				c.hear(&ready)
				children = append(children, c)
			}
			begun := time.Now()
			for _, c := range children {
				c.tell(true)
			}
			histories := make([]history, len(children))
			for i, c := range children {
				c.hear(&histories[i])
			}
			took := time.Since(begun)
			for _, c := range children {
				c.tell(true)
				require.NoError(t, c.command.Wait(), "it has found something inside")
			}
			judge(t, histories).log(took)
		})
	}
}

// verdict is what histories amount to.
type verdict struct {
	t                       *testing.T
	committed, rolled, seen int
	inside, kept            int
	late                    time.Duration // the longest time for which another process saw what was before
}

func (v verdict) log(took time.Duration) {
	v.t.Helper()
	v.t.Logf("%d changes of rows were committed and %d rolled back in %v; %d lookups outside (%d hits) and %d inside; another process saw the old version for %v at most",
		v.committed, v.rolled, took.Round(time.Millisecond), v.seen, v.kept, v.inside, v.late)
}

// judge fails the test for a lookup that has returned what was not committed, or what was not the
// case any more.
func judge(t *testing.T, histories []history) verdict {
	t.Helper()
	result := verdict{t: t}
	type state struct {
		wrote
		process int
	}
	made := make(map[int]map[version]state) // committed, by row
	for id := range transactRows {
		made[id] = map[version]state{{}: {}}
	}
	var order [transactRows][]state // by number
	for _, h := range histories {
		result.inside += h.Inside
		result.kept += h.Kept
		for _, one := range h.Wrote {
			if !one.Committed {
				result.rolled++
				continue
			}
			result.committed++
			made[one.ID][one.Version] = state{one, h.Process}
			order[one.ID] = append(order[one.ID], state{one, h.Process})
		}
	}
	for id := range order {
		slices.SortFunc(order[id], func(a, b state) int { return a.Version.Number - b.Version.Number })
	}
	for _, h := range histories {
		for _, look := range h.Saw {
			result.seen++
			if one, ok := made[look.ID][look.Version]; !ok || look.Till < one.Before {
				t.Errorf("process %d saw the version %v of row %d, which was not committed", h.Process, look.Version, look.ID)
			}
			for _, newer := range order[look.ID] {
				ago := time.Duration(look.From - newer.Ended)
				if newer.Version.Number <= look.Version.Number || ago < 0 {
					continue
				}
				if newer.process == h.Process {
					t.Errorf("process %d saw the version %v of row %d, %v after its own %v", h.Process, look.Version, look.ID, ago, newer.Version)
				}
				result.late = max(result.late, ago)
			}
		}
	}
	require.LessOrEqual(t, result.late, acrossProcesses, "another process saw an old version")
	require.NotZero(t, result.seen)
	return result
}
