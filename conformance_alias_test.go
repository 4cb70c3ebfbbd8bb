package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"
)

func init() {
	promises = append(promises,
		promise{"G29", "a value fetched by alias is kept under its key, and one by key answers aliases", nil, checkAliasFills},
		promise{"G29", "no value is returned under an alias that it has lost", nil, checkAliasLost},
		promise{"G29", "to remove the key is enough", nil, checkAliasRemoved},
		promise{"G29", "that an alias has no value ends when one is stored, or a key written", nil, checkAliasNone},
		promise{"G29", "a fetch by alias that a write has overtaken is not kept", nil, checkAliasOvertaken},
		promise{"G29", "lookups by key and by alias share a fetch", nil, checkAliasSharesFlights},
		promise{"G29", "who has joined by key a fetch by an alias that has moved looks again", nil, checkAliasMovedUnderKey},
		promise{"G29", "stale values and refreshes obey aliases", nil, checkAliasPolicies},
		promise{"G29", "that the source has none under an alias is not covered up", nil, checkAliasNotCovered},
		promise{"G29", "within a change aliases lead to what it has written", nil, checkAliasInside},
		promise{"G29", "batches by alias", nil, checkAliasBatches},
		promise{"G29", "aliases have scopes", nil, checkAliasScopes},
		promise{"G29", "other processes", isRemote, checkAliasElsewhere},
		promise{"G29", "what one process fetches by key leaves alone what others know of aliases", func(r rig) bool { return r.remote || r.tells }, checkAliasOfOthers},
		promise{"aliases", "what is asked for by a fetch is done", nil, checkAliasAsked},
		promise{"aliases", "bad functions, names and values", nil, checkAliasBad},
	)
}

// person is a value with aliases.
type person struct {
	ID      string
	Email   string
	Version int
}

func emailsOf(p person) (string, []string) { return p.ID, []string{p.Email} }

// people is a source with two ways in. It counts its calls.
type people struct {
	mu    sync.Mutex
	all   map[string]person // by ID
	calls atomic.Int64
	gate  chan struct{} // nil: open
}

func newPeople(all ...person) *people {
	s := &people{all: make(map[string]person)}
	for _, p := range all {
		s.all[p.ID] = p
	}
	return s
}

func (s *people) put(p person) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[p.ID] = p
}

func (s *people) remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, id)
}

// hold makes calls wait, having read, until release is called.
func (s *people) hold() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gate := make(chan struct{})
	s.gate = gate
	return sync.OnceFunc(func() {
		s.mu.Lock()
		s.gate = nil
		s.mu.Unlock()
		close(gate)
	})
}

func (s *people) find(matches func(person) bool) (person, error) {
	s.mu.Lock()
	gate := s.gate
	found, err := person{}, ErrNotFound
	for _, p := range s.all {
		if matches(p) {
			found, err = p, nil
		}
	}
	s.mu.Unlock()
	s.calls.Add(1)
	if gate != nil {
		<-gate
	}
	return found, err
}

func (s *people) byID(_ context.Context, id string) (person, error) {
	return s.find(func(p person) bool { return p.ID == id })
}

func (s *people) byEmail(_ context.Context, email string) (person, error) {
	return s.find(func(p person) bool { return p.Email == email })
}

func (s *people) manyByEmail(_ context.Context, emails []string) (map[string]person, error) {
	s.calls.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	found := make(map[string]person)
	for _, p := range s.all {
		if slices.Contains(emails, p.Email) {
			found[p.Email] = p
		}
	}
	return found, nil
}

func openPeople(e *env, change func(*Config), opts ...Option) (*Client[person], *AliasClient[person]) {
	e.Helper()
	c := open[person](e, func(cfg *Config) {
		cfg.NegativeTTL = time.Minute
		if change != nil {
			change(cfg)
		}
	}, opts...)
	return c, Alias(c, "email", emailsOf)
}

// asked returns how often the source was called by do.
func (s *people) during(do func()) int64 {
	before := s.calls.Load()
	do()
	return s.calls.Load() - before
}

