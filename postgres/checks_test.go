package postgres_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
	"github.com/cacheaside/cacheaside/postgres"
)

// The error of a feed that lacks something has the SQL that helps. Each is run, and the feed again.
func TestTheErrorOfAFeedHasTheSQLThatHelps(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin := connect(t, s.DSN(""))
	execute(t, admin, "CREATE USER app", "CREATE USER reader REPLICATION", "CREATE ROLE owner")
	for name, test := range map[string]struct {
		before []string
		user   string
		table  string
		says   string
		after  []string // besides the SQL of the error
	}{
		"no right to read the log": {
			user: "app", before: []string{"CREATE PUBLICATION cacheaside"}, says: "may not read the log",
		},
		"no right to make the publication": {
			user: "reader", table: "users", before: []string{"CREATE TABLE users (id int PRIMARY KEY)"}, says: "run as the owner of the tables: ",
		},
		"a publication that lacks a table": {
			user: "reader", table: "users", says: "run as the owner of the tables: ",
			before: []string{"CREATE TABLE users (id int PRIMARY KEY)", "CREATE PUBLICATION cacheaside"},
		},
		"a publication that leaves changes out": {
			user: "reader", table: "users", says: "leaves changes out; run: ",
			before: []string{"CREATE TABLE users (id int PRIMARY KEY)", "CREATE PUBLICATION cacheaside FOR TABLE users WITH (publish = 'insert')"},
		},
		"a table without a key": {
			user: "postgres", table: "users", before: []string{"CREATE TABLE users (id int)"}, says: "without a replica identity fails; ",
		},
		"a partition without a key": {
			user: "postgres", table: "users", says: "without a replica identity fails; ",
			before: []string{"CREATE TABLE users (id int) PARTITION BY LIST (id)", "ALTER TABLE users REPLICA IDENTITY FULL", "CREATE TABLE users_1 PARTITION OF users DEFAULT"},
		},
		"a publication of partitions": {
			user: "reader", table: "users", says: "names the partitions",
			before: []string{"CREATE TABLE users (id int PRIMARY KEY) PARTITION BY LIST (id)", "CREATE TABLE users_1 PARTITION OF users DEFAULT", "CREATE PUBLICATION cacheaside FOR TABLE users"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			database := strings.ReplaceAll(name, " ", "_")
			execute(t, admin, "CREATE DATABASE "+database)
			db := connect(t, s.DSN(database))
			execute(t, db, test.before...)
			f := quiet(postgres.Feed{DSN: s.DSN(database, "user="+test.user), Slot: database})
			if test.table != "" {
				f = f.Table(test.table, byID)
			}
			err := run(t, f).broken()
			require.ErrorContains(t, err, test.says)
			_, sql, found := strings.Cut(err.Error(), ": ALTER ")
			sql = "ALTER " + sql
			if !found || strings.Contains(err.Error(), ": CREATE ") {
				_, sql, found = strings.Cut(err.Error(), ": CREATE ")
				sql = "CREATE " + sql
			}
			require.True(t, found, err)
			sql, _, _ = strings.Cut(sql, " (on Amazon")
			execute(t, db, sql)
			r := run(t, f)
			r.awaitAlive()
			if test.table != "" {
				execute(t, db, "INSERT INTO users VALUES (1)", "UPDATE users SET id = 1", "DELETE FROM users")
				require.Eventually(t, func() bool { return len(r.to.take()) > 0 }, patience, time.Millisecond)
			}
			require.Error(t, r.end())
		})
	}
}

func TestAFeedRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	s := start(t, "wal_level=replica")
	execute(t, connect(t, s.DSN("")), "CREATE TABLE users (id int PRIMARY KEY)")
	for wanted, f := range map[string]*postgres.Feed{
		"wal_level is replica, wanted: logical": {DSN: s.DSN("")},
		"Feed.DSN is empty":                     {},
		`Feed.Slot is "A"`:                      {DSN: "x", Slot: "A"},
		"Feed.MaxRetained is -1":                {DSN: "x", MaxRetained: -1},
		`Feed.Table("", …) without`:             postgres.Feed{DSN: "x"}.Table("", byID),
		`Feed.Table("x", …) without`:            postgres.Feed{DSN: "x"}.Table("x", nil),
	} {
		require.ErrorContains(t, f.Run(t.Context(), new(sink)), wanted)
	}
	s = start(t)
	execute(t, connect(t, s.DSN("")), "CREATE TABLE users (id int PRIMARY KEY)", "CREATE VIEW seen AS SELECT 1",
		"CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY LIST (id)", "CREATE TABLE part PARTITION OF parted DEFAULT",
		"SELECT pg_create_logical_replication_slot('taken', 'test_decoding')")
	f := quiet(postgres.Feed{DSN: s.DSN("")})
	taken := quiet(postgres.Feed{DSN: s.DSN(""), Slot: "taken"})
	for wanted, f := range map[string]*postgres.Feed{
		"there is no table nowhere": f.Table("nowhere", byID),
		"seen is not a table":       f.Table("seen", byID),
		"part is a partition":       f.Table("part", byID),
		"names a table twice":       f.Table("users", byID).Table("public.users", byID),
		"another kind of reader":    taken,
		"cross-database references": f.Table("one.two.three", byID),
	} {
		require.ErrorContains(t, f.Run(t.Context(), new(sink)), wanted)
	}
}

// What the log does not know is Lost, with the command that helps.
func TestWhatTheLogDoesNotKnowIsLost(t *testing.T) {
	t.Parallel()
	dsn, slot := database(t)
	db := connect(t, dsn)
	execute(t, db, "CREATE TABLE users (id int PRIMARY KEY, org int, big text)")
	byOrg := func(r postgres.Row) []cacheaside.Ref { return cacheaside.Tags("org:" + r.Text("org")) }
	byTypo := func(r postgres.Row) []cacheaside.Ref { return cacheaside.Tags("org:" + r.Text("ogr")) }
	execute(t, db, "CREATE TABLE other (id int PRIMARY KEY)")
	r := run(t, quiet(postgres.Feed{DSN: dsn, Slot: slot}).Table("users", byOrg).Table("other", byTypo))
	r.to.await(t, "lost")
	r.awaitAlive()
	for _, test := range [][]string{
		{"INSERT INTO users VALUES (1, 7), (2, 7)", "", "tag:org:7", "tag:org:7"},
		{"UPDATE users SET org = 8 WHERE id = 1", "does not tell the column org of a row of public.users, which its function asks for; run: ALTER TABLE public.users REPLICA IDENTITY FULL", "lost"},
		{"DELETE FROM users WHERE id = 1", "REPLICA IDENTITY FULL", "lost"},
		{"TRUNCATE users", "TRUNCATE of public.users, and its function asks for the column org", "lost"},
		{"INSERT INTO other VALUES (1)", "the table public.other has no column ogr", "lost"},
	} {
		execute(t, db, test[0])
		r.to.await(t, test[2:]...)
		if test[1] != "" {
			require.ErrorContains(t, r.to.lastLost(), test[1])
		}
	}
	r.awaitAlive()
	execute(t, db, "ALTER TABLE users REPLICA IDENTITY FULL", "INSERT INTO users VALUES (3, 7)")
	r.to.await(t, "tag:org:7")
	execute(t, db, "UPDATE users SET org = 8 WHERE id = 3")
	r.to.await(t, "tag:org:7", "tag:org:8")
	execute(t, db, "DELETE FROM users")
	r.to.await(t, "tag:org:8")
}

// noting notes the rows that it is called with.
func noting(rows chan<- string) func(postgres.Row) []cacheaside.Ref {
	return func(r postgres.Row) []cacheaside.Ref {
		image := map[bool]string{true: "old", false: "new"}[r.Old]
		said := []string{r.Op.String(), r.Table, image}
		for _, name := range []string{"id", "name", "big"} {
			text, known := r.Get(name)
			switch {
			case !known:
				text = "?"
			case r.IsNull(name):
				text = "NULL"
			}
			said = append(said, fmt.Sprintf("%s=%.8s", name, text))
		}
		rows <- strings.Join(said, " ")
		return nil
	}
}

