package cacheaside

import (
	"context"
	"errors"
	"math"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// A server that has become a replica refuses writes, and goes on answering reads. A process that
// only reads would stay with it for ever, though the name that it has dialed is another server's
// now. So it asks, now and then while it reads, for a write that changes nothing: of a key that is
// not there, and only if it is. That needs no permission but the one to write, and what follows a
// refusal is what follows that of any write: see conn.redial.
type role struct {
	prefix atomic.Pointer[string] // of keys that the user may write; nil as long as none is known
	next   atomic.Int64           // when to ask, in unix nanoseconds; never, while one does
	pause  atomic.Int64           // that was made last
}

// The pause grows as long as the server is a replica: a program may be meant to read from one, and
// its connection is not to be made anew all the time.
const (
	roleEvery    = 5 * time.Second
	maxRolePause = 8 * roleEvery
)

// watchRole begins to ask about the server, by keys with this prefix. The client of a cluster, or
// of sentinels, learns of demotions by itself.
func (n *conn) watchRole(prefix string) {
	if !n.option.ForceSingleClient {
		return
	}
	n.role.pause.Store(int64(roleEvery))
	n.role.next.Store(time.Now().Add(roleEvery).UnixNano())
	n.role.prefix.Store(&prefix)
}

// checkRole asks whether the server is still a master, in the background, if it is time for that.
func (n *conn) checkRole(now time.Time) {
	next := n.role.next.Load()
	prefix := n.role.prefix.Load()
	if now.UnixNano() < next || prefix == nil {
		return
	}
	if n.role.next.CompareAndSwap(next, math.MaxInt64) {
		go n.askRole(*prefix) // ends within OpTimeout
	}
}

func (n *conn) askRole(prefix string) {
	key := n.unusedKey(prefix)
	err := n.attempt(context.Background(), false, key, func(o *op) error {
		return o.Do(o.ctx, o.B().Set().Key(key).Value("").Xx().PxMilliseconds(1).Build()).Error()
	})
	pause := roleEvery
	var re *rueidis.RedisError
	switch isReply := errors.As(err, &re); {
	case isReply && isRefusal(re):
		return // it may only read, and is not to ask again
	case isReply && wantsMaster(re):
		pause = min(2*time.Duration(n.role.pause.Load()), maxRolePause)
	}
	n.role.pause.Store(int64(pause))
	n.role.next.Store(time.Now().Add(pause).UnixNano())
}
