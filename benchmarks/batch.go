package main

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
)

const (
	batchKeys   = 100
	batchCached = 90
	batchSource = 2 * time.Millisecond // what a query of the source takes, for one key or many
)

// runBatch compares one look-up of 100 keys, of which 90 are cached, with 100 look-ups of one key.
func runBatch(s settings) (report, error) {
	var r report
	s.rounds = pick(s, 30, 2)
	t := table{
		Title: "GetManyWithFetch of 100 keys, 90 of them cached",
		Note: fmt.Sprintf("Against 100 calls of GetWithFetch, one after the other and all at once. A query of the source takes %v, whether for one key or ten. "+
			"Milliseconds for all 100; queries of the source and commands of Redis in each.", batchSource),
		Columns: []string{"", "GetManyWithFetch, ms", "one by one, ms", "all at once, ms", "queries", "commands"},
	}
	err := withServer(func(server *redistest.Server) error {
		for _, backend := range []string{cacheaside.BackendMemory, cacheaside.BackendRueidis, cacheaside.BackendRueidisAside} {
			b, err := newBatches(backend, server)
			if err != nil {
				return err
			}
			if err := b.measure(s); err != nil {
				return err
			}
			many := &b.ways[0]
			t.Rows = append(t.Rows, []string{
				backend, figure(median(many.ms)), figure(median(b.ways[1].ms)), figure(median(b.ways[2].ms)),
				fmt.Sprintf("%.0f, %.0f, %.0f", median(many.queries), median(b.ways[1].queries), median(b.ways[2].queries)),
				fmt.Sprintf("%.0f, %.0f, %.0f", median(many.commands), median(b.ways[1].commands), median(b.ways[2].commands)),
			})
			r.aim(median(many.queries) == 1, "GetManyWithFetch of 100 keys, 90 cached, "+backend, "1 query of the source", "%.0f query, %s ms; 100 single look-ups %.0f, %s ms",
				median(many.queries), figure(median(many.ms)), median(b.ways[1].queries), figure(median(b.ways[1].ms)))
			b.client.Close()
		}
		return nil
	})
	r.Tables = append(r.Tables, t)
	return r, err
}

type batches struct {
	server  *redistest.Server
	client  *cacheaside.Client[profile]
	queries atomic.Int64
	ways    [3]batchFigures
	round   int
}

type batchFigures struct{ ms, queries, commands []float64 }

func newBatches(backend string, server *redistest.Server) (*batches, error) {
	c, err := cacheaside.Open[profile](background, cacheaside.Config{
		Backend: backend, Prefix: backend, Redis: cacheaside.RedisConfig{Addrs: []string{server.Addr()}},
	})
	return &batches{server: server, client: c}, err
}

func (b *batches) measure(s settings) error {
	for range s.rounds {
		for i, way := range []func([]string) error{b.many, b.oneByOne, b.atOnce} {
			keys, err := b.prepare()
			if err != nil {
				return err
			}
			b.queries.Store(0)
			b.server.ResetStats()
			begun := time.Now()
			if err := way(keys); err != nil {
				return err
			}
			f := &b.ways[i]
			f.ms = append(f.ms, time.Since(begun).Seconds()*1e3)
			f.queries = append(f.queries, float64(b.queries.Load()))
			f.commands = append(f.commands, float64(commandsRun(b.server)))
		}
	}
	return nil
}

// prepare returns keys that were never used, having stored most of them, and read those once.
func (b *batches) prepare() ([]string, error) {
	b.round++
	keys := make([]string, batchKeys)
	for i := range keys {
		keys[i] = strconv.Itoa(b.round) + ":" + strconv.Itoa(i)
		if i%(batchKeys/(batchKeys-batchCached)) == 0 {
			continue
		}
		if err := b.client.Set(background, keys[i], newProfile(i, 200), time.Minute); err != nil {
			return nil, err
		}
		if _, err := b.client.Get(background, keys[i]); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

func (b *batches) many(keys []string) error {
	found, err := b.client.GetManyWithFetch(background, keys, time.Minute, func(_ context.Context, missing []string) (map[string]profile, error) {
		b.query()
		all := make(map[string]profile, len(missing))
		for i, k := range missing {
			all[k] = newProfile(i, 200)
		}
		return all, nil
	})
	if err == nil && len(found) != len(keys) {
		err = fmt.Errorf("%d of %d keys", len(found), len(keys))
	}
	return err
}

func (b *batches) query() {
	b.queries.Add(1)
	time.Sleep(batchSource)
}

func (b *batches) one(key string) error {
	_, err := b.client.GetWithFetch(background, key, time.Minute, func(context.Context, string) (profile, error) {
		b.query()
		return newProfile(0, 200), nil
	})
	return err
}

func (b *batches) oneByOne(keys []string) error {
	for _, k := range keys {
		if err := b.one(k); err != nil {
			return err
		}
	}
	return nil
}

func (b *batches) atOnce(keys []string) error {
	errs := make(chan error, len(keys))
	for _, k := range keys {
		go func() { errs <- b.one(k) }()
	}
	for range keys {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}