func checkAliasFills(e *env) {
	c, by := openPeople(e, nil)
	s := newPeople(person{"1", "a@x", 1}, person{"2", "b@x", 1}, person{"3", "c@x", 1})
	require.Same(e, c, by.Client())
	r, err := by.Lookup(e.Context(), "a@x", time.Minute, s.byEmail)
	require.NoError(e, err)
	require.Equal(e, person{"1", "a@x", 1}, r.Value)
	require.Equal(e, SourceFetched, r.Source)
	v, err := c.Get(e.Context(), "1")
	require.NoError(e, err, "it is kept under its key")
	require.Equal(e, "a@x", v.Email)
	require.Zero(e, s.during(func() {
		for range 3 {
			v, err = by.GetWithFetch(e.Context(), "a@x", time.Minute, s.byEmail)
			require.NoError(e, err)
			require.Equal(e, "1", v.ID)
		}
	}))
	_, err = by.Get(e.Context(), "b@x")
	require.ErrorIs(e, err, ErrMiss)
	_, err = c.GetWithFetch(e.Context(), "2", time.Minute, s.byID)
	require.NoError(e, err)
	v, err = by.Get(e.Context(), "b@x")
	require.NoError(e, err, "what was fetched by key answers its alias")
	require.Equal(e, "2", v.ID)
	require.NoError(e, c.Set(e.Context(), "3", person{"3", "c@x", 2}, time.Minute))
	v, err = by.Bind(time.Minute, s.byEmail).Get(e.Context(), "c@x")
	require.NoError(e, err, "what was set too")
	require.Equal(e, 2, v.Version)
}

func checkAliasLost(e *env) {
	c, by := openPeople(e, nil)
	s := newPeople(person{"1", "old@x", 1})
	look := func(email string) (person, error) {
		return by.GetWithFetch(e.Context(), email, time.Minute, s.byEmail)
	}
	for range 2 {
		_, err := look("old@x")
		require.NoError(e, err)
	}
	s.put(person{"1", "new@x", 2})
	require.NoError(e, c.Set(e.Context(), "1", person{"1", "new@x", 2}, time.Minute))
	_, err := by.Get(e.Context(), "old@x")
	require.ErrorIs(e, err, ErrMiss)
	_, err = look("old@x")
	require.ErrorIs(e, err, ErrNotFound)
	v, err := look("new@x")
	require.NoError(e, err)
	require.Equal(e, 2, v.Version)
	s.put(person{"2", "old@x", 1})
	require.NoError(e, c.Delete(e.Context(), "2"))
	v, err = look("old@x")
	require.NoError(e, err, "another has it now")
	require.Equal(e, "2", v.ID)
	v, err = look("new@x")
	require.NoError(e, err)
	require.Equal(e, "1", v.ID)
	s.put(person{"1", "old@x", 3}) // they change places, and the cache is told of the keys only
	s.put(person{"2", "new@x", 3})
	require.NoError(e, c.DeleteMany(e.Context(), []string{"1", "2"}))
	for want, email := range map[string]string{"1": "old@x", "2": "new@x"} {
		for range 3 {
			v, err = look(email)
			require.NoError(e, err)
			require.Equal(e, want, v.ID)
		}
	}
}

