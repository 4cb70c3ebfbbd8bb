package cacheaside

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// The lease protocol of rueidis-aside: of all processes that miss a key, one fetches it.
//
// A missing key is leased by setting it to a token, if it does not exist. Filling sets it to the value, if
// it still holds that token: any Set or Delete, by whatever process, has made the lease void. The others
// have read the token with client tracking on, and are told when it changes. A lease lasts for LeaseTTL
// unless its holder prolongs it, so one who died keeps nobody waiting for longer; since Redis may tell late
// of what has expired, who waits also looks again from time to time. Then it also looks whether the lease
// expires as one does: a token that somebody has copied to the key does not, nobody will ever fill it, and who
// waits takes its place.
//
// A stale entry stays where it is while it is being refreshed. Its lease is a key of its own, and filling
// replaces the entry only if it is still the one that was there. A cache that gives no stale entries out needs
// no such keys, and no permission for them: the token takes the entry's place.

// asideLease is what rueidis-aside knows of a lease.
type asideLease struct {
	key      string // in Redis, of the token
	replaces string // the first bytes of the stale entry that is to be replaced; "" for a missing key
	length   int    // and its length
	shared   bool   // another process holds it: to be filled by comparison, and not to be given up
	beat     *reaper
	cancel   context.CancelFunc // ends the heartbeat's operation
}

// identityBytes is how much of an entry its identity takes: the header.
const identityBytes = headerBytes

func identity(data string) string { return data[:min(len(data), identityBytes)] }

// leaseKey is where the lease of a stale entry stands. No cache's name is empty, so no key of a cache is
// like it.
func (a *aside[T]) leaseKey(key string) string { return leaseName(a.name) + key }

// leaseName is what the leases of a cache begin with whose keys begin with name.
func leaseName(name string) string {
	prefix, rest, _ := strings.Cut(name, ":") // rest ends with a colon, which no other cache's name holds
	return prefix + "::" + rest
}

func (a *aside[T]) acquire(ctx context.Context, key string, seen *entry[T], allowed *allowance, wait bool) (lease[T], *entry[T], error) {
	known := sight{missing: seen == nil}
	for {
		var next *change
		next, known.token = a.watch(key)
		asking, outlay := allowed.begin(ctx)
		held, filled, err := a.contend(asking, key, &known)
		if err != errLeased || !wait {
			outlay.end()
		} else {
			outlay.forgive() // to look is part of waiting
			err = a.waitFor(ctx, key, next, &known)
		}
		a.unwatch(key, next)
		if err != nil || held.token != "" || filled != nil {
			return held, filled, err
		}
	}
}

// sight is what is known of a key before one tries to lease it.
type sight struct {
	missing bool      // there is likely nothing under it
	token   string    // a lease is there: no need to try
	overdue bool      // a lease was there, and has been waited for in vain: it is to be looked at
	waited  bool      // for a lease, so that its outcome is the answer
	first   string    // the token that was waited for first; "" if it was not seen
	ours    bool      // it was of an earlier flight of this process, whose outcome its own callers have
	until   time.Time // when LeaseWait is over; zero before it is known
	over    bool      // it is
}

// heard takes note of a lease that is waited for. Its age is not to be relied on, since it compares two clocks: a
// part of LeaseTTL is waited in any case.
func (s *sight) heard(token string, wait, least time.Duration) {
	left := max(wait-max(tokenAge(token), 0), min(least, wait))
	if until := time.Now().Add(left); s.until.IsZero() || until.Before(s.until) {
		s.until = until
	}
}

