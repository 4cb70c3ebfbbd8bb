package cacheaside

import (
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

// Leases are renewed when they are a quarter of LeaseTTL old, all that are by one script: a batch
// may hold thousands.
const (
	renewalTicks = 6 // how often in a LeaseTTL the leases are looked through
	renewalAge   = 4 // a lease is renewed when this part of LeaseTTL is over

	// maxRenewed is how many leases one script renews: it keeps the server from everything else
	// meanwhile.
	maxRenewed = 1024
)

// renew renews the leases that are due, and reports whether there are any left to look after.
func (hs *holdings) renew(now time.Time) (more bool) {
	due, more := hs.due(now)
	if len(due) == 0 {
		return more
	}
	size := maxRenewed
	if hs.conn.isCluster() { // the keys of a script must be of one slot
		size = 1
	}
	groups := slices.Collect(slices.Chunk(due, size))
	for some := range slices.Chunk(groups, maxLooks) {
		hs.renewGroups(some, now)
	}
	return more
}

// due returns the leases that are to be renewed. Redis tells of each renewal, but for one that
// stands beside an entry.
func (hs *holdings) due(now time.Time) (due []*holding, more bool) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for _, h := range hs.byKey {
		for ; h != nil; h = h.next {
			more = more || h.ours
			if h.ours && !h.lost && now.Sub(h.renewed) >= hs.lease/renewalAge {
				h.own = h.replaces == ""
				due = append(due, h)
			}
		}
	}
	return due, more
}

// renewGroups renews each group by one script, all in one go. What fails is tried again at the next
// tick.
func (hs *holdings) renewGroups(groups [][]*holding, now time.Time) {
	o, err := hs.conn.begin(hs.ctx, false, "")
	if err != nil {
		hs.look(slices.Concat(groups...)...)
		return
	}
	calls := make([]scriptCall, len(groups))
	for i, group := range groups {
		c := &calls[i]
		for _, h := range group {
			c.keys, c.args = append(c.keys, h.tokenAt), append(c.args, h.token)
		}
		c.args = append(c.args, strconv.FormatInt(hs.lease.Milliseconds(), 10))
	}
	for i, reply := range o.runAll(&prolongScript, calls) {
		renewed, err := reply.AsIntSlice()
		_ = hs.conn.end(&o, err) // no caller waits for it
		hs.renewedGroup(groups[i], renewed, err, now)
	}
}

// renewedGroup takes note of what has become of renewals. Without an answer it is not known of what
// Redis tells.
func (hs *holdings) renewedGroup(group []*holding, renewed []int64, err error, now time.Time) {
	if err != nil || len(renewed) != len(group) {
		hs.look(group...)
		return
	}
	for i, h := range group {
		if renewed[i] == 0 && h.replaces == "" {
			h.lose()
			continue
		}
		hs.mu.Lock()
		h.renewed = now
		h.ours = h.ours && renewed[i] != 0 // where the entry is as it was, the flight may still replace it
		hs.mu.Unlock()
	}
}

// isCluster reports whether keys are spread over several nodes.
func (n *conn) isCluster() bool {
	return !n.option.ForceSingleClient && n.option.Sentinel.MasterSet == ""
}

// scriptCall is what a script is run with.
type scriptCall struct{ keys, args []string }

// runAll runs a script several times in one go, and returns the replies. One that the server does
// not know is sent to it.
func (o *op) runAll(s *script, calls []scriptCall) []rueidis.RedisResult {
	commands := make(rueidis.Commands, len(calls))
	for i, c := range calls {
		commands[i] = o.evalshaOf(s, c.keys, c.args)
	}
	replies := o.DoMulti(o.ctx, commands...)
	var unknown []int
	for i := range replies {
		if o.misses(replies[i].Error(), calls[i].keys[0]) {
			unknown = append(unknown, i)
		}
	}
	if len(unknown) == 0 {
		return replies
	}
	commands = make(rueidis.Commands, len(unknown))
	for i, at := range unknown {
		commands[i] = o.evalOf(s, calls[at].keys, calls[at].args)
	}
	for i, reply := range o.DoMulti(o.ctx, commands...) {
		replies[unknown[i]] = reply
	}
	return replies
}
