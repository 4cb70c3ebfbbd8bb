package postgres_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/postgres"
)

// byID names a row by its table, and its column id.
func byID(r postgres.Row) []cacheaside.Ref {
	return cacheaside.Tags(r.Table + ":" + r.Text("id"))
}

func TestAFeedTellsWhatHasChangedInTheOrderOfCommits(t *testing.T) {
	t.Parallel()
	dsn, slot := database(t)
	db := connect(t, dsn)
	execute(t, db, "CREATE TABLE users (id int PRIMARY KEY, name text)", "CREATE TABLE other (id int)")
	f := quiet(postgres.Feed{DSN: dsn, Slot: slot}).Table("users", byID)
	r := run(t, f)
	r.awaitAlive()
	require.Equal(t, []string{"lost"}, r.to.take(), "the slot is new")

	execute(t, db, "INSERT INTO users VALUES (1, 'Ada')")
	r.to.await(t, "tag:public.users:1")
	execute(t, db, "INSERT INTO other VALUES (1)", "UPDATE users SET name = 'Eve'")
	r.to.await(t, "tag:public.users:1", "tag:public.users:1")
	execute(t, db, "UPDATE users SET id = 2")
	r.to.await(t, "tag:public.users:1", "tag:public.users:2")
	execute(t, db, "DELETE FROM users")
	r.to.await(t, "tag:public.users:2")
	r.awaitAlive()

	tx, err := db.Begin(t.Context())
	require.NoError(t, err)
	other := connect(t, dsn)
	require.NoError(t, postgres.Emit(t.Context(), tx, cacheaside.Tags("first", "second\x00\xff")...))
	execute(t, other, "INSERT INTO users VALUES (3)")
	r.to.await(t, "tag:public.users:3")
	r.awaitAlive()
	require.NoError(t, tx.Commit(t.Context()))
	r.to.await(t, "tag:first", "tag:second\x00\xff")

	tx, err = db.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, postgres.Emit(t.Context(), tx, cacheaside.Tags("third")...))
	require.NoError(t, tx.Rollback(t.Context()))
	r.awaitAlive()
	require.Empty(t, r.to.take())
	require.ErrorContains(t, r.end(), "context canceled")
}

// A permanent slot is read by one. The others are alive as long as it keeps up, and take over when
// it ends.
func TestAnotherProcessTakesOver(t *testing.T) {
	t.Parallel()
	dsn, slot := database(t)
	db := connect(t, dsn)
	execute(t, db, "CREATE TABLE users (id int PRIMARY KEY)")
	f := quiet(postgres.Feed{DSN: dsn, Slot: slot})
	first := run(t, f.Table("users", byID))
	first.awaitAlive()
	second := run(t, f.Table("users", byID))
	second.awaitAlive()
	execute(t, db, "INSERT INTO users VALUES (1)")
	first.to.await(t, "lost", "tag:public.users:1")
	second.awaitAlive()
	require.Empty(t, second.to.take(), "one tells for all")

	require.Error(t, first.end())
	execute(t, db, "INSERT INTO users VALUES (2)")
	second.to.await(t, "tag:public.users:2")
	second.awaitAlive()
}

func TestTemporarySlotsAreOneAProcess(t *testing.T) {
	t.Parallel()
	dsn, slot := database(t)
	db := connect(t, dsn)
	execute(t, db, "CREATE TABLE users (id int PRIMARY KEY)")
	f := quiet(postgres.Feed{DSN: dsn, Slot: slot, Temporary: true})
	first, second := run(t, f.Table("users", byID)), run(t, f.Table("users", byID))
	first.awaitAlive()
	second.awaitAlive()
	execute(t, db, "INSERT INTO users VALUES (1)")
	first.to.await(t, "lost", "tag:public.users:1")
	second.to.await(t, "lost", "tag:public.users:1")
	require.Error(t, first.end())
	require.Error(t, second.end())
	require.Eventually(t, func() bool {
		var slots int
		require.NoError(t, db.QueryRow(t.Context(), "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()").Scan(&slots))
		return slots == 0
	}, patience, 10*time.Millisecond)
}

