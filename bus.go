package cacheaside

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// bus tells the other processes, whose values are in memory as well, what this one has changed, and carries out here what
// they tell. Redis holds no value: a change is one script, which counts it and publishes it under its number. So a
// process that has missed a message notices with the next one, or when it next asks for the count.
//
// It is the feed of a backend with [Config.Bus], and what the stores and the tags of such a backend tell of changes.
type bus struct {
	conn    *conn
	channel string // and the key of the count
	own     string // the name of this backend among those on the bus

	taking sync.Mutex // held while a message is carried out; before mu
	known  bool       // what follows is taken; until then it waits
	early  []news     // that waits
	from   busPlace   // of the newest message when known was set

	mu    sync.Mutex
	last  busPlace      // of the newest message
	moved chan struct{} // closed when that changes
}

// busPlace is the number of a message. A count that got lost begins a new epoch.
type busPlace struct {
	epoch  string
	number uint64
}

// follows reports whether nothing can have come between two messages.
func (p busPlace) follows(last busPlace) bool {
	return p.number == last.number+1 && (p.epoch == last.epoch || last == busPlace{})
}

// covers reports whether the message at other is p's, or was before it.
func (p busPlace) covers(other busPlace) bool {
	return p.epoch == other.epoch && p.number >= other.number
}

// news is what a message tells.
type news struct {
	at     busPlace
	sender string
	items  []string // refs as text, and clearedRef with the name of a cache
}

// clearedRef stands before the name of a cache that was cleared.
const clearedRef = "clear:"

const (
	busEvery  = 500 * time.Millisecond // how often the count is asked for
	busBehind = time.Second            // how long a message may be on its way

	// A message has up to so many items, and about so many bytes.
	busItems = 512
	busBytes = 256 << 10
)

var (
	errBusGap    = errors.New("cacheaside: a message of the bus was missed")
	errBusForgot = errors.New("cacheaside: Redis has lost the bus' count of messages")
	errBusBehind = errors.New("cacheaside: a message of the bus has not come within a second")
	errBusReads  = errors.New("cacheaside: a message of the bus cannot be read")
)

// tellScript: KEYS the count; ARGV an epoch for a count that is missing, or "" to change nothing, the channel, and what is
// told. Returns the message's place.
var tellScript = script{text: `
if ARGV[1] == '' then return 0 end
local held = redis.pcall('GET', KEYS[1])
local epoch, last = string.match(type(held) == 'string' and held or '', '^(%w+):(%d+)$')
local at = (epoch or ARGV[1]) .. ':' .. string.format('%.0f', tonumber(last or '0') + 1)
redis.call('SET', KEYS[1], at)
redis.call('PUBLISH', ARGV[2], at .. ' ' .. ARGV[3])
return at`, sha: "4e69acadb8054e1a69317020aa246640f5320bc5", idle: []string{""}}

func newBus(n *conn, prefix string) *bus {
	return &bus{conn: n, channel: prefix + "::{" + prefix + "}:bus", own: rand.Text(), moved: make(chan struct{})}
}

