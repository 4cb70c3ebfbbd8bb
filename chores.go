package cacheaside

import (
	"context"
	"sync"
	"time"
)

// chores are what a cache does about its leases while nobody waits for it: to give up those that are not
// filled, and before that to take them. Who has waited for a fetch must not pay for that too. Each takes as
// long as one operation of the backend at most, and Close waits for them a little: a lease that is left behind
// keeps the other processes waiting.
type chores struct {
	ctx    context.Context // ends with the last of close
	cancel context.CancelFunc

	mu      sync.Mutex
	under   int           // how many are under way
	idle    chan struct{} // closed when none is; made by close
	stopped bool
}

// chorePatience is how long Close waits. What Close of the connection waits for comes on top of that.
const chorePatience = 300 * time.Millisecond

func newChores() *chores {
	c := new(chores)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// begin counts a chore, for which end must follow, unless there are to be no more.
func (c *chores) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return false
	}
	c.under++
	return true
}

func (c *chores) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.under--; c.under == 0 && c.idle != nil {
		close(c.idle)
		c.idle = nil
	}
}

// run does something in the background. After close its context has ended, so that it can but let go of what
// this process holds.
func (c *chores) run(do func(context.Context)) {
	counted := c.begin()
	go func() { // ends with the operation of the backend that it makes, or with the context
		defer func() {
			if counted {
				c.end()
			}
		}()
		do(c.ctx)
	}()
}

// close waits until nothing is under way, but no longer than patience, and ends what is left. Chores may lead
// to others meanwhile.
func (c *chores) close(patience time.Duration) {
	c.mu.Lock()
	var idle chan struct{}
	if c.under > 0 {
		idle = make(chan struct{})
		c.idle = idle
	}
	c.mu.Unlock()
	if idle != nil {
		t := time.NewTimer(patience)
		defer t.Stop()
		select {
		case <-idle:
		case <-t.C:
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	c.cancel()
}
