package cacheaside

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

var coherenceDuration = flag.Duration("coherence.duration", 3*time.Second, "for how long, at least, TestCoherence writes and breaks things; from 20s on, the tests of own writes are longer too")

const coherenceFull = 20 * time.Second

// The coherence test has processes that write and read the same keys while connections are killed or fall
// silent, and Redis forgets values and what it tracks. The source counts the versions of each key. A process
// writes a key by raising its version in the source and then setting it or deleting it in the cache, and
// only one of them writes a key, so that its versions come in order. Each process notes when it was told
// that a version is written, and until when it was given each version. Put together, that tells how old the
// values were that anybody got.
//
// The same faults hit several arms at once: the library as it is, and variants of it each of which lacks a
// part of what makes the near cache coherent. That those fail shows that the test can.
const (
	trialProcesses = 3
	trialKeys      = 12

	// staleBound is how old a value may be: the time to detect a silent connection is two seconds, and this
	// leaves something for a loaded machine. LocalTTL is far more, and hides nothing.
	staleBound = 3500 * time.Millisecond

	// trialRest is for how long everybody reads when nobody writes any more: what is stale then for longer
	// than the bound would be so for ever.
	trialRest = staleBound + time.Second
)

// arms are the library as it is, and the variants, which lack something between it and the connection.
var (
	arms = []arm{
		{name: "whole"},
		{name: "deaf", wrap: func(c *nearConn) rueidis.CacheStore { return deaf{c} }},
		{name: "undead", wrap: func(c *nearConn) rueidis.CacheStore { return undead{c} }},
		{name: "unflushed", wrap: func(c *nearConn) rueidis.CacheStore { return unflushed{c} }},
		{name: "tardy", wrap: func(c *nearConn) rueidis.CacheStore { return tardy{c} }},
	}
	busArms = []arm{{name: "whole"}, {name: "alone", alone: true}}
)

type arm struct {
	name  string
	wrap  func(*nearConn) rueidis.CacheStore // nil: nothing is lacking there
	alone bool                               // there is no bus
}

// deaf ignores the invalidations of keys.
type deaf struct{ *nearConn }

func (d deaf) Delete(keys []rueidis.RedisMessage) {
	if keys == nil {
		d.nearConn.Delete(nil)
	}
}

// unflushed ignores the invalidation of everything.
type unflushed struct{ *nearConn }

func (u unflushed) Delete(keys []rueidis.RedisMessage) {
	if keys != nil {
		u.nearConn.Delete(keys)
	}
}

// undead believes what has come by connections that are closed.
type undead struct{ *nearConn }

func (u undead) Close(error) { u.beats.end() }

// tardy keeps replies a little later than they come, out of the order of the wire.
type tardy struct{ *nearConn }

func (d tardy) Update(key, command string, reply rueidis.RedisMessage) int64 {
	time.AfterFunc(time.Duration(rand.IntN(5000))*time.Microsecond, func() { d.nearConn.Update(key, command, reply) })
	return time.Now().Add(time.Hour).UnixMilli()
}

// trial is what a process of the coherence test is told.
type trial struct {
	Config Config
	Source string // address of the source of versions
	Me     int
}

// evidence is what a process has seen in one arm. Times are unix nanoseconds: the processes share a clock.
type evidence struct {
	Reads, NearHits, Errors int
	OwnStale                int                     // reads older than a write that this process had been told of before
	Written                 map[int]map[int64]int64 // by key and version: when the write was over
	Seen                    map[int]map[int64]int64 // by key and version: when the last read began that got it
}

func TestCoherence(t *testing.T) {
	try(t, arms, func(address string) Config {
		return Config{Backend: BackendRueidisAside, Redis: RedisConfig{Addrs: []string{address}}, LocalTTL: time.Hour}
	})
}

// Processes with their values in memory, and a bus.
func TestCoherenceOfABus(t *testing.T) {
	try(t, busArms, func(address string) Config { return Config{Backend: BackendMemory, Bus: "redis://" + address} })
}

