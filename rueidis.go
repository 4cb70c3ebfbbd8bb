package cacheaside

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// remote keeps entries in Redis, by plain GET, SET and DEL. Several processes share them.
//
// What a process writes to a key happens in one order, since flights lets no fill, Set or Delete of a key
// begin before the one before it has ended, and all go by one connection (see second). Comparing on the server in the
// place of that needs a lease in Redis for each fetch; rueidis-aside is the backend that does so.
type remote[T any] struct {
	conn *conn
	form form[T]
	name string // of the cache: what its keys begin with

	settle time.Duration   // for which a removal leaves a marker; zero: it leaves nothing
	closed <-chan struct{} // with the cache
	reads  *sharedReads    // nil on rueidis-aside, which has its own
}

var _ store[struct{}] = (*remote[struct{}])(nil)

// redisKey is key as it stands in Redis.
func (r *remote[T]) redisKey(key string) string { return r.name + key }

func (r *remote[T]) peek(string) *entry[T] { return nil }

func (r *remote[T]) lookup(ctx context.Context, key string) (*entry[T], error) {
	o, err := r.conn.beginRead(ctx, r.name, key)
	if err != nil {
		return nil, err
	}
	got, err := r.read(&o, key)
	if r.conn.again(&o, err, false) || r.conn.passBy(&o, err, r.name, key) {
		got, err = r.read(&o, key)
	}
	if isWrongType(err) {
		_ = r.conn.end(&o, nil) // nil
		return nil, errWrongType
	}
	if err := r.conn.end(&o, err); err != nil || !got.found {
		return nil, err
	}
	return r.decoded(key, got)
}

func (r *remote[T]) lookupMany(ctx context.Context, keys []string) []lookedUp[T] {
	return lookUpInParts(r.conn, r.name, keys, func(keys []string, by way) []lookedUp[T] { return r.lookupPart(ctx, keys, by) })
}

func (r *remote[T]) lookupPart(ctx context.Context, keys []string, by way) []lookedUp[T] {
	o, err := r.conn.beginLong(ctx, false, by.second, by.at)
	if err != nil {
		return failAll[T](len(keys), err)
	}
	read, err := r.readMany(&o, keys)
	if r.conn.again(&o, err, false) {
		read, err = r.readMany(&o, keys)
	}
	if err := r.conn.end(&o, err); err != nil {
		return failAll[T](len(keys), err)
	}
	got := make([]lookedUp[T], len(keys))
	for i, key := range keys {
		if read[i].found {
			got[i].entry, got[i].err = r.decoded(key, read[i])
		}
	}
	return got
}

var errWrongType error = &plainError{"the key holds no string"}

func isWrongType(err error) bool {
	re, ok := rueidis.IsRedisErr(err)
	return ok && strings.HasPrefix(re.Error(), "WRONGTYPE")
}

// replyCode returns the code of an error that Redis replied, "OOM" say, and "" for any other error. What
// follows the code may quote the command, with the key and the value.
func replyCode(err error) string {
	re, ok := err.(*rueidis.RedisError)
	if !ok {
		return ""
	}
	return codeOf(re.Error())
}

// isOneOf reports whether err itself, and not what it wraps, is one of these.
func isOneOf(err error, these ...error) bool { return slices.Contains(these, err) }

// codeOf returns what a reply that is an error begins with.
func codeOf(reply string) string {
	code, _, _ := strings.Cut(reply, " ")
	if code == "" || strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return "an error"
	}
	return code
}

// clientError describes an error that the client makes, and returns "" for any other. A command that a new
// connection begins with stands in the error's text, behind what Redis replied.
func clientError(err error) string {
	if isOneOf(errors.Unwrap(err), rueidis.ErrNoCache) {
		reply, command, _ := strings.Cut(err.Error(), ": [CLIENT ")
		command, _, _ = strings.Cut(command, " ")
		return "Redis replied " + codeOf(reply) + " to CLIENT " + command
	}
	if isOneOf(err, rueidis.ErrNoCache) {
		return "the server does not speak RESP3"
	}
	if isOneOf(err, rueidis.ErrClosing, rueidis.ErrNoAddr, rueidis.ErrNoSlot, rueidis.ErrDoCacheAborted) {
		return err.Error()
	}
	return ""
}

