package cacheaside

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
)

var (
	historySeed  = flag.Uint64("history.seed", 0, "the plan to repeat in TestLinearizability and TestVersions; they print it when they fail. 0: plans at random")
	historyCount = flag.Int("history.count", 0, "how many histories TestLinearizability and TestVersions make on each backend. 0: 2,000 in memory, 200 on Redis")
)

// histories runs body for as many plans as there are to be, each with what a case of the conformance suite
// gets. A seed makes a plan: who does what, and when. It does not make a schedule, so a plan that has failed
// once may have to be repeated some times.
func histories(t *testing.T, r rig, body func(e *env, plan *rand.Rand) error) {
	if r.start != nil {
		r.start(t)
	}
	count := *historyCount
	if count == 0 {
		if count = 2000; r.remote || r.tells {
			count = 200
		}
	}
	for range count {
		seed := *historySeed
		if seed == 0 {
			seed = rand.Uint64()
		}
		var err error
		r.run(t, func(e *env) { err = body(e, rand.New(rand.NewPCG(seed, 0))) })
		if err != nil {
			t.Fatalf("%v\nto repeat it: go test -run '%s' -history.seed %d", err, t.Name(), seed)
		}
	}
}

// TestLinearizability has several goroutines look up, set and delete the same few keys, and asks whether
// there is an order of all they did, each thing at some moment between its call and its return, in which a
// cache that does one thing at a time would have given the same answers. The fetches count as operations of
// their own, which take effect between the call of the look-up that started them and their first statement:
// a source would be read no earlier than that.
//
// It does not see that an answer is old as long as there is such an order; for that, see TestVersions.
func TestLinearizability(t *testing.T) {
	for _, r := range rigs {
		t.Run(r.name, func(t *testing.T) {
			model := cacheModel(r.name != BackendRueidis, r.remote || r.tells)
			histories(t, r, func(e *env, plan *rand.Rand) error {
				h := newHistory(e)
				h.play(plan)
				return h.check(model)
			})
		})
	}
}

// action is an operation of a history.
type action int

const (
	doGet   action = iota // Get
	doEnd                 // Get, when all others have ended
	doLook                // GetWithFetch
	doFetch               // the fetch of a look-up
	doSet
	doDelete // Delete, Mutate and Clear
)

// event is one operation on one key. Values are numbers, each given out once; the error of a fetch is a
// number too.
type event struct {
	action
	key   string
	value int // what was set, fetched or returned; 0: a miss
	fate  fate
}

// fate is whether what a fetch returned is kept.
type fate int

const (
	kept   fate = iota // unless somebody writes the key after it
	unsure             // the key was being written meanwhile, or only a caller that joins has a ttl
	passed             // it is an error, or on rueidis-aside its caller has no ttl
)

func (e event) String() string {
	switch e.action {
	case doGet, doEnd:
		return fmt.Sprintf("Get %q: %d", e.key, e.value)
	case doLook:
		return fmt.Sprintf("GetWithFetch %q: %d", e.key, e.value)
	case doFetch:
		return fmt.Sprintf("fetch %q: %d (%s)", e.key, e.value, [...]string{"to be kept", "may be kept", "not to be kept"}[e.fate])
	case doSet:
		return fmt.Sprintf("Set %q: %d", e.key, e.value)
	default:
		return fmt.Sprintf("Delete %q", e.key)
	}
}

// cacheState is a key of the cache that does one thing at a time.
type cacheState struct {
	value  int // 0: nothing
	flight int // what the present fetch returns to those who join it; 0: there is none
	fate   fate
	late   int // what an earlier fetch may still leave there; 0: nothing
}

// cacheModel is that cache. A strict one fetches only what is not there, once, and remembers what was set
// and fetched. Otherwise what is remembered may be forgotten at any time: plain Redis is no lease, so a
// look-up that has missed may begin its fetch after somebody has set the key, and replace that.
//
// To store takes time where values are remote. A write that comes meanwhile detaches the fetch, so that
// another one may begin, and waits for what is being stored: until the write has returned, that can be seen.
func cacheModel(strict, remote bool) porcupine.Model {
	return porcupine.Model{
		Partition: byKey,
		Init:      func() any { return cacheState{} },
		Step: func(state, input, _ any) (bool, any) {
			s := state.(cacheState)
			next, ok := s.step(input.(event), strict)
			if remote && input.(event).action == doFetch && s.fate == unsure {
				next.late = s.flight
			}
			return ok, next
		},
		DescribeOperation: func(input, _ any) string { return input.(event).String() },
	}
}

func byKey(history []porcupine.Operation) (parts [][]porcupine.Operation) {
	places := make(map[string]int)
	for _, o := range history {
		k := o.Input.(event).key
		at, ok := places[k]
		if !ok {
			at = len(parts)
			places[k], parts = at, append(parts, nil)
		}
		parts[at] = append(parts[at], o)
	}
	return parts
}

