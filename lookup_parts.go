package cacheaside

import (
	"errors"
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

// lookUpInParts looks keys up by look: those that are known to be large apart, and many of them in parts.
func lookUpInParts[T any](n *conn, name string, keys []string, look func(keys []string, bySecond bool) []lookedUp[T]) []lookedUp[T] {
	size := int(n.part.Load())
	if len(keys) <= size && !n.second.used.Load() {
		begun := time.Now()
		got := look(keys, false)
		n.part.Store(int64(nextPart(size, len(keys), time.Since(begun))))
		return got
	}
	var small, large []int
	for i, key := range keys {
		if n.second.of(name+key) != nil {
			large = append(large, i)
		} else {
			small = append(small, i)
		}
	}
	p := keyParts[T]{keys: keys, got: make([]lookedUp[T], len(keys)), look: look}
	n.part.Store(int64(p.run(small, size, len(small) > size)))
	p.run(large, largePart, true)
	return p.got
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
	look func(keys []string, bySecond bool) []lookedUp[T]
	err  error // why no more is to be asked
}

// run looks up the keys in these places, at first so many at a time, and returns how many it should be the next time.
func (p *keyParts[T]) run(places []int, size int, bySecond bool) int {
	for len(places) > 0 && p.err == nil {
		part := places[:min(size, len(places))]
		places = places[len(part):]
		keys := make([]string, len(part))
		for n, i := range part {
			keys[n] = p.keys[i]
		}
		begun := time.Now()
		for n, l := range p.look(keys, bySecond) {
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