func TestRows(t *testing.T) {
	t.Parallel()
	dsn, slot := database(t)
	db := connect(t, dsn)
	execute(t, db, `CREATE TABLE "Plain" (id int PRIMARY KEY, name text, big text)`, "CREATE SCHEMA app",
		"CREATE TABLE app.whole (id int, name text, big text)", "ALTER TABLE app.whole REPLICA IDENTITY FULL",
		"CREATE TABLE parted (id int PRIMARY KEY, name text, big text) PARTITION BY RANGE (id)",
		"CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (10)", "CREATE TABLE high PARTITION OF parted FOR VALUES FROM (10) TO (20)",
		"ALTER TABLE \"Plain\" ALTER big SET STORAGE EXTERNAL", "ALTER TABLE app.whole ALTER big SET STORAGE EXTERNAL")
	rows := make(chan string, 100)
	r := run(t, quiet(postgres.Feed{DSN: dsn, Slot: slot}).Table(`"Plain"`, noting(rows)).Table("app.whole", noting(rows)).Table("parted", noting(rows)))
	r.to.await(t, "lost")
	r.awaitAlive()
	for _, test := range [][]string{
		{`INSERT INTO "Plain" VALUES (1, NULL, repeat('x', 5000))`, "INSERT public.Plain new id=1 name=NULL big=xxxxxxxx"},
		{`UPDATE "Plain" SET name = 'Ada'`, "UPDATE public.Plain old id=1 name=? big=?", "UPDATE public.Plain new id=1 name=Ada big=?"},
		{`UPDATE "Plain" SET id = 2`, "UPDATE public.Plain old id=1 name=? big=?", "UPDATE public.Plain new id=2 name=Ada big=?"},
		{`DELETE FROM "Plain"`, "DELETE public.Plain old id=2 name=? big=?"},
		{"INSERT INTO app.whole VALUES (1, NULL, repeat('x', 5000))", "INSERT app.whole new id=1 name=NULL big=xxxxxxxx"},
		{"UPDATE app.whole SET name = 'Ada'", "UPDATE app.whole old id=1 name=NULL big=xxxxxxxx", "UPDATE app.whole new id=1 name=Ada big=xxxxxxxx"},
		{"DELETE FROM app.whole", "DELETE app.whole old id=1 name=Ada big=xxxxxxxx"},
		{"INSERT INTO parted VALUES (1)", "INSERT public.parted new id=1 name=NULL big=NULL"},
		{"UPDATE parted SET name = 'Ada'", "UPDATE public.parted old id=1 name=? big=?", "UPDATE public.parted new id=1 name=Ada big=NULL"},
		{"UPDATE parted SET id = 11", "DELETE public.parted old id=1 name=? big=?", "INSERT public.parted new id=11 name=Ada big=NULL"},
	} {
		execute(t, db, test[0])
		for _, wanted := range test[1:] {
			require.Equal(t, wanted, <-rows)
		}
	}
	require.Empty(t, r.to.take(), "the functions have returned nothing")
	execute(t, db, `TRUNCATE "Plain", app.whole`)
	require.ElementsMatch(t, []string{"TRUNCATE public.Plain new id=? name=? big=?", "TRUNCATE app.whole new id=? name=? big=?"}, []string{<-rows, <-rows})
	r.to.await(t, "lost")
	require.ErrorContains(t, r.to.lastLost(), "its function returns nothing that covers the table")
}

// A migration may put another table in the place of one.
func TestATableThatIsReplacedIsLost(t *testing.T) {
	t.Parallel()
	dsn, slot := database(t)
	db := connect(t, dsn)
	execute(t, db, "CREATE TABLE users (id int PRIMARY KEY)")
	f := quiet(postgres.Feed{DSN: dsn, Slot: slot}).Table("users", byID)
	r := run(t, f)
	r.to.await(t, "lost")
	r.awaitAlive()
	execute(t, db, "BEGIN; ALTER TABLE users RENAME TO before; CREATE TABLE users (id int PRIMARY KEY); COMMIT")
	require.ErrorContains(t, r.broken(), "the tables have changed")
	execute(t, db, "INSERT INTO users VALUES (1)") // nobody hears that
	r = run(t, f)
	r.to.await(t, "lost")
	r.awaitAlive()
	execute(t, db, "INSERT INTO users VALUES (2)")
	r.to.await(t, "tag:public.users:2")
}

