package cacheaside_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
)

type (
	userID int64
	slug   string
	page   struct{ Org, Number int }
)

// pageKeys is a codec as a user writes one.
type pageKeys struct{}

func (pageKeys) Append(b []byte, p page) []byte {
	b = strconv.AppendInt(b, int64(p.Org), 10)
	return strconv.AppendInt(append(b, ':'), int64(p.Number), 10)
}

func (pageKeys) Parse(s string) (p page, err error) {
	org, number, _ := strings.Cut(s, ":")
	if p.Org, err = strconv.Atoi(org); err != nil {
		return p, err
	}
	p.Number, err = strconv.Atoi(number)
	return p, err
}

func onEveryBackend(t *testing.T, test func(t *testing.T, cfg cacheaside.Config)) {
	t.Run("memory", func(t *testing.T) { test(t, cacheaside.Config{}) })
	for _, backend := range []string{cacheaside.BackendRueidis, cacheaside.BackendRueidisAside} {
		t.Run(backend, func(t *testing.T) {
			redistest.Require(t)
			cfg, err := cacheaside.ParseConfig(redistest.Start(t).URL(backend))
			require.NoError(t, err)
			test(t, cfg)
		})
	}
}

func opened(t testing.TB, cfg cacheaside.Config) *cacheaside.Client[string] {
	cfg.Name = "keyed"
	c, err := cacheaside.Open[string](t.Context(), cfg, cacheaside.WithCodec(cacheaside.StringCodec()))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func TestAKeyedClientDoesWhatAClientDoes(t *testing.T) {
	onEveryBackend(t, func(t *testing.T, cfg cacheaside.Config) {
		c := opened(t, cfg)
		keyed(t, c, cacheaside.IntKeys[userID](), 42, -7, math.MinInt64)
		keyed(t, c, cacheaside.IntKeys[uint64](), 43, 0, math.MaxUint64)
		keyed(t, c, cacheaside.IntKeys[int32](), 44, -1, math.MinInt32)
		keyed(t, c, cacheaside.IntKeys[uint32](), 45, 1, math.MaxUint32)
		keyed(t, c, cacheaside.IntKeys[int](), 46, 2, math.MaxInt)
		keyed(t, c, cacheaside.StringKeys[slug](), "a", "", "b:\x00\xff")
		keyed(t, c, cacheaside.TextKeys[netip.Addr](), netip.MustParseAddr("::1"), netip.Addr{}, netip.MustParseAddr("10.0.0.1"))
		keyed(t, c, cacheaside.KeyCodec[page](pageKeys{}), page{1, 2}, page{}, page{12, -3})
	})
}

// keyed goes through all methods with three keys, and removes what it has stored.
func keyed[K comparable](t *testing.T, c *cacheaside.Client[string], keys cacheaside.KeyCodec[K], a, b, last K) {
	t.Helper()
	ctx := t.Context()
	k := cacheaside.Keyed(c, keys)
	fetch := func(_ context.Context, key K) (string, error) { return fmt.Sprint(key), nil }
	for range 3 {
		v, err := k.GetWithFetch(ctx, a, time.Minute, fetch)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(a), v)
	}
	name, err := k.Key(a)
	require.NoError(t, err)
	require.Equal(t, string(keys.Append(nil, a)), name)
	v, err := c.Get(ctx, name)
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(a), v, "both see one entry")

	require.NoError(t, k.Set(ctx, b, "set", time.Minute))
	v, err = k.Get(ctx, b)
	require.NoError(t, err)
	require.Equal(t, "set", v)
	require.NoError(t, k.Delete(ctx, b))
	_, err = k.Get(ctx, b)
	require.ErrorIs(t, err, cacheaside.ErrMiss)

	r, err := k.Lookup(ctx, last, time.Minute, fetch)
	require.NoError(t, err)
	require.Equal(t, cacheaside.SourceFetched, r.Source)
	loader := k.Bind(time.Minute, fetch)
	for _, key := range []K{a, b, last} {
		v, err := loader.Get(ctx, key)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(key), v)
	}

	require.NoError(t, k.SetMany(ctx, map[K]string{a: "1", b: "2"}, time.Minute))
	got, err := k.GetMany(ctx, []K{a, b, last})
	require.NoError(t, err)
	require.Equal(t, map[K]string{a: "1", b: "2", last: fmt.Sprint(last)}, got)
	require.NoError(t, k.DeleteMany(ctx, []K{a, b}))
	var asked []K
	fetchMany := func(_ context.Context, keys []K) (map[K]string, error) {
		asked = keys
		return map[K]string{a: "fetched"}, nil // and the source has no b
	}
	got, err = k.GetManyWithFetch(ctx, []K{a, b, last, a}, time.Minute, fetchMany)
	require.NoError(t, err)
	require.Equal(t, map[K]string{a: "fetched", last: fmt.Sprint(last)}, got)
	require.ElementsMatch(t, []K{a, b}, asked)

	require.NoError(t, k.Mutate(ctx, []K{a, last}, func(context.Context) error { return nil }))
	got, err = k.GetMany(ctx, []K{a, b, last})
	require.NoError(t, err)
	require.Empty(t, got)
	many, err := k.BindMany(time.Minute, fetchMany, cacheaside.Batching{})
	require.NoError(t, err)
	v, err = many.Get(ctx, a)
	require.NoError(t, err)
	require.Equal(t, "fetched", v)
	_, err = many.Get(ctx, b)
	require.ErrorIs(t, err, cacheaside.ErrNotFound)
	require.Equal(t, c.Refs(name), k.Refs(a))
	require.Same(t, c.Backend(), k.Backend())
	require.NoError(t, k.SetMany(ctx, map[K]string{a: "1", b: "2", last: "3"}, time.Minute))
	require.NoError(t, k.Backend().Invalidate(ctx, k.Refs(a, last)...))
	got, err = k.GetMany(ctx, []K{a, b, last})
	require.NoError(t, err)
	require.Equal(t, map[K]string{b: "2"}, got)
	_, err = k.GetWithFetch(ctx, a, time.Minute, func(ctx context.Context, key K) (string, error) {
		cacheaside.Tag(ctx, "tagged")
		return "tagged", nil
	})
	require.NoError(t, err)
	require.NoError(t, k.InvalidateTags(ctx, "tagged"))
	_, err = k.Get(ctx, a)
	require.ErrorIs(t, err, cacheaside.ErrMiss)

	require.NoError(t, k.Health(ctx))
	require.Same(t, c, k.Client())
	require.Equal(t, c.Stats().Hits, k.Stats().Hits)
	require.NoError(t, k.Clear(ctx))
	_, err = k.Get(ctx, a)
	require.ErrorIs(t, err, cacheaside.ErrMiss)
}

