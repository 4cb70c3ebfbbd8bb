package main

import (
	"fmt"
	"math/rand"
	"time"
)

// runLoads measures get-or-fetch of keys that are all there, with the fetch function made beforehand.
func runLoads(s settings) (report, error) {
	var r report
	var t standing
	keys := keyNames(universe)
	sequence := newSequence(keys, zipf(rand.New(rand.NewSource(1)), len(keys)))
	var all []contender[user]
	all = append(all, append(libraries[user](), plainMap[user]())...)
	all = append(all[:1], append([]contender[user]{ourLoader()}, all[1:]...)...)
	for _, n := range s.byLife(procs) {
		atProcs(n, func() {
			var opened []entrant[user]
			for _, e := range openAll(all, setup[user]{
				capacity: 2 * len(keys), ttl: hour,
				fetch: func(string) user { return user{} },
			}, keys, newUser) {
				if e.load == nil {
					if e.rank != limit {
						e.close()
						continue
					}
					e.load = func(key string) (user, error) { v, _ := e.get(key); return v, nil }
				}
				opened = append(opened, e)
			}
			defer closeAll(opened)
			t.add(fmt.Sprintf("%d × Zipf 1.01", n), labels(opened), interleave(s.life(), subjects(opened, func(e *entrant[user]) func(int) time.Duration {
				return loaders(n, sequence, e.load)
			})))
		})
	}
	r.Tables = append(r.Tables, t.table("Get-or-fetch hit in memory",
		"GetWithFetch (or what a library calls it) of keys that are cached, fetch function made beforehand; Zipf 1.01 over 100,000 keys, struct values. "+
			"The plain map is only looked up."))
	r.Charts = append(r.Charts, chart{
		File: "load", Title: "Get-or-fetch, when it is a hit", Subtitle: "ns an operation, shorter is better; 100,000 entries, Zipf 1.01",
		Panels: []panel{t.panel("1 goroutine", "1 × Zipf 1.01", "ns"), t.panel("2 goroutines on 2 cores", "2 × Zipf 1.01", "ns")},
	})
	for _, c := range t.columns {
		name, over := t.fastestPeer(c)
		r.aim(over >= 1 && t.over("otter", c) >= 1.3, "memory GetWithFetch hit, "+c, "fastest, ≥ 1.3 × otter",
			"%.2f × the next (%s), %.2f × otter, Loader.Get %.2f × GetWithFetch", over, name, t.over("otter", c), t.over("cacheaside (Loader)", c))
	}
	most := t.allocates()
	for _, c := range t.columns {
		most = max(most, t.of("cacheaside (Loader)", c).allocs)
	}
	r.aim(most < 0.01, "memory GetWithFetch and Loader hit, allocations", "0", "%s", whole(most))
	return r, nil
}

// loaders is readers for get-or-fetch.
func loaders[V any](goroutines int, sequence sequence, load func(string) (V, error)) func(int) time.Duration {
	return readers(goroutines, sequence, func(key string) (V, bool) {
		v, err := load(key)
		return v, err == nil
	})
}

// runMixed measures reads with writes among them, and the loop of a cache that is too small for its keys.
func runMixed(s settings) (report, error) {
	var r report
	var t, churn standing
	keys := keyNames(universe)
	sequence := newSequence(keys, zipf(rand.New(rand.NewSource(1)), len(keys)))
	all := append(libraries[user](), limits[user]()...)
	for _, n := range s.byLife(procs) {
		atProcs(n, func() {
			all := all
			if n > 1 {
				all = all[:len(all)-1] // the plain map, which can't be written by two
			}
			opened := openAll(all, setup[user]{capacity: 2 * len(keys), ttl: hour}, keys, newUser)
			defer closeAll(opened)
			for _, share := range []int{5, 25} {
				t.add(fmt.Sprintf("%d × %d %%", n, share), labels(opened), interleave(s.life(), subjects(opened, func(e *entrant[user]) func(int) time.Duration {
					return readersAndWriters(n, 100/share, sequence, e.get, e.set)
				})))
			}
		})
		atProcs(n, func() {
			opened := openAll(libraries[user]()[:7], setup[user]{capacity: len(keys) / 10, ttl: hour}, nil, newUser)
			defer closeAll(opened)
			churn.add(fmt.Sprintf("%d × Zipf 1.01", n), labels(opened), interleave(s.life(), subjects(opened, func(e *entrant[user]) func(int) time.Duration {
				return readersWhoStore(n, sequence, e.get, e.set)
			})))
		})
	}
	r.Tables = append(r.Tables,
		t.table("Reads with 5 % and 25 % writes in memory", "Zipf 1.01 over 100,000 keys that are all cached; a write replaces a value, with a ttl. ns an operation over all goroutines together."),
		churn.table("A cache a tenth of its keys' size", "Zipf 1.01 over 100,000 keys, room for 10,000: a look-up, and a write when it missed. No target; "+
			"a cache that keeps the wrong keys, or drops writes, has more misses here, and pays for each."))
	r.Charts = append(r.Charts, chart{
		File: "mixed", Title: "Three reads, one write", Subtitle: "ns an operation, shorter is better; 100,000 entries, Zipf 1.01, with a ttl",
		Panels: []panel{t.panel("1 goroutine", "1 × 25 %", "ns"), t.panel("2 goroutines on 2 cores", "2 × 25 %", "ns")},
	})
	for _, c := range t.columns {
		name, over := t.fastestPeer(c)
		r.aim(over >= 1 && t.over("otter", c) >= 1.4, "memory reads and writes, "+c+" writes", "fastest bounded peer, ≥ 1.4 × otter",
			"%.2f × the next (%s), %.2f × otter (%.2f × with its coarse clock)", over, name, t.over("otter", c), t.over("otter (coarse clock)", c))
	}
	return r, nil
}

// readersAndWriters makes every so-manieth operation a write.
func readersAndWriters[V any](goroutines, every int, sequence sequence, get func(string) (V, bool), set func(string, V)) func(int) time.Duration {
	return func(operations int) time.Duration {
		start := rand.Intn(len(sequence))
		return parallel(goroutines, operations, func(g, n int) {
			var value V
			at := (start + g*len(sequence)/goroutines) % len(sequence)
			for i := range n {
				if at++; at == len(sequence) {
					at = 0
				}
				if i%every == 0 {
					set(sequence[at], value)
				} else {
					get(sequence[at])
				}
			}
		})
	}
}

func readersWhoStore[V any](goroutines int, sequence sequence, get func(string) (V, bool), set func(string, V)) func(int) time.Duration {
	var value V
	return readers(goroutines, sequence, func(key string) (V, bool) {
		v, ok := get(key)
		if !ok {
			set(key, value)
		}
		return v, ok
	})
}
