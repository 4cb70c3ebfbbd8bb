package main

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A trace is a sequence of requests. Keys are numbered from 0 in the order in which they come first.
type trace struct {
	name     string
	requests []uint32
	keys     int
}

// newTrace numbers keys by their first appearance.
func newTrace[K comparable](name string, requests []K) trace {
	t := trace{name: name, requests: make([]uint32, len(requests))}
	numbers := map[K]uint32{}
	for i, k := range requests {
		n, ok := numbers[k]
		if !ok {
			n = uint32(len(numbers))
			numbers[k] = n
		}
		t.requests[i] = n
	}
	t.keys = len(numbers)
	return t
}

// first returns the beginning of t, for a short run.
func (t trace) first(n int) trace {
	return newTrace(t.name, t.requests[:min(n, len(t.requests))])
}

// syntheticTraces are made here: always the same, whatever the machine.
func syntheticTraces() []trace {
	const requests = 500_000
	r := rand.New(rand.NewSource(7))
	next := zipf(r, universe)
	zipfian := make([]int, requests)
	for i := range zipfian {
		zipfian[i] = next()
	}
	// A scan of 5,000 keys, each asked for once, comes after every 20,000 requests of a Zipf law.
	var scan []int
	for fresh := universe; len(scan) < requests; {
		for range 20_000 {
			scan = append(scan, next())
		}
		for range 5_000 {
			scan = append(scan, fresh)
			fresh++
		}
	}
	loop := make([]int, requests)
	for i := range loop {
		loop[i] = i % 10_000
	}
	return []trace{newTrace("Zipf 1.01", zipfian), newTrace("Zipf with scans", scan), newTrace("loop of 10,000", loop)}
}

// loadTraces reads the traces of a folder: gzip, one key a line, in the order of the requests.
func loadTraces(folder string) ([]trace, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.gz"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no .gz file in %s", folder)
	}
	var all []trace
	for _, f := range files {
		t, err := loadTrace(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		all = append(all, t)
	}
	return all, nil
}

func loadTrace(path string) (trace, error) {
	f, err := os.Open(path)
	if err != nil {
		return trace{}, err
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return trace{}, err
	}
	name := strings.TrimSuffix(filepath.Base(path), ".gz")
	var lines []string
	var numbers []uint64
	text := bufio.NewScanner(unzipped)
	text.Buffer(nil, 1<<20)
	for text.Scan() {
		if n, err := strconv.ParseUint(text.Text(), 10, 64); err == nil && lines == nil {
			numbers = append(numbers, n)
			continue
		}
		for _, n := range numbers { // not all keys are numbers: take them as they are
			lines = append(lines, strconv.FormatUint(n, 10))
		}
		numbers = nil
		lines = append(lines, text.Text())
	}
	if lines != nil {
		return newTrace(name, lines), text.Err()
	}
	return newTrace(name, numbers), text.Err()
}
