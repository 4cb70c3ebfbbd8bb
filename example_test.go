package cacheaside_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cacheaside/cacheaside"
)

type user struct {
	ID   string
	Name string
}

// fetchUser stands for a query of the database.
func fetchUser(_ context.Context, id string) (user, error) {
	fmt.Println("asking the database for user", id)
	return user{ID: id, Name: "Ada"}, nil
}

// The backend is data: another line of configuration, and values are kept elsewhere.
func ExampleOpen() {
	ctx := context.Background()
	cfg, err := cacheaside.ParseConfig("memory://?name=users&max_entries=10000&negative_ttl=5s")
	if err != nil {
		fmt.Println(err)
		return
	}
	users, err := cacheaside.Open[user](ctx, cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer users.Close()

	for range 2 {
		u, err := users.GetWithFetch(ctx, "42", time.Minute, fetchUser)
		fmt.Println(u.Name, err)
	}
	// Output:
	// asking the database for user 42
	// Ada <nil>
	// Ada <nil>
}

func ExampleNewMemory() {
	greetings, err := cacheaside.NewMemory[string](cacheaside.Config{Name: "greetings", MaxEntries: 1000})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer greetings.Close()
	ctx := context.Background()

	_, err = greetings.Get(ctx, "en")
	fmt.Println(errors.Is(err, cacheaside.ErrMiss))

	fmt.Println(greetings.Set(ctx, "en", "hello", time.Minute))
	fmt.Println(greetings.Get(ctx, "en"))

	fmt.Println(greetings.Delete(ctx, "en"))
	_, err = greetings.Get(ctx, "en")
	fmt.Println(errors.Is(err, cacheaside.ErrMiss))
	// Output:
	// true
	// <nil>
	// hello <nil>
	// <nil>
	// true
}

// A Redis that is down is no reason not to start, nor to fail: what would be in the cache is fetched.
func ExampleNewRueidis() {
	ctx := context.Background()
	users, err := cacheaside.NewRueidis[user](ctx, cacheaside.Config{
		Name:  "users",
		Redis: cacheaside.RedisConfig{Addrs: []string{"127.0.0.1:1"}}, // nobody listens there
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer users.Close()

	u, err := users.GetWithFetch(ctx, "42", time.Minute, fetchUser)
	fmt.Println(u.Name, err)
	fmt.Println(errors.Is(users.Health(ctx), cacheaside.ErrUnavailable))
	// Output:
	// asking the database for user 42
	// Ada <nil>
	// true
}

// One connection serves many caches. Each has a name, which is part of its keys in Redis.
func ExampleConnect() {
	ctx := context.Background()
	backend, err := cacheaside.Connect(ctx, cacheaside.Config{Backend: cacheaside.BackendMemory})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer backend.Close() // and with it the caches

	users, err := cacheaside.New[user](backend, "users")
	if err != nil {
		fmt.Println(err)
		return
	}
	counts, err := cacheaside.New[int](backend, "counts")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(users.Set(ctx, "1", user{Name: "Ada"}, time.Minute))
	fmt.Println(counts.Set(ctx, "1", 7, time.Minute))
	fmt.Println(users.Get(ctx, "1"))
	fmt.Println(counts.Get(ctx, "1"))
	// Output:
	// <nil>
	// <nil>
	// { Ada} <nil>
	// 7 <nil>
}

func ExampleParseConfig() {
	cfg, err := cacheaside.ParseConfig("rueidis-aside://app:secret@redis:6379/2?prefix=shop&name=users&stale_for=1m30s")
	fmt.Println(err)
	fmt.Println(cfg.Backend, cfg.Redis.Addrs, cfg.Redis.DB, cfg.Prefix, cfg.Name, cfg.StaleFor)
	fmt.Println(cfg) // without the password

	_, err = cacheaside.ParseConfig("memory://?jitter=2")
	fmt.Println(err)
	// Output:
	// <nil>
	// rueidis-aside [redis:6379] 2 shop users 1m30s
	// rueidis-aside://app:xxxxx@redis:6379/2?prefix=shop&name=users&stale_for=1m30s
	// cacheaside: invalid configuration: Jitter is 2, allowed: a fraction from 0 to 1
}

// Callers who ask for the same key at the same time share one fetch.
func ExampleClient_GetWithFetch() {
	users, err := cacheaside.NewMemory[user](cacheaside.Config{Name: "users"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer users.Close()

	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if _, err := users.GetWithFetch(context.Background(), "42", time.Minute, fetchUser); err != nil {
				fmt.Println(err)
			}
		})
	}
	all.Wait()
	fmt.Println(users.Stats().Fetches)
	// Output:
	// asking the database for user 42
	// 1
}

func ExampleClient_Lookup() {
	users, err := cacheaside.NewMemory[user](cacheaside.Config{Name: "users"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer users.Close()

	for range 2 {
		r, err := users.Lookup(context.Background(), "42", time.Minute, fetchUser)
		fmt.Println(r.Value.Name, "was", r.Source, err)
	}
	// Output:
	// asking the database for user 42
	// Ada was fetched <nil>
	// Ada was hit <nil>
}

// A Loader is a cache with its ttl and its source, for code that should know of neither.
func ExampleClient_Bind() {
	users, err := cacheaside.NewMemory[user](cacheaside.Config{Name: "users"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer users.Close()
	byID := users.Bind(10*time.Minute, fetchUser)

	fmt.Println(byID.Get(context.Background(), "42"))
	fmt.Println(byID.Get(context.Background(), "42"))
	// Output:
	// asking the database for user 42
	// {42 Ada} <nil>
	// {42 Ada} <nil>
}

// Look-ups of different keys at about the same time become one query.
func ExampleKeyed() {
	cache, err := cacheaside.NewMemory[string](cacheaside.Config{Name: "users"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	users := cacheaside.Keyed(cache, cacheaside.IntKeys[int64]())
	find := func(_ context.Context, id int64) (string, error) { return fmt.Sprint("user ", id), nil }

	name, err := users.GetWithFetch(context.Background(), 42, time.Minute, find)
	fmt.Println(name, err)
	name, err = cache.Get(context.Background(), "42") // the same entry
	fmt.Println(name, err)
	// Output:
	// user 42 <nil>
	// user 42 <nil>
}

func ExampleClient_BindMany() {
	users, err := cacheaside.NewMemory[user](cacheaside.Config{Name: "users"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer users.Close()
	fetchMany := func(_ context.Context, ids []string) (map[string]user, error) {
		fmt.Println("one query for", len(ids), "users")
		found := make(map[string]user, len(ids))
		for _, id := range ids {
			found[id] = user{ID: id}
		}
		return found, nil
	}
	byID, err := users.BindMany(time.Minute, fetchMany, cacheaside.Batching{MaxSize: 3, MaxWait: time.Minute})
	if err != nil {
		fmt.Println(err)
		return
	}

	var all sync.WaitGroup
	for _, id := range []string{"1", "2", "3"} {
		all.Go(func() {
			if _, err := byID.Get(context.Background(), id); err != nil {
				fmt.Println(err)
			}
		})
	}
	all.Wait()
	// Output: one query for 3 users
}

// The source is asked once, for what is not cached. What it leaves out, it has not.
func ExampleClient_GetManyWithFetch() {
	users, err := cacheaside.NewMemory[user](cacheaside.Config{Name: "users"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer users.Close()
	ctx := context.Background()
	if err := users.Set(ctx, "1", user{ID: "1", Name: "Ada"}, time.Minute); err != nil {
		fmt.Println(err)
		return
	}

	found, err := users.GetManyWithFetch(ctx, []string{"1", "2", "3"}, time.Minute,
		func(_ context.Context, ids []string) (map[string]user, error) {
			slices.Sort(ids)
			fmt.Println("SELECT … WHERE id IN", ids)
			return map[string]user{"2": {ID: "2", Name: "Grace"}}, nil
		})
	fmt.Println(found, err)
	// Output:
	// SELECT … WHERE id IN [2 3]
	// map[1:{1 Ada} 2:{2 Grace}] <nil>
}

func ExampleClient_SetMany() {
	words, err := cacheaside.NewMemory[string](cacheaside.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer words.Close()
	ctx := context.Background()

	fmt.Println(words.SetMany(ctx, map[string]string{"en": "hello", "fr": "bonjour", "de": "hallo"}, cacheaside.NoExpiry))
	fmt.Println(words.DeleteMany(ctx, []string{"de"}))
	fmt.Println(words.GetMany(ctx, []string{"en", "fr", "de"}))
	fmt.Println(words.Clear(ctx))
	fmt.Println(words.GetMany(ctx, []string{"en", "fr", "de"}))
	// Output:
	// <nil>
	// <nil>
	// map[en:hello fr:bonjour] <nil>
	// <nil>
	// map[] <nil>
}

// Mutate writes the source and removes what is cached, so that nobody finds the old value afterwards.
func ExampleClient_Mutate() {
	users, err := cacheaside.NewMemory[user](cacheaside.Config{Name: "users"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer users.Close()
	ctx := context.Background()
	name := "Ada" // in the database
	fetch := func(_ context.Context, id string) (user, error) { return user{ID: id, Name: name}, nil }

	fmt.Println(users.GetWithFetch(ctx, "42", time.Minute, fetch))
	err = users.Mutate(ctx, []string{"42"}, func(context.Context) error {
		name = "Ada King" // UPDATE users …
		return nil
	})
	fmt.Println(err)
	fmt.Println(users.GetWithFetch(ctx, "42", time.Minute, fetch))
	// Output:
	// {42 Ada} <nil>
	// <nil>
	// {42 Ada King} <nil>
}

func ExampleClient_Stats() {
	users, err := cacheaside.NewMemory[user](cacheaside.Config{Name: "users"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer users.Close()
	for range 3 {
		if _, err := users.GetWithFetch(context.Background(), "42", time.Minute, fetchUser); err != nil {
			fmt.Println(err)
		}
	}
	s := users.Stats()
	fmt.Println(s.Hits, "hits,", s.Misses, "miss,", s.Fetches, "fetch,", s.Entries, "entry")
	// Output:
	// asking the database for user 42
	// 2 hits, 1 miss, 1 fetch, 1 entry
}

// "There is no such user" is an answer, and can be remembered like any other.
func ExampleWithNotFound() {
	users, err := cacheaside.NewMemory[user](
		cacheaside.Config{NegativeTTL: 5 * time.Second},
		cacheaside.WithNotFound(sql.ErrNoRows))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer users.Close()
	fetch := func(context.Context, string) (user, error) {
		fmt.Println("asking the database")
		return user{}, sql.ErrNoRows
	}
	for range 2 {
		_, err := users.GetWithFetch(context.Background(), "7", time.Minute, fetch)
		fmt.Println(errors.Is(err, cacheaside.ErrNotFound), errors.Is(err, sql.ErrNoRows))
	}
	// Output:
	// asking the database
	// true true
	// true true
}

// The source knows best how long its answer holds.
func ExampleOverrideTTL() {
	pages, err := cacheaside.NewMemory[string](cacheaside.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pages.Close()
	ctx := context.Background()
	fetches := 0
	fetch := func(ctx context.Context, _ string) (string, error) {
		if fetches++; fetches == 1 {
			cacheaside.OverrideTTL(ctx, time.Millisecond) // Cache-Control: max-age said so
		}
		return fmt.Sprint("version ", fetches), nil
	}
	fmt.Println(pages.GetWithFetch(ctx, "/", time.Hour, fetch))
	<-time.After(5 * time.Millisecond)
	fmt.Println(pages.GetWithFetch(ctx, "/", time.Hour, fetch))
	fmt.Println(pages.GetWithFetch(ctx, "/", time.Hour, fetch))
	// Output:
	// version 1 <nil>
	// version 2 <nil>
	// version 2 <nil>
}

// What is only partly there should be shown, but not be kept.
func ExampleSkipStore() {
	feeds, err := cacheaside.NewMemory[[]string](cacheaside.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer feeds.Close()
	ctx := context.Background()
	fetch := func(ctx context.Context, _ string) ([]string, error) {
		cacheaside.SkipStore(ctx) // one of several sources did not answer
		return []string{"what there is"}, nil
	}
	fmt.Println(feeds.GetWithFetch(ctx, "news", time.Hour, fetch))
	_, err = feeds.Get(ctx, "news")
	fmt.Println(err)
	// Output:
	// [what there is] <nil>
	// cacheaside: miss
}

// A conditional request costs the source little when nothing has changed. The value that has expired is
// at hand while the cache keeps it, here because of StaleIfError.
func ExamplePrevious() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if w.Header().Set("ETag", `"v1"`); r.Header.Get("If-None-Match") == `"v1"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		fmt.Fprint(w, "a large document")
	}))
	defer server.Close()

	type document struct{ ETag, Text string }
	fetch := func(ctx context.Context, path string) (*document, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+path, nil)
		if err != nil {
			return nil, err
		}
		previous, ok := cacheaside.Previous[*document](ctx)
		if ok {
			request.Header.Set("If-None-Match", previous.ETag)
		}
		response, err := server.Client().Do(request)
		if err != nil {
			return nil, err
		}
		defer response.Body.Close()
		fmt.Println(response.Status)
		if response.StatusCode == http.StatusNotModified {
			return previous, nil
		}
		text, err := io.ReadAll(response.Body)
		return &document{ETag: response.Header.Get("ETag"), Text: string(text)}, err
	}

	documents, err := cacheaside.NewMemory[*document](cacheaside.Config{StaleIfError: time.Hour})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer documents.Close()
	for range 2 {
		d, err := documents.GetWithFetch(context.Background(), "/", time.Millisecond, fetch)
		fmt.Println(d.Text, err)
		<-time.After(5 * time.Millisecond) // it is past its ttl now
	}
	// Output:
	// 200 OK
	// a large document <nil>
	// 304 Not Modified
	// a large document <nil>
}

// Who wants to change what it gets asks for copies.
func ExampleWithClone() {
	tags, err := cacheaside.NewMemory[[]string](cacheaside.Config{}, cacheaside.WithClone(slices.Clone[[]string]))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer tags.Close()
	ctx := context.Background()
	if err := tags.Set(ctx, "post", []string{"go", "cache"}, time.Minute); err != nil {
		fmt.Println(err)
		return
	}
	mine, err := tags.Get(ctx, "post")
	if err != nil {
		fmt.Println(err)
		return
	}
	mine[0] = "changed"
	fmt.Println(tags.Get(ctx, "post"))
	// Output: [go cache] <nil>
}

// With a weigher, MaxEntries bounds the sum of weights: bytes, for instance.
func ExampleWithWeigher() {
	pages, err := cacheaside.NewMemory[string](
		cacheaside.Config{MaxEntries: 1 << 20},
		cacheaside.WithWeigher(func(key, page string) int { return len(key) + len(page) }))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pages.Close()
	ctx := context.Background()
	fmt.Println(pages.Set(ctx, "/", strings.Repeat("x", 1000), time.Minute))
	err = pages.Set(ctx, "/huge", strings.Repeat("x", 2<<20), time.Minute)
	fmt.Println(errors.Is(err, cacheaside.ErrInvalidValue))
	// Output:
	// <nil>
	// true
}

type userKey struct{}

// Everybody who waits gets what was fetched with the values of the first one's context. A fetch that must
// not act for that caller drops them.
func ExampleWithFetchContext() {
	ctx := context.WithValue(context.Background(), userKey{}, "Ada")
	prices, err := cacheaside.NewMemory[int](cacheaside.Config{},
		cacheaside.WithFetchContext(func(context.Context) context.Context { return context.Background() }))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer prices.Close()
	fmt.Println(prices.GetWithFetch(ctx, "apple", time.Minute, func(ctx context.Context, _ string) (int, error) {
		fmt.Println("on behalf of", ctx.Value(userKey{}))
		return 3, nil
	}))
	// Output:
	// on behalf of <nil>
	// 3 <nil>
}

type printer struct{}

func (printer) Observe(e cacheaside.Event) {
	if e.Kind == cacheaside.EventFetch {
		fmt.Println(e.Cache+":", e.Kind, e.Err)
	}
}

func ExampleWithObserver() {
	users, err := cacheaside.NewMemory[user](cacheaside.Config{Name: "users"}, cacheaside.WithObserver(printer{}))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer users.Close()
	_, err = users.GetWithFetch(context.Background(), "42", time.Minute, func(context.Context, string) (user, error) {
		return user{}, errors.New("the database is down")
	})
	fmt.Println(err)
	// Output:
	// users: fetch the database is down
	// the database is down
}