func checkAliasRemoved(e *env) {
	c, by := openPeople(e, nil)
	removals := map[string]func(id string) error{
		"Delete":     func(id string) error { return c.Delete(e.Context(), id) },
		"DeleteMany": func(id string) error { return c.DeleteMany(e.Context(), []string{id}) },
		"Mutate": func(id string) error {
			return c.Mutate(e.Context(), []string{id}, func(context.Context) error { return nil })
		},
		"Invalidate": func(id string) error { return c.Backend().Invalidate(e.Context(), c.Refs(id)...) },
		"Changed": func(id string) error {
			ctx, change := Begin(e.Context())
			return errors.Join(c.Changed(ctx, id), change.End(ctx))
		},
		"Clear": func(string) error { return c.Clear(e.Context()) },
	}
	for name, remove := range removals {
		s := newPeople(person{name, name + "@x", 1})
		look := func() person {
			v, err := by.GetWithFetch(e.Context(), name+"@x", time.Minute, s.byEmail)
			require.NoError(e, err, name)
			return v
		}
		for range 2 {
			require.Equal(e, 1, look().Version)
		}
		s.put(person{name, name + "@x", 2})
		require.NoError(e, remove(name))
		require.Equal(e, 2, look().Version, name)
		s.remove(name)
		require.NoError(e, remove(name))
		_, err := by.GetWithFetch(e.Context(), name+"@x", time.Minute, s.byEmail)
		require.ErrorIs(e, err, ErrNotFound, name)
		require.Zero(e, s.during(func() {
			_, err = by.GetWithFetch(e.Context(), name+"@x", time.Minute, s.byEmail)
			require.ErrorIs(e, err, ErrNotFound)
		}), "it is remembered")
	}
}

func checkAliasNone(e *env) {
	c, by := openPeople(e, nil)
	written := map[string]func(p person) error{
		"Set": func(p person) error { return c.Set(e.Context(), p.ID, p, time.Minute) },
		"a fetch by key": func(p person) error {
			_, err := c.GetWithFetch(e.Context(), p.ID, time.Minute, func(context.Context, string) (person, error) { return p, nil })
			return err
		},
		"Delete": func(p person) error { return c.Delete(e.Context(), p.ID) },
		"Mutate": func(p person) error {
			return c.Mutate(e.Context(), []string{p.ID}, func(context.Context) error { return nil })
		},
		"Clear": func(person) error { return c.Clear(e.Context()) },
	}
	for name, write := range written {
		s := newPeople()
		look := func() (person, error) {
			return by.GetWithFetch(e.Context(), name+"@x", time.Minute, s.byEmail)
		}
		for range 2 {
			_, err := look()
			require.ErrorIs(e, err, ErrNotFound)
			_, err = by.Get(e.Context(), name+"@x")
			require.ErrorIs(e, err, ErrNotFound)
		}
		require.Equal(e, int64(1), s.calls.Load(), name)
		p := person{name, name + "@x", 1}
		s.put(p)
		require.NoError(e, write(p))
		v, err := look()
		require.NoError(e, err, name)
		require.Equal(e, p, v)
	}
}

// checkAliasOvertaken lets a write of the key come while the source is asked by the alias.
func checkAliasOvertaken(e *env) {
	c, by := openPeople(e, nil)
	writes := map[string]func(p person) error{
		"Delete": func(p person) error { return c.Delete(e.Context(), p.ID) },
		"Mutate": func(p person) error {
			return c.Mutate(e.Context(), []string{p.ID}, func(context.Context) error { return nil })
		},
		"Set":   func(p person) error { return c.Set(e.Context(), p.ID, p, time.Minute) },
		"Clear": func(person) error { return c.Clear(e.Context()) },
		"Changed": func(p person) error {
			ctx, change := Begin(e.Context())
			return errors.Join(c.Changed(ctx, p.ID), change.End(ctx))
		},
	}
	for name, write := range writes {
		for _, many := range []bool{false, true} {
			id := fmt.Sprint(name, many)
			email := id + "@x"
			s := newPeople(person{id, email, 1})
			release := s.hold()
			look := func(fetch FetchFunc[person]) (person, error) {
				if !many {
					return by.GetWithFetch(e.Context(), email, time.Minute, fetch)
				}
				all, err := by.GetManyWithFetch(e.Context(), []string{email}, time.Minute, func(ctx context.Context, _ []string) (map[string]person, error) {
					p, err := fetch(ctx, email)
					return map[string]person{email: p}, err
				})
				return all[email], err
			}
			early := make(chan person, 1)
			go func() {
				v, _ := look(s.byEmail)
				early <- v
			}()
			e.settle(func() bool { return s.calls.Load() == 1 }, "the source is asked")
			p := person{id, email, 2}
			s.put(p)
			require.NoError(e, write(p))
			late := make(chan person, 1)
			go func() {
				v, _ := look(s.byEmail)
				late <- v
			}()
			e.yield()
			release()
			<-early
			require.Equal(e, 2, (<-late).Version, name)
			for range 2 {
				v, err := look(s.byEmail)
				require.NoError(e, err)
				require.Equal(e, 2, v.Version, name)
				v, err = c.GetWithFetch(e.Context(), id, time.Minute, s.byID)
				require.NoError(e, err)
				require.Equal(e, 2, v.Version, name)
			}
		}
	}
}