// retain makes the server keep some megabytes for a slot.
func retain(t *testing.T, db *pgx.Conn) {
	t.Helper()
	for range 6 {
		execute(t, db, "SELECT pg_logical_emit_message(false, '', repeat('x', 1000000))", "SELECT pg_switch_wal()")
	}
	execute(t, db, "CHECKPOINT")
}

func TestASlotThatTheServerHasGivenUpIsLost(t *testing.T) {
	t.Parallel()
	s := start(t, "max_slot_wal_keep_size=1MB", "min_wal_size=32MB", "max_wal_size=32MB")
	db := connect(t, s.DSN(""))
	execute(t, db, "CREATE TABLE users (id int PRIMARY KEY)")
	f := quiet(postgres.Feed{DSN: s.DSN("")}).Table("users", byID)
	r := run(t, f)
	r.to.await(t, "lost")
	r.awaitAlive()
	require.Error(t, r.end())
	retain(t, db)
	var status string
	require.NoError(t, db.QueryRow(t.Context(), "SELECT wal_status FROM pg_replication_slots").Scan(&status))
	require.Equal(t, "lost", status)
	r = run(t, f)
	r.to.await(t, "lost")
	r.awaitAlive()
	execute(t, db, "INSERT INTO users VALUES (1)")
	r.to.await(t, "tag:public.users:1")
}

func TestASlotThatIsTooFarBehindIsMadeAnew(t *testing.T) {
	t.Parallel()
	s := start(t)
	db := connect(t, s.DSN(""))
	f := quiet(postgres.Feed{DSN: s.DSN(""), MaxRetained: 1 << 20})
	r := run(t, f)
	r.to.await(t, "lost")
	awaitConfirmed(t, db) // it will not be told again
	require.Error(t, r.end())
	retain(t, db)
	r = run(t, f)
	r.to.await(t, "lost")
	r.awaitAlive()
	require.Less(t, f.Retained(), int64(1<<20))

	// Another limit, and it is read.
	awaitConfirmed(t, db)
	require.Error(t, r.end())
	retain(t, db)
	f = quiet(postgres.Feed{DSN: s.DSN("")})
	r = run(t, f)
	r.awaitAlive()
	require.Empty(t, r.to.take())
}

// That a slot is new stands in the log: if the process that has made it ends before it has told so,
// the next one does.
func TestThatASlotIsNewIsToldByTheNextReader(t *testing.T) {
	t.Parallel()
	s := start(t)
	f := quiet(postgres.Feed{DSN: s.DSN("")})
	first := run(t, f)
	first.to.await(t, "lost")
	time.Sleep(time.Second)
	require.Error(t, first.end()) // what Lost has begun may not be done
	second := run(t, f)
	second.to.await(t, "lost")
	awaitConfirmed(t, connect(t, s.DSN("")))
	require.Error(t, second.end())
	third := run(t, f)
	third.awaitAlive()
	require.Empty(t, third.to.take())
}

// A network that swallows everything ends the feed, and the slot is free again.
func TestAFeedInABlackHole(t *testing.T) {
	t.Parallel()
	s := start(t)
	proxy := redistest.NewProxy(t, s.Socket())
	host, port, _ := strings.Cut(proxy.Addr(), ":")
	through := run(t, quiet(postgres.Feed{DSN: s.DSN("", "host="+host, "port="+port)}))
	through.awaitAlive()
	other := run(t, quiet(postgres.Feed{DSN: s.DSN("")}))
	other.awaitAlive()
	proxy.BlackHole(true)
	db := connect(t, s.DSN(""))
	require.NoError(t, postgres.Emit(t.Context(), db, cacheaside.Tags("tag")...))
	require.Eventually(t, func() bool {
		told := other.to.take()
		return len(told) > 0 && told[len(told)-1] == "tag:tag"
	}, patience, time.Millisecond, "it takes over")
	other.awaitAlive()
	require.Error(t, through.broken())
}