// contend tries to lease a key. It returns the lease, or an entry that needs no fetch, or errLeased; or
// none of them, if the key has changed meanwhile.
func (a *aside[T]) contend(ctx context.Context, key string, known *sight) (held lease[T], filled *entry[T], err error) {
	if known.token != "" && !known.overdue && !known.over && (!known.waited || known.ours || known.token == known.first) {
		a.hear(known, known.token)
		return held, nil, errLeased
	}
	if known.missing {
		held, err = a.take(ctx, a.redisKey(key))
		if err != nil || held.token != "" {
			return held, nil, err
		}
	}
	data, err := a.read(ctx, key) // from here on Redis tells when the key changes
	switch {
	case err == errNothing:
		held, err = a.take(ctx, a.redisKey(key))
		return held, nil, err
	case err == errWrongType:
		held, err = a.seize(ctx, key, "", -1)
		return held, nil, err
	case err != nil:
		return held, nil, err
	}
	e, err := a.decode(key, data)
	switch {
	case err == errLease:
		held, err = a.meet(ctx, a.redisKey(key), data, known)
		return held, nil, err
	case err != nil:
		held, err = a.seize(ctx, key, identity(data), len(data))
		return held, nil, err
	case !a.isStale(e):
		return held, e, nil
	case !a.keepsStale: // its time is over by our clock, and not yet by that of Redis
		held, err = a.seize(ctx, key, identity(data), len(data))
		return held, nil, err
	}
	held, err = a.takeStale(ctx, key, data, e, known)
	return held, nil, err
}

// hear notes a token that is waited for.
func (a *aside[T]) hear(known *sight, token string) {
	if known.first == "" || known.ours {
		known.first, known.ours = token, a.isOurs(token)
	}
	known.heard(token, a.wait, a.lease/leaseLooks)
}

// meet is what becomes of a lease that another process has under redisKey, or has had: stands is its token, or the
// mark that it has left.
func (a *aside[T]) meet(ctx context.Context, redisKey, stands string, known *sight) (lease[T], error) {
	shared := lease[T]{token: stands, aside: asideLease{key: redisKey, shared: true}}
	if !isMark(stands) {
		if err := known.answer(outcome(stands[tokenBeforeAt]), stands); err != nil {
			return lease[T]{}, err
		}
		if known.over {
			return shared, nil
		}
		a.hear(known, stands)
		return a.takeOver(ctx, redisKey, stands, known)
	}
	o := outcomeOf(stands)
	if o == notStored { // one after another would wait in vain
		return shared, nil
	}
	if err := known.answer(o, stands); err != nil {
		return lease[T]{}, err
	}
	return a.put(ctx, &replaceScript, redisKey, o, stands, strconv.Itoa(len(stands)))
}

// answer returns what the outcome of the lease that was waited for is to those who wait, if it was waited for: now
// says, by its mark or by the token that has replaced that, how the lease before it ended.
func (s *sight) answer(o outcome, now string) error {
	switch {
	case !s.waited || s.ours || now == s.first:
		return nil
	case o == notFound:
		return errAbsent
	case o == failed:
		return errFailed
	}
	return nil
}

// isStale reports whether e is past its freshness, or due for a refresh.
func (a *aside[T]) isStale(e *entry[T]) bool {
	now := a.clock.now()
	return now >= e.freshUntil(a.form.window)-e.early()
}

// take leases a key by setting it to a token, if there is nothing under it. The token is "" if there is.
func (a *aside[T]) take(ctx context.Context, redisKey string) (lease[T], error) {
	token := a.token(noOutcome)
	o, err := a.conn.begin(ctx, false)
	if err != nil {
		return lease[T]{}, err
	}
	reply := o.Do(o.ctx, o.B().Set().Key(redisKey).Value(token).Nx().PxMilliseconds(a.lease.Milliseconds()).Build())
	taken := reply.Error() == nil
	return a.taken(redisKey, token, taken, a.conn.end(&o, reply.Error()))
}

// taken returns a lease that was asked for with this outcome. If the answer has not come in time, the token may
// stand there all the same, now or in a moment, so the lease is returned together with the error.
func (a *aside[T]) taken(redisKey, token string, taken bool, err error) (lease[T], error) {
	late := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	if err == nil && !taken || err != nil && !late {
		return lease[T]{}, err
	}
	return a.hold(lease[T]{token: token, aside: asideLease{key: redisKey}}), err
}

