package main

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

// runMisses measures what it costs that a key has to be fetched, with a source that answers at once, and
// what 1,000 callers on one cold key wait beyond the fetch.
func runMisses(s settings) (report, error) {
	var r report
	var t, cold standing
	for _, n := range []int{1, 2} {
		atProcs(n, func() {
			opened := openAll(missers(), setup[user]{capacity: universe, ttl: hour, fetch: func(string) user { return user{} }}, nil, newUser)
			defer closeAll(opened)
			t.add(fmt.Sprintf("GOMAXPROCS %d", n), labels(opened), interleave(s, subjects(opened, func(e *entrant[user]) func(int) time.Duration {
				return misser(e.load)
			})))
		})
	}
	fetches := runCold(s, &cold)
	crowds := cold.table("1,000 callers on one cold key", "ns a caller, beyond the 5 ms of the one fetch, from the moment when all are let go until the last has returned. GOMAXPROCS 2.")
	crowds.Columns = append(crowds.Columns, "most fetches in a round")
	for i, row := range cold.rows {
		crowds.Rows[i] = append(crowds.Rows[i], fmt.Sprint(fetches[row.name]))
	}
	r.Tables = append(r.Tables,
		t.table("A miss that nobody else waits for", "Get-or-fetch of keys never asked for before, by one goroutine; the source answers at once, the cache is full and evicts. "+
			"Ours and DoChan run the fetch on a goroutine of its own, so that the caller can leave at its deadline and the fetch outlives it."),
		crowds)
	r.aim(fetches["cacheaside"] == 1, "1,000 callers on a cold key", "1 fetch", "%d", fetches["cacheaside"])
	for _, c := range t.columns {
		dochan := 1 / t.over("DoChan alone", c)
		r.aim(dochan <= 1.5, "uncontended miss, detached, "+c, "≤ 1.5 × bare DoChan", "%.2f × DoChan (stored and evicting), %.2f × (not stored); %.2f × DoChan that stores in a map", dochan,
			t.over("cacheaside (not stored)", c)/t.over("DoChan alone", c), 1/t.over("DoChan + RWMutex map", c))
	}
	return r, nil
}

// missers are those that have a get-or-fetch, ours without storing, and the least that a detached fetch costs.
func missers() []contender[user] {
	all := []contender[user]{libraries[user]()[0]}
	all = append(all,
		contender[user]{"cacheaside (not stored)", "stores nothing (ttl 0)", limit, func(o setup[user]) handle[user] {
			o.ttl = 0
			return openOurs(o)
		}},
		contender[user]{"DoChan alone", "x/sync/singleflight; stores nothing, no panic safety", limit, func(o setup[user]) handle[user] {
			var g singleflight.Group
			return handle[user]{
				load: func(key string) (user, error) {
					r := <-g.DoChan(key, func() (any, error) { return o.fetch(key), nil })
					return r.Val.(user), r.Err
				},
				close: func() {},
			}
		}})
	all = append(all, contender[user]{"DoChan + RWMutex map", "the same, and stores without a bound", limit, func(o setup[user]) handle[user] {
		m := &mutexMap[user]{entries: map[string]expiringValue[user]{}}
		return handle[user]{
			load: func(key string) (user, error) {
				r := <-m.flights.DoChan(key, func() (any, error) {
					v := o.fetch(key)
					m.set(key, v, o.ttl)
					return v, nil
				})
				return r.Val.(user), r.Err
			},
			close: func() {},
		}
	}})
	for _, c := range libraries[user]()[1:] {
		switch c.name {
		case "ristretto", "golang-lru expirable", "go-cache", "otter (coarse clock)":
		default:
			c.less = "fetches on the caller's goroutine; " + c.less
			all = append(all, c)
		}
	}
	return all
}

// freshKeys counts the keys that were ever used, so that each is used once.
var freshKeys atomic.Int64

func misser[V any](load func(string) (V, error)) func(int) time.Duration {
	return func(operations int) time.Duration {
		keys := make([]string, operations)
		for i := range keys {
			keys[i] = keyName(int(freshKeys.Add(1)))
		}
		begun := stopwatch()
		for _, k := range keys {
			if _, err := load(k); err != nil {
				panic(err)
			}
		}
		return stopwatch() - begun
	}
}

// coldFetch is how long the source takes when many wait for it: long enough for all of them to come.
const coldFetch = 5 * time.Millisecond

// runCold returns the most fetches that each contender made in a round.
func runCold(s settings, t *standing) map[string]int64 {
	const callers = 1000
	most := map[string]int64{}
	var fetches atomic.Int64
	fetch := func(string) user {
		fetches.Add(1)
		time.Sleep(coldFetch)
		return user{}
	}
	atProcs(2, func() {
		var all []contender[user]
		for _, c := range missers() {
			if c.name != "cacheaside (not stored)" && c.name != "DoChan alone" {
				all = append(all, c)
			}
		}
		opened := openAll(all, setup[user]{capacity: universe, ttl: hour, fetch: fetch}, nil, newUser)
		defer closeAll(opened)
		subjects := subjects(opened, func(e *entrant[user]) func(int) time.Duration {
			return func(int) time.Duration {
				fetches.Store(0)
				took := crowd(callers, keyName(int(freshKeys.Add(1))), e.load)
				most[e.name] = max(most[e.name], fetches.Load())
				return took - coldFetch
			}
		})
		for i := range subjects {
			subjects[i].operations = callers
		}
		t.add("1,000 callers", labels(opened), interleave(s, subjects))
	})
	return most
}

// crowd lets so many callers go for one key at the same moment.
func crowd[V any](callers int, key string, load func(string) (V, error)) time.Duration {
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	for range callers {
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-start
			if _, err := load(key); err != nil {
				panic(err)
			}
		})
	}
	ready.Wait()
	begun := time.Now()
	close(start)
	done.Wait()
	return time.Since(begun)
}