// A buffer that a key was written to holds the next one. What keeps it would see that.
func TestNothingKeepsTheBufferOfAKey(t *testing.T) {
	onEveryBackend(t, func(t *testing.T, cfg cacheaside.Config) {
		c := opened(t, cfg)
		ids, pages := cacheaside.Keyed(c, cacheaside.IntKeys[int]()), cacheaside.Keyed(c, cacheaside.KeyCodec[page](pageKeys{}))
		for round := range 3 {
			for i := range 500 {
				v, err := ids.GetWithFetch(t.Context(), i, time.Minute, func(_ context.Context, id int) (string, error) { return strconv.Itoa(id), nil })
				require.NoError(t, err)
				require.Equal(t, strconv.Itoa(i), v, "round %d", round)
				v, err = pages.GetWithFetch(t.Context(), page{i, 1}, time.Minute, func(_ context.Context, p page) (string, error) { return fmt.Sprint(p), nil })
				require.NoError(t, err)
				require.Equal(t, fmt.Sprint(page{i, 1}), v, "round %d", round)
			}
		}
	})
}

// bothKeys writes two keys as one.
type bothKeys struct{}

func (bothKeys) Append(b []byte, k int) []byte     { return strconv.AppendInt(b, int64(k/2), 10) }
func (bothKeys) Parse(s string) (k int, err error) { k, err = strconv.Atoi(s); return k * 2, err }

// strictKeys refuses what it writes.
type strictKeys struct{}

var errStrict = errors.New("strict")

func (strictKeys) Append(b []byte, _ int) []byte { return append(b, 'x') }
func (strictKeys) Parse(string) (int, error)     { return 0, errStrict }

// panickingKeys panics where it is told to.
type panickingKeys struct{ atAppend, atParse bool }

func (p panickingKeys) Append(b []byte, k int) []byte {
	if p.atAppend {
		panic("append")
	}
	return strconv.AppendInt(b, int64(k), 10)
}

func (p panickingKeys) Parse(s string) (int, error) {
	if p.atParse {
		panic("parse")
	}
	return strconv.Atoi(s)
}