// takeStale leases the entry e, whose stored form is data, to replace it. It returns errLeased if another
// process has that lease, and errReplaced if the entry is no longer there: then whoever had the lease until now
// has replaced it.
func (a *aside[T]) takeStale(ctx context.Context, key, data string, e *entry[T], known *sight) (lease[T], error) {
	held, err := a.take(ctx, a.leaseKey(key))
	if err == nil && held.token == "" {
		held, err = a.meetStale(ctx, a.leaseKey(key), known)
	}
	held.seen = e
	held.aside.replaces, held.aside.length = identity(data), len(data)
	if err != nil || held.token == "" {
		return held, err
	}
	a.detachRead(key) // what another one has begun to read before the lease was taken does not count
	now, err := a.read(ctx, key)
	if err == errNothing || err == errWrongType || err == nil && now != data {
		err = errReplaced
	}
	return held, err
}

// meetStale is meet for the lease of a stale entry, which is looked at for that. What is neither token nor mark
// is taken over in its time.
func (a *aside[T]) meetStale(ctx context.Context, redisKey string, known *sight) (lease[T], error) {
	o, err := a.conn.begin(ctx, false)
	if err != nil {
		return lease[T]{}, err
	}
	stands, err := o.Do(o.ctx, o.B().Get().Key(redisKey).Build()).ToString()
	switch {
	case rueidis.IsRedisNil(err):
		return lease[T]{}, a.conn.end(&o, nil) // it is to be tried again
	case isWrongType(err):
		err, stands = nil, ""
	}
	if err = a.conn.end(&o, err); err != nil {
		return lease[T]{}, err
	}
	if isLease(stands) || isMark(stands) {
		return a.meet(ctx, redisKey, stands, known)
	}
	return a.takeOver(ctx, redisKey, "", known)
}

// seize leases a key that holds what is of no use, with this identity, by putting the token in its place.
func (a *aside[T]) seize(ctx context.Context, key, first string, length int) (lease[T], error) {
	return a.put(ctx, &replaceScript, a.redisKey(key), noOutcome, first, strconv.Itoa(length))
}

// takeOver takes the place of a lease that does not expire in its time, which is what stands under redisKey,
// or whatever does if that is "". It returns errLeased if the lease is as it should be, or if it was not
// waited for yet: one look at it in a while is enough.
func (a *aside[T]) takeOver(ctx context.Context, redisKey, stands string, known *sight) (lease[T], error) {
	if !known.overdue {
		return lease[T]{}, errLeased
	}
	held, err := a.put(ctx, &takeOverScript, redisKey, noOutcome, stands)
	if err == nil && held.token == "" {
		err = errLeased
	}
	return held, err
}

// put leases a key by a script that puts a token there, which is its last argument but one. before is how the lease
// ended whose mark the token replaces. The token is "" if it was not put there.
func (a *aside[T]) put(ctx context.Context, s *script, redisKey string, before outcome, args ...string) (lease[T], error) {
	token := a.token(before)
	o, err := a.conn.begin(ctx, false)
	if err != nil {
		return lease[T]{}, err
	}
	n, err := o.run(s, redisKey, append(args, token, a.leaseMilliseconds())...)
	return a.taken(redisKey, token, n == 1, a.conn.end(&o, err))
}

func (a *aside[T]) leaseMilliseconds() string { return strconv.FormatInt(a.lease.Milliseconds(), 10) }

// hold starts the heartbeat of a lease that was taken.
func (a *aside[T]) hold(l lease[T]) lease[T] {
	ctx, cancel := context.WithCancel(context.Background())
	l.aside.cancel = cancel
	key, token := l.aside.key, l.token
	l.aside.beat = newReaper(a.lease/3, func(time.Time) bool {
		n, err := a.script(ctx, &prolongScript, key, token, a.leaseMilliseconds())
		return err != nil || n == 1 // what failed is tried again, what is lost is not
	})
	l.aside.beat.wake()
	return l
}

// rest ends the heartbeat.
func (l *asideLease) rest() {
	if l.beat != nil {
		l.cancel()
		l.beat.stop()
	}
}

