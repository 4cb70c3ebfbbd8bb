package cacheaside

import (
	"context"
	"hash/maphash"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// profile is a value with all that can be changed behind a cache's back.
type profile struct {
	Name   string
	Tags   []string
	Scores map[string]int
	Best   *profile
}

func newProfile() *profile {
	return &profile{Name: "n", Tags: []string{"a", "b"}, Scores: map[string]int{"x": 1, "y": 2}, Best: &profile{Name: "best"}}
}

var mutations = map[string]func(*profile){
	"field":       func(p *profile) { p.Name = "other" },
	"element":     func(p *profile) { p.Tags[1] = "c" },
	"map":         func(p *profile) { p.Scores["x"]++ },
	"through map": func(p *profile) { delete(p.Scores, "y") },
	"pointer":     func(p *profile) { p.Best.Name = "second best" },
}

// watched opens a cache that reports mutations, and returns what it has reported.
func watched(t *testing.T, cfg Config) (c *Client[*profile], reported func() []string) {
	t.Helper()
	var mu sync.Mutex
	var keys []string
	c = openAside[*profile](t, cfg, WithMutationCheck(func(key string) {
		mu.Lock()
		defer mu.Unlock()
		keys = append(keys, key)
	}))
	return c, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string{}, keys...)
	}
}

func TestAMutationOfASharedValueIsReported(t *testing.T) {
	s := redistest.Start(t)
	for backend, cfg := range map[string]Config{
		"memory":        {MaxEntries: 10},
		"rueidis-aside": asideConfig(t, s, BackendRueidisAside),
	} {
		for name, mutate := range mutations {
			t.Run(backend+", "+name, func(t *testing.T) {
				c, reported := watched(t, cfg)
				get := func() *profile {
					p, err := c.GetWithFetch(t.Context(), key, time.Hour, func(context.Context, string) (*profile, error) { return newProfile(), nil })
					require.NoError(t, err)
					return p
				}
				require.NoError(t, c.Delete(t.Context(), key))
				get()
				get()
				p := get()
				require.Empty(t, reported())
				mutate(p)
				get()
				get()
				require.Equal(t, []string{key}, reported(), "once for a change")
				p.Name = "changed again"
				require.NoError(t, c.Set(t.Context(), key, newProfile(), time.Hour))
				_, _ = c.Get(t.Context(), key)
				require.Equal(t, []string{key, key}, reported(), "what is replaced is looked at once more")
			})
		}
	}
}

func TestAMutationByTheGiverIsReported(t *testing.T) {
	c, reported := watched(t, Config{})
	mine := newProfile()
	require.NoError(t, c.Set(t.Context(), key, mine, time.Hour))
	mine.Tags[0] = "mine"
	require.NoError(t, c.Delete(t.Context(), key))
	require.Equal(t, []string{key}, reported())
	require.NoError(t, c.Set(t.Context(), "cleared", mine, time.Hour))
	mine.Tags[0] = "still mine"
	require.NoError(t, c.Clear(t.Context()))
	require.Equal(t, []string{key, "cleared"}, reported())
}

func TestAnInnocentUseIsNotReported(t *testing.T) {
	c, reported := watched(t, Config{MaxEntries: 4})
	for i := range 50 {
		k := string(rune('a' + i%8))
		require.NoError(t, c.Set(t.Context(), k, newProfile(), time.Hour))
		_, _ = c.Get(t.Context(), k)
		_, _ = c.GetMany(t.Context(), []string{"a", k})
	}
	require.Empty(t, reported())
	require.LessOrEqual(t, len(c.store.(*guarded[*profile]).ledger), 4)
}

func TestAMutationCheckNeedsAFunction(t *testing.T) {
	_, err := NewMemory[int](Config{}, WithMutationCheck(nil))
	require.ErrorIs(t, err, ErrInvalidConfig)
}

func TestADeepHashSeesWhatAReaderWould(t *testing.T) {
	type inner struct {
		n     int
		when  time.Time
		items []any
	}
	type outer struct {
		mu     sync.Mutex
		cyclic *outer
		shared [2]*inner
		byName map[string]*inner
		f      func()
		c      chan int
		x      complex128
		b      []byte
		ok     bool
		e      error
	}
	seed := maphash.MakeSeed()
	build := func() *outer {
		in := &inner{n: 1, when: time.Unix(1, 0), items: []any{1, "two", 3.0, nil}}
		o := &outer{shared: [2]*inner{in, in}, byName: map[string]*inner{"a": in, "b": in, "c": {n: 2}}, b: []byte("bytes"), c: make(chan int)}
		o.cyclic = o
		return o
	}
	o := build()
	hash := func() uint64 { return deepHash(seed, reflect.ValueOf(o)) }
	first := hash()
	for range 20 {
		require.Equal(t, first, hash(), "maps have no order")
	}
	o.mu.Lock()
	require.Equal(t, first, hash(), "a lock is no part of the value")
	o.mu.Unlock()
	for name, change := range map[string]func(){
		"unexported field": func() { o.shared[1].n++ },
		"time":             func() { o.shared[0].when = time.Unix(2, 0) },
		"interface":        func() { o.shared[0].items[3] = false },
		"type":             func() { o.shared[0].items[0] = int64(1) },
		"map value":        func() { o.byName["c"].n = 3 },
		"map key":          func() { o.byName["d"] = o.byName["c"] },
		"func":             func() { o.f = func() {} },
		"channel":          func() { o.c = make(chan int) },
		"complex":          func() { o.x = 1i },
		"bytes":            func() { o.b[2] = 'x' },
		"shorter":          func() { o.b = o.b[:4] },
		"bool":             func() { o.ok = true },
		"error":            func() { o.e = errSource },
		"nil":              func() { o.cyclic = nil },
	} {
		o = build()
		before := hash()
		change()
		require.NotEqual(t, before, hash(), name)
	}
}
