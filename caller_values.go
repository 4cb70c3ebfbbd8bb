package cacheaside

import (
	"context"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// A fetch has the values of its caller's context, and may go on when the caller has returned. With
// contexts of the standard library that is safe: they never change. A context of another type may
// be an object that a framework gives to the next request as soon as the handler has returned,
// *gin.Context for one. So a fetch reads from such a context only while its caller waits, and
// finds no values there after that.

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

// giveBack ends the reading, and waits for a reader that is in the middle of it. A nil b has lent
// nothing.
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

// lend makes what a fetch has of ctx, on the caller's goroutine. A caller that does not wait for
// the fetch lends only what is safe for good. derive is WithFetchContext's, or nil; if it panics,
// that is the error.
func lend(ctx context.Context, waits bool, derive func(context.Context) context.Context) (l lent, err error) {
	root := rootOf(ctx)
	l.starter, l.loans[0] = root.guard(ctx, waits)
	l.values = l.starter
	if derive == nil {
		return l, nil
	}
	derived, err := call(ctx, derive)
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
func call(ctx context.Context, derive func(context.Context) context.Context) (derived context.Context, err error) {
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
	fetchType   = reflect.TypeFor[*flightContext]()

	// contextKinds has the types of contexts of the standard library that were met so far, about
	// ten at most. A slice, which is copied to add one, is read in a fraction of the time that a
	// map takes.
	contextKinds atomic.Pointer[[]contextKind]
)

// contextKind has the place of the parent in a type of context of the standard library.
type contextKind struct {
	of     reflect.Type
	child  bool    // it has a parent
	offset uintptr // of the parent in the struct
}

// rootOf returns the root of ctx. A context of a fetch of this package counts as standard: its
// values are looked after already.
//
// Each miss walks through all of its caller's contexts. A step by package reflect takes 40 ns, and
// requests come with twenty contexts, so the parents are read where reflect has found them.
func rootOf(ctx context.Context) root {
	for ctx != nil {
		kind, ok := kindOf(reflect.TypeOf(ctx))
		if !ok {
			return newRoot(reflect.ValueOf(ctx))
		}
		if !kind.child {
			return standard
		}
		ctx = kind.parent(ctx) //nolint:fatcontext // the loop walks up: it makes no context
	}
	return standard
}

// parent returns the parent of ctx, which is of this kind. The second word of an interface is the
// address of the struct, whether the context is a pointer or the struct: one that has an interface
// in it is larger than a word.
func (k contextKind) parent(ctx context.Context) context.Context {
	at := (*[2]unsafe.Pointer)(unsafe.Pointer(&ctx))[1]
	return *(*context.Context)(unsafe.Add(at, k.offset))
}

func newRoot(v reflect.Value) root {
	r := root{kind: v.Type()}
	if v.Kind() == reflect.Pointer {
		r.at = v.Pointer()
	}
	return r
}

// kindOf returns what is known of t, if that is a type of the standard library, or a fetch's.
func kindOf(t reflect.Type) (contextKind, bool) {
	known := contextKinds.Load()
	if known != nil {
		for _, k := range *known {
			if k.of == t {
				return k, true
			}
		}
	}
	k, ok := newContextKind(t)
	if ok {
		var all []contextKind
		if known != nil {
			all = *known
		}
		all = append(slices.Clip(all), k)
		contextKinds.CompareAndSwap(known, &all) // if another miss was first, the next one adds it
	}
	return k, ok
}

func newContextKind(t reflect.Type) (contextKind, bool) {
	k := contextKind{of: t}
	if t == fetchType {
		return k, true
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if path := t.PkgPath(); path != "context" && path != "os/signal" {
		return k, false
	}
	k.offset, k.child = parentOf(t)
	return k, true
}

// parentOf returns the place in t, a struct, of the context that has the parent.
func parentOf(t reflect.Type) (offset uintptr, ok bool) {
	if t.Kind() != reflect.Struct {
		return 0, false
	}
	for i := range t.NumField() {
		field := t.Field(i)
		if field.Type == contextType {
			return field.Offset, true
		}
		if field.Type.PkgPath() == t.PkgPath() {
			if inner, ok := parentOf(field.Type); ok {
				return field.Offset + inner, true
			}
		}
	}
	return 0, false
}
