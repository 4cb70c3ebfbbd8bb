package postgres

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cacheaside/cacheaside"
)

var errSlotIsNew = errors.New("postgres: the replication slot was made anew, and changes from before it were missed")

const (
	// tellAtOnce is how many refs are told at a time: enough for one round trip to Redis to carry
	// many transactions.
	tellAtOnce = 512

	// queued is how many news may wait for being told.
	queued = 1024

	// holdAfterLost is for how long after Lost nothing more is confirmed to the server: what Redis
	// holds is removed in the background, and if this process ends before that is done, the next
	// one must be told again.
	holdAfterLost = 5 * time.Second
)

// teller tells news one after the other, beside the reading of the log: the server must hear from
// its reader though Redis is slow.
type teller struct {
	to       cacheaside.Sink
	visible  func(ctx context.Context, xids []uint32) error
	queue    chan news
	advanced chan struct{} // has one when more has been told

	mu        sync.Mutex
	told      uint64
	confirmed uint64
	holdUntil time.Time
}

func newTeller(to cacheaside.Sink, visible func(context.Context, []uint32) error) *teller {
	return &teller{to: to, visible: visible, queue: make(chan news, queued), advanced: make(chan struct{}, 1)}
}

// run tells until ctx ends.
func (t *teller) run(ctx context.Context) error {
	for {
		select {
		case n := <-t.queue:
			n = t.gather(n)
			if err := t.visible(ctx, n.xids); err != nil {
				return err
			}
			t.tell(n)
		case <-ctx.Done():
			return nil
		}
	}
}

// gather adds waiting news to n: all that may be told with it.
func (t *teller) gather(n news) news {
	for len(n.refs) < tellAtOnce && n.lost == nil {
		select {
		case more := <-t.queue:
			n.refs, n.xids, n.lost = append(n.refs, more.refs...), append(n.xids, more.xids...), more.lost
			n.position = max(n.position, more.position)
		default:
			return n
		}
	}
	return n
}

func (t *teller) tell(n news) {
	if len(n.refs) > 0 {
		t.to.Invalidate(n.refs...)
	}
	if n.lost != nil {
		t.to.Lost(n.lost)
	}
	t.mu.Lock()
	t.told = max(t.told, n.position)
	if n.lost != nil {
		t.holdUntil = time.Now().Add(holdAfterLost)
	}
	t.mu.Unlock()
	select {
	case t.advanced <- struct{}{}:
	default:
	}
}

// position returns up to where all has been told.
func (t *teller) position() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.told
}

// confirm returns the position that the server may hear.
func (t *teller) confirm() (position uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Now().After(t.holdUntil) {
		t.confirmed = t.told
	}
	return t.confirmed
}