// try has processes write and read, by arms, with the configuration for an address of Redis.
func try(t *testing.T, arms []arm, configure func(address string) Config) {
	s, source := redistest.Start(t), redistest.Start(t)
	proxy := redistest.NewProxy(t, s.Addr())
	var all []*child
	for me := range trialProcesses {
		cfg := configure(s.Addr())
		if me == 0 {
			cfg = configure(proxy.Addr())
		}
		all = append(all, startChild(t, "coherence", trial{Config: cfg, Source: source.Addr(), Me: me}))
	}
	for _, c := range all {
		var ready bool
		c.hear(&ready)
		c.tell(true)
	}
	breakThings(s, proxy, *coherenceDuration)
	askAll[bool](all, "stop writing")
	s.KillClients()
	<-time.After(300 * time.Millisecond) // everything is read again
	s.Must("FLUSHALL")
	words := askAll[map[string]*evidence](all, "write once more")

	for _, arm := range arms {
		var each []*evidence
		for _, w := range words {
			each = append(each, w[arm.name])
		}
		v := judgeEvidence(each)
		t.Logf("%-9s %7d reads, %7d of them near hits, %4d failed, %5d writes; the oldest value was stale for %v; %d reads behind an own write",
			arm.name, v.reads, v.nearHits, v.errors, v.writes, v.oldest.Round(time.Millisecond), v.ownStale)
		require.Greater(t, v.nearHits, 500, "%s: too little happened", arm.name)
		require.Greater(t, v.writes, 100, "%s: too little happened", arm.name)
		if arm.wrap == nil && !arm.alone {
			require.Less(t, v.oldest, staleBound)
			require.Zero(t, v.ownStale)
		} else {
			require.Greater(t, v.oldest, staleBound, "the variant %q must fail", arm.name)
		}
	}
}

// breakThings does so for a while.
func breakThings(s *redistest.Server, proxy *redistest.Proxy, d time.Duration) {
	pause := func(d time.Duration) { <-time.After(d) }
	faults := []func(){
		func() { s.KillClients() },
		func() { s.Must("FLUSHALL") },
		func() { // eviction
			s.Must("CONFIG", "SET", "maxmemory-policy", "allkeys-lru", "maxmemory", "1")
			pause(50 * time.Millisecond)
			s.FreeMemory()
		},
		func() { // a tracking table that is too small
			s.Must("CONFIG", "SET", "tracking-table-max-keys", "3")
			pause(150 * time.Millisecond)
			s.Must("CONFIG", "SET", "tracking-table-max-keys", "1000000")
		},
		proxy.CutAll,
	}
	for begun := time.Now(); time.Since(begun) < d; {
		for _, i := range rand.Perm(len(faults)) {
			faults[i]()
			pause(time.Duration(50+rand.IntN(150)) * time.Millisecond)
		}
		proxy.BlackHole(true) // the others go on writing
		pause(2500 * time.Millisecond)
		proxy.BlackHole(false)
	}
}

// verdict is what the evidence of all processes in one arm amounts to.
type verdict struct {
	reads, nearHits, errors, writes, ownStale int
	oldest                                    time.Duration
}

func judgeEvidence(each []*evidence) (v verdict) {
	written := make(map[int]map[int64]int64) // by the one process that writes the key
	for _, e := range each {
		v.reads, v.nearHits, v.errors, v.ownStale = v.reads+e.Reads, v.nearHits+e.NearHits, v.errors+e.Errors, v.ownStale+e.OwnStale
		for k, versions := range e.Written {
			written[k] = versions
			v.writes += len(versions)
		}
	}
	for _, e := range each {
		for k, versions := range e.Seen {
			for version, until := range versions {
				if replaced, ok := written[k][version+1]; ok {
					v.oldest = max(v.oldest, time.Duration(until-replaced))
				}
			}
		}
	}
	return v
}

func init() { childRoles["coherence"] = playTrial }

