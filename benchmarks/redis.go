package main

import (
	"fmt"
	"math/rand"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
)

// remoteKeys is how many keys the measures with Redis use: none of them is about the server's memory.
const remoteKeys = 1000

// runRedis measures look-ups that go to Redis, over the loopback interface.
func runRedis(s settings) (report, error) {
	var r report
	var bytes, structs standing
	defer func(was func() time.Duration) { stopwatch = was }(stopwatch)
	stopwatch = wallClock // half of the work is the server's
	s.slice = pick(s, 60*time.Millisecond, 5*time.Millisecond)
	s.rounds = max(1, s.rounds/2)
	err := withServer(func(server *redistest.Server) error {
		if err := throughput(s, &bytes, server.Addr(), bytesRemotes(), func(i int) []byte { return fmt.Appendf(nil, "%0200d", i) }); err != nil {
			return err
		}
		return throughput(s, &structs, server.Addr(), structRemotes(), func(i int) profile { return newProfile(i, 200) })
	})
	if err != nil {
		return r, err
	}
	r.Tables = append(r.Tables,
		bytes.table("Redis look-ups, byte values", "GET of a value of 200 bytes from a Redis on the same machine; ns an operation over all goroutines together."+
			" What a command costs on one connection is mostly that goroutines are woken to send it and to hand out its reply. Ours stays awake while replies are on their way,"+
			" and sends commands together (docs/design.md says how); that gains nothing with a server so far away that it goes to sleep anyway."),
		structs.table("Redis look-ups, struct values", "The same with a struct of about 200 bytes, encoded and decoded."))
	r.Charts = append(r.Charts, chart{
		File: "redis", Title: "Look-ups in Redis, 256 goroutines", Subtitle: "thousands a second, longer is better; a value of 200 bytes, server and client on 2 cores",
		Panels: []panel{bytes.rates("bytes", "256 goroutines"), structs.rates("a struct", "256 goroutines")},
	})
	for _, c := range bytes.columns[1:] {
		def, same := bytes.over("rueidis", c), bytes.over("rueidis (our options)", c)
		r.aim(min(def, same) >= 0.95, "rueidis Get, bytes codec, "+c, "≥ 0.95 of raw rueidis", "%.2f of raw rueidis, %.2f with our options; %.2f with a deadline a call",
			def, same, bytes.over("rueidis (deadline a call)", c))
	}
	c := structs.columns[len(structs.columns)-1]
	r.aim(structs.over("go-redis/cache", c) >= 1.5, "rueidis Get, JSON, "+c, "≥ 1.5 × go-redis/cache", "%.2f × go-redis/cache, %.2f × raw rueidis with encoding/json",
		structs.over("go-redis/cache", c), structs.over("rueidis + encoding/json", c))
	return r, nil
}

// rates is panel with operations a second in place of the time of one.
func (t *standing) rates(title, column string) panel {
	p := t.panel(title, column, "thousand/s")
	for i := range p.Bars {
		p.Bars[i].Value = 1e6 / p.Bars[i].Value
	}
	return p.sorted(true)
}

