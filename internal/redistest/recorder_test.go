package redistest

import (
	"fmt"
	"runtime"
	"testing"
)

// A recorder is a test that keeps to itself how it ended.
type recorder struct {
	testing.TB
	fatal, skip string
}

// run calls f, and returns when it does or when it ended the recorded test.
func (r *recorder) run(f func()) {
	done := make(chan struct{})
	go func() { // ends with f, which the caller waits for
		defer close(done)
		f()
	}()
	<-done
}

func (r *recorder) Helper() {}

func (r *recorder) Fatal(args ...any) {
	r.fatal = fmt.Sprint(args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) { r.Fatal(fmt.Sprintf(format, args...)) }

func (r *recorder) Skip(args ...any) {
	r.skip = fmt.Sprint(args...)
	runtime.Goexit()
}
