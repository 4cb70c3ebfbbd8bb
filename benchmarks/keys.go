package main

import (
	"fmt"
	"math/rand"
	"strings"
	"unsafe"
)

// universe is how many keys the measures in memory use, unless they say otherwise.
const universe = 100_000

// keyNames returns the keys 0 to n-1. They are pieces of one string, so that they are no work for the
// garbage collector.
func keyNames(n int) []string {
	var arena strings.Builder
	arena.Grow(n * len(keyName(0)))
	for i := range n {
		arena.WriteString(keyName(i))
	}
	return cut(arena.String(), n)
}

func keyName(i int) string { return fmt.Sprintf("user:%08d", i) }

// cut cuts an arena into n strings of the same length.
func cut(arena string, n int) []string {
	keys := make([]string, n)
	size := len(arena) / n
	for i := range keys {
		keys[i] = arena[i*size : (i+1)*size]
	}
	return keys
}

// A sequence is the order in which keys are asked for. Its strings stand one behind the other in memory
// that no cache has seen: as in a service, the key that is asked for is warm, since it was just made, and
// is not the same string as the one that the cache holds.
type sequence []string

// sequenceLength is enough for a slice not to come round to its beginning too often.
const sequenceLength = 1 << 18

func newSequence(keys []string, next func() int) sequence {
	var arena strings.Builder
	for range sequenceLength {
		arena.WriteString(keys[next()])
	}
	return cut(arena.String(), sequenceLength)
}

// A pattern is how the keys that are asked for are spread.
type pattern struct {
	name string
	next func(r *rand.Rand, keys int) func() int
}

var patterns = []pattern{
	{"uniform", func(r *rand.Rand, keys int) func() int { return func() int { return r.Intn(keys) } }},
	{"Zipf 1.01", zipf},
	{"1,000 hot keys", func(r *rand.Rand, keys int) func() int {
		return func() int { return r.Intn(min(keys, 1000)) * (keys / min(keys, 1000)) }
	}},
}

// zipf draws keys by Zipf's law. Which key has which rank has nothing to do with when it was stored.
func zipf(r *rand.Rand, keys int) func() int {
	rank := r.Perm(keys)
	z := rand.NewZipf(r, 1.01, 1, uint64(keys-1))
	return func() int { return rank[z.Uint64()] }
}

// user is the value of the measures: three words, the middle ground between a pointer and a large struct.
type user struct {
	ID   int64
	Name string
}

func newUser(i int) user { return user{ID: int64(i), Name: "Ada"} }

func newUserPointer(i int) *user {
	u := newUser(i)
	return &u
}

// newUserBytes is what a cache of bytes would hold of a user: as many bytes, already encoded.
func newUserBytes(i int) []byte {
	return fmt.Appendf(nil, "%0*d", unsafe.Sizeof(user{}), i)
}