// acquire has nothing to do: the flights are the lease, and other processes fetch for themselves.
func (r *remote[T]) acquire(_ context.Context, _ string, seen *entry[T], _ *allowance, _ bool) (lease[T], *entry[T], error) {
	return lease[T]{seen: seen}, nil, nil
}

func (r *remote[T]) fill(ctx context.Context, key string, l lease[T], e entry[T], took time.Duration) (bool, error) {
	err := r.write(ctx, key, &e, l.tags, l.settling, took, false)
	return err == nil, err
}

func (r *remote[T]) abandon(ctx context.Context, key string, l lease[T], _ outcome, remove bool) error {
	if !remove {
		return nil
	}
	return r.remove(ctx, key, l.settling, false)
}

func (r *remote[T]) set(ctx context.Context, key string, e entry[T], tags *tagging) error {
	return r.write(ctx, key, &e, tags, nil, 0, true)
}

func (r *remote[T]) write(ctx context.Context, key string, e *entry[T], tags *tagging, s *settling, took time.Duration, patient bool) error {
	k := r.redisKey(key)
	data, err := r.form.encode(k, e, tags, took, s)
	if err != nil {
		return err
	}
	value := rueidis.BinaryString(data)
	return r.conn.write(ctx, patient, k, len(value), r.open(func(o *op) error {
		set := o.B().Set().Key(k).Value(value)
		if ms, ok := r.form.millisecondsLeft(e, s); ok {
			return o.Do(o.ctx, set.PxMilliseconds(ms).Build()).Error()
		}
		return o.Do(o.ctx, set.Build()).Error()
	}))
}

// removeBatch is how many keys deleteMany deletes in one go.
const removeBatch = 512

// deleteMany deletes the keys of each node of a cluster by themselves.
func (r *remote[T]) deleteMany(ctx context.Context, keys []string) (failed []string, err error) {
	if r.conn.nodes == nil {
		return r.deleteAt(ctx, keys, &r.conn.node)
	}
	byNode := make(map[*node][]string)
	for _, key := range keys {
		at := r.conn.nodeOf(r.redisKey(key))
		byNode[at] = append(byNode[at], key)
	}
	var mu sync.Mutex
	var deleting sync.WaitGroup
	for at, keys := range byNode {
		deleting.Go(func() {
			left, why := r.deleteAt(ctx, keys, at)
			mu.Lock()
			defer mu.Unlock()
			if failed = append(failed, left...); why != nil {
				err = why
			}
		})
	}
	deleting.Wait()
	return failed, err
}

// deleteAt sends the keys one by one in few round trips: in a cluster they belong to several slots. Where nothing of a
// batch is deleted, the rest is not tried.
func (r *remote[T]) deleteAt(ctx context.Context, keys []string, at *node) (failed []string, err error) {
	if r.conn.second.used.Load() {
		if keys, failed, err = r.deleteLarge(ctx, keys); err != nil {
			return append(failed, keys...), err
		}
	}
	for from := 0; from < len(keys); from += removeBatch {
		batch := keys[from:min(from+removeBatch, len(keys))]
		var left []string
		tried := r.conn.attemptAt(ctx, true, at, r.open(func(o *op) (err error) {
			left, err = r.deleteBatch(o, batch)
			return err
		}))
		if tried == nil {
			continue
		}
		if err = tried; left == nil { // nothing was sent
			left = batch
		}
		failed = append(failed, left...)
		if len(left) == len(batch) {
			return append(failed, keys[from+len(batch):]...), err
		}
	}
	return failed, err
}

// deleteLarge deletes those keys whose values are known to be large, and returns the rest. After a failure the others
// are not tried.
func (r *remote[T]) deleteLarge(ctx context.Context, keys []string) (rest, failed []string, err error) {
	for _, key := range keys {
		switch {
		case r.conn.second.of(r.redisKey(key)) == nil:
			rest = append(rest, key)
		case err == nil:
			err = r.delete(ctx, key)
			fallthrough
		default:
			if err != nil {
				failed = append(failed, key)
			}
		}
	}
	return rest, failed, err
}

func (r *remote[T]) dropNear(string) {}

func (r *remote[T]) dropKept(string, *entry[T]) {}

func (r *remote[T]) mark(string, *entry[T], bool, uint32) bool { return false }

