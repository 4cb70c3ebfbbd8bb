package cacheaside

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// testDB is a database of one transaction at a time, which notes what it is asked, with hooks for the end of one.
type testDB struct {
	mu       sync.Mutex
	calls    []string
	beginErr error
	onCommit func() error
}

func (d *testDB) note(call string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, call)
}

func (d *testDB) Connect(context.Context) (driver.Conn, error) { return testConn{d}, nil }
func (d *testDB) Driver() driver.Driver                        { return nil }

type testConn struct{ of *testDB }

func (testConn) Prepare(string) (driver.Stmt, error) { return nil, errors.ErrUnsupported }
func (testConn) Close() error                        { return nil }

func (c testConn) Begin() (driver.Tx, error) {
	if c.of.beginErr != nil {
		return nil, c.of.beginErr
	}
	c.of.note("begin")
	return testTx(c), nil
}

type testTx struct{ of *testDB }

func (t testTx) Commit() error {
	t.of.note("commit")
	if t.of.onCommit != nil {
		return t.of.onCommit()
	}
	return nil
}

func (t testTx) Rollback() error {
	t.of.note("rollback")
	return nil
}

func openTestDB(t *testing.T) (*sql.DB, *testDB) {
	t.Helper()
	d := new(testDB)
	db := sql.OpenDB(d)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db, d
}

func TestInTx(t *testing.T) {
	errDo, errCommit := errors.New("do"), errors.New("commit")
	for name, test := range map[string]struct {
		do, commit error
		panics     bool
		calls      []string
	}{
		"commits":                             {calls: []string{"begin", "commit"}},
		"rolls back after an error":           {do: errDo, calls: []string{"begin", "rollback"}},
		"rolls back after a panic":            {panics: true, calls: []string{"begin", "rollback"}},
		"does not know what became of commit": {commit: errCommit, calls: []string{"begin", "commit"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newTestCache[string](t, Config{})
			db, d := openTestDB(t)
			d.onCommit = func() error {
				v, err := c.GetWithFetch(t.Context(), key, time.Minute, serve("old").fetch)
				require.NoError(t, err)
				require.Equal(t, "old", v, "another caller reads the old row just before the commit")
				return test.commit
			}
			require.NoError(t, c.Set(t.Context(), key, "old", time.Minute))
			run := func() error {
				return InTx(t.Context(), db, nil, func(ctx context.Context, tx *sql.Tx) error {
					require.NotNil(t, tx)
					require.NoError(t, c.Changed(ctx, key))
					v, err := c.GetWithFetch(ctx, key, time.Minute, serve("new").fetch)
					require.NoError(t, err)
					require.Equal(t, "new", v)
					if test.panics {
						panic(errDo)
					}
					return test.do
				})
			}
			if test.panics {
				require.PanicsWithError(t, "do", func() { _ = run() })
			} else {
				require.Equal(t, errors.Join(test.do, test.commit) != nil, run() != nil)
			}
			require.Equal(t, test.calls, d.calls)
			_, err := c.Get(t.Context(), key)
			require.ErrorIs(t, err, ErrMiss, "nothing from before is served")
			require.False(t, c.changing.isHeld(key))
		})
	}
}

// The log names the line of the program that has left a change open.
func TestAChangeKnowsWhereItWasBegun(t *testing.T) {
	c := newTestCache[string](t, Config{})
	db, _ := openTestDB(t)
	see := func(ctx context.Context) { require.Contains(t, changeOf(ctx).place, "change_tx_test.go:") }
	ctx, change := Begin(t.Context())
	see(ctx)
	change.Discard()
	require.NoError(t, InTx(t.Context(), db, nil, func(ctx context.Context, _ *sql.Tx) error { see(ctx); return nil }))
	write := func(ctx context.Context) error { see(ctx); return nil }
	require.NoError(t, c.Mutate(t.Context(), []string{key}, write))
	require.NoError(t, c.Backend().Mutate(t.Context(), c.Refs(key), write))
}

