package main

import (
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"time"
)

// A subject is what is measured against others: it does some number of operations.
type subject struct {
	name string

	// run does that many operations and returns how long they took. It may prepare what it needs before
	// it starts the clock.
	run func(operations int) time.Duration

	operations int // in a slice of time; found out by calibrate
}

// A series is what was measured of a subject.
type series struct {
	name   string
	ns     []float64 // for one operation, round by round
	allocs float64   // for one operation, in the round with the fewest
	bytes  float64
}

// join adds the rounds of another life of the same subject.
func (s *series) join(other *series) {
	s.ns = append(s.ns, other.ns...)
	s.allocs, s.bytes = min(s.allocs, other.allocs), min(s.bytes, other.bytes)
}

func (s *series) median() float64 { return median(s.ns) }

// ratio returns by how much s was slower than base, as the median over rounds: the two of a round ran
// within a moment of each other, so that a slow moment of the machine meets both.
func (s *series) ratio(base *series) float64 {
	ratios := make([]float64, len(s.ns))
	for i := range ratios {
		ratios[i] = s.ns[i] / base.ns[i]
	}
	return median(ratios)
}

// interleave measures the subjects in rounds. The order changes from round to round, and each is given
// a moment to bring its data back into the processor's caches before the clock starts.
func interleave(s settings, subjects []subject) []*series {
	all := make([]*series, len(subjects))
	for i := range subjects {
		all[i] = &series{name: subjects[i].name, allocs: math.Inf(1), bytes: math.Inf(1)}
		subjects[i].calibrate(s.slice)
	}
	order := make([]int, len(subjects))
	for i := range order {
		order[i] = i
	}
	for range s.rounds {
		rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, i := range order {
			all[i].add(&subjects[i])
		}
	}
	return all
}

// calibrate finds out how many operations fill a slice of time.
func (s *subject) calibrate(slice time.Duration) {
	if s.operations > 0 {
		return
	}
	for n := 64; ; n *= 4 {
		took := s.run(n)
		if took >= slice/8 || n >= 1<<24 {
			s.operations = max(64, int(float64(n)*float64(slice)/float64(max(took, 1))))
			return
		}
	}
}

func (s *series) add(from *subject) {
	from.run(max(1, from.operations/4))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	took := from.run(from.operations)
	runtime.ReadMemStats(&after)
	n := float64(from.operations)
	s.ns = append(s.ns, float64(took.Nanoseconds())/n)
	s.allocs = min(s.allocs, float64(after.Mallocs-before.Mallocs)/n)
	s.bytes = min(s.bytes, float64(after.TotalAlloc-before.TotalAlloc)/n)
}

// parallel runs work on so many goroutines, which share the operations, and returns how long it took from
// the moment when all were ready.
func parallel(goroutines, operations int, work func(goroutine, operations int)) time.Duration {
	each := max(1, operations/goroutines)
	if goroutines == 1 {
		begun := stopwatch()
		work(0, each)
		return stopwatch() - begun
	}
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	for g := range goroutines {
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-start
			work(g, each)
		})
	}
	ready.Wait()
	begun := stopwatch()
	close(start)
	done.Wait()
	return stopwatch() - begun
}

var started = time.Now()

// stopwatch is what hits and writes in memory are timed by. With -cpu it is the processor time of this
// process: that says little of those who wait for locks, but does not mind what others do to the machine.
var stopwatch = wallClock

func wallClock() time.Duration { return time.Since(started) }

// atProcs runs f with that GOMAXPROCS. Caches that look at it when they are made should be made by f.
func atProcs(procs int, f func()) {
	old := runtime.GOMAXPROCS(procs)
	defer runtime.GOMAXPROCS(old)
	f()
}

func median(values []float64) float64 { return quantile(values, 0.5) }

func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low+1 >= len(sorted) {
		return sorted[low]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}