type unwritable struct{}

var errUnwritable = errors.New("unwritable")

func (unwritable) MarshalText() ([]byte, error) { return nil, errUnwritable }
func (*unwritable) UnmarshalText([]byte) error  { return nil }

func TestABadKeyCodecIsAnErrorOfEachCall(t *testing.T) {
	c := opened(t, cacheaside.Config{})
	requireBadKey(t, cacheaside.Keyed(c, cacheaside.KeyCodec[int](strictKeys{})), 1, errStrict)
	requireBadKey(t, cacheaside.Keyed(c, cacheaside.KeyCodec[int](panickingKeys{atAppend: true})), 1, cacheaside.ErrInvalidKey)
	requireBadKey(t, cacheaside.Keyed(c, cacheaside.KeyCodec[int](panickingKeys{atParse: true})), 1, cacheaside.ErrInvalidKey)
	requireBadKey(t, cacheaside.Keyed(c, cacheaside.TextKeys[unwritable]()), unwritable{}, errUnwritable)
	requireBadKey(t, cacheaside.Keyed(c, cacheaside.StringKeys[string]()), strings.Repeat("k", cacheaside.MaxKeyBytes+1), cacheaside.ErrInvalidKey)

	var p *cacheaside.PanicError
	_, err := cacheaside.Keyed(c, cacheaside.KeyCodec[int](panickingKeys{atAppend: true})).Get(t.Context(), 1)
	require.ErrorAs(t, err, &p)
	require.Equal(t, "append", p.Value)
}

func requireBadKey[K comparable](t *testing.T, k *cacheaside.KeyedClient[K, string], key K, cause error) {
	t.Helper()
	ctx := t.Context()
	fetch := func(context.Context, K) (string, error) { return "", errors.New("never called") }
	many := func(context.Context, []K) (map[K]string, error) { return nil, errors.New("never called") }
	for name, call := range map[string]func() error{
		"Get":              func() error { _, err := k.Get(ctx, key); return err },
		"Set":              func() error { return k.Set(ctx, key, "v", time.Minute) },
		"Delete":           func() error { return k.Delete(ctx, key) },
		"Lookup":           func() error { _, err := k.Lookup(ctx, key, time.Minute, fetch); return err },
		"GetWithFetch":     func() error { _, err := k.GetWithFetch(ctx, key, time.Minute, fetch); return err },
		"Loader":           func() error { _, err := k.Bind(time.Minute, fetch).Get(ctx, key); return err },
		"GetMany":          func() error { _, err := k.GetMany(ctx, []K{key}); return err },
		"SetMany":          func() error { return k.SetMany(ctx, map[K]string{key: "v"}, time.Minute) },
		"DeleteMany":       func() error { return k.DeleteMany(ctx, []K{key}) },
		"GetManyWithFetch": func() error { _, err := k.GetManyWithFetch(ctx, []K{key}, time.Minute, many); return err },
		"Mutate":           func() error { return k.Mutate(ctx, []K{key}, func(context.Context) error { return nil }) },
	} {
		err := call()
		require.ErrorIs(t, err, cacheaside.ErrInvalidKey, name)
		require.ErrorIs(t, err, cause, name)
	}
	require.ErrorIs(t, k.Backend().Invalidate(ctx, k.Refs(key)...), cacheaside.ErrInvalidKey)
	err := k.Backend().Mutate(ctx, k.Refs(key), func(context.Context) error { return errors.New("never called") })
	require.ErrorIs(t, err, cacheaside.ErrInvalidKey)
}

// The key that comes second must not get the value of the first, nor write over it.
func TestTwoKeysWithOneStringNeverMeet(t *testing.T) {
	onEveryBackend(t, func(t *testing.T, cfg cacheaside.Config) {
		k := cacheaside.Keyed(opened(t, cfg), cacheaside.KeyCodec[int](bothKeys{}))
		var calls atomic.Int64
		fetch := func(_ context.Context, key int) (string, error) { calls.Add(1); return strconv.Itoa(key), nil }
		for range 3 {
			v, err := k.GetWithFetch(t.Context(), 4, time.Minute, fetch)
			require.NoError(t, err)
			require.Equal(t, "4", v)
			_, err = k.GetWithFetch(t.Context(), 5, time.Minute, fetch)
			require.ErrorIs(t, err, cacheaside.ErrInvalidKey)
			_, err = k.Get(t.Context(), 5)
			require.ErrorIs(t, err, cacheaside.ErrInvalidKey)
			require.ErrorIs(t, k.Set(t.Context(), 5, "5", time.Minute), cacheaside.ErrInvalidKey)
		}
		require.EqualValues(t, 1, calls.Load())
	})
}

