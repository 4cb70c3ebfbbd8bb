package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidisaside"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
)

// The stampede: so many processes with so many callers each, who all want one cold key at one moment.
const (
	stampedeProcesses = 8
	stampedeCallers   = 50
	stampedeFetch     = 20 * time.Millisecond
	failingFetch      = 5 * time.Millisecond // shorter, since who fetches 400 times does so one after the other
)

// workerVariable is set in the environment of the processes of a fleet; it says whose they are, and where
// the server is.
const workerVariable = "CACHEASIDE_BENCHMARKS_WORKER"

// runStampede compares what a fleet does to the source, and how soon everybody has the value.
func runStampede(s settings) (report, error) {
	var r report
	var mine, other fleetFigures
	err := withServer(func(server *redistest.Server) (err error) {
		mine, other, err = stampede(s, server)
		return err
	})
	if err != nil {
		return r, err
	}
	t := table{
		Title: "Stampede",
		Note: fmt.Sprintf("%d processes with %d callers each ask for one cold key at one moment; the fetch takes %v. "+
			"Wake-up is from the end of the fetch until a caller has the value. "+
			"Commands are those that Redis has run in a round, without the kit's own. In a failing round every fetch fails, after %v.",
			stampedeProcesses, stampedeCallers, stampedeFetch, failingFetch),
		Columns: []string{
			"", "fetches a round", "wake-up, median, ms", "wake-up, p99, ms", "commands a round", "failing: fetches",
			"failing: until all have the error, ms",
		},
	}
	for _, f := range []struct {
		name string
		*fleetFigures
	}{{"**cacheaside (rueidis-aside)**", &mine}, {"rueidisaside", &other}} {
		t.Rows = append(t.Rows, []string{
			f.name, figure(mean(f.fetches)), figure(quantile(f.wakeups, 0.5)), figure(quantile(f.wakeups, 0.99)), figure(mean(f.commands)),
			figure(mean(f.failedFetches)), figure(median(f.failedTook)),
		})
	}
	r.Tables = append(r.Tables, t)
	r.Charts = append(r.Charts, chart{
		File: "stampede", Title: "8 processes × 50 callers on one cold key", Subtitle: "shorter is better", Panels: []panel{
			versus("commands that Redis runs", "", mean(mine.commands), mean(other.commands)),
			versus("median wake-up after the fetch", "ms", median(mine.wakeups), median(other.wakeups)),
			versus("fetches when the source fails", "", mean(mine.failedFetches), mean(other.failedFetches)),
		},
	})
	most := quantile(mine.fetches, 1)
	r.aim(most == 1 && median(mine.wakeups) < median(other.wakeups) && mean(mine.commands) < mean(other.commands),
		"stampede 8 × 50", "1 fetch; wake-up and commands under rueidisaside's",
		"%.0f fetch; %.1f ms against %.1f ms; %.0f commands against %.0f", most, median(mine.wakeups), median(other.wakeups), mean(mine.commands), mean(other.commands))
	r.aim(quantile(mine.failedFetches, 1) <= stampedeProcesses, "stampede 8 × 50, failing source", "≤ 8 fetches", "%.0f fetches and %.0f ms, rueidisaside %.0f and %.0f ms",
		quantile(mine.failedFetches, 1), median(mine.failedTook), mean(other.failedFetches), median(other.failedTook))
	return r, nil
}

// stampede lets our fleet and the other's have their rounds, in turns.
func stampede(s settings, server *redistest.Server) (mine, other fleetFigures, err error) {
	us, err := startFleet("cacheaside", server)
	if err != nil {
		return mine, other, err
	}
	defer us.stop()
	them, err := startFleet("rueidisaside", server)
	if err != nil {
		return mine, other, err
	}
	defer them.stop()
	for round := range pick(s, 20, 2) {
		for _, f := range []*fleet{us, them} {
			if err := f.round(round, false); err != nil {
				return mine, other, err
			}
		}
	}
	for round := range pick(s, 3, 1) {
		for _, f := range []*fleet{us, them} {
			if err := f.round(1000+round, true); err != nil {
				return mine, other, err
			}
		}
	}
	return us.figures, them.figures, nil
}

func versus(title, unit string, mine, other float64) panel {
	return panel{Title: title, Unit: unit, Bars: []bar{{"cacheaside", "", mine, ours}, {"rueidisaside", "", other, peer}}}
}

// fleetFigures are what the rounds of a fleet came to.
type fleetFigures struct {
	fetches, wakeups, commands []float64
	failedFetches, failedTook  []float64
}

// A fleet is the processes of one contender. Each is this program again, with a role in its environment;
// it reads what to do from its input, line by line, and answers by a line of JSON.
type fleet struct {
	name    string
	server  *redistest.Server
	members []*member
	figures fleetFigures
}

type member struct {
	process *exec.Cmd
	orders  io.WriteCloser
	answers *bufio.Scanner
}

// An order is what a process should do, an answer what came of it.
type order struct {
	Key   string
	Start int64 // when to let the callers go, in unix nanoseconds
	Fail  bool
}

type answer struct {
	Fetches int
	Wakeups []float64 // milliseconds
	Took    float64   // milliseconds
	Err     string
}

