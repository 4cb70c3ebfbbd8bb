package table

import "math/bits"

// A sketch estimates how often keys were asked for lately: a count-min sketch with four counters of 4 bits
// for each key, all in one cache line, and 16 counters for each entry. All counters are halved at
// intervals, so that what was in demand long ago is forgotten.
type sketch struct {
	lines []sketchLine
	added int // the hits that the counters hold, halved as they are
}

// A sketchLine is a cache line of counters. Each of a key's four counters is in another two of the words.
type sketchLine [8]uint64

const (
	countersPerLine = 128
	maxCount        = 15
	lowestBits      = 0x1111_1111_1111_1111

	// minLines is what the smallest sketch has. In a small cache, the keys that come and go are more than
	// 16 counters an entry can tell apart.
	minLines = 128
)

// init makes an empty sketch for that many entries.
func (s *sketch) init(entries int) {
	s.lines = make([]sketchLine, max(minLines, (entries*16+countersPerLine-1)/countersPerLine))
}

// double makes room for twice the entries. A key's line of the doubled sketch is one of the two that its
// old line becomes, so that every estimate stays what it was.
func (s *sketch) double() {
	old := s.lines
	s.lines = make([]sketchLine, 2*len(old))
	for i := range old {
		s.lines[2*i], s.lines[2*i+1] = old[i], old[i]
	}
}

// estimate returns the number of hits of a key, at most maxCount.
func (s *sketch) estimate(hash uint32) uint32 {
	x := mix(hash)
	line := s.line(x)
	least := uint64(maxCount)
	for i := range 4 {
		word, shift := counter(x, i)
		least = min(least, line[word]>>shift&maxCount)
	}
	return uint32(least)
}

// add counts hits of a key, and halves all counters when memory hits have been counted, give or take an
// eighth. Were it always the same number, halving could fall into step with a loop, so that the entries and
// what is to replace them were always halved at the same point of it, to the advantage of the newcomers.
func (s *sketch) add(hash, hits uint32, memory int) {
	x := mix(hash)
	line := s.line(x)
	grown := uint64(0)
	for i := range 4 {
		word, shift := counter(x, i)
		more := min(uint64(hits), maxCount-line[word]>>shift&maxCount)
		line[word] += more << shift
		grown |= more
	}
	if grown == 0 {
		return
	}
	if s.added += int(hits); s.added >= memory {
		s.halve()
		s.added += int(x>>40)%max(1, memory/4) - memory/8
	}
}

func (s *sketch) halve() {
	odd := 0
	for i := range s.lines {
		for j, word := range s.lines[i] {
			odd += bits.OnesCount64(word & lowestBits)
			s.lines[i][j] = word >> 1 &^ (lowestBits << 3)
		}
	}
	s.added = max(0, s.added-odd/4) / 2
}

func (s *sketch) line(x uint64) *sketchLine {
	return &s.lines[x>>32*uint64(len(s.lines))>>32]
}

// counter returns the place in its line of a key's counter i, which byte i of the mixed hash decides.
func counter(x uint64, i int) (word, shift uint64) {
	x >>= i * 8
	return uint64(i)*2 + x&1, x >> 1 & 15 * 4
}

// mix spreads a hash over 64 bits. The table has used the same hash to find buckets, and what the sketch
// and the ghosts make of it must not depend on that.
func mix(hash uint32) uint64 {
	x := uint64(hash) * 0x9e37_79b9_7f4a_7c15
	x ^= x >> 32
	x *= 0xd6e8_feb8_6659_fd93
	return x ^ x>>32
}