func TestKeyedSaysWhatItLacks(t *testing.T) {
	requireLacks := func(k *cacheaside.KeyedClient[int, string], what string) {
		t.Helper()
		_, err := k.Get(t.Context(), 1)
		require.ErrorIs(t, err, cacheaside.ErrInvalidValue)
		require.ErrorContains(t, err, what)
		_, err = k.Bind(time.Minute, nil).Get(t.Context(), 1)
		require.ErrorIs(t, err, cacheaside.ErrInvalidValue)
		_, err = k.BindMany(time.Minute, nil, cacheaside.Batching{})
		require.ErrorIs(t, err, cacheaside.ErrInvalidValue)
		_, err = k.GetMany(t.Context(), nil)
		require.ErrorIs(t, err, cacheaside.ErrInvalidValue)
		require.ErrorIs(t, k.SetMany(t.Context(), nil, time.Minute), cacheaside.ErrInvalidValue)
	}
	requireLacks(cacheaside.Keyed[int, string](nil, cacheaside.IntKeys[int]()), "client")
	requireLacks(cacheaside.Keyed[int](opened(t, cacheaside.Config{}), nil), "codec")

	none := cacheaside.Keyed[int, string](nil, cacheaside.IntKeys[int]())
	require.ErrorIs(t, none.Health(t.Context()), cacheaside.ErrInvalidValue)
	require.ErrorIs(t, none.Clear(t.Context()), cacheaside.ErrInvalidValue)
	require.ErrorIs(t, none.InvalidateTags(t.Context(), "tag"), cacheaside.ErrInvalidValue)
	require.Equal(t, []cacheaside.Ref{{}}, none.Refs(1))
	require.ErrorIs(t, none.Backend().Invalidate(t.Context(), cacheaside.Tags("tag")...), cacheaside.ErrInvalidValue)
	require.Zero(t, none.Stats())
	require.NoError(t, none.Close())

	k := cacheaside.Keyed(opened(t, cacheaside.Config{}), cacheaside.IntKeys[int]())
	require.NoError(t, k.Set(t.Context(), 1, "v", time.Minute))
	_, err := k.GetWithFetch(t.Context(), 1, time.Minute, nil)
	require.ErrorIs(t, err, cacheaside.ErrInvalidValue)
	_, err = k.Bind(time.Minute, nil).Get(t.Context(), 1)
	require.ErrorIs(t, err, cacheaside.ErrInvalidValue)
	_, err = k.GetManyWithFetch(t.Context(), []int{1}, time.Minute, nil)
	require.ErrorIs(t, err, cacheaside.ErrInvalidValue)
	require.NoError(t, k.Close())
	_, err = k.Get(t.Context(), 1)
	require.ErrorIs(t, err, cacheaside.ErrClosed)
}

func TestIntKeysReadOneFormOnly(t *testing.T) {
	for _, s := range []string{"", "+1", "01", "-0", " 1", "1 ", "1.0", "0x1", "9223372036854775808", "a"} {
		_, err := cacheaside.IntKeys[int64]().Parse(s)
		require.ErrorIs(t, err, cacheaside.ErrInvalidKey, "%q", s)
	}
	_, err := cacheaside.IntKeys[int32]().Parse("2147483648")
	require.ErrorIs(t, err, cacheaside.ErrInvalidKey)
	_, err = cacheaside.IntKeys[uint32]().Parse("-1")
	require.ErrorIs(t, err, cacheaside.ErrInvalidKey)
	_, err = cacheaside.TextKeys[netip.Addr]().Parse("nowhere")
	require.ErrorIs(t, err, cacheaside.ErrInvalidKey)
}

func TestAKeyedHitAllocatesNothing(t *testing.T) {
	onEveryBackend(t, func(t *testing.T, cfg cacheaside.Config) {
		if cfg.Backend == cacheaside.BackendRueidis {
			return // it has no hits within the process
		}
		c := opened(t, cfg)
		requireNoKeyedAllocations(t, c, cacheaside.IntKeys[userID](), math.MinInt64)
		requireNoKeyedAllocations(t, c, cacheaside.IntKeys[uint32](), 7)
		requireNoKeyedAllocations(t, c, cacheaside.StringKeys[slug](), "slug")
		if !raceDetector { // under it a sync.Pool drops what it is given, now and then
			requireNoKeyedAllocations(t, c, cacheaside.KeyCodec[page](pageKeys{}), page{3, 4})
		}
	})
}