func checkAliasSharesFlights(e *env) {
	c, by := openPeople(e, nil)
	s := newPeople(person{"1", "a@x", 1})
	ask := func(n int) {
		var all sync.WaitGroup
		release := s.hold()
		before := s.calls.Load()
		for i := range n {
			all.Go(func() {
				var v person
				var err error
				if i%2 == 0 {
					v, err = by.GetWithFetch(e.Context(), "a@x", time.Minute, s.byEmail)
				} else {
					v, err = c.GetWithFetch(e.Context(), "1", time.Minute, s.byID)
				}
				if err != nil || v.ID != "1" {
					e.Error(v, err)
				}
			})
		}
		e.settle(func() bool { return s.calls.Load() > before }, "the source is asked")
		e.pass(20 * time.Millisecond)
		release()
		all.Wait()
	}
	_, err := by.GetWithFetch(e.Context(), "a@x", time.Minute, s.byEmail)
	require.NoError(e, err)
	require.NoError(e, c.Delete(e.Context(), "1"))
	require.Equal(e, int64(1), s.during(func() { ask(20) }), "one fetch for both names")
}

func checkAliasMovedUnderKey(e *env) {
	c, by := openPeople(e, nil)
	s := newPeople(person{"1", "a@x", 1})
	_, err := by.GetWithFetch(e.Context(), "a@x", time.Minute, s.byEmail)
	require.NoError(e, err)
	s.put(person{"1", "b@x", 2})
	s.put(person{"2", "a@x", 2})
	require.NoError(e, c.Delete(e.Context(), "1"))
	release := s.hold()
	before := s.calls.Load()
	var all sync.WaitGroup
	all.Go(func() {
		v, err := by.GetWithFetch(e.Context(), "a@x", time.Minute, s.byEmail)
		if err != nil || v.ID != "2" {
			e.Error(v, err)
		}
	})
	e.settle(func() bool { return s.calls.Load() > before }, "the source is asked by the alias")
	all.Go(func() {
		v, err := c.GetWithFetch(e.Context(), "1", time.Minute, s.byID)
		if err != nil || v != (person{"1", "b@x", 2}) {
			e.Error(v, err)
		}
	})
	all.Go(func() {
		values, err := c.GetManyWithFetch(e.Context(), []string{"1"}, time.Minute, func(ctx context.Context, _ []string) (map[string]person, error) {
			v, err := s.byID(ctx, "1")
			return map[string]person{"1": v}, err
		})
		if err != nil || values["1"] != (person{"1", "b@x", 2}) {
			e.Error(values, err)
		}
	})
	e.yield()
	release()
	all.Wait()
	v, err := c.Get(e.Context(), "1")
	require.NoError(e, err)
	require.Equal(e, "b@x", v.Email)
	s.remove("1")
	s.remove("2")
	require.NoError(e, c.DeleteMany(e.Context(), []string{"1", "2"}))
	require.LessOrEqual(e, s.during(func() {
		_, err = by.GetWithFetch(e.Context(), "a@x", time.Minute, s.byEmail)
		require.ErrorIs(e, err, ErrNotFound)
	}), int64(2))
	s.put(person{"2", "c@x", 1})
	v, err = c.GetWithFetch(e.Context(), "2", time.Minute, s.byID)
	require.NoError(e, err, "that the alias has none says nothing of the key")
	require.Equal(e, "c@x", v.Email)
}

