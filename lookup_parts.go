package cacheaside

import (
	"errors"
	"sync"
	"time"
)

const (
	// batchPart is how many keys are looked up at once, at most. A batch of more goes by the second connection, part by
	// part.
	batchPart = 1000

	// partTime is how long the replies to a part may take. The next part is half as large when they take longer: then
	// what comes is not late, and little else waits for it, however large the values are.
	partTime = lateAfter / 4

	// largePart is how many keys are looked up at once at first whose values are known to be large.
	largePart = 4
)

// way is how a part is asked for: of which node, and by which connection.
type way struct {
	at     *node
	second bool
}

// lookUpInParts looks keys up by look: those of each node of a cluster by themselves, those that are known to be large
// apart, and many of them in parts.
func lookUpInParts[T any](n *conn, name string, keys []string, look func(keys []string, by way) []lookedUp[T]) []lookedUp[T] {
	size := int(n.part.Load())
	if n.nodes == nil && len(keys) <= size && !n.second.used.Load() {
		begun := time.Now()
		got := look(keys, way{at: &n.node})
		n.part.Store(int64(nextPart(size, len(keys), time.Since(begun))))
		return got
	}
	got := make([]lookedUp[T], len(keys))
	var asking sync.WaitGroup
	for at, places := range placesByNode(n, name, keys) {
		p := keyParts[T]{keys: keys, got: got, look: look}
		asking.Go(func() {
			small, large := places[false], places[true]
			n.part.Store(int64(p.run(small, size, way{at, len(small) > size})))
			p.run(large, largePart, way{at, true})
		})
	}
	asking.Wait()
	return got
}

// placesByNode returns the places of the keys of each node: false has those that are not known to be large.
func placesByNode(n *conn, name string, keys []string) map[*node]map[bool][]int {
	all := make(map[*node]map[bool][]int)
	for i, key := range keys {
		redisKey := name + key
		at := n.nodeOf(redisKey)
		if all[at] == nil {
			all[at] = make(map[bool][]int)
		}
		large := n.second.of(redisKey) != nil
		all[at][large] = append(all[at][large], i)
	}
	return all
}

// nextPart is how many keys are to be looked up at once after so many have taken so long.
func nextPart(size, asked int, took time.Duration) int {
	switch {
	case took > partTime:
		return max(min(size, asked)/2, 1)
	case took < partTime/4 && asked >= size:
		return min(2*size, batchPart)
	}
	return size
}

// keyParts are a batch that is looked up in parts.
type keyParts[T any] struct {
	keys []string
	got  []lookedUp[T]
	look func(keys []string, by way) []lookedUp[T]
	err  error // why no more is to be asked
}

// run looks up the keys in these places, at first so many at a time, and returns how many it should be the next time.
func (p *keyParts[T]) run(places []int, size int, by way) int {
	for len(places) > 0 && p.err == nil {
		part := places[:min(size, len(places))]
		places = places[len(part):]
		keys := make([]string, len(part))
		for n, i := range part {
			keys[n] = p.keys[i]
		}
		begun := time.Now()
		for n, l := range p.look(keys, by) {
			p.got[part[n]] = l
		}
		size = nextPart(size, len(part), time.Since(begun))
		p.err = p.hopeless(part)
	}
	for _, i := range places {
		p.got[i].err = p.err
	}
	return size
}

// hopeless returns an error if no key of a part was answered: then the rest will not be either.
func (p *keyParts[T]) hopeless(part []int) (err error) {
	for _, i := range part {
		err = p.got[i].err
		if err == nil || !errors.Is(err, ErrUnavailable) && !hasEnded(err) && err != ErrClosed {
			return nil
		}
	}
	return err
}