func (r *remote[T]) dropAllNear() {}

func (r *remote[T]) suspend() {}

func (r *remote[T]) resume() {}

// open is write unless the cache was closed while that has waited for the connection: it must not be sent then.
func (r *remote[T]) open(write func(*op) error) func(*op) error {
	return func(o *op) error {
		select {
		case <-r.closed:
			return ErrClosed
		default:
			return write(o)
		}
	}
}

// clear walks the keys of this cache by SCAN, on every node, which does not block the server.
func (r *remote[T]) clear(ctx context.Context) error {
	c := r.conn.client.Load()
	if c == nil {
		return unavailable(errConnectionLost)
	}
	for _, node := range (*c).Nodes() {
		if err := r.clearNode(ctx, node); err != nil {
			return err
		}
	}
	return nil
}

// clearBatch is how many keys a step of clear looks at.
const clearBatch = 2048

func (r *remote[T]) clearNode(ctx context.Context, node rueidis.CommandClient) error {
	plain := r.conn.isPlain()
	if plain {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		apart, err := r.conn.apart(ctx) // a proxy may hang up at a command that it does not know
		if err != nil {
			return unavailable(err)
		}
		defer apart.Close()
		node = apart
	}
	err := r.scan(ctx, node)
	if re, ok := replied(err); ok && isUnknownCommand(re) || plain && hangsUp(err) {
		return fmt.Errorf("what is at Redis.Addrs does not know SCAN or UNLINK, which Clear needs: %w", err)
	}
	return err
}

func (r *remote[T]) scan(ctx context.Context, node rueidis.CommandClient) error {
	pattern := globEscape(r.name) + "*"
	for cursor := uint64(0); ; {
		o, err := r.conn.begin(ctx, true, "")
		if err != nil {
			return err
		}
		page, err := node.Do(o.ctx, node.B().Scan().Cursor(cursor).Match(pattern).Count(clearBatch).Build()).AsScanEntry()
		if err == nil && len(page.Elements) > 0 {
			err = unlink(o.ctx, node, page.Elements)
		}
		if hangsUp(err) && r.conn.isPlain() { // the connection was one apart: that of the others is well
			_ = r.conn.end(&o, nil) // nil
			return unavailable(err)
		}
		if err := r.conn.end(&o, err); err != nil {
			if isReplica(err) {
				return nil // its master's keys are cleared there
			}
			return err
		}
		if cursor = page.Cursor; cursor == 0 {
			return nil
		}
	}
}

// unlink removes keys one by one in one round trip: in a cluster they belong to several slots.
func unlink(ctx context.Context, node rueidis.CommandClient, keys []string) error {
	commands := make(rueidis.Commands, len(keys))
	for i, k := range keys {
		commands[i] = node.B().Unlink().Key(k).Build()
	}
	for _, reply := range node.DoMulti(ctx, commands...) {
		if err := reply.Error(); err != nil {
			return err
		}
	}
	return nil
}

// replied returns the reply that err is, or wraps.
func replied(err error) (re *rueidis.RedisError, ok bool) {
	ok = errors.As(err, &re)
	return re, ok
}

func isReplica(err error) bool {
	re, ok := replied(err)
	return ok && (strings.HasPrefix(re.Error(), "READONLY") || strings.HasPrefix(re.Error(), "MOVED"))
}

// globEscape quotes what SCAN would take for a pattern.
func globEscape(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`).Replace(s)
}

func (r *remote[T]) ping(ctx context.Context) error { return r.conn.works(ctx, r.name, needs[:2]) }

func (r *remote[T]) figures() (entries int, evictions, expirations uint64) { return 0, 0, 0 }

// close leaves the connection to the backend.
func (r *remote[T]) close() {}

// millisecondsLeft is what is left until Redis may forget e, rounded up; false if it must not. What is in the place of a marker
// that stands goes with that, though its own time may be over before.
func (f *form[T]) millisecondsLeft(e *entry[T], s *settling) (int64, bool) {
	deadline := e.deadline
	if s != nil {
		deadline = s.until
	}
	if deadline == never {
		return 0, false
	}
	left := time.Duration(deadline - f.clock.now())
	return max(1, int64(math.Ceil(float64(left)/float64(time.Millisecond)))), true
}
