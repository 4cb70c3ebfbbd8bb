package cacheaside

import (
	"context"
	"errors"
	"time"
)

// store is where a cache keeps its entries. It knows nothing of freshness, negative entries or fetches;
// the algorithm in cache.go knows nothing of where entries are. Implementations are memory.go, rueidis.go
// and aside.go, and noop below.
//
// Keys are the caller's. Entries that a store returns are shared and must not be changed. An error means
// that the backend did not answer (it matches [ErrUnavailable]), that the caller's context ended (it is
// the context's), or that something cannot be read or kept (it matches [ErrInvalidValue]). Methods are
// safe for concurrent use.
type store[T any] interface {
	// peek returns what this process holds of key, expired or not, or nil. It neither blocks nor
	// allocates.
	peek(key string) *entry[T]

	// lookup returns what is kept under key, or nil.
	lookup(ctx context.Context, key string) (*entry[T], error)

	// lookupMany is lookup of several keys, none of them twice, in one round trip if it takes any. What
	// it returns stands in the places of the keys.
	lookupMany(ctx context.Context, keys []string) []lookedUp[T]

	// acquire takes the right to fetch and fill key in place of seen, which a look-up returned. If
	// another process has that right, acquire waits for it, for LeaseWait at most, and returns what that has
	// filled, if anything, or errAbsent or errFailed; without wait, it returns errLeased. It takes no longer than
	// a allows, apart from waiting.
	//
	// A lease may come with an error: that it was taken is not known, then, since the answer did not come in
	// time. It is as good as any if it was, so it must be given up too. With errReplaced it was taken in vain.
	acquire(ctx context.Context, key string, seen *entry[T], a *allowance, wait bool) (lease[T], *entry[T], error)

	// fill keeps e, which took so long to fetch, under key, if the lease is still good, and reports whether
	// it was. The lease is gone afterwards, unless there was an error.
	fill(ctx context.Context, key string, l lease[T], e entry[T], took time.Duration) (bool, error)

	// abandon gives up a lease without filling, and lets those who wait for it know why. With remove, it also
	// removes the entry that the lease was to replace.
	abandon(ctx context.Context, key string, l lease[T], why outcome, remove bool) error

	// set keeps e under key, with tags if that is not nil, and makes every lease of key void.
	set(ctx context.Context, key string, e entry[T], tags *tagging) error

	// delete removes what is kept under key, and makes every lease of key void.
	delete(ctx context.Context, key string) error

	// deleteMany is delete of several keys in few round trips. It returns those that it could not delete, and why.
	deleteMany(ctx context.Context, keys []string) (failed []string, err error)

	// dropNear drops what this process holds of a key, and what is on its way to it. dropAllNear does so for every key.
	// With suspend nothing comes after it, until resume.
	// dropKept is dropNear unless what is kept is another entry than this one.
	dropNear(key string)
	// mark makes e, if it is what is kept, one that a hit does not find on the short way, or does again. It reports whether it was, and has
	// room still. Only a store in this process has it.
	dropKept(key string, e *entry[T])
	mark(key string, e *entry[T], hidden bool, weight uint32) bool
	dropAllNear()
	suspend()
	resume()

	// clear removes every entry of this cache.
	clear(ctx context.Context) error

	// ping reports whether the backend works.
	ping(ctx context.Context) error

	// figures reports what the store alone knows: how many entries this process holds, and how many it
	// has dropped.
	figures() (entries int, evictions, expirations uint64)

	// close ends what the store has running. Entries are not shown to anybody from then on.
	close()
}

// lease is the right to fill a key.
type lease[T any] struct {
	seen  *entry[T] // what was under the key when it was taken
	token string    // what stands under the key in Redis meanwhile; "" where there is none
	aside asideLease

	settling *settling // of the marker that stands; nil if none does

	weight uint32   // in memory, of the entry that is filled in; zero counts as 1
	tags   *tagging // of the entry that is filled in; nil if it has none
}

// lookedUp is what a look-up of one of several keys returned.
type lookedUp[T any] struct {
	entry *entry[T]
	err   error
}

// failAll is what a look-up of n keys returns if it failed as a whole.
func failAll[T any](n int, err error) []lookedUp[T] {
	all := make([]lookedUp[T], n)
	for i := range all {
		all[i].err = err
	}
	return all
}

// errLeased says that another process has the right to fill a key.
var errLeased = errors.New("cacheaside: another process fetches it")

// errAbsent and errFailed say how the fetch of another process, which was waited for, has ended.
var (
	errAbsent = errors.New("cacheaside: another process has found that the source has none")
	errFailed = errors.New("cacheaside: the fetch of another process has failed")
)

// errReplaced says that the entry that a lease was taken on is not there any more.
var errReplaced = errors.New("cacheaside: what was leased has been replaced")

// inProcess is the part of a store that has nothing outside of this process: what peek does not show is not there, the
// flights are all the lease there is, and nothing can be down.
type inProcess[T any] struct{}

func (inProcess[T]) lookup(context.Context, string) (*entry[T], error) { return nil, nil }
func (inProcess[T]) ping(context.Context) error                        { return nil }

func (inProcess[T]) lookupMany(_ context.Context, keys []string) []lookedUp[T] {
	return make([]lookedUp[T], len(keys))
}

func (inProcess[T]) acquire(_ context.Context, _ string, seen *entry[T], _ *allowance, _ bool) (lease[T], *entry[T], error) {
	return lease[T]{seen: seen}, nil, nil
}

// noop keeps nothing.
type noop[T any] struct{ inProcess[T] }

var _ store[struct{}] = noop[struct{}]{}

func (noop[T]) peek(string) *entry[T]                                          { return nil }
func (noop[T]) set(context.Context, string, entry[T], *tagging) error          { return nil }
func (noop[T]) delete(context.Context, string) error                           { return nil }
func (noop[T]) deleteMany(context.Context, []string) ([]string, error)         { return nil, nil }
func (noop[T]) abandon(context.Context, string, lease[T], outcome, bool) error { return nil }
func (noop[T]) clear(context.Context) error                                    { return nil }
func (noop[T]) figures() (int, uint64, uint64)                                 { return 0, 0, 0 }
func (noop[T]) dropNear(string)                                                {}
func (noop[T]) dropKept(string, *entry[T])                                     {}
func (noop[T]) mark(string, *entry[T], bool, uint32) bool                      { return false }
func (noop[T]) dropAllNear()                                                   {}
func (noop[T]) suspend()                                                       {}
func (noop[T]) resume()                                                        {}
func (noop[T]) close()                                                         {}

func (noop[T]) fill(context.Context, string, lease[T], entry[T], time.Duration) (bool, error) {
	return true, nil
}
