package cacheaside

import (
	"context"
	"errors"
	"time"
)

// allowance is how long those who wait for a flight may be kept waiting by the backend. All that a flight asks
// of it shares one OpTimeout: the look-up that its starter has made, another look, the lease, and storing or
// removing the result. Neither the fetch is part of it, nor the time for which another process is waited for;
// and what is still to be done when nobody waits any more is a chore.
type allowance struct {
	limit   time.Duration // OpTimeout; zero for a store that takes no time
	used    time.Duration
	several bool // one outlay may be several operations
}

// allowance is what is left after the backend has been asked for so long.
func (c *Client[T]) allowance(used time.Duration) allowance {
	if c.instant {
		return allowance{}
	}
	return allowance{limit: c.cfg.OpTimeout, used: used, several: c.local == SourceNearHit}
}

// mayLease reports whether one of many flights, whose look-up has taken so long, is still to be leased: what it
// takes to store the results must be left, or they would be leased and fetched in vain.
func (a *allowance) mayLease(asked time.Duration) bool {
	return a.limit == 0 || a.used-asked <= (a.limit-asked)/3
}

func (a *allowance) isSpent() bool { return a.limit > 0 && a.used >= a.limit }

// outlay is one use of an allowance.
type outlay struct {
	of     *allowance
	begun  time.Time
	cancel context.CancelFunc // nil: nothing is to be released
}

// begin begins an outlay, which end or forgive must end. ctx bounds it too. Each operation is bounded by
// OpTimeout anyway, so if it is to be one, and little is used, a context would cost more than it is worth.
func (a *allowance) begin(ctx context.Context) (context.Context, outlay) {
	o := outlay{of: a}
	if a.limit == 0 {
		return ctx, o
	}
	o.begun = time.Now()
	if a.several || a.used >= a.limit/8 {
		ctx, o.cancel = context.WithDeadline(ctx, o.begun.Add(max(a.limit-a.used, leastOutlay)))
	}
	return ctx, o
}

// leastOutlay lets the last request be sent, though its answer comes too late. It covers the wait for a
// processor on a loaded machine, where a millisecond passes before a goroutine has written a byte.
const leastOutlay = 10 * time.Millisecond

// end counts the outlay.
func (o outlay) end() {
	if o.of.limit > 0 {
		o.of.used += time.Since(o.begun)
	}
	o.forgive()
}

// forgive ends an outlay that does not count.
func (o outlay) forgive() {
	if o.cancel != nil {
		o.cancel()
	}
}

// blame makes an error of the backend one which says that the allowance of f is used up.
func (f *flight[T]) blame(err error) error {
	if err == nil || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnavailable) || f.isOver() {
		return err
	}
	return unavailable(err)
}