func checkAliasPolicies(e *env) {
	const ttl = 40 * time.Millisecond
	c, by := openPeople(e, func(cfg *Config) { cfg.StaleFor, cfg.StaleIfError = time.Minute, time.Minute })
	s := newPeople(person{"1", "a@x", 1})
	_, err := by.GetWithFetch(e.Context(), "a@x", ttl, s.byEmail)
	require.NoError(e, err)
	e.pass(2 * ttl)
	s.put(person{"1", "a@x", 2})
	r, err := by.Lookup(e.Context(), "a@x", ttl, s.byEmail)
	require.NoError(e, err)
	require.Equal(e, SourceStale, r.Source)
	require.Equal(e, 1, r.Value.Version)
	e.settle(func() bool {
		r, err := by.Lookup(e.Context(), "a@x", time.Minute, s.byEmail)
		return err == nil && r.Value.Version == 2
	}, "it is refreshed by the alias")
	// What is stale and has lost the alias is not returned under it, nor shown to its fetch.
	require.NoError(e, c.Set(e.Context(), "1", person{"1", "lost@x", 3}, ttl))
	e.pass(2 * ttl)
	_, err = by.GetWithFetch(e.Context(), "a@x", ttl, func(ctx context.Context, _ string) (person, error) {
		if p, ok := Previous[person](ctx); ok && p.Email != "a@x" {
			e.Error("shown", p)
		}
		return person{}, ErrNotFound
	})
	require.ErrorIs(e, err, ErrNotFound)
	failed := errors.New("down")
	s.put(person{"2", "b@x", 1})
	_, err = by.GetWithFetch(e.Context(), "b@x", ttl, s.byEmail)
	require.NoError(e, err)
	_, err = by.Refresh(e.Context(), "b@x", ttl, func(context.Context, string) (person, error) { return person{}, failed })
	require.ErrorIs(e, err, failed)
	s.put(person{"2", "b@x", 2})
	v, err := by.Refresh(e.Context(), "b@x", time.Minute, s.byEmail)
	require.NoError(e, err)
	require.Equal(e, 2, v.Version)
	v, err = c.Get(e.Context(), "2")
	require.NoError(e, err)
	require.Equal(e, 2, v.Version)
}

func checkAliasNotCovered(e *env) {
	const ttl = 40 * time.Millisecond
	_, by := openPeople(e, func(cfg *Config) { cfg.StaleIfError = time.Minute })
	s := newPeople(person{"1", "a@x", 1})
	_, err := by.GetWithFetch(e.Context(), "a@x", ttl, s.byEmail)
	require.NoError(e, err)
	e.pass(2 * ttl)
	s.remove("1")
	_, err = by.GetWithFetch(e.Context(), "a@x", ttl, s.byEmail)
	require.ErrorIs(e, err, ErrNotFound, "that is an answer, and no error to cover up")
}

func checkAliasInside(e *env) {
	c, by := openPeople(e, nil)
	s := newPeople(person{"1", "old@x", 1})
	for _, email := range []string{"old@x", "new@x"} { // the second is remembered as one that has none
		_, _ = by.GetWithFetch(e.Context(), email, time.Minute, s.byEmail)
	}
	uncommitted := newPeople(person{"1", "new@x", 2})
	ctx, change := Begin(e.Context())
	require.NoError(e, c.Changed(ctx, "1"))
	v, err := by.GetWithFetch(ctx, "new@x", time.Minute, uncommitted.byEmail)
	require.NoError(e, err)
	require.Equal(e, 2, v.Version)
	all, err := by.GetManyWithFetch(ctx, []string{"new@x", "old@x"}, time.Minute, uncommitted.manyByEmail)
	require.NoError(e, err)
	require.Equal(e, map[string]person{"new@x": {"1", "new@x", 2}}, all)
	_, err = by.GetWithFetch(ctx, "old@x", time.Minute, uncommitted.byEmail)
	require.ErrorIs(e, err, ErrNotFound)
	_, err = by.GetWithFetch(e.Context(), "new@x", time.Minute, s.byEmail)
	require.ErrorIs(e, err, ErrNotFound, "outside nothing has changed yet")
	v, err = by.GetWithFetch(e.Context(), "old@x", time.Minute, s.byEmail)
	require.NoError(e, err)
	require.Equal(e, 1, v.Version)
	s.put(person{"1", "new@x", 2})
	require.NoError(e, change.End(ctx))
	v, err = by.GetWithFetch(e.Context(), "new@x", time.Minute, s.byEmail)
	require.NoError(e, err)
	require.Equal(e, 2, v.Version)
	_, err = by.GetWithFetch(e.Context(), "old@x", time.Minute, s.byEmail)
	require.ErrorIs(e, err, ErrNotFound)
}