func requireNoKeyedAllocations[K comparable](t *testing.T, c *cacheaside.Client[string], keys cacheaside.KeyCodec[K], key K) {
	t.Helper()
	k := cacheaside.Keyed(c, keys)
	ctx := context.Background()
	fetch := func(context.Context, K) (string, error) { return "v", nil }
	loader := k.Bind(time.Hour, fetch)
	get := func() {
		if _, err := k.GetWithFetch(ctx, key, time.Hour, fetch); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Get(ctx, key); err != nil {
			t.Fatal(err)
		}
		if _, err := loader.Get(ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		get()
	}
	require.Zero(t, testing.AllocsPerRun(1000, get))
}

func TestJoinedKeysNeverMeet(t *testing.T) {
	require.Equal(t, "org:7:page:2", cacheaside.JoinKey("org", "7", "page", "2"))
	require.Equal(t, `a\:b:c\\`, cacheaside.JoinKey("a:b", `c\`))
	lists := [][]string{{}, {""}, {"", ""}, {":"}, {`\`}, {`\`, ""}, {"a", "b"}, {"a:b"}, {`a\`, "b"}, {`a\:b`}, {"\x00", "\xff:"}}
	seen := map[string][]string{}
	for _, parts := range lists {
		key := cacheaside.JoinKey(parts...)
		require.NotContains(t, seen, key, "%q", parts)
		seen[key] = parts
		back, err := cacheaside.SplitKey(key)
		require.NoError(t, err)
		require.Equal(t, parts, back)
	}
	for _, s := range []string{`a\`, `\a`, `a:\`, `\\\`} {
		_, err := cacheaside.SplitKey(s)
		require.ErrorIs(t, err, cacheaside.ErrInvalidKey, s)
	}
}

func FuzzJoinKey(f *testing.F) {
	f.Add("a", "b", "c")
	f.Add(`\`, ":", "")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		for _, parts := range [][]string{{}, {a}, {a, b}, {a, b, c}} {
			back, err := cacheaside.SplitKey(cacheaside.JoinKey(parts...))
			require.NoError(t, err)
			require.Equal(t, parts, back)
		}
		if parts, err := cacheaside.SplitKey(a); err == nil {
			require.Equal(t, a, cacheaside.JoinKey(parts...))
		}
	})
}

func FuzzIntKeys(f *testing.F) {
	f.Add("42", int64(-7))
	f.Fuzz(func(t *testing.T, s string, n int64) {
		keys := cacheaside.IntKeys[int64]()
		back, err := keys.Parse(string(keys.Append(nil, n)))
		require.NoError(t, err)
		require.Equal(t, n, back)
		if k, err := keys.Parse(s); err == nil {
			require.Equal(t, s, string(keys.Append(nil, k)))
		}
	})
}

// BenchmarkKeyedHit shows what a typed key costs beside a string that is there already.
func BenchmarkKeyedHit(b *testing.B) {
	const n = 1 << 16
	cfg := cacheaside.Config{MaxEntries: -1}
	c := opened(b, cfg)
	ids, pages := cacheaside.Keyed(c, cacheaside.IntKeys[int64]()), cacheaside.Keyed(c, cacheaside.KeyCodec[page](pageKeys{}))
	slugs := cacheaside.Keyed(c, cacheaside.StringKeys[slug]())
	keys := make([]string, n)
	for i := range n {
		keys[i] = strconv.Itoa(i)
		require.NoError(b, c.Set(b.Context(), keys[i], "v", time.Hour))
		require.NoError(b, pages.Set(b.Context(), page{i, 1}, "v", time.Hour))
	}
	ctx := context.Background()
	for _, way := range []struct {
		name string
		get  func(i int) error
	}{
		{"String", func(i int) error { _, err := c.Get(ctx, keys[i]); return err }},
		{"Slug", func(i int) error { _, err := slugs.Get(ctx, slug(keys[i])); return err }},
		{"Int64", func(i int) error { _, err := ids.Get(ctx, int64(i)); return err }},
		{"Struct", func(i int) error { _, err := pages.Get(ctx, page{i & 511, 1}); return err }},
	} {
		b.Run(way.name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := way.get(i & (n - 1)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
