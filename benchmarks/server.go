package main

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// withServer runs f with a Redis server of its own, started by the kit that the project's tests use.
func withServer(f func(*redistest.Server) error) (err error) {
	t := &testbed{}
	defer t.end()
	defer func() {
		switch failed := recover().(type) {
		case nil:
		case testError:
			err = failed
		default:
			panic(failed)
		}
	}()
	return f(redistest.Start(t))
}

// A testbed stands in for the test that the kit expects. It has those methods of a test that the kit calls;
// others would find nothing behind the interface.
type testbed struct {
	testing.TB
	cleanups []func()
}

// testError is what the kit's Fatal panics with.
type testError struct{ text string }

func (f testError) Error() string { return f.text }

func (t *testbed) Helper()           {}
func (t *testbed) Fatal(args ...any) { panic(testError{fmt.Sprint(args...)}) }
func (t *testbed) Fatalf(format string, args ...any) {
	panic(testError{fmt.Sprintf(format, args...)})
}
func (t *testbed) Skip(args ...any) { panic(testError{fmt.Sprint(args...)}) }
func (t *testbed) Cleanup(f func()) { t.cleanups = append(t.cleanups, f) }

func (t *testbed) TempDir() string {
	dir, err := os.MkdirTemp("", "cacheaside")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (t *testbed) end() {
	for _, v := range slices.Backward(t.cleanups) {
		v()
	}
}