func throughput[V any](s settings, t *standing, addr string, all []remote[V], value func(int) V) error {
	var failed atomic.Pointer[error]
	var who []label
	var gets []func(string) error
	all = slices.DeleteFunc(all, func(c remote[V]) bool { return !chosen(c.name, c.rank) })
	for i, c := range all {
		get, closeIt := c.connect(addr, remoteNames(i), value)
		defer closeIt()
		who, gets = append(who, c.label), append(gets, get)
	}
	for _, goroutines := range []int{1, 16, 256} {
		var subjects []subject
		for i, get := range gets {
			subjects = append(subjects, subject{name: who[i].name, run: getters(goroutines, remoteNames(i), get, &failed)})
		}
		for i := range subjects {
			subjects[i].calibrate(s.slice)
			subjects[i].operations = max(subjects[i].operations, 20*goroutines)
		}
		t.add(fmt.Sprintf("%d goroutines", goroutines), who, interleave(s, subjects))
	}
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// remoteNames are the keys of one contender: each has its own, since each stores in its own form.
func remoteNames(contender int) []string {
	keys := make([]string, remoteKeys)
	for i := range keys {
		keys[i] = fmt.Sprintf("c%d:%06d", contender, i)
	}
	return keys
}

func getters(goroutines int, keys []string, get func(string) error, failed *atomic.Pointer[error]) func(int) time.Duration {
	return func(operations int) time.Duration {
		return parallel(goroutines, operations, func(_, n int) {
			at := rand.Intn(len(keys))
			for range n {
				if at++; at == len(keys) {
					at = 0
				}
				if err := get(keys[at]); err != nil {
					fail(failed, err)
				}
			}
		})
	}
}

// fail notes an error. It is a function of its own so that err does not cost every look-up an allocation.
func fail(failed *atomic.Pointer[error], err error) { failed.Store(&err) }

// runNear measures hits in the near cache beside hits in memory, and beside rueidisaside, whose near cache
// holds bytes.
func runNear(s settings) (report, error) {
	var r report
	var t standing
	err := withServer(func(server *redistest.Server) error {
		for _, size := range []int{200, 4096} {
			if err := nearHits(s, &t, server.Addr(), size); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return r, err
	}
	r.Tables = append(r.Tables, t.table("Near hits",
		"A hit on rueidis-aside of a struct that takes so many bytes as JSON, 1,000 keys, beside the memory backend and rueidisaside with json.Unmarshal of what it returns."))
	picture := chart{File: "near", Title: "A hit in the near cache", Subtitle: "ns on a logarithmic scale, shorter is better; coherent with Redis, 1 goroutine", Log: true}
	for _, c := range t.columns {
		if c[0] == '1' {
			picture.Panels = append(picture.Panels, t.panel(c[len("1 × "):]+" struct", c, "ns"))
		}
		memory, other := t.over("cacheaside (memory)", c), t.over("rueidisaside + json.Unmarshal", c)
		r.aim(1/memory <= 1.3 && other >= 50, "rueidis-aside near hit, "+c, "≤ 1.3 × memory hit, ≥ 50 × rueidisaside",
			"%.2f × memory hit, %.0f × rueidisaside", 1/memory, other)
	}
	r.Charts = append(r.Charts, picture)
	r.aim(t.allocates() < 0.01, "rueidis-aside near hit, allocations", "0", "%s", whole(t.allocates()))
	return r, nil
}

func nearHits(s settings, t *standing, addr string, size int) error {
	all := []remote[profile]{
		{label{"cacheaside (rueidis-aside)", "", ours}, ourRemote[profile](cacheaside.BackendRueidisAside)},
		{label{"cacheaside (memory)", "not shared between processes", limit}, ourRemote[profile](cacheaside.BackendMemory)},
		{label{"rueidisaside + json.Unmarshal", "its near cache holds bytes", peer}, rueidisAside},
	}
	var failed atomic.Pointer[error]
	for _, n := range s.byLife([]int{1, 2}) {
		var err error
		atProcs(n, func() {
			var subjects []subject
			var who []label
			for i, c := range all {
				keys := slices.Clone(remoteNames(i + size))
				get, closeIt := c.connect(addr, keys, func(i int) profile { return newProfile(i, size) })
				defer closeIt()
				for range 2 { // the first look-up of a key reads it from Redis
					for _, k := range keys {
						check(get(k))
					}
				}
				who = append(who, c.label)
				subjects = append(subjects, subject{name: c.name, run: getters(n, newSequence(keys, func() int { return rand.Intn(len(keys)) }), get, &failed)})
			}
			t.add(fmt.Sprintf("%d × %s", n, map[int]string{200: "200 B", 4096: "4 KB"}[size]), who, interleave(s.life(), subjects))
			if f := failed.Load(); f != nil {
				err = *f
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}