// step returns the state after e, and whether e can happen.
func (s cacheState) step(e event, strict bool) (cacheState, bool) {
	switch e.action {
	case doFetch:
		if strict && (s.value != 0 || s.flight != 0 && s.fate == kept) {
			return s, false
		}
		s.flight, s.fate = e.value, e.fate
		return s, true
	case doLook:
		return s, e.value == s.value || e.value == s.flight || e.value == s.late && s.late != 0
	case doGet, doEnd:
		if s.late != 0 && e.value == s.late {
			return s, true
		}
		switch e.value {
		case 0:
			return s, !strict || s.value == 0 && (e.action == doGet || s.flight == 0 || s.fate != kept)
		case s.value:
			return s, true
		default:
			return cacheState{value: e.value}, e.value == s.flight && s.fate != passed
		}
	case doSet:
		return cacheState{value: e.value}, true
	default:
		return cacheState{}, true
	}
}

// history is what happens to one cache.
type history struct {
	*env
	cache *Client[int]
	time  atomic.Int64 // each call and each return is a moment of its own
	value atomic.Int64 // the last number that was given out

	mu  sync.Mutex
	log []porcupine.Operation
}

var historyKeys = []string{"a", "b"}

const historyTTL = time.Hour

func newHistory(e *env) *history {
	// No value expires, no flight ends by its time, and no lease is lost to a machine that is busy.
	h := &history{env: e, cache: open[int](e, func(cfg *Config) { cfg.LeaseTTL = time.Minute })}
	return h
}

func (h *history) now() int64 { return h.time.Add(1) }

func (h *history) note(begun, ended int64, e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.log = append(h.log, porcupine.Operation{Input: e, Call: begun, Return: ended})
}

// play has some goroutines do what the plan says, and closes the cache.
func (h *history) play(plan *rand.Rand) {
	var players sync.WaitGroup
	for range 2 + plan.IntN(4) {
		own := rand.New(rand.NewPCG(plan.Uint64(), 0))
		steps := 3 + plan.IntN(6)
		players.Go(func() {
			for range steps {
				h.pause(own)
				h.act(own)
			}
		})
	}
	players.Wait()
	h.pass(2 * time.Millisecond) // more than any fetch takes, where time is exact
	h.settle(func() bool { return h.cache.flights.underWay() == 0 }, "the fetches that everybody has left end")
	for _, k := range historyKeys {
		h.get(k, doEnd)
	}
	require.NoError(h, h.cache.Close())
}

// pause lets some time pass, or none: times are few, so that much happens at the same.
func (h *history) pause(plan *rand.Rand) {
	if d := time.Duration(plan.IntN(4)) * 100 * time.Microsecond; d > 0 {
		<-time.After(d)
	} else if plan.IntN(2) == 0 {
		runtime.Gosched()
	}
}

func (h *history) act(plan *rand.Rand) {
	k := historyKeys[plan.IntN(len(historyKeys))]
	switch plan.IntN(12) {
	case 0, 1:
		h.get(k, doGet)
	case 2, 3:
		h.set(k)
	case 4, 5:
		h.remove([]string{k}, func() error { return h.cache.Delete(h.Context(), k) })
	case 6:
		h.remove([]string{k}, func() error {
			return h.cache.Mutate(h.Context(), []string{k}, func(context.Context) error {
				h.pause(plan)
				return nil
			})
		})
	case 7:
		if plan.IntN(4) == 0 {
			h.remove(historyKeys, func() error { return h.cache.Clear(h.Context()) })
		}
	default:
		h.look(k, plan)
	}
}

func (h *history) get(k string, what action) {
	begun := h.now()
	v, err := h.cache.Get(h.Context(), k)
	if err != nil {
		require.ErrorIs(h, err, ErrMiss)
	}
	h.note(begun, h.now(), event{action: what, key: k, value: v})
}

func (h *history) set(k string) {
	v := int(h.value.Add(1))
	begun := h.now()
	require.NoError(h, h.cache.Set(h.Context(), k, v, historyTTL))
	h.note(begun, h.now(), event{action: doSet, key: k, value: v})
}

func (h *history) remove(keys []string, remove func() error) {
	begun := h.now()
	require.NoError(h, remove())
	ended := h.now()
	for _, k := range keys {
		h.note(begun, ended, event{action: doDelete, key: k})
	}
}

// numberedError is the error of one fetch.
type numberedError int

func (e numberedError) Error() string { return fmt.Sprintf("fetch %d failed", int(e)) }

// look is a look-up whose fetch may take a while or fail, and whose caller may leave before it ends.
func (h *history) look(k string, plan *rand.Rand) {
	ttl, ctx := historyTTL, h.Context()
	own := rand.New(rand.NewPCG(plan.Uint64(), 0)) // the fetch may outlive the caller's turn
	fails := plan.IntN(6) == 0
	if plan.IntN(6) == 0 {
		ttl = 0
	}
	if plan.IntN(5) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(plan.IntN(4))*100*time.Microsecond)
		defer cancel()
	}
	begun := h.now()
	v, err := h.cache.GetWithFetch(ctx, k, ttl, func(context.Context, string) (int, error) {
		v := int(h.value.Add(1))
		e := event{action: doFetch, key: k, value: v}
		switch {
		case fails || ttl == 0 && h.cache.Config().Backend == BackendRueidisAside:
			e.fate = passed
		case ttl == 0:
			e.fate = unsure // a caller with a ttl may join it
		}
		h.note(begun, h.now(), e)
		h.pause(own)
		h.pause(own)
		if fails {
			return 0, numberedError(v)
		}
		return v, nil
	})
	var failed numberedError
	switch {
	case errors.As(err, &failed):
		v = int(failed)
	case err != nil:
		require.ErrorIs(h, err, context.DeadlineExceeded)
		return // who has left has seen nothing
	}
	h.note(begun, h.now(), event{action: doLook, key: k, value: v})
}