// tell tells the others that items have changed. It takes one round trip for each message.
func (b *bus) tell(ctx context.Context, items []string) error {
	for len(items) > 0 {
		n, size := 0, 0
		for ; n < len(items) && n < busItems && (n == 0 || size+len(items[n]) <= busBytes); n++ {
			size += len(items[n])
		}
		if err := b.send(ctx, items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

func (b *bus) send(ctx context.Context, items []string) error {
	told := []byte(b.own + " ")
	for _, item := range items {
		told = append(binary.AppendUvarint(told, uint64(len(item))), item...)
	}
	return b.conn.attempt(ctx, true, b.channel, func(o *op) error {
		return o.call(&tellScript, []string{b.channel}, rand.Text(), b.channel, rueidis.BinaryString(told)).Error()
	})
}

// parseNews is the inverse of send, and of what the script adds.
func parseNews(message string) (n news, err error) {
	at, rest, _ := strings.Cut(message, " ")
	var ok bool
	if n.at, ok = parsePlace(at); !ok {
		return n, errBusReads
	}
	n.sender, rest, _ = strings.Cut(rest, " ")
	for rest != "" {
		size, used := binary.Uvarint([]byte(rest[:min(len(rest), binary.MaxVarintLen64)]))
		if used <= 0 || size > uint64(len(rest)-used) {
			return n, errBusReads
		}
		n.items = append(n.items, rest[used:used+int(size)])
		rest = rest[used+int(size):]
	}
	return n, nil
}

func parsePlace(text string) (p busPlace, ok bool) {
	epoch, number, _ := strings.Cut(text, ":")
	n, err := strconv.ParseUint(number, 10, 64)
	return busPlace{epoch, n}, err == nil && epoch != ""
}

// busSink is a [Sink], and what a bus needs besides.
type busSink interface {
	Sink
	cleared(name string)    // every key of a cache has changed
	aliveAsOf(at time.Time) // nothing that was told before then was missed
}

// count asks Redis for the place of the newest message; it is zero if there is no count.
func (b *bus) count(ctx context.Context) (at busPlace, err error) {
	err = b.conn.attempt(ctx, false, b.channel, func(o *op) error {
		text, err := o.Do(o.ctx, o.B().Get().Key(b.channel).Build()).ToString()
		if err == nil {
			at, _ = parsePlace(text)
		}
		return err
	})
	return at, err
}

// Run implements [Feed]. It is alive as long as every message that Redis has counted has come within a second.
func (b *bus) Run(ctx context.Context, sink Sink) error {
	to := sink.(busSink) // a backend runs its bus
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	subscribed := make(chan struct{})
	go func() { ended <- b.listen(ctx, sync.OnceFunc(func() { close(subscribed) }), to) }()
	defer func() {
		cancel()
		<-ended
	}()
	stopped := func(err error) error {
		ended <- err // for the defer above
		return err
	}
	select {
	case <-subscribed:
	case err := <-ended:
		return stopped(err)
	}
	b.forget()
	asked := time.Now()
	at, err := b.count(ctx)
	if err != nil {
		return err
	}
	b.begin(at, to)
	to.aliveAsOf(asked)
	tick := time.NewTicker(busEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case err := <-ended:
			return stopped(err)
		}
		if err := b.look(ctx, to); err != nil {
			return err
		}
	}
}

// look asks for the count, and is alive when all has come that was counted then. That Redis does not answer is no reason to
// end: until it does the bus is not alive.
func (b *bus) look(ctx context.Context, to busSink) error {
	asked, before := time.Now(), b.place()
	at, err := b.count(ctx)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	if at == (busPlace{}) && before != at { // there was a count before it was asked for
		b.restart()
		to.Lost(errBusForgot)
	}
	if !b.await(ctx, at) {
		return errBusBehind
	}
	to.aliveAsOf(asked)
	return nil
}

// listen takes messages until the connection is lost.
func (b *bus) listen(ctx context.Context, subscribed func(), to busSink) error {
	o, err := b.conn.begin(ctx, false, b.channel)
	if err != nil {
		return err
	}
	client := o.Client
	_ = b.conn.end(&o, nil) // nil
	hooked := rueidis.WithOnSubscriptionHook(ctx, func(rueidis.PubSubSubscription) { subscribed() })
	return client.Receive(hooked, client.B().Subscribe().Channel(b.channel).Build(), func(m rueidis.PubSubMessage) {
		n, err := parseNews(m.Message)
		if err != nil {
			to.Lost(err) // and the next message, or the next look, finds this one missing
			return
		}
		b.take(n, to)
	})
}

// forget makes messages wait until begin.
func (b *bus) forget() {
	b.taking.Lock()
	defer b.taking.Unlock()
	b.known, b.early = false, nil
}

// begin takes the place of the newest message that was published before now, and then what has come since.
func (b *bus) begin(at busPlace, to busSink) {
	b.taking.Lock()
	defer b.taking.Unlock()
	b.move(at)
	early := b.early
	b.known, b.early = true, nil
	b.from = at
	for _, n := range early {
		b.takeLocked(n, to)
	}
}

func (b *bus) take(n news, to busSink) {
	b.taking.Lock()
	defer b.taking.Unlock()
	if !b.known {
		b.early = append(b.early, n)
		return
	}
	b.takeLocked(n, to)
}

// takeLocked carries out what a message tells. At first those come that were counted in the beginning.
func (b *bus) takeLocked(n news, to busSink) {
	last := b.place()
	counted := last == b.from && last.covers(n.at)
	if !counted && !n.at.follows(last) {
		to.Lost(errBusGap)
	}
	if n.sender != b.own {
		b.carryOut(n.items, to)
	}
	if !counted {
		b.move(n.at)
	}
}

func (b *bus) place() busPlace {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}

func (b *bus) move(to busPlace) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = to
	close(b.moved)
	b.moved = make(chan struct{})
}

// carryOut removes what another process has changed.
func (b *bus) carryOut(items []string, to busSink) {
	refs := make([]Ref, 0, len(items))
	for _, item := range items {
		if name, ok := strings.CutPrefix(item, clearedRef); ok {
			to.cleared(name)
			continue
		}
		var r Ref
		if err := r.UnmarshalText([]byte(item)); err != nil {
			to.Lost(fmt.Errorf("%w: %w", errBusReads, err))
			continue
		}
		refs = append(refs, r)
	}
	if len(refs) > 0 {
		to.Invalidate(slices.Clip(refs)...)
	}
}

// await reports whether the message at this place has come, or comes in time.
func (b *bus) await(ctx context.Context, at busPlace) bool {
	late := time.NewTimer(busBehind)
	defer late.Stop()
	for {
		b.mu.Lock()
		come, moved := at == busPlace{} || b.last.covers(at), b.moved
		b.mu.Unlock()
		if come {
			return true
		}
		select {
		case <-moved:
		case <-late.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// restart expects a new count.
func (b *bus) restart() {
	b.taking.Lock()
	defer b.taking.Unlock()
	b.move(busPlace{})
}
