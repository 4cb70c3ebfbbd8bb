package cacheaside

import (
	"fmt"
	"time"
)

// Observer is told what a cache does besides answering from what it keeps: hits are counted in [Stats]
// only, so that an observer costs them nothing. Observe is called on the goroutine on which the event
// happens, so it must return soon, be safe for concurrent use, and not use the cache.
type Observer interface {
	Observe(Event)
}

// Event is one thing that a cache did. It never holds a key or a value.
type Event struct {
	Kind     EventKind
	Cache    string        // the cache's name
	Duration time.Duration // of a fetch
	Err      error         // of a fetch or a backend; nil if it went well
}

// EventKind says what happened.
type EventKind uint8

// The kinds of an [Event].
const (
	EventFetch              EventKind = iota + 1 // a fetch returned; Duration, and Err if it failed
	EventJoined                                  // a look-up waits for a fetch that another had started
	EventStale                                   // a value past its ttl was returned
	EventDiscarded                               // a fetched value was not stored: the key was set or deleted meanwhile
	EventUnstorable                              // a fetched value could not be encoded, or was too large; Err
	EventEvicted                                 // an entry was dropped for want of room
	EventBackendError                            // the backend did not answer, or refused; Err
	EventBackendDown                             // the backend is not asked any more until it answers a probe; Err
	EventBackendUp                               // the backend answers again
	EventInvalidated                             // another process changed a key that this one kept
	EventInvalidationFailed                      // what Mutate wrote is not removed from the backend yet, and tried again; Err
	EventInvalidationLost                        // the same, and not tried any more: an old value may be kept until its ttl; Err
)

var eventNames = [...]string{
	"none", "fetch", "joined", "stale", "discarded", "unstorable", "evicted", "backend error", "backend down",
	"backend up", "invalidated", "invalidation failed", "invalidation lost",
}

// String returns the event's name as it is used in logs.
func (k EventKind) String() string {
	if int(k) < len(eventNames) {
		return eventNames[k]
	}
	return fmt.Sprintf("EventKind(%d)", k)
}

func (c *Client[T]) observe(e Event) {
	if c.opts.observer != nil {
		e.Cache = c.cfg.Name
		c.opts.observer.Observe(e)
	}
}