func checkAliasBatches(e *env) {
	c, by := openPeople(e, nil)
	s := newPeople(person{"1", "1@x", 1}, person{"2", "2@x", 1}, person{"3", "3@x", 1})
	emails := []string{"1@x", "2@x", "none@x", "1@x"}
	require.Equal(e, int64(1), s.during(func() {
		for range 3 {
			all, err := by.GetManyWithFetch(e.Context(), emails, time.Minute, s.manyByEmail)
			require.NoError(e, err)
			require.Equal(e, []string{"1@x", "2@x"}, slices.Sorted(maps.Keys(all)))
		}
	}))
	_, err := c.GetWithFetch(e.Context(), "3", time.Minute, s.byID)
	require.NoError(e, err)
	all, err := by.GetMany(e.Context(), append(emails, "3@x"))
	require.NoError(e, err)
	require.Equal(e, []string{"1@x", "2@x", "3@x"}, slices.Sorted(maps.Keys(all)))
	s.put(person{"1", "moved@x", 2})
	s.put(person{"4", "1@x", 1})
	require.NoError(e, c.Delete(e.Context(), "1"))
	all, err = by.GetManyWithFetch(e.Context(), []string{"1@x", "2@x", "moved@x"}, time.Minute, s.manyByEmail)
	require.NoError(e, err)
	require.Equal(e, map[string]person{"1@x": {"4", "1@x", 1}, "2@x": {"2", "2@x", 1}, "moved@x": {"1", "moved@x", 2}}, all)
	v, err := c.Get(e.Context(), "4")
	require.NoError(e, err)
	require.Equal(e, "1@x", v.Email)
	_, err = by.GetManyWithFetch(e.Context(), []string{"lacks@x"}, time.Minute, func(context.Context, []string) (map[string]person, error) {
		return map[string]person{"lacks@x": {"5", "other@x", 1}}, nil
	})
	require.ErrorIs(e, err, ErrInvalidValue)
	var many []string
	for i := range 300 {
		p := person{fmt.Sprint("m", i), fmt.Sprint("m", i, "@x"), 1}
		s.put(p)
		many = append(many, p.Email)
	}
	require.Equal(e, int64(1), s.during(func() {
		for range 2 {
			all, err = by.GetManyWithFetch(e.Context(), many, time.Minute, s.manyByEmail)
			require.NoError(e, err)
			require.Len(e, all, len(many))
		}
	}))
}

