package cacheaside

import (
	"runtime"
	"sync/atomic"
	"unsafe"
)

// Stats are a cache's counts since it was made. Each look-up of a key counts as exactly one of Hits,
// Misses and Joined.
type Stats struct {
	Entries     int  // held by this process at present
	Flights     int  // fetches under way at present, or waiting for another process to fetch
	BackendDown bool // the backend, or a node of a cluster, has not answered, and is not asked until it answers a probe

	Hits      uint64 // look-ups answered by a kept entry, fresh or stale
	NearHits  uint64 // those of Hits that rueidis-aside answered without asking Redis
	Negatives uint64 // those of Hits that were answered by a remembered "not found"
	Misses    uint64 // look-ups that found nothing usable, and waited for nobody else's fetch
	Joined    uint64 // look-ups that waited for a fetch that another had started
	StaleHits uint64 // look-ups answered past the ttl, among all of the above

	Fetches          uint64 // calls of the source
	FetchErrors      uint64 // those of Fetches that failed, by an error, a panic or their time; "not found" is no failure
	Refreshes        uint64 // those of Fetches that were begun in the background
	RefreshesRefused uint64 // refreshes left out because too many were under way
	Queued           uint64 // fetches that waited for a place under MaxFetches
	Overloaded       uint64 // fetches that found no place, those in the background among them: ErrOverloaded, or a stale value
	StaleInstead     uint64 // those of StaleHits that were given out because a fetch found no place
	Discarded        uint64 // fetched values not stored because of a Delete or Set, or an invalidated tag, meanwhile
	Unreadable       uint64 // look-ups that found stored bytes which cannot be read: another type's, or of a type that encodes and does not decode
	Unstorable       uint64 // fetched values not stored because they could not be encoded or were too large, and near copies that could not be weighed
	BackendErrors    uint64 // operations that the backend did not answer, or refused
	WriteErrors      uint64 // those of BackendErrors that were a Set, Delete or Clear

	ObserverPanics uint64 // panics of observers and of the log's handler; after ten, one is not called any more

	Evictions   uint64 // entries dropped for want of room
	Expirations uint64 // entries removed by the reaper

	TagsInvalidated uint64 // tags that the backend's InvalidateTags, Invalidate and Mutate were given, by whichever of its caches

	FeedsLost int    // feeds of the backend that are lost at present: nothing is kept
	FeedGaps  uint64 // how often a feed of the backend was lost
	FeedRefs  uint64 // keys and tags that feeds of the backend have told of
	FeedLag   int    // milliseconds that the latest change has waited to be told by a feed, the most of those that say so

	Voided      uint64 // look-ups that found an entry which a tag has voided: misses
	LookedAgain uint64 // look-ups that waited for a fetch whose tags were invalidated meanwhile, or may have been, and looked again

	Invalidations uint64 // entries of this process that were dropped because another one changed them, or they expired in Redis
}

// counters are what Stats is made of.
type counters struct {
	hits, near striped // hits are those that are not near

	stale, negative, misses, joined         atomic.Uint64
	fetches, fetchErrors, refreshes         atomic.Uint64
	refreshesRefused, discarded, unstorable atomic.Uint64
	unreadable, voided, lookedAgain         atomic.Uint64
	backendErrors, writeErrors              atomic.Uint64
	queued, overloaded, staleInstead        atomic.Uint64
	invalidations                           atomic.Uint64
}

func newCounters() counters { return counters{hits: newStriped(), near: newStriped()} }

func (c *counters) snapshot() Stats {
	near := c.near.sum()
	return Stats{
		Hits:             c.hits.sum() + near,
		NearHits:         near,
		StaleHits:        c.stale.Load(),
		Negatives:        c.negative.Load(),
		Misses:           c.misses.Load(),
		Joined:           c.joined.Load(),
		Fetches:          c.fetches.Load(),
		FetchErrors:      c.fetchErrors.Load(),
		Refreshes:        c.refreshes.Load(),
		RefreshesRefused: c.refreshesRefused.Load(),
		Queued:           c.queued.Load(),
		Overloaded:       c.overloaded.Load(),
		StaleInstead:     c.staleInstead.Load(),
		Discarded:        c.discarded.Load(),
		Unreadable:       c.unreadable.Load(),
		Voided:           c.voided.Load(),
		LookedAgain:      c.lookedAgain.Load(),
		Unstorable:       c.unstorable.Load(),
		BackendErrors:    c.backendErrors.Load(),
		WriteErrors:      c.writeErrors.Load(),
		Invalidations:    c.invalidations.Load(),
	}
}

// striped is a counter that goroutines on several processors can raise without passing one cache line
// to and fro, which costs several times what the rest of a hit does.
type striped struct {
	stripes []stripe
	mask    uintptr
}

type stripe struct {
	n atomic.Uint64
	_ [cacheLine - 8]byte
}

const cacheLine = 64

func newStriped() striped {
	n := uintptr(8)
	for n < 4*uintptr(runtime.GOMAXPROCS(0)) {
		n *= 2
	}
	return striped{stripes: make([]stripe, n), mask: n - 1}
}

// add counts one. The stripe is chosen by the address of the goroutine's stack: it is at hand, differs
// between goroutines, and any choice is correct.
func (s *striped) add() {
	var here byte
	at := uintptr(unsafe.Pointer(&here))
	s.stripes[(at>>10^at>>16)&s.mask].n.Add(1)
}

func (s *striped) sum() (n uint64) {
	for i := range s.stripes {
		n += s.stripes[i].n.Load()
	}
	return n
}
