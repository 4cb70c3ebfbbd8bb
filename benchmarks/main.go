// Benchmarks measures cacheaside beside the libraries that a user would pick instead, and beside limits
// that no cache can beat, in one process: every measure goes round its contenders again and again, so that
// whatever else the machine does meets all of them. It prints the tables, draws the charts and says which
// of the project's targets are met.
//
//	go run . -out DIR                    # everything, some ten minutes
//	go run . -out DIR -only hit,mixed    # a part; what an earlier run left in the folder stays
//	go run . -short                      # a smoke test, with figures that mean nothing
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A settings says how to run.
type settings struct {
	short  bool
	rounds int           // how often a measure goes round its contenders
	slice  time.Duration // how long one contender is measured at a time
	cpu    bool          // time by processor time where that makes sense
	traces string        // a folder of access traces; "" is none
	log    io.Writer
}

// pick returns the second in a short run, and else the first.
func pick[T any](s settings, full, short T) T {
	if s.short {
		return short
	}
	return full
}

// A section is a group of measures that can be run by its name.
type section struct {
	name  string
	about string
	run   func(s settings) (report, error)
}

// sections are in the order in which they are run and printed.
var sections = []section{
	{"hit", "hits in memory", runHits},
	{"load", "get-or-fetch hits in memory", runLoads},
	{"mixed", "reads with writes in memory", runMixed},
	{"miss", "a miss that nobody else waits for, and 1,000 callers on a cold key", runMisses},
	{"memory", "bytes an entry and garbage collection at a million entries", runMemory},
	{"ratio", "hit ratios of traces", runRatios},
	{"expiry", "a million entries expire", runExpiry},
	{"growth", "ours from ten thousand to ten million entries", runGrowth},
	{"redis", "look-ups in Redis", runRedis},
	{"near", "hits in the near cache", runNear},
	{"stampede", "several processes on one cold key", runStampede},
	{"batch", "one look-up of many keys", runBatch},
}

func main() {
	if role := os.Getenv(workerVariable); role != "" {
		os.Exit(runWorker(role))
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks:", err)
		os.Exit(1)
	}
}

func run() error {
	s := settings{log: os.Stderr}
	out := flag.String("out", "", "folder for the charts, the tables and the figures as JSON; a temporary one if empty")
	doc := flag.String("doc", "", "Markdown file in which to replace what is between the figures' marks")
	against := flag.String("against", "", "contenders to measure hits and writes in memory against, separated by commas; all if empty")
	profile := flag.String("cpuprofile", "", "file to write a processor profile to")
	flag.Func("procs", "values of GOMAXPROCS for the measures in memory, separated by commas", setProcs)
	chosenSections := flag.String("only", "", "sections to run, separated by commas: "+strings.Join(names(), ","))
	flag.StringVar(&s.traces, "traces", "", "folder of access traces: gzip, one key a line")
	flag.BoolVar(&s.short, "short", false, "a smoke test of about a minute; its figures mean nothing")
	flag.IntVar(&s.rounds, "rounds", 0, "rounds over the contenders of a measure; 0 for the default")
	flag.DurationVar(&s.slice, "slice", 0, "how long to measure a contender in one round; 0 for the default")
	flag.BoolVar(&s.cpu, "cpu", false, "time hits and writes in memory by processor time, for a machine that others use too")
	flag.Parse()
	if s.cpu {
		stopwatch = cpuTime
	}
	if *against != "" {
		only = strings.Split(*against, ",")
	}
	if *profile != "" {
		stop, err := startProfile(*profile)
		if err != nil {
			return err
		}
		defer stop()
	}
	if s.rounds == 0 {
		s.rounds = pick(s, 24, 3)
	}
	if s.slice == 0 {
		s.slice = pick(s, 8*time.Millisecond, time.Millisecond)
	}
	chosen, err := choose(*chosenSections)
	if err != nil {
		return err
	}
	if *out == "" {
		if *out, err = os.MkdirTemp("", "cacheaside-benchmarks"); err != nil {
			return err
		}
	}
	for _, c := range chosen {
		begun := time.Now()
		fmt.Fprintf(s.log, "%s: %s\n", c.name, c.about)
		r, err := c.run(s)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		r.Section, r.Seconds, r.Machine = c.name, time.Since(begun).Seconds(), describeMachine(s)
		if err := r.save(*out); err != nil {
			return err
		}
		fmt.Fprintf(s.log, "%s: done after %.0f s\n", c.name, r.Seconds)
	}
	return publish(*out, *doc)
}

func names() []string {
	var all []string
	for _, s := range sections {
		all = append(all, s.name)
	}
	return all
}

// choose returns the named sections in their order, or all of them.
func choose(only string) ([]section, error) {
	if only == "" {
		return sections, nil
	}
	wanted := strings.Split(only, ",")
	for _, name := range wanted {
		if !slices.Contains(names(), name) {
			return nil, fmt.Errorf("-only: there is no %q, only %s", name, strings.Join(names(), ", "))
		}
	}
	var chosen []section
	for _, s := range sections {
		if slices.Contains(wanted, s.name) {
			chosen = append(chosen, s)
		}
	}
	return chosen, nil
}

func setProcs(list string) error {
	procs = nil
	for p := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(p)
		if err != nil || n < 1 {
			return fmt.Errorf("%q is no number of processors", p)
		}
		procs = append(procs, n)
	}
	return nil
}

func startProfile(path string) (stop func(), err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}, nil
}