// playTrial is one of the processes, with a cache for each arm.
func playTrial(t *testing.T, p *parent) {
	var tr trial
	p.task(&tr)
	source, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{tr.Source}, DisableCache: true, ForceSingleClient: true})
	require.NoError(t, err)
	defer source.Close()
	writing, enough := context.WithCancel(t.Context())
	reading, leave := context.WithCancel(t.Context())
	arms := arms
	if tr.Config.Bus != "" {
		arms = busArms
	}
	players := make([]*player, len(arms))
	for i, arm := range arms {
		cfg := tr.Config
		if cfg.Name = arm.name; arm.alone {
			cfg.Bus = ""
		}
		var opts []Option
		if arm.wrap != nil {
			opts = append(opts, WithRueidisOption(func(o *rueidis.ClientOption) {
				whole := o.NewCacheStoreFn
				o.NewCacheStoreFn = func(o rueidis.CacheStoreOption) rueidis.CacheStore { return arm.wrap(whole(o).(*nearConn)) }
			}))
		}
		c := openAside[int64](t, cfg, opts...)
		require.NoError(t, c.Health(t.Context()))
		players[i] = &player{me: tr.Me, name: arm.name, cache: c, source: source}
	}
	p.tell(true)
	var word any
	p.hear(&word)
	var writers, readers sync.WaitGroup
	for _, pl := range players {
		writers.Go(func() { pl.write(writing) })
		for range 2 {
			readers.Go(func() { pl.read(reading) })
		}
	}
	p.hear(&word)
	enough()
	writers.Wait()
	p.tell(true)
	p.hear(&word)
	// Nothing breaks any more after these: what a variant misses now stays with it.
	for _, pl := range players {
		writers.Go(func() {
			for n := range lastWrites * trialKeys / trialProcesses {
				pl.raise(reading, n/lastWrites, n)
			}
		})
	}
	writers.Wait()
	<-time.After(trialRest)
	leave()
	readers.Wait()
	all := make(map[string]*evidence)
	for _, pl := range players {
		if pl.seen.NearHits = int(pl.cache.Stats().NearHits); tr.Config.Bus != "" {
			pl.seen.NearHits = int(pl.cache.Stats().Hits) // all are
		}
		all[pl.name] = &pl.seen
	}
	p.tell(all)
}

// player is one process in one arm.
type player struct {
	me     int
	name   string
	cache  *Client[int64]
	source rueidis.Client
	told   [trialKeys]atomic.Int64 // the last version that this process has written of a key, and been told so

	mu   sync.Mutex
	seen evidence
}

func (p *player) key(i int) string { return "key " + strconv.Itoa(i) }

// version asks the source.
func (p *player) version(ctx context.Context, key string) (int64, error) {
	v, err := p.source.Do(ctx, p.source.B().Get().Key(p.name+key).Build()).AsInt64()
	if rueidis.IsRedisNil(err) {
		return 0, nil
	}
	return v, err
}

// lastWrites is how often each key is written at the end, when nothing breaks any more.
const lastWrites = 10

// write raises versions of the keys that are this process's until ctx ends.
func (p *player) write(ctx context.Context) {
	p.seen.Written = make(map[int]map[int64]int64)
	for n := 0; ctx.Err() == nil; n++ {
		p.raise(ctx, n%(trialKeys/trialProcesses), n)
	}
}

// raise writes the next version of the i-th of the keys that are this process's, and looks at it.
func (p *player) raise(ctx context.Context, i, n int) {
	k := i*trialProcesses + p.me
	v, err := p.source.Do(context.Background(), p.source.B().Incr().Key(p.name+p.key(k)).Build()).AsInt64()
	if err != nil {
		panic(fmt.Sprint("the source: ", err))
	}
	for p.put(k, v, n%2 == 0) != nil {
		<-time.After(time.Millisecond) // it may have been done or not, so it must be done again
	}
	now := time.Now().UnixNano()
	p.told[k].Store(v)
	if p.seen.Written[k] == nil {
		p.seen.Written[k] = make(map[int64]int64)
	}
	p.seen.Written[k][v] = now
	p.look(ctx, k)
	<-time.After(time.Duration(rand.IntN(4)) * time.Millisecond)
}

func (p *player) put(k int, v int64, set bool) error {
	if set {
		return p.cache.Set(context.Background(), p.key(k), v, time.Hour)
	}
	return p.cache.Delete(context.Background(), p.key(k))
}

func (p *player) read(ctx context.Context) {
	for ctx.Err() == nil {
		for range 20 {
			p.look(ctx, rand.IntN(trialKeys))
		}
		<-time.After(time.Millisecond)
	}
}

// look reads a key and notes what it got.
func (p *player) look(ctx context.Context, k int) {
	least := p.told[k].Load()
	begun := time.Now().UnixNano()
	v, err := p.cache.GetWithFetch(ctx, p.key(k), time.Hour, p.version)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen.Reads++
	switch {
	case errors.Is(err, context.Canceled):
		return
	case err != nil:
		p.seen.Errors++
		return
	case v < least:
		p.seen.OwnStale++
	}
	if p.seen.Seen == nil {
		p.seen.Seen = make(map[int]map[int64]int64)
	}
	if p.seen.Seen[k] == nil {
		p.seen.Seen[k] = make(map[int64]int64)
	}
	p.seen.Seen[k][v] = max(p.seen.Seen[k][v], begun)
}
