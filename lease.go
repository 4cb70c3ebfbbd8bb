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
		next, known.leased = a.watch(key)
		asking, outlay := allowed.begin(ctx)
		held, filled, err := a.contend(asking, key, known)
		if err != errLeased || !wait {
			outlay.end()
		} else {
			outlay.forgive() // to look is part of waiting
			known.overdue, err = a.waitFor(ctx, key, next)
			known.missing = false // more likely it has been filled
		}
		a.unwatch(key, next)
		if err != nil || held.token != "" || filled != nil {
			return held, filled, err
		}
	}
}

// sight is what is known of a key before one tries to lease it.
type sight struct {
	missing bool // there is likely nothing under it
	leased  bool // a lease is there: no need to try
	overdue bool // a lease was there, and has been waited for in vain: it is to be looked at
}

// contend tries to lease a key. It returns the lease, or an entry that needs no fetch, or errLeased; or
// none of them, if the key has changed meanwhile.
func (a *aside[T]) contend(ctx context.Context, key string, known sight) (held lease[T], filled *entry[T], err error) {
	if known.leased && !known.overdue {
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
		held, err = a.takeOver(ctx, a.redisKey(key), data, known)
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

// isStale reports whether e is past its freshness, or due for a refresh.
func (a *aside[T]) isStale(e *entry[T]) bool {
	now := a.clock.now()
	return now >= e.freshUntil(a.form.window)-e.early()
}

// take leases a key by setting it to a token, if there is nothing under it. The token is "" if there is.
func (a *aside[T]) take(ctx context.Context, redisKey string) (lease[T], error) {
	token := newToken(a.lease)
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
func (a *aside[T]) takeStale(ctx context.Context, key, data string, e *entry[T], known sight) (lease[T], error) {
	held, err := a.take(ctx, a.leaseKey(key))
	if err == nil && held.token == "" {
		held, err = a.takeOver(ctx, a.leaseKey(key), "", known)
	}
	held.seen = e
	held.aside.replaces, held.aside.length = identity(data), len(data)
	if err != nil {
		return held, err
	}
	a.detachRead(key) // what another one has begun to read before the lease was taken does not count
	now, err := a.read(ctx, key)
	if err == errNothing || err == errWrongType || err == nil && now != data {
		err = errReplaced
	}
	return held, err
}

// seize leases a key that holds what is of no use, with this identity, by putting the token in its place.
func (a *aside[T]) seize(ctx context.Context, key, first string, length int) (lease[T], error) {
	return a.put(ctx, &replaceScript, a.redisKey(key), first, strconv.Itoa(length))
}

// takeOver takes the place of a lease that does not expire in its time, which is what stands under redisKey,
// or whatever does if that is "". It returns errLeased if the lease is as it should be, or if it was not
// waited for yet: one look at it in a while is enough.
func (a *aside[T]) takeOver(ctx context.Context, redisKey, stands string, known sight) (lease[T], error) {
	if !known.overdue {
		return lease[T]{}, errLeased
	}
	held, err := a.put(ctx, &takeOverScript, redisKey, stands)
	if err == nil && held.token == "" {
		err = errLeased
	}
	return held, err
}

// put leases a key by a script that puts a token there, which is its last argument but one. The token is "" if
// it has not.
func (a *aside[T]) put(ctx context.Context, s *script, redisKey string, args ...string) (lease[T], error) {
	token := newToken(a.lease)
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
		err = a.abandon(ctx, key, l, false)
	}
	return n == 1, err
}

func (a *aside[T]) abandon(ctx context.Context, key string, l lease[T], remove bool) error {
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
	_, err := a.script(ctx, &releaseScript, l.aside.key, l.token)
	return err
}

// script runs a script on one key, and returns its number.
func (a *aside[T]) script(ctx context.Context, s *script, key string, args ...string) (int64, error) {
	o, err := a.conn.begin(ctx, false)
	if err != nil {
		return 0, err
	}
	n, err := o.run(s, key, args...)
	return n, a.conn.end(&o, err)
}

// watch returns the next change of key that Redis tells of, and whether the key is known to hold a lease.
// unwatch must follow.
func (a *aside[T]) watch(key string) (next *change, leased bool) {
	s := a.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	next = s.changeLocked(key)
	next.waiters++
	return next, next.leased
}

func (a *aside[T]) unwatch(key string, next *change) {
	s := a.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if next.waiters--; next.waiters == 0 && !next.leased && s.changes[key] == next {
		delete(s.changes, key)
	}
}

// waitFor waits until key has changed, or for a part of LeaseTTL, whichever is first: then what was known of
// the key counts for nothing. It reports whether it waited in vain: Redis tells of a lease that has expired
// only when it comes across it.
func (a *aside[T]) waitFor(ctx context.Context, key string, next *change) (vain bool, err error) {
	t := time.NewTimer(a.lease / leaseLooks)
	defer t.Stop()
	select {
	case <-next.happens:
		return false, nil
	case <-t.C:
		s := a.shard(key)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.changes[key] == next {
			s.tellLocked(key)
		}
		return true, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// leaseLooks is how many times in a LeaseTTL one looks who waits.
const leaseLooks = 4