func (a *aside[T]) fill(ctx context.Context, key string, l lease[T], e entry[T], took time.Duration) (bool, error) {
	l.aside.rest()
	k := a.redisKey(key)
	data, err := a.form.encode(k, &e, took)
	if err != nil {
		return false, err
	}
	px := ""
	if ms, ok := a.form.millisecondsLeft(&e); ok {
		px = strconv.FormatInt(ms, 10)
	}
	a.write(key)
	defer a.forget(key)
	value := rueidis.BinaryString(data)
	if l.aside.replaces == "" {
		n, err := a.script(ctx, &fillScript, k, l.token, value, px)
		return n == 1, err
	}
	n, err := a.script(ctx, &replaceScript, k, l.aside.replaces, strconv.Itoa(l.aside.length), value, px)
	if err == nil {
		err = a.abandon(ctx, key, l, noOutcome, false)
	}
	return n == 1, err
}

func (a *aside[T]) abandon(ctx context.Context, key string, l lease[T], why outcome, remove bool) error {
	l.aside.rest()
	if l.token == "" {
		return nil
	}
	if remove && l.aside.replaces != "" {
		a.write(key)
		defer a.forget(key)
		if _, err := a.script(ctx, &dropScript, a.redisKey(key), l.aside.replaces, strconv.Itoa(l.aside.length)); err != nil {
			return err
		}
	}
	switch {
	case l.aside.shared:
		return nil
	case why == noOutcome:
		_, err := a.script(ctx, &releaseScript, l.aside.key, l.token)
		return err
	}
	n, err := a.script(ctx, &fillScript, l.aside.key, l.token, newMark(why), strconv.FormatInt(markTime.Milliseconds(), 10))
	if err != nil || n == 0 || l.aside.replaces == "" || remove {
		return err
	}
	// Redis tells of a change of the entry only, so it is told of that.
	_, err = a.script(ctx, &touchScript, a.redisKey(key), "")
	return err
}

// script runs a script on one key, and returns its number.
func (a *aside[T]) script(ctx context.Context, s *script, key string, args ...string) (int64, error) {
	size := 0
	for _, arg := range args {
		size = max(size, len(arg))
	}
	o, err := a.conn.beginWrite(ctx, false, key, size)
	if err != nil {
		return 0, err
	}
	n, err := o.run(s, key, args...)
	return n, a.conn.end(&o, err)
}

// watch returns the next change of key that Redis tells of, and the token that the key is known to hold, if any.
// unwatch must follow.
func (a *aside[T]) watch(key string) (next *change, token string) {
	s := a.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	next = s.changeLocked(key)
	next.waiters++
	return next, next.token
}

func (a *aside[T]) unwatch(key string, next *change) {
	s := a.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if next.waiters--; next.waiters == 0 && next.token == "" && s.changes[key] == next {
		delete(s.changes, key)
	}
}

// waitFor waits until key has changed, or for a part of LeaseTTL, or until LeaseWait is over, whichever is first:
// then what was known of the key counts for nothing. It notes whether it waited in vain: Redis tells of a lease
// that has expired only when it comes across it.
func (a *aside[T]) waitFor(ctx context.Context, key string, next *change, known *sight) error {
	now := time.Now()
	if known.until.IsZero() {
		known.until = now.Add(a.wait)
	}
	t := time.NewTimer(min(a.lease/leaseLooks, known.until.Sub(now)))
	defer t.Stop()
	known.waited, known.missing = true, false // more likely it has been filled
	select {
	case <-next.happens:
		known.overdue = false
	case <-t.C:
		known.overdue = true
		s := a.shard(key)
		s.mu.Lock()
		if s.changes[key] == next {
			s.tellLocked(key)
		}
		s.mu.Unlock()
	case <-ctx.Done():
		return ctx.Err()
	}
	known.over = !time.Now().Before(known.until)
	return nil
}

// leaseLooks is how many times in a LeaseTTL one looks who waits.
const leaseLooks = 4