// check asks porcupine.
func (h *history) check(model porcupine.Model) error {
	h.judgeFates()
	if porcupine.CheckOperations(model, h.log) {
		return nil
	}
	return errors.New("this history is not linearizable:\n" + h.String())
}

// judgeFates finds the fetches that a write may have voided: one that was under way at any moment between the
// call that started the fetch and the return of the last look-up that got what it fetched.
func (h *history) judgeFates() {
	for i := range h.log {
		fetch := h.log[i].Input.(event)
		if fetch.action != doFetch || fetch.fate != kept {
			continue
		}
		ended := h.ended(fetch)
		if slices.ContainsFunc(h.log, func(o porcupine.Operation) bool {
			e := o.Input.(event)
			return e.key == fetch.key && e.action >= doSet && o.Call < ended && o.Return > h.log[i].Call
		}) {
			fetch.fate = unsure
			h.log[i].Input = fetch
		}
	}
}

// ended returns when a fetch, and what follows it, had ended for certain.
func (h *history) ended(fetch event) (t int64) {
	for _, o := range h.log {
		if e := o.Input.(event); e.action == doLook && e.value == fetch.value {
			t = max(t, o.Return)
		}
	}
	if t == 0 { // everybody has left before
		t = h.now()
	}
	return t
}

// String returns the history in the order of the calls.
func (h *history) String() string {
	slices.SortFunc(h.log, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var b strings.Builder
	for _, o := range h.log {
		fmt.Fprintf(&b, "%4d to %4d  %v\n", o.Call, o.Return, o.Input)
	}
	return b.String()
}

// TestTheModelKnowsABrokenCache shows the model histories that no cache may have.
func TestTheModelKnowsABrokenCache(t *testing.T) {
	at := func(begun, ended int64, what action, value int, f fate) porcupine.Operation {
		return porcupine.Operation{Call: begun, Return: ended, Input: event{action: what, key: "a", value: value, fate: f}}
	}
	for name, c := range map[string]struct {
		history        []porcupine.Operation
		strict, anyway bool // whether it can happen
	}{
		"what was set is got": {[]porcupine.Operation{
			at(1, 2, doSet, 1, kept), at(3, 4, doGet, 1, kept), at(5, 6, doEnd, 1, kept),
		}, true, true},
		"who waits while it is deleted gets what was fetched": {[]porcupine.Operation{
			at(1, 2, doFetch, 1, unsure), at(3, 4, doDelete, 0, kept), at(1, 6, doLook, 1, kept), at(7, 8, doEnd, 0, kept),
		}, true, true},
		"a look-up that began after a Delete gets what was fetched before": {[]porcupine.Operation{
			at(1, 2, doFetch, 1, unsure), at(3, 4, doDelete, 0, kept), at(5, 6, doLook, 1, kept),
		}, false, false},
		"a fetch replaces what was set after it had begun": {[]porcupine.Operation{
			at(1, 2, doFetch, 1, unsure), at(3, 4, doSet, 2, kept), at(1, 5, doLook, 1, kept), at(6, 7, doEnd, 1, kept),
		}, false, false},
		"a Delete is undone": {[]porcupine.Operation{
			at(1, 2, doSet, 1, kept), at(3, 4, doDelete, 0, kept), at(5, 6, doGet, 1, kept),
		}, false, false},
		"an error is kept": {[]porcupine.Operation{
			at(1, 2, doFetch, 1, passed), at(1, 4, doLook, 1, kept), at(5, 6, doGet, 1, kept),
		}, false, false},
		"two fetches at a time": {[]porcupine.Operation{
			at(1, 3, doFetch, 1, kept), at(2, 4, doFetch, 2, kept), at(1, 6, doLook, 1, kept), at(2, 7, doLook, 2, kept),
		}, false, true},
		"what was fetched is lost": {[]porcupine.Operation{
			at(1, 2, doFetch, 1, kept), at(1, 4, doLook, 1, kept), at(5, 6, doEnd, 0, kept),
		}, false, true},
		"what was set is lost": {[]porcupine.Operation{
			at(1, 2, doSet, 1, kept), at(3, 4, doGet, 0, kept),
		}, false, true},
	} {
		require.Equal(t, c.strict, porcupine.CheckOperations(cacheModel(true, false), c.history), name)
		require.Equal(t, c.anyway, porcupine.CheckOperations(cacheModel(false, false), c.history), name)
	}
}
