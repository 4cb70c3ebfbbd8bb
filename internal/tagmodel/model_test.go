// Package tagmodel is a model of how processes with near copies agree through Redis on which tagged values count. A random
// scheduler interleaves the steps of lookups and invalidations with the messages on their way to each process, and with
// the loss of marks, of the clock, and of everything. It holds no code of the library: it says which order of steps is
// right, and that each rule of the protocol is needed.
package tagmodel

import (
	"flag"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"testing"
)

var histories = flag.Int("histories", 20_000, "how many histories are tried")

// rules are those of the protocol. Each that is broken must show.
type rules struct {
	missingIsOld  bool // a missing mark means that its tag was never invalidated
	ownStamp      bool // a missing mark is made with the moment of the fetch, not with the present one
	clockAfter    bool // the clock is noted when the fetch has returned
	oneEpoch      bool // a clock that was lost begins anew in the same epoch
	lateJoin      bool // a caller that joins a sealed flight takes its result
	doubtfulJoin  bool // a caller that has joined takes the result of a flight during which a tag was invalidated
	nearMarksStay bool // an invalidation leaves the near copies of its own process to the messages of Redis
}

type moment struct{ epoch, number int }

// covers reports whether what was fetched as of m counts, given when its tag was invalidated last.
func (m moment) covers(mark moment) bool { return m.epoch == mark.epoch && mark.number <= m.number }

const tags, keys = 2, 3

func tagsOf(key int) []int { return [keys][]int{{0}, {1}, {0, 1}}[key] }

// cell is what stands under a key of Redis: a moment, a lease, or a value.
type cell struct {
	at    moment
	lease int       // not zero: the key is being fetched
	value [tags]int // the version of each tag's rows
}

type history struct {
	rules
	random    *rand.Rand
	redis     map[string]cell
	epochs    int
	leases    int
	source    [tags]int
	processes []*process
	owed      []debt
	wrong     string
}

// debt is what an invalidation that has ended demands: of its own process at once, of another one when that has
// heard all that was on its way by then.
type debt struct {
	tag, version int
	of           map[*process]int // how many messages it must have heard
}

// message is on its way to a process: the reply to a read, or news.
type message struct {
	key  string // "" for everything
	read *read  // nil for news
}

type read struct {
	cell     cell
	there    bool
	done     bool
	poisoned bool // by a write of the own process: it is not kept
}

type process struct {
	h       *history
	near    map[string]cell
	tracks  map[string]bool
	reading map[*read]string
	queue   []message
	heard   int
	flights map[int]*flight
}

type flight struct {
	sealed, doubtful, done, filled bool
	value                          [tags]int
}

func markOf(tag int) string { return fmt.Sprint("mark", tag) }
func keyOf(key int) string  { return fmt.Sprint("key", key) }

const clock = "clock"

func (h *history) write(key string, c cell) {
	h.redis[key] = c
	h.tell(key)
}

func (h *history) remove(key string) {
	if _, there := h.redis[key]; there {
		delete(h.redis, key)
		h.tell(key)
	}
}

func (h *history) tell(key string) {
	for _, p := range h.processes {
		if p.tracks[key] {
			delete(p.tracks, key)
			p.queue = append(p.queue, message{key: key})
		}
	}
}

// now is the clock, which is made if it is missing.
func (h *history) now() moment {
	c, there := h.redis[clock]
	if !there {
		if !h.oneEpoch || h.epochs == 0 {
			h.epochs++
		}
		c = cell{at: moment{h.epochs, 0}}
		h.write(clock, c)
	}
	return c.at
}

func (p *process) hear() {
	m := p.queue[0]
	p.queue = p.queue[1:]
	p.heard++
	switch {
	case m.read != nil:
		m.read.done = true
		delete(p.reading, m.read)
		if m.read.there && m.read.cell.lease == 0 && !m.read.poisoned {
			p.near[m.key] = m.read.cell
		}
	case m.key == "":
		clear(p.near)
	default:
		delete(p.near, m.key)
	}
}

// forget drops what the process holds of a key, and what is on its way to it.
func (p *process) forget(key string) {
	delete(p.near, key)
	for r, k := range p.reading {
		r.poisoned = r.poisoned || k == key
	}
}

// pause lets others go on. It returns false when the history is over.
type pause func() bool

func (p *process) get(wait pause, key string) (cell, bool, bool) {
	if !wait() {
		return cell{}, false, false
	}
	r := new(read)
	r.cell, r.there = p.h.redis[key]
	p.tracks[key] = true
	p.reading[r] = key
	p.queue = append(p.queue, message{key, r})
	for !r.done {
		if !wait() {
			return cell{}, false, false
		}
	}
	return r.cell, r.there, true
}