func checkAliasScopes(e *env) {
	c, by := openPeople(e, nil, WithScope(tenantOf))
	of := map[string]*people{"a": newPeople(person{"1", "x", 1}), "b": newPeople(person{"1", "x", 2}, person{"2", "y", 2})}
	fetch := func(ctx context.Context, email string) (person, error) {
		tenant, err := tenantOf(ctx)
		if err != nil {
			return person{}, err
		}
		return of[tenant].byEmail(ctx, email)
	}
	for range 3 {
		for tenant, version := range map[string]int{"a": 1, "b": 2} {
			v, err := by.GetWithFetch(e.as(tenant), "x", time.Minute, fetch)
			require.NoError(e, err)
			require.Equal(e, version, v.Version)
			all, err := by.GetManyWithFetch(e.as(tenant), []string{"x", "y"}, time.Minute, func(ctx context.Context, emails []string) (map[string]person, error) {
				tenant, _ := tenantOf(ctx)
				return of[tenant].manyByEmail(ctx, emails)
			})
			require.NoError(e, err)
			require.Len(e, all, version)
			v, err = c.Get(e.as(tenant), "1")
			require.NoError(e, err)
			require.Equal(e, version, v.Version)
		}
	}
	_, err := by.GetWithFetch(e.Context(), "x", time.Minute, fetch)
	require.ErrorIs(e, err, ErrNoScope)
	_, err = by.Get(e.Context(), "x")
	require.ErrorIs(e, err, ErrNoScope)
	of["a"].put(person{"1", "x", 3})
	require.NoError(e, c.ClearScope(e.Context(), "a"))
	v, err := by.GetWithFetch(e.as("a"), "x", time.Minute, fetch)
	require.NoError(e, err)
	require.Equal(e, 3, v.Version)
}

func checkAliasElsewhere(e *env) {
	c, by := openPeople(e, nil)
	other, byOther := openPeople(e, nil)
	s := newPeople(person{"1", "a@x", 1})
	see := func(by *AliasClient[person], email string, want int) {
		e.Helper()
		e.settle(func() bool {
			v, err := by.GetWithFetch(e.Context(), email, time.Minute, s.byEmail)
			if want == 0 {
				return errors.Is(err, ErrNotFound)
			}
			return err == nil && v.Version == want
		}, fmt.Sprint(email, want))
	}
	see(by, "a@x", 1)
	require.Zero(e, s.during(func() { see(byOther, "a@x", 1) }), "the other has it from Redis")
	see(by, "b@x", 0)
	see(byOther, "b@x", 0)
	s.put(person{"1", "b@x", 2})
	require.NoError(e, c.Delete(e.Context(), "1"))
	see(byOther, "b@x", 2)
	see(by, "b@x", 2)
	see(byOther, "a@x", 0)
	// What is fetched here by an alias while another process removes its key is not kept.
	s.put(person{"2", "c@x", 1})
	release := s.hold()
	before := s.calls.Load()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = by.GetWithFetch(e.Context(), "c@x", time.Minute, s.byEmail)
	}()
	e.settle(func() bool { return s.calls.Load() > before }, "the source is asked")
	s.put(person{"2", "c@x", 2})
	require.NoError(e, other.Delete(e.Context(), "2"))
	release()
	<-done
	v, err := c.GetWithFetch(e.Context(), "2", time.Minute, s.byID)
	require.NoError(e, err)
	require.Equal(e, 2, v.Version)
	see(by, "c@x", 2)
}

func checkAliasOfOthers(e *env) {
	c, _ := openPeople(e, nil)
	_, byOther := openPeople(e, nil)
	s := newPeople(person{"1", "a@x", 1})
	for range 3 {
		_, err := byOther.GetWithFetch(e.Context(), "a@x", time.Minute, s.byEmail)
		require.NoError(e, err)
	}
	_, err := c.Refresh(e.Context(), "1", time.Minute, s.byID)
	require.NoError(e, err)
	e.pass(20 * time.Millisecond)
	require.Zero(e, s.during(func() {
		_, err = byOther.GetWithFetch(e.Context(), "a@x", time.Minute, s.byEmail)
		require.NoError(e, err)
	}))
}

