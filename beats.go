package cacheaside

import (
	"sync"
	"time"
)

// beats bound for how long a connection may be late without a near copy noticing. While there may be near
// copies that came by the connection, a beat is sent on it every half second: a small tracked read, whose reply
// stands behind all invalidations from before it. What came by the connection is believed as long as the
// newest beat, or other tracked read, that was answered had been sent less than beatBound ago. No option of the client
// changes that, and no other traffic is needed.
type beats struct {
	send    func(key string) // sends a beat that asks about this key, and returns when it is answered
	expired func()           // called when nothing has been confirmed for beatBound

	mu        sync.Mutex
	timer     *time.Timer // nil while there is no need for beats
	key       string      // in Redis: what the beats ask about, one that the connection has read
	needed    time.Time   // until when near copies may live
	next      time.Time   // when the next beat is due
	underWay  int         // calls of send
	sent      []time.Time // when those beats were sent that are to be answered yet, the oldest first
	confirmed time.Time   // all invalidations from before that have been taken
	ended     bool
}

const (
	beatEvery = 500 * time.Millisecond

	// beatBound is more than a beat and a reply that is just in time (lateAfter) take.
	beatBound = beatEvery + lateAfter + 100*time.Millisecond

	// maxBeats is how many beats may wait for their answers, or for being sent.
	maxBeats = 4

	// beatCommand is the command of a beat. A near cache reads by no other than GET.
	beatCommand = "STRLEN"
)

// kept begins the beats, unless they run: a reply has been kept that may be used until needed.
func (b *beats) kept(key string, now, needed time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if needed.After(b.needed) {
		b.needed = needed
	}
	if b.timer != nil || b.ended {
		return
	}
	b.key, b.next = key, now.Add(beatEvery)
	b.timer = time.AfterFunc(b.pauseLocked(now), b.tick)
}

// confirm notes that a read which was sent at that time has been answered.
func (b *beats) confirm(sent time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if sent.After(b.confirmed) {
		b.confirmed = sent
	}
}

// leaves counts a beat that is about to be sent.
func (b *beats) leaves(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sent = append(b.sent, now)
}

// returns takes the answer to a beat, and tells how long that took; zero if none was under way here. Replies come
// in the order in which beats were queued, so the n-th belongs to one that was queued after n were announced.
func (b *beats) returns(now time.Time) (took time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.sent) == 0 {
		return 0 // a cluster has redirected it here, uncounted
	}
	took = max(now.Sub(b.sent[0]), 1)
	b.sent = b.sent[1:]
	return took
}

// tick sends a beat if one is due, and looks whether the last that was answered is too old.
func (b *beats) tick() {
	now := time.Now()
	b.mu.Lock()
	expired := now.Sub(b.confirmed) >= beatBound
	if b.ended || expired || now.After(b.needed) {
		b.timer = nil // the next reply that is kept begins anew
		b.mu.Unlock()
		if expired {
			b.expired()
		}
		return
	}
	if !now.Before(b.next) {
		b.next = now.Add(beatEvery)
		b.beatLocked()
	}
	b.timer.Reset(b.pauseLocked(now))
	b.mu.Unlock()
}

func (b *beats) beatLocked() {
	if b.underWay == maxBeats {
		return
	}
	b.underWay++
	key := b.key
	go func() { // ends when the connection does, at the latest
		b.send(key)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.underWay--
	}()
}

// pauseLocked is how long nothing is to be done.
func (b *beats) pauseLocked(now time.Time) time.Duration {
	due := b.confirmed.Add(beatBound)
	if b.next.Before(due) {
		due = b.next
	}
	return max(due.Sub(now), time.Millisecond)
}

// end ends the beats for good.
func (b *beats) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	if b.timer != nil {
		b.timer.Stop()
	}
}