func TestInTxReturnsErrorsUnchanged(t *testing.T) {
	db, d := openTestDB(t)
	errDo := errors.New("do")
	require.Same(t, errDo, InTx(t.Context(), db, nil, func(context.Context, *sql.Tx) error { return errDo }))
	d.onCommit = func() error { return errDo }
	require.ErrorIs(t, InTx(t.Context(), db, nil, func(context.Context, *sql.Tx) error { return nil }), errDo)
	d.beginErr = errors.New("begin")
	require.ErrorIs(t, InTx(t.Context(), db, nil, func(context.Context, *sql.Tx) error { t.Error("called"); return nil }), d.beginErr)
	require.ErrorIs(t, InTx(t.Context(), nil, nil, func(context.Context, *sql.Tx) error { return nil }), ErrInvalidValue)
	require.ErrorIs(t, InTx(t.Context(), db, nil, nil), ErrInvalidValue)
}

func TestInTxWithinInTxIsPartOfIt(t *testing.T) {
	c := newTestCache[string](t, Config{})
	db, d := openTestDB(t)
	other, otherCalls := openTestDB(t)
	require.NoError(t, c.Set(t.Context(), key, "old", time.Minute))
	err := InTx(t.Context(), db, nil, func(ctx context.Context, outer *sql.Tx) error {
		err := InTx(ctx, db, nil, func(ctx context.Context, inner *sql.Tx) error {
			require.Same(t, outer, inner)
			return c.Changed(ctx, key)
		})
		require.NoError(t, err)
		require.Equal(t, []string{"begin"}, d.calls)
		v, err := c.Get(t.Context(), key)
		require.NoError(t, err, "it is not over")
		require.Equal(t, "old", v)
		return InTx(ctx, other, nil, func(_ context.Context, tx *sql.Tx) error {
			require.NotSame(t, outer, tx)
			return nil
		})
	})
	require.NoError(t, err)
	require.Equal(t, []string{"begin", "commit"}, d.calls)
	require.Equal(t, []string{"begin", "commit"}, otherCalls.calls)
	_, err = c.Get(t.Context(), key)
	require.ErrorIs(t, err, ErrMiss)
}

func TestEndIsTriedAgain(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{BackendRueidis, BackendRueidisAside} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t)
			proxy := redistest.NewProxy(t, s.Addr())
			cfg := asideConfig(t, s, backend)
			cfg.Redis, cfg.OpTimeout = RedisConfig{Addrs: []string{proxy.Addr()}}, 200*time.Millisecond
			c := openAside[string](t, cfg, WithTags(func(key, _ string) []string { return []string{"tag:" + key} }))
			require.Eventually(t, func() bool { return c.Set(t.Context(), "key", "old", time.Hour) == nil }, 10*time.Second, time.Millisecond)
			require.Eventually(t, func() bool { return c.Set(t.Context(), "tag", "old", time.Hour) == nil }, 10*time.Second, time.Millisecond)
			ctx, change := Begin(t.Context())
			require.NoError(t, c.Backend().Changed(ctx, append(c.Refs("key"), Tags("tag:tag")...)...))
			proxy.BlackHole(true)
			require.ErrorIs(t, change.End(ctx), ErrUnavailable)
			require.NoError(t, change.End(ctx))
			for _, k := range []string{"key", "tag"} {
				v, err := c.GetWithFetch(t.Context(), k, time.Hour, serve("new").fetch)
				require.NoError(t, err)
				require.Equal(t, "new", v)
			}
			proxy.BlackHole(false)
			other := openAside[string](t, asideConfig(t, s, backend))
			for _, k := range []string{"key", "tag"} {
				require.Eventually(t, func() bool { _, err := other.Get(t.Context(), k); return errors.Is(err, ErrMiss) },
					20*time.Second, 10*time.Millisecond, fmt.Sprint(k, " is removed in the end"))
			}
		})
	}
}