// counts judges a value by the marks of its tags.
func (p *process) counts(wait pause, key int, c cell, ask bool) (counts, goOn bool) {
	for _, tag := range tagsOf(key) {
		mark, there := p.near[markOf(tag)]
		if !there && ask {
			if mark, there, goOn = p.get(wait, markOf(tag)); !goOn {
				return false, false
			}
		}
		switch {
		case !there && p.h.missingIsOld && ask:
		case !there || !c.at.covers(mark.at):
			return false, true
		}
	}
	return true, true
}

// lookup returns the versions that its caller gets.
func (p *process) lookup(wait pause, key int) (value [tags]int, goOn bool) {
	for again := false; ; {
		if c, there := p.near[keyOf(key)]; there {
			if counts, _ := p.counts(wait, key, c, false); counts {
				return c.value, true
			}
		}
		c, there, goOn := p.get(wait, keyOf(key))
		if !goOn {
			return value, false
		}
		if there && c.lease == 0 {
			counts, goOn := p.counts(wait, key, c, true)
			if counts || !goOn {
				return c.value, goOn
			}
		}
		f := p.flights[key]
		if f == nil {
			f = new(flight)
			p.flights[key] = f
			if !p.fly(wait, key, f) {
				return value, false
			}
			if f.filled {
				return f.value, true
			}
			continue // another process had the lease
		}
		late := f.sealed && !p.h.lateJoin
		for !f.done {
			if !wait() {
				return value, false
			}
		}
		if f.filled && (again || !late && (!f.doubtful || p.h.doubtfulJoin)) {
			return f.value, true
		}
		again = again || f.filled // a flight that begins from here on has begun after the caller came
	}
}

// fly is a flight. It returns false when the history is over.
func (p *process) fly(wait pause, key int, f *flight) bool {
	defer func() {
		f.done = true
		delete(p.flights, key)
	}()
	token, goOn := p.acquire(wait, key)
	if token == 0 {
		return goOn
	}
	asOf, goOn := p.moment(wait)
	if !goOn || !wait() {
		return false
	}
	for _, tag := range tagsOf(key) {
		f.value[tag] = p.h.source[tag]
	}
	if !wait() {
		return false
	}
	if p.h.clockAfter {
		if asOf, goOn = p.moment(wait); !goOn {
			return false
		}
	}
	f.sealed = true
	valid := true
	for _, tag := range tagsOf(key) {
		mark, goOn := p.mark(wait, tag, asOf)
		if !goOn {
			return false
		}
		valid = valid && asOf.covers(mark)
	}
	if !wait() {
		return false
	}
	if p.h.redis[keyOf(key)].lease == token {
		if valid {
			p.h.write(keyOf(key), cell{at: asOf, value: f.value})
		} else {
			p.h.remove(keyOf(key))
		}
		p.forget(keyOf(key))
	}
	f.doubtful, f.filled = !valid, true
	return true
}

// acquire takes the lease of a key, or waits for the process that has it and returns zero.
func (p *process) acquire(wait pause, key int) (token int, goOn bool) {
	if !wait() {
		return 0, false
	}
	stands, there := p.h.redis[keyOf(key)]
	if there && stands.lease == 0 {
		if counts, goOn := p.counts(wait, key, stands, true); counts || !goOn || !wait() {
			return 0, goOn
		}
	}
	for there && stands.lease != 0 && p.h.redis[keyOf(key)] == stands {
		if !wait() {
			return 0, false
		}
	}
	if now, still := p.h.redis[keyOf(key)]; still != there || now != stands || stands.lease != 0 {
		return 0, true
	}
	p.h.leases++
	p.h.write(keyOf(key), cell{lease: p.h.leases})
	return p.h.leases, true
}

// moment is the clock, or an older near copy of it.
func (p *process) moment(wait pause) (moment, bool) {
	if c, there := p.near[clock]; there {
		return c.at, true
	}
	c, there, goOn := p.get(wait, clock)
	if goOn && !there {
		if goOn = wait(); goOn {
			return p.h.now(), true
		}
	}
	return c.at, goOn
}

// mark is that of a tag. One that is missing, or of another epoch, is made with the present moment.
func (p *process) mark(wait pause, tag int, asOf moment) (moment, bool) {
	if c, there := p.near[markOf(tag)]; there && c.at.epoch == asOf.epoch {
		return c.at, true
	}
	if !wait() {
		return moment{}, false
	}
	now := p.h.now()
	if c, there := p.h.redis[markOf(tag)]; there && c.at.epoch == now.epoch {
		return c.at, true
	}
	if p.h.ownStamp {
		now = asOf
	}
	p.h.write(markOf(tag), cell{at: now})
	return now, true
}

// invalidate changes the source of a tag, and then voids what carries it.
func (p *process) invalidate(wait pause, tag int) bool {
	h := p.h
	h.source[tag]++
	version := h.source[tag]
	if !wait() {
		return false
	}
	now := h.now()
	now.number++
	h.write(clock, cell{at: now})
	if _, there := h.redis[markOf(tag)]; there {
		h.write(markOf(tag), cell{at: now})
	}
	others := make(map[*process]int)
	for _, q := range h.processes {
		if q != p {
			others[q] = q.heard + len(q.queue)
		}
	}
	h.owed = append(h.owed, debt{tag, version, others})
	if !wait() {
		return false
	}
	if !h.nearMarksStay {
		p.forget(markOf(tag))
		p.forget(clock)
	}
	h.owed = append(h.owed, debt{tag, version, map[*process]int{p: 0}})
	return true
}