// Whatever ends the connections, the next run goes on where the last has stopped.
func TestAPermanentSlotMissesNothing(t *testing.T) {
	t.Parallel()
	s := start(t)
	execute(t, connect(t, s.DSN("")), "CREATE TABLE users (id int PRIMARY KEY)")
	f := quiet(postgres.Feed{DSN: s.DSN("")}).Table("users", byID)
	r := run(t, f)
	r.to.await(t, "lost")
	rows := 0
	for name, end := range map[string]func(){
		"the log's connection": func() {
			execute(t, connect(t, s.DSN("")), "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots")
		},
		"all connections": func() {
			execute(t, connect(t, s.DSN("")), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cacheaside'")
		},
		"a restart": s.Restart,
		"a crash":   func() { s.Kill(); s.Relaunch() },
	} {
		r.awaitAlive()
		end()
		require.Error(t, r.broken(), name)
		execute(t, connect(t, s.DSN("")), "INSERT INTO users SELECT COALESCE(max(id), 0) + 1 FROM users")
		r = run(t, f)
		r.awaitAlive()
		rows++
		require.Contains(t, r.to.take(), fmt.Sprint("tag:public.users:", rows), name)
	}
}

// The log has a commit before others can see it. Told then, a fetch would find the old row, and
// that would be kept.
func TestAChangeIsToldWhenItCanBeSeen(t *testing.T) {
	t.Parallel()
	s := start(t)
	db, admin := connect(t, s.DSN("")), connect(t, s.DSN(""))
	execute(t, db, "CREATE TABLE users (id int PRIMARY KEY)")
	r := run(t, quiet(postgres.Feed{DSN: s.DSN("")}).Table("users", byID))
	r.to.await(t, "lost")
	r.awaitAlive()
	execute(t, admin, "ALTER SYSTEM SET synchronous_standby_names = 'one_that_is_not_there'", "SELECT pg_reload_conf()")
	// The checkpointer puts it into effect, some time after the sessions know of it.
	probe := connect(t, s.DSN(""))
	probed := make(chan error, 1)
	probing, stop := context.WithCancel(t.Context())
	go func() {
		var err error
		for err == nil && probing.Err() == nil {
			_, err = probe.Exec(t.Context(), "SELECT pg_logical_emit_message(true, 'probe', '')")
		}
		probed <- err
	}()
	require.Eventually(t, func() bool {
		var waits bool
		err := admin.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')").Scan(&waits)
		return err == nil && waits
	}, patience, time.Millisecond)
	stop()
	committed := make(chan error, 1)
	go func() {
		_, err := db.Exec(t.Context(), "INSERT INTO users VALUES (1)")
		committed <- err
	}()
	time.Sleep(500 * time.Millisecond) // the log is there within milliseconds
	require.Empty(t, r.to.take())
	var rows int
	require.NoError(t, admin.QueryRow(t.Context(), "SELECT count(*) FROM users").Scan(&rows))
	require.Zero(t, rows, "the test is about a commit that waits")
	execute(t, admin, "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
	require.NoError(t, <-committed)
	require.NoError(t, <-probed)
	r.to.await(t, "tag:public.users:1")
	r.awaitAlive()
}

// The server makes a slot between two transactions, and waits for those that are open.
func TestASlotIsMadeWhenOpenTransactionsHaveEnded(t *testing.T) {
	t.Parallel()
	for _, temporary := range []bool{false, true} {
		s := start(t)
		db := connect(t, s.DSN(""))
		execute(t, db, "CREATE TABLE users (id int PRIMARY KEY)", "BEGIN", "INSERT INTO users VALUES (1)")
		r := run(t, quiet(postgres.Feed{DSN: s.DSN(""), Temporary: temporary}))
		time.Sleep(500 * time.Millisecond)
		require.Empty(t, r.to.take())
		execute(t, db, "COMMIT")
		r.to.await(t, "lost")
		r.awaitAlive()
	}
}

// A standby says of the work of another process what that has confirmed, and no more.
func TestAStandbyIsAliveWhileTheReaderKeepsUp(t *testing.T) {
	t.Parallel()
	dsn, slot := database(t)
	db := connect(t, dsn)
	f := quiet(postgres.Feed{DSN: dsn, Slot: slot})
	held, release := context.WithCancel(t.Context()) // which ends before the feeds are ended
	first := runInto(t, f, &sink{holds: held})
	first.awaitAlive()
	second := run(t, quiet(postgres.Feed{DSN: dsn, Slot: slot}))
	second.awaitAlive()
	require.NoError(t, postgres.Emit(t.Context(), db, cacheaside.Tags("first")...))
	alive := int64(-1)
	require.Eventually(t, func() bool {
		before := alive
		alive = first.to.alive.Load() + second.to.alive.Load()
		return alive == before
	}, patience, 2*time.Second, "one does not get on, and both know")
	require.Eventually(t, func() bool { return f.Lag() > 2*time.Second }, patience, 10*time.Millisecond)
	release()
	first.awaitAlive()
	second.awaitAlive()
	require.Empty(t, second.to.take())
}

func TestWhatWasReadAndNotToldIsToldByTheNextReader(t *testing.T) {
	t.Parallel()
	dsn, slot := database(t)
	db := connect(t, dsn)
	f := quiet(postgres.Feed{DSN: dsn, Slot: slot})
	first := runInto(t, f, &sink{holds: t.Context()}) // for good
	first.awaitAlive()
	require.Eventually(t, func() bool {
		var done bool
		err := db.QueryRow(t.Context(), "SELECT confirmed_flush_lsn >= pg_current_wal_flush_lsn() FROM pg_replication_slots WHERE slot_name = $1", slot).Scan(&done)
		return err == nil && done
	}, patience, time.Millisecond, "that the slot is new is not told again")
	for _, tag := range []string{"first", "second", "third"} {
		require.NoError(t, postgres.Emit(t.Context(), db, cacheaside.Tags(tag)...))
	}
	time.Sleep(time.Second) // all is read, and the server has heard from the reader
	first.stop()
	second := run(t, quiet(postgres.Feed{DSN: dsn, Slot: slot}))
	second.to.await(t, "tag:first", "tag:second", "tag:third")
}