func startFleet(name string, server *redistest.Server) (*fleet, error) {
	f := &fleet{name: name, server: server}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	for range stampedeProcesses {
		m := &member{process: exec.CommandContext(background, program)}
		m.process.Env = append(os.Environ(), workerVariable+"="+name+" "+server.Addr())
		m.process.Stderr = os.Stderr
		if m.orders, err = m.process.StdinPipe(); err != nil {
			return f, err
		}
		output, err := m.process.StdoutPipe()
		if err != nil {
			return f, err
		}
		m.answers = bufio.NewScanner(output)
		m.answers.Buffer(nil, 1<<20)
		if err := m.process.Start(); err != nil {
			return f, err
		}
		f.members = append(f.members, m)
	}
	for _, m := range f.members {
		if !m.answers.Scan() { // that it is ready
			f.stop()
			return nil, fmt.Errorf("a process of %s ended early", name)
		}
	}
	return f, nil
}

// stop ends the processes, which do so when their input ends.
func (f *fleet) stop() {
	for _, m := range f.members {
		_ = m.orders.Close()
		_ = m.process.Wait()
	}
}

func (f *fleet) round(number int, failing bool) error {
	f.server.ResetStats()
	o := order{Key: fmt.Sprintf("%s:%d", f.name, number), Start: time.Now().Add(100 * time.Millisecond).UnixNano(), Fail: failing}
	line, err := json.Marshal(o)
	if err != nil {
		return err
	}
	for _, m := range f.members {
		if _, err := fmt.Fprintf(m.orders, "%s\n", line); err != nil {
			return err
		}
	}
	fetches, took := 0, 0.0
	for _, m := range f.members {
		var a answer
		if !m.answers.Scan() {
			return fmt.Errorf("a process of %s ended in a round", f.name)
		}
		if err := json.Unmarshal(m.answers.Bytes(), &a); err != nil {
			return err
		}
		if a.Err != "" {
			return fmt.Errorf("%s: %s", f.name, a.Err)
		}
		fetches += a.Fetches
		took = max(took, a.Took)
		f.figures.wakeups = append(f.figures.wakeups, a.Wakeups...)
	}
	if failing {
		f.figures.failedFetches = append(f.figures.failedFetches, float64(fetches))
		f.figures.failedTook = append(f.figures.failedTook, took)
		return nil
	}
	f.figures.fetches = append(f.figures.fetches, float64(fetches))
	f.figures.commands = append(f.figures.commands, float64(commandsRun(f.server)))
	return nil
}

// commandsRun is how many commands the clients have sent since the counts were reset.
func commandsRun(server *redistest.Server) (n int64) {
	for name, calls := range server.CommandStats() {
		switch {
		case name == "auth", name == "info", name == "ping", name == "hello", strings.HasPrefix(name, "config"), strings.HasPrefix(name, "client"):
		default:
			n += calls
		}
	}
	return n
}

// errSource is what a failing source returns.
var errSource = errors.New("the source fails")

// runWorker is the life of a process of a fleet: connect, and obey.
func runWorker(role string) int {
	name, addr, _ := strings.Cut(role, " ")
	get, closeIt := workerClient(name, addr)
	defer closeIt()
	fmt.Println("ready")
	for orders := bufio.NewScanner(os.Stdin); orders.Scan(); {
		var o order
		if err := json.Unmarshal(orders.Bytes(), &o); err != nil {
			fmt.Fprintln(os.Stderr, "benchmarks: worker:", err)
			return 1
		}
		line, err := json.Marshal(obey(o, get))
		if err != nil {
			fmt.Fprintln(os.Stderr, "benchmarks: worker:", err)
			return 1
		}
		fmt.Println(string(line))
	}
	return 0
}

type getOrFetch func(key string, fetch func(context.Context, string) (string, error)) (string, error)

func workerClient(name, addr string) (getOrFetch, func()) {
	if name == "rueidisaside" {
		c := must(rueidisaside.NewClient(rueidisaside.ClientOption{ClientOption: rueidis.ClientOption{InitAddress: []string{addr}}}))
		return func(key string, fetch func(context.Context, string) (string, error)) (string, error) {
			return c.Get(background, time.Minute, key, fetch)
		}, c.Close
	}
	c := must(cacheaside.Open[string](background, cacheaside.Config{
		Backend: cacheaside.BackendRueidisAside, Redis: cacheaside.RedisConfig{Addrs: []string{addr}},
	}))
	return func(key string, fetch func(context.Context, string) (string, error)) (string, error) {
		return c.GetWithFetch(background, key, time.Minute, fetch)
	}, func() { _ = c.Close() }
}

// obey lets the callers go. The value is the time at which the fetch ended, by which each caller knows how
// long it had to wait after that.
func obey(o order, get getOrFetch) (a answer) {
	var fetches atomic.Int64
	fetch := func(context.Context, string) (string, error) {
		fetches.Add(1)
		if o.Fail {
			time.Sleep(failingFetch)
			return "", errSource
		}
		time.Sleep(stampedeFetch)
		return strconv.FormatInt(time.Now().UnixNano(), 10), nil
	}
	var mu sync.Mutex
	var callers sync.WaitGroup
	start := time.Unix(0, o.Start)
	time.Sleep(time.Until(start))
	for range stampedeCallers {
		callers.Go(func() {
			value, err := get(o.Key, fetch)
			now := time.Now().UnixNano()
			fetched, parseErr := strconv.ParseInt(value, 10, 64)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case o.Fail && err != nil:
			case err != nil:
				a.Err = err.Error()
			case parseErr != nil:
				a.Err = parseErr.Error()
			default:
				a.Wakeups = append(a.Wakeups, float64(now-fetched)/1e6)
			}
		})
	}
	callers.Wait()
	a.Took = time.Since(start).Seconds() * 1e3
	a.Fetches = int(fetches.Load())
	return a
}
