package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	rediscache "github.com/go-redis/cache/v9"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidisaside"

	"github.com/cacheaside/cacheaside"
)

// profile is the value of the measures with Redis: what a service keeps of a user.
type profile struct {
	ID      int64    `json:"id"`
	Name    string   `json:"name"`
	Email   string   `json:"email"`
	Groups  []string `json:"groups"`
	Created int64    `json:"created"`
	Bio     string   `json:"bio"`
}

// newProfile returns a profile that takes about that many bytes as JSON.
func newProfile(i, size int) profile {
	p := profile{
		ID: int64(i), Name: "Ada Lovelace", Email: fmt.Sprintf("ada%06d@example.org", i),
		Groups: []string{"mathematics", "engines"}, Created: 1_700_000_000 + int64(i),
	}
	text, err := json.Marshal(p)
	if err != nil {
		panic(err)
	}
	p.Bio = strings.Repeat("x", max(0, size-len(text)))
	return p
}

// A remote is a client of Redis for values of one type. connect gets the server's address and the keys,
// which it stores with their values.
type remote[V any] struct {
	label
	connect func(addr string, keys []string, value func(int) V) (get func(key string) error, stop func())
}

func ourRemote[V any](backend string, opts ...cacheaside.Option) func(string, []string, func(int) V) (func(string) error, func()) {
	return func(addr string, keys []string, value func(int) V) (func(string) error, func()) {
		c := must(cacheaside.Open[V](background, cacheaside.Config{
			Backend: backend,
			Redis:   cacheaside.RedisConfig{Addrs: []string{addr}},
		}, opts...))
		for i, k := range keys {
			check(c.Set(background, k, value(i), hour))
		}
		return func(key string) error {
			_, err := c.Get(background, key)
			return err
		}, func() { _ = c.Close() }
	}
}

// check ends the program if what a measure is built on does not work.
func check(err error) {
	if err != nil {
		panic(err)
	}
}

// bytesRemotes get bytes as they are.
func bytesRemotes() []remote[[]byte] {
	return []remote[[]byte]{
		{label{"cacheaside (bytes)", "", ours}, ourRemote[[]byte](cacheaside.BackendRueidis, cacheaside.WithCodec(cacheaside.BytesCodec()))},
		{label{"rueidis", "the client itself, by default: no header, no deadline", limit}, rawRueidis(nil, noDeadline)},
		{label{"rueidis (deadline a call)", "the client itself, by default, each call with a timeout of its own: no header", limit}, rawRueidis(nil, ownDeadline)},
		{label{"rueidis (our options)", "the client itself, set up as ours", limit}, rawRueidis(func(o *rueidis.ClientOption) {
			o.AlwaysPipelining = true
			o.PipelineMultiplex = -1
		}, noDeadline)},
		{label{"rueidis (flush delay)", "the client itself, told to wait 20 µs for company; a lonely caller waits a millisecond", limit}, rawRueidis(func(o *rueidis.ClientOption) {
			o.MaxFlushDelay = 20 * time.Microsecond
		}, noDeadline)},
		{label{"go-redis", "a connection a caller, from a pool", peer}, goRedis(false)},
		{label{"go-redis (AutoPipeline)", "experimental in go-redis", peer}, goRedis(true)},
	}
}

// bounds returns what a call is made under.
type bounds func() (context.Context, context.CancelFunc)

func noDeadline() (context.Context, context.CancelFunc) { return background, func() {} }

func ownDeadline() (context.Context, context.CancelFunc) {
	return context.WithTimeout(background, 500*time.Millisecond)
}

func rawRueidis(change func(*rueidis.ClientOption), under bounds) func(string, []string, func(int) []byte) (func(string) error, func()) {
	return func(addr string, keys []string, value func(int) []byte) (func(string) error, func()) {
		o := rueidis.ClientOption{InitAddress: []string{addr}, ForceSingleClient: true, DisableCache: true}
		if change != nil {
			change(&o)
		}
		c := must(rueidis.NewClient(o))
		for i, k := range keys {
			check(c.Do(background, c.B().Set().Key(k).Value(string(value(i))).Build()).Error())
		}
		return func(key string) error {
			ctx, cancel := under()
			defer cancel()
			_, err := c.Do(ctx, c.B().Get().Key(key).Build()).AsBytes()
			return err
		}, c.Close
	}
}

func goRedis(auto bool) func(string, []string, func(int) []byte) (func(string) error, func()) {
	return func(addr string, keys []string, value func(int) []byte) (func(string) error, func()) {
		c := redis.NewClient(&redis.Options{Addr: addr})
		for i, k := range keys {
			check(c.Set(background, k, value(i), 0).Err())
		}
		get := func(key string) error { return c.Get(background, key).Err() }
		if auto {
			a := must(c.AutoPipeline())
			get = func(key string) error { return a.Get(background, key).Err() }
		}
		return get, func() { _ = c.Close() }
	}
}

// structRemotes get and decode structs.
func structRemotes() []remote[profile] {
	return []remote[profile]{
		{label{"cacheaside (JSON)", "", ours}, ourRemote[profile](cacheaside.BackendRueidis)},
		{label{"go-redis/cache", "MessagePack, compressed when large; no deadline a call", peer}, goRedisCache},
		{label{"rueidis + encoding/json", "the client itself, by default", limit}, rawRueidisJSON},
	}
}

func rawRueidisJSON(addr string, keys []string, value func(int) profile) (func(string) error, func()) {
	c := must(rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, ForceSingleClient: true, DisableCache: true}))
	for i, k := range keys {
		check(c.Do(background, c.B().Set().Key(k).Value(string(must(json.Marshal(value(i))))).Build()).Error())
	}
	return func(key string) error {
		var p profile
		return c.Do(background, c.B().Get().Key(key).Build()).DecodeJSON(&p)
	}, c.Close
}

func goRedisCache(addr string, keys []string, value func(int) profile) (func(string) error, func()) {
	r := redis.NewClient(&redis.Options{Addr: addr})
	c := rediscache.New(&rediscache.Options{Redis: r})
	for i, k := range keys {
		check(c.Set(&rediscache.Item{Ctx: background, Key: k, Value: value(i), TTL: hour}))
	}
	return func(key string) error {
		var p profile
		return c.Get(background, key, &p)
	}, func() { _ = r.Close() }
}

// rueidisAside gets through rueidisaside, whose hit is rueidis' own client-side cache: it holds bytes.
func rueidisAside(addr string, keys []string, value func(int) profile) (func(string) error, func()) {
	c := must(rueidisaside.NewClient(rueidisaside.ClientOption{ClientOption: rueidis.ClientOption{InitAddress: []string{addr}}}))
	for i, k := range keys {
		text := must(json.Marshal(value(i)))
		check(c.Client().Do(background, c.Client().B().Set().Key(k).Value(string(text)).Px(hour).Build()).Error())
	}
	return func(key string) error {
		text, err := c.Get(background, hour, key, nil)
		if err != nil {
			return err
		}
		var p profile
		return json.Unmarshal([]byte(text), &p)
	}, c.Close
}
