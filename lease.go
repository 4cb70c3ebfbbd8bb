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
	leasePlace
	shared bool     // another process holds it: to be filled by comparison, and not to be given up
	held   *holding // nil for a mark, which nothing tells of
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

// missing is the place of a lease where there is nothing under key.
func (a *aside[T]) missing(key string) leasePlace {
	redisKey := a.redisKey(key)
	return leasePlace{key: key, entryAt: redisKey, tokenAt: redisKey}
}

// stale is the place of a lease to replace an entry whose stored form is data.
func (a *aside[T]) stale(key, data string) leasePlace {
	return leasePlace{key: key, entryAt: a.redisKey(key), tokenAt: a.leaseKey(key), replaces: identity(data), length: len(data)}
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

// contend tries to lease a key. It returns the lease, or an entry that needs no fetch, or errLeased; or
// none of them, if the key has changed meanwhile.
func (a *aside[T]) contend(ctx context.Context, key string, known *sight) (held lease[T], filled *entry[T], err error) {
	if known.token != "" && !known.overdue && !known.over && (!known.waited || known.ours || known.token == known.first) {
		a.hear(known, known.token)
		return held, nil, errLeased
	}
	if known.missing {
		held, err = a.takeOrMeet(ctx, key, known)
		if err != nil || held.token != "" {
			return held, nil, err
		}
	}
	data, err := a.read(ctx, key) // from here on Redis tells when the key changes
	switch {
	case err == errNothing:
		held, err = a.takeOrMeet(ctx, key, known)
		return held, nil, err
	case err == errWrongType:
		held, err = a.seize(ctx, key, "", -1)
		return held, nil, err
	case err != nil:
		return held, nil, err
	}
	e, err := a.decode(key, data)
	if err == errLease {
		held, err = a.meet(ctx, a.missing(key), data, known)
		return held, nil, err
	}
	readable := err == nil
	if readable {
		if readable, err = a.valid(ctx, e); err != nil {
			return held, nil, err
		}
	}
	switch {
	case !readable:
		held, err = a.seize(ctx, key, identity(data), len(data))
		return held, nil, err
	case isUnwanted(ctx, a.clock, e): // it is replaced in place
	case !a.isStale(e):
		return held, e, nil
	case e.settling() != nil && a.settles: // it goes with its marker, whatever becomes of the fetch
	case !a.keepsStale: // its time is over by our clock, and not yet by that of Redis
		held, err = a.seize(ctx, key, identity(data), len(data))
		held.settling = e.settling()
		return held, nil, err
	}
	held, err = a.takeStale(ctx, key, data, e, known)
	return held, nil, err
}

// meet is what becomes of a lease that another process has in this place, or has had: stands is its token, or the
// mark that it has left.
func (a *aside[T]) meet(ctx context.Context, p leasePlace, stands string, known *sight) (lease[T], error) {
	if !isMark(stands) {
		if err := known.answer(outcome(stands[tokenBeforeAt]), stands); err != nil {
			return lease[T]{}, err
		}
		if known.over {
			return a.share(p, stands), nil
		}
		a.hear(known, stands)
		return a.takeOver(ctx, p, stands, known)
	}
	o := outcomeOf(stands)
	if o == notStored { // one after another would wait in vain
		return a.share(p, stands), nil
	}
	if err := known.answer(o, stands); err != nil {
		return lease[T]{}, err
	}
	return a.put(ctx, &replaceScript, p, o, stands, strconv.Itoa(len(stands)))
}

// share returns a lease by which to fetch beside another process. It is lost with the other's token. A mark goes by
// itself, so that says nothing.
func (a *aside[T]) share(p leasePlace, stands string) lease[T] {
	shared := asideLease{leasePlace: p, shared: true}
	if p.replaces != "" || !isMark(stands) {
		shared.held = a.held.add(p, stands, false)
		a.held.look(shared.held)
	}
	return lease[T]{token: stands, aside: shared}
}

// isStale reports whether e is past its freshness, or due for a refresh.
func (a *aside[T]) isStale(e *entry[T]) bool {
	now := a.clock.now()
	return now >= e.freshUntil(a.form.window)-e.early()
}

// takeOrMeet takes the lease of a missing key, or meets the one that is there.
func (a *aside[T]) takeOrMeet(ctx context.Context, key string, known *sight) (lease[T], error) {
	p := a.missing(key)
	held, stands, err := a.take(ctx, p)
	if err != nil || held.token != "" {
		return held, err
	}
	switch {
	case isMarker(stands) && a.settles:
		return a.takeStale(ctx, key, stands, a.form.markerEntry(stands), known)
	case isMarker(stands): // the other processes' Settle is not ours
		held, err = a.meet(ctx, p, stands, known)
		held.settling = a.form.markerEntry(stands).settling()
	case isLease(stands) || isMark(stands):
		held, err = a.meet(ctx, p, stands, known)
	}
	return held, err
}

// take leases a key by setting it to a token, if there is nothing under it. The token is "" if there is; stands are
// the first bytes of that. From the read behind it on Redis tells when the key changes. Of the lease of a stale entry
// it tells by the entry, and stands is "".
func (a *aside[T]) take(ctx context.Context, p leasePlace) (held lease[T], stands string, err error) {
	h := a.held.add(p, a.token(noOutcome), true)
	o, err := a.conn.begin(ctx, false, p.tokenAt)
	if err != nil {
		h.rest()
		return held, "", err
	}
	commands := rueidis.Commands{o.B().Set().Key(p.tokenAt).Value(h.token).Nx().PxMilliseconds(a.lease.Milliseconds()).Build()}
	if p.replaces == "" {
		commands = append(commands, rueidis.Completed(o.readStanding(p.entryAt).ToStaticTTL().Pin()))
	}
	replies := o.DoMulti(o.ctx, commands...)
	if len(replies) > 1 {
		stands, _ = replies[1].ToString() // what is no string is read once more
	}
	err = replies[0].Error()
	held, err = a.taken(h, err == nil, a.conn.end(&o, err))
	return held, stands, err
}

// taken returns a lease that was asked for with this outcome. If the answer has not come in time, the token may
// stand there all the same, now or in a moment, so the lease is returned together with the error.
func (a *aside[T]) taken(h *holding, taken bool, err error) (lease[T], error) {
	late := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	if err == nil && !taken || err != nil && !late {
		h.rest()
		return lease[T]{}, err
	}
	if !h.isHeard() {
		a.held.look(h)
	}
	return lease[T]{token: h.token, aside: asideLease{leasePlace: h.leasePlace, held: h}}, err
}

// takeStale leases the entry e, whose stored form is data, to replace it. It returns errLeased if another
// process has that lease, and errReplaced if the entry is no longer there: then whoever had the lease until now
// has replaced it.
func (a *aside[T]) takeStale(ctx context.Context, key, data string, e *entry[T], known *sight) (lease[T], error) {
	p := a.stale(key, data)
	held, _, err := a.take(ctx, p)
	if err == nil && held.token == "" {
		held, err = a.meetStale(ctx, p, known)
	}
	held.seen, held.settling = e, e.settling()
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
func (a *aside[T]) meetStale(ctx context.Context, p leasePlace, known *sight) (lease[T], error) {
	o, err := a.conn.begin(ctx, false, p.tokenAt)
	if err != nil {
		return lease[T]{}, err
	}
	stands, err := o.Do(o.ctx, o.B().Get().Key(p.tokenAt).Build()).ToString()
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
		return a.meet(ctx, p, stands, known)
	}
	return a.takeOver(ctx, p, "", known)
}

// seize leases a key that holds what is of no use, with this identity, by putting the token in its place.
func (a *aside[T]) seize(ctx context.Context, key, first string, length int) (lease[T], error) {
	return a.put(ctx, &replaceScript, a.missing(key), noOutcome, first, strconv.Itoa(length))
}

// takeOver takes the place of a lease that does not expire in its time, which is what stands there, or
// whatever does if that is "". It returns errLeased if the lease is as it should be, or if it was not
// waited for yet: one look at it in a while is enough.
func (a *aside[T]) takeOver(ctx context.Context, p leasePlace, stands string, known *sight) (lease[T], error) {
	if !known.overdue {
		return lease[T]{}, errLeased
	}
	held, err := a.put(ctx, &takeOverScript, p, noOutcome, stands)
	if err == nil && held.token == "" {
		err = errLeased
	}
	return held, err
}

// put leases a key by a script that puts a token there, which is its last argument but one. before is how the lease
// ended whose mark the token replaces. The token is "" if it was not put there.
func (a *aside[T]) put(ctx context.Context, s *script, p leasePlace, before outcome, args ...string) (lease[T], error) {
	h := a.held.add(p, a.token(before), true)
	o, err := a.conn.begin(ctx, false, p.tokenAt)
	if err != nil {
		h.rest()
		return lease[T]{}, err
	}
	n, err := o.run(s, p.tokenAt, append(args, h.token, strconv.FormatInt(a.lease.Milliseconds(), 10))...)
	return a.taken(h, n == 1, a.conn.end(&o, err))
}

func (a *aside[T]) fill(ctx context.Context, key string, l lease[T], e entry[T], took time.Duration) (bool, error) {
	l.aside.held.rest()
	k := a.redisKey(key)
	data, err := a.form.encode(k, &e, l.tags, took, l.settling)
	if err != nil {
		return false, err
	}
	px := ""
	if ms, ok := a.form.millisecondsLeft(&e, l.settling); ok {
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
	l.aside.held.rest()
	if l.token == "" {
		return nil
	}
	if remove && l.aside.replaces != "" {
		a.write(key)
		defer a.forget(key)
		if err := a.drop(ctx, key, l); err != nil {
			return err
		}
	}
	switch {
	case l.aside.shared:
		return nil
	case why == noOutcome:
		_, err := a.script(ctx, &releaseScript, l.aside.tokenAt, l.token)
		return err
	}
	n, err := a.script(ctx, &fillScript, l.aside.tokenAt, l.token, newMark(why), strconv.FormatInt(markTime.Milliseconds(), 10))
	if err != nil || n == 0 || l.aside.replaces == "" || remove {
		return err
	}
	// Redis tells of a change of the entry only, so it is told of that.
	_, err = a.script(ctx, &touchScript, a.redisKey(key), "")
	return err
}

// drop removes the entry that a lease was to replace. The marker that was in its place stands again.
func (a *aside[T]) drop(ctx context.Context, key string, l lease[T]) error {
	s, args := &dropScript, []string{l.aside.replaces, strconv.Itoa(l.aside.length)}
	if by := a.form.rest(l.settling); by.marker != "" {
		s, args = &replaceScript, append(args, by.marker, strconv.FormatInt(by.lasts, 10))
	}
	_, err := a.script(ctx, s, a.redisKey(key), args...)
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
