package cacheaside

import (
	"context"
	"reflect"
	"sync"
	"time"
)

// A fetch has the values of its caller's context, and may go on when the caller has returned. With contexts of
// the standard library that is safe: they never change. A context of another type may be an object that a
// framework gives to the next request as soon as the handler has returned, *gin.Context for one. So a fetch
// reads from such a context only while its caller waits, and finds no values there after that.

// borrowed is the values of a context that must not be read once its owner has returned.
type borrowed struct {
	mu    sync.RWMutex
	owner context.Context // nil when it has been given back
}

func (b *borrowed) Deadline() (time.Time, bool) { return time.Time{}, false }
func (b *borrowed) Done() <-chan struct{}       { return nil }
func (b *borrowed) Err() error                  { return nil }

func (b *borrowed) Value(key any) any {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.owner == nil {
		return nil
	}
	return b.owner.Value(key)
}

// giveBack ends the reading, and waits for a reader that is in the middle of it. A nil b has lent nothing.
func (b *borrowed) giveBack() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.owner = nil
}

// lent is what a fetch has of its caller's context.
type lent struct {
	values  context.Context // what the fetch reads; without cancellation
	starter context.Context // the same before WithFetchContext, for tracers
	loans   [2]*borrowed    // what the caller takes back when it returns; nil: nothing
}

func (l *lent) giveBack() {
	for _, b := range l.loans {
		b.giveBack()
	}
}

// lend makes what a fetch has of ctx, on the caller's goroutine. A caller that does not wait for the fetch
// lends only what is safe for good. derive is WithFetchContext's, or nil; if it panics, that is the error.
func lend(ctx context.Context, waits bool, derive func(context.Context) context.Context) (l lent, err error) {
	root := rootOf(ctx)
	l.starter, l.loans[0] = root.guard(ctx, waits)
	l.values = l.starter
	if derive == nil {
		return l, nil
	}
	derived, err := call(derive, ctx)
	if err != nil {
		l.giveBack()
		return lent{}, err
	}
	if rootOf(derived) != root { // a copy, and whose it is its maker knows
		root = standard
	}
	l.values, l.loans[1] = root.guard(derived, waits)
	return l, nil
}

// call calls derive, and returns its panic as an error.
func call(derive func(context.Context) context.Context, ctx context.Context) (derived context.Context, err error) {
	returned := false
	defer func() {
		if !returned {
			err = abnormal(recover())
		}
	}()
	if derived = derive(ctx); derived == nil {
		panic("WithFetchContext returned a nil context")
	}
	returned = true
	return derived, nil
}

// root is the first context, of a context and its parents, that is not of the standard library.
type root struct {
	kind reflect.Type
	at   uintptr // where it is, if it is a pointer
}

// standard is the root of a context all of whose parents are of the standard library.
var standard root

// guard returns the values of a context with this root, and what must be given back.
func (r root) guard(ctx context.Context, waits bool) (context.Context, *borrowed) {
	switch {
	case r == standard:
		return context.WithoutCancel(ctx), nil
	case !waits:
		return context.Background(), nil
	}
	b := &borrowed{owner: ctx}
	return b, b
}

var (
	contextType = reflect.TypeFor[context.Context]()
	fetchType   = reflect.TypeFor[flightContext]()

	// parents has the place of the parent in each type of context of the standard library: a []int, which is
	// empty for those without a parent.
	parents sync.Map
)

// rootOf returns the root of ctx. A context of a fetch of this package counts as standard: its values are
// looked after already.
func rootOf(ctx context.Context) root {
	for v := reflect.ValueOf(ctx); v.IsValid(); {
		r := root{kind: v.Type()}
		if r.kind.Kind() == reflect.Pointer {
			r.at = v.Pointer()
			v = v.Elem()
		}
		if !v.IsValid() {
			return r
		}
		t := v.Type()
		if t == fetchType {
			return standard
		}
		if path := t.PkgPath(); path != "context" && path != "os/signal" {
			return r
		}
		at, ok := parents.Load(t)
		if !ok {
			at, _ = parents.LoadOrStore(t, parentOf(t))
		}
		index := at.([]int)
		if len(index) == 0 {
			return standard
		}
		v = v.FieldByIndex(index).Elem()
	}
	return standard
}

// parentOf returns the place of the field in which a type of context has its parent.
func parentOf(t reflect.Type) []int {
	if t.Kind() != reflect.Struct {
		return nil
	}
	for i := range t.NumField() {
		field := t.Field(i).Type
		if field == contextType {
			return []int{i}
		}
		if field.Kind() == reflect.Struct && field.PkgPath() == t.PkgPath() {
			if inner := parentOf(field); inner != nil {
				return append([]int{i}, inner...)
			}
		}
	}
	return nil
}