// least are the versions that a lookup which begins now must not fall behind.
func (h *history) least(p *process) (versions [tags]int) {
	for _, d := range h.owed {
		if n, ok := d.of[p]; ok && p.heard >= n {
			versions[d.tag] = max(versions[d.tag], d.version)
		}
	}
	return versions
}

func (p *process) check(wait pause, key int) bool {
	least := p.h.least(p)
	got, goOn := p.lookup(wait, key)
	for _, tag := range tagsOf(key) {
		if goOn && got[tag] < least[tag] {
			p.h.wrong = fmt.Sprintf("key %d: got %v, want %v or more", key, got, least)
		}
	}
	return goOn
}

func (h *history) lose() {
	switch h.random.IntN(4) {
	case 0:
		h.remove(clock)
	case 1:
		h.remove(markOf(h.random.IntN(tags)))
	case 2:
		h.remove(keyOf(h.random.IntN(keys)))
	case 3:
		clear(h.redis)
		for _, p := range h.processes {
			clear(p.tracks)
			p.queue = append(p.queue, message{})
		}
	}
}

// play returns what was wrong in a history, or "".
func play(r rules, seed uint64) string {
	h := &history{rules: r, random: rand.New(rand.NewPCG(seed, 7)), redis: make(map[string]cell)}
	for range 2 + h.random.IntN(2) {
		h.processes = append(h.processes, &process{
			h: h, near: make(map[string]cell), tracks: make(map[string]bool), reading: make(map[*read]string), flights: make(map[int]*flight),
		})
	}
	running := make(map[int]func() bool)
	var stops []func()
	defer func() {
		for _, stop := range stops {
			stop()
		}
	}()
	begun, most := 0, 6+h.random.IntN(14)
	for steps := 0; steps < 4000 && h.wrong == "" && (begun < most || len(running) > 0); steps++ {
		p := h.processes[h.random.IntN(len(h.processes))]
		switch dice := h.random.IntN(100); {
		case dice < 12 && begun < most:
			tag, key, writes := h.random.IntN(tags), h.random.IntN(keys), h.random.IntN(3) == 0
			next, stop := iter.Pull(func(yield func(struct{}) bool) {
				wait := func() bool { return yield(struct{}{}) }
				if writes {
					p.invalidate(wait, tag)
				} else {
					p.check(wait, key)
				}
			})
			stops = append(stops, stop)
			running[begun] = func() bool { _, more := next(); return more }
			begun++
		case dice < 15:
			h.lose()
		case dice < 45:
			if len(p.queue) > 0 {
				p.hear()
			}
		case len(running) > 0:
			ids := make([]int, 0, len(running))
			for id := range begun {
				if running[id] != nil {
					ids = append(ids, id)
				}
			}
			if id := ids[h.random.IntN(len(ids))]; !running[id]() {
				delete(running, id)
			}
		}
	}
	if h.wrong == "" && len(running) == 0 {
		h.rest()
	}
	return h.wrong
}

// rest looks all keys up when nothing else happens: nothing old has stayed.
func (h *history) rest() {
	hearAll := func() bool {
		for _, p := range h.processes {
			for len(p.queue) > 0 {
				p.hear()
			}
		}
		return true
	}
	hearAll()
	for _, p := range h.processes {
		for key := range keys {
			got, _ := p.lookup(hearAll, key)
			for _, tag := range tagsOf(key) {
				if got[tag] != h.source[tag] {
					h.wrong = fmt.Sprintf("at rest, key %d: got %v, want %v", key, got, h.source)
				}
			}
		}
	}
}

func TestTheProtocolHolds(t *testing.T) {
	for seed := range uint64(*histories) {
		if wrong := play(rules{}, seed); wrong != "" {
			t.Fatalf("history %d: %s", seed, wrong)
		}
	}
}

func TestEachRuleIsNeeded(t *testing.T) {
	broken := map[string]rules{
		"a missing mark is old":             {missingIsOld: true},
		"a mark is made with an old moment": {ownStamp: true},
		"the clock is noted late":           {clockAfter: true},
		"there is one epoch":                {oneEpoch: true},
		"late callers join":                 {lateJoin: true},
		"callers join what is in doubt":     {doubtfulJoin: true},
		"near marks stay":                   {nearMarksStay: true},
	}
	for name := range maps.Keys(broken) {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(20 * *histories) {
				if wrong := play(broken[name], seed); wrong != "" {
					t.Logf("history %d: %s", seed, wrong)
					return
				}
			}
			t.Error("no history shows that it is")
		})
	}
}