func checkAliasAsked(e *env) {
	c, by := openPeople(e, nil)
	fetch := func(id string, ask func(ctx context.Context)) FetchFunc[person] {
		return func(ctx context.Context, email string) (person, error) {
			ask(ctx)
			return person{id, email, 1}, nil
		}
	}
	_, err := by.GetWithFetch(e.Context(), "skipped", time.Minute, fetch("1", SkipStore))
	require.NoError(e, err)
	_, err = c.Get(e.Context(), "1")
	require.ErrorIs(e, err, ErrMiss)
	_, err = by.GetWithFetch(e.Context(), "tagged", time.Minute, fetch("2", func(ctx context.Context) { Tag(ctx, "t") }))
	require.NoError(e, err)
	_, err = c.Get(e.Context(), "2")
	require.NoError(e, err)
	require.NoError(e, c.InvalidateTags(e.Context(), "t"))
	_, err = c.Get(e.Context(), "2")
	require.ErrorIs(e, err, ErrMiss)
	_, err = by.Get(e.Context(), "tagged")
	require.ErrorIs(e, err, ErrMiss)
	_, err = by.GetWithFetch(e.Context(), "short", time.Hour, fetch("3", func(ctx context.Context) { OverrideTTL(ctx, 30*time.Millisecond) }))
	require.NoError(e, err)
	e.pass(60 * time.Millisecond)
	_, err = c.Get(e.Context(), "3")
	require.ErrorIs(e, err, ErrMiss)
	_, err = by.GetWithFetch(e.Context(), "unkept", 0, fetch("4", func(context.Context) {}))
	require.NoError(e, err)
	_, err = c.Get(e.Context(), "4")
	require.ErrorIs(e, err, ErrMiss)
}

func checkAliasBad(e *env) {
	c, by := openPeople(e, nil)
	look := func(by *AliasClient[person], email string, fetch FetchFunc[person]) error {
		_, err := by.GetWithFetch(e.Context(), email, time.Minute, fetch)
		return err
	}
	s := newPeople(person{"1", "a@x", 1})
	require.ErrorIs(e, look(Alias[person](nil, "email", emailsOf), "a@x", s.byEmail), ErrInvalidValue)
	require.ErrorIs(e, look(Alias(c, "nil", nil), "a@x", s.byEmail), ErrInvalidValue)
	for _, name := range []string{"", "a:b", "email", strings.Repeat("x", 2000)} {
		require.ErrorIs(e, look(Alias(c, name, emailsOf), "a@x", s.byEmail), ErrInvalidConfig, name)
	}
	require.ErrorIs(e, look(by, "a@x", nil), ErrInvalidValue)
	require.ErrorIs(e, look(by, strings.Repeat("x", MaxKeyBytes+1), s.byEmail), ErrInvalidKey)
	lacking := func(context.Context, string) (person, error) { return person{"9", "other@x", 1}, nil }
	require.ErrorIs(e, look(by, "a@x", lacking), ErrInvalidValue)
	_, err := c.Get(e.Context(), "9")
	require.ErrorIs(e, err, ErrMiss)
	require.ErrorIs(e, look(by, "", func(context.Context, string) (person, error) { return person{"9", "", 1}, nil }), ErrInvalidValue, "no alias")
	require.ErrorIs(e, look(by, "", s.byEmail), ErrNotFound)
	require.ErrorIs(e, c.Set(e.Context(), "2", person{"3", "a@x", 1}, time.Minute), ErrInvalidValue, "another key")
	before := c.Stats().Unstorable
	v, err := c.GetWithFetch(e.Context(), "2", time.Minute, func(context.Context, string) (person, error) { return person{"3", "a@x", 1}, nil })
	require.NoError(e, err)
	require.Equal(e, "3", v.ID)
	require.Equal(e, before+1, c.Stats().Unstorable)
	_, err = c.Get(e.Context(), "2")
	require.ErrorIs(e, err, ErrMiss)
	panics := open[person](e, func(cfg *Config) { cfg.Name = "panics" })
	byPanic := Alias(panics, "email", func(person) (string, []string) { panic("in the alias") })
	require.ErrorIs(e, look(byPanic, "a@x", s.byEmail), ErrInvalidValue)
	var p *PanicError
	require.ErrorAs(e, panics.Set(e.Context(), "1", person{"1", "a@x", 1}, time.Minute), &p)
	require.NoError(e, c.Close())
	require.ErrorIs(e, look(by, "a@x", s.byEmail), ErrClosed)
	_, err = by.GetMany(e.Context(), []string{"a@x"})
	require.ErrorIs(e, err, ErrClosed)
}
