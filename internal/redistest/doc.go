// Package redistest starts real Redis servers for tests, and breaks them on purpose.
//
// A server belongs to the test that started it and ends with it. The kit never talks to a server that it
// did not start: everything listens on the loopback interface, on ports the kernel chose, and the kit's
// own commands travel through a unix socket in a directory that it made, where no other server can be.
// They log in as an ACL user of their own, so that they work whatever a test does to the other users.
//
// The kit speaks RESP by itself, so that a fault in the client under test can't hide in the test kit.
// Its methods end the test when something does not work, with the last lines of the server's own log;
// so call them from the test's goroutine unless a comment says otherwise.
//
// It needs redis-server 6.0 or newer, which REDIS_SERVER may name: [Require] says what happens without one.
package redistest

import (
	"fmt"
	"time"
)

// Goroutine names the function that waits for a server's process to end, on a goroutine of its own.
// A test that looks for leaked goroutines while a server still runs passes it to
// goleak.IgnoreAnyFunction.
const Goroutine = "github.com/cacheaside/cacheaside/internal/redistest.(*process).run"

// pollInterval is short because most of what the kit waits for takes a few milliseconds.
const pollInterval = 5 * time.Millisecond

// await calls check until it returns nil, and fails with its last error once the time is over. Check is
// called at least once, and brings its own deadline for whatever it waits for.
func await(limit time.Duration, check func() error) error {
	deadline := time.Now().Add(limit)
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %v: %w", limit, err)
		}
		<-ticker.C
	}
}
