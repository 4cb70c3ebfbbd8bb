package main

import (
	"fmt"
	"math"
	"math/bits"
	"runtime/debug"
	"syscall"
	"time"
)

// An ending is what happened when all entries of a contender expired.
type ending struct {
	label
	idle     float64 // percent of a core that it used while it was full and nobody asked it for anything
	released float64 // seconds from the last deadline until all but a hundredth was gone; infinite: not in time
	stalls   latencies
	kept     float64 // bytes of heap an entry at the end
}

// runExpiry lets a million entries expire that nobody asks for, while a reader is busy with others.
func runExpiry(s settings) (report, error) {
	var r report
	p := plan{
		entries: pick(s, 1_000_000, 20_000),
		ttl:     pick(s, 6*time.Second, time.Second),
		idle:    pick(s, 3*time.Second, 200*time.Millisecond),
		limit:   pick(s, 12*time.Second, 2*time.Second),
	}
	keys := keyNames(p.entries)
	t := table{
		Title: fmt.Sprintf("Expiry of %s entries that nobody asks for", grouped(int64(p.entries))),
		Note: fmt.Sprintf("All have a ttl of %v and are written as fast as may be. Idle is the processor time of the whole process while the cache is full and not used. "+
			"Gone is the time from the last deadline until 1 %% is left, at most %v. The stalls are those of one reader of 1,000 live keys from the deadline until then, "+
			"or for at least 2 s; the row without a cache shows what the machine itself does to such a reader.", p.ttl, p.limit),
		Columns: []string{"", "idle, % of a core", "gone after, s", "reader's p99.99, ms", "reader's worst, ms", "heap left, bytes an entry"},
	}
	all := append(libraries[user](), nothing[user]())
	waits := panel{Unit: "ms"}
	for i, c := range all {
		if s.short && c.rank != ours && c.rank != limit || c.name == "otter (coarse clock)" || c.name == "RWMutex map + singleflight" {
			continue // as otter; and one that never releases anything
		}
		e := p.watch(c, keys)
		gone := figure(e.released)
		if math.IsInf(e.released, 1) {
			gone = "not in time"
		}
		row := []string{e.name, fmt.Sprintf("%.2f", e.idle), gone, figure(e.stalls.quantile(0.9999)), figure(e.stalls.worst()), figure(e.kept)}
		if c.name == "nothing" {
			row[0], row[2], row[5] = "a reader without a cache", "–", "–"
			e.name = row[0]
		}
		t.Rows = append(t.Rows, row)
		waits.Bars = append(waits.Bars, bar{e.name, e.less, e.stalls.worst(), e.rank})
		if i == 0 {
			r.aim(e.released <= 4, "1 M expired entries, gone", "within two periods of 2 s", "%s s", gone)
			r.aim(e.stalls.quantile(0.9999) <= 0.5, "1 M expired entries, p99.99 of a reader", "≤ 0.5 ms", "%s ms", figure(e.stalls.quantile(0.9999)))
			r.aim(e.idle < 0.5, "1 M entries, idle CPU", "< 0.5 %", "%.2f %%", e.idle)
		}
	}
	r.Tables = append(r.Tables, t)
	r.Charts = append(r.Charts, chart{
		File: "expiry", Title: "A reader's longest wait while a million entries expire", Log: true,
		Subtitle: "milliseconds on a logarithmic scale, shorter is better; the reader has nothing to do with the expired", Panels: []panel{waits.sorted(false)},
	})
	return r, nil
}

// A plan says how long to wait for what.
type plan struct {
	entries          int
	ttl, idle, limit time.Duration
}

// watch fills one contender and sees its entries expire.
func (p plan) watch(c contender[user], keys []string) ending {
	e := ending{label: label{c.name, c.less, c.rank}, released: math.Inf(1)}
	before := liveHeap()
	h := c.open(setup[user]{capacity: p.entries + p.entries/8, ttl: p.ttl})
	defer h.close()
	for i, k := range keys {
		h.set(k, newUser(i))
	}
	if h.settle != nil {
		h.settle()
	}
	deadline := time.Now().Add(p.ttl)
	debug.FreeOSMemory() // and with it all that the runtime would otherwise do in the background after the fill
	e.idle = idleShare(p.idle)

	hot := make([]string, 1000)
	for i := range hot {
		hot[i] = keyName(p.entries + i)
	}
	reader := startReader(h, hot)
	time.Sleep(time.Until(deadline))
	reader.reset()
	for end := deadline.Add(p.limit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		since := time.Since(deadline).Seconds()
		if h.size != nil && h.size() <= p.entries/100+len(hot) {
			e.released = min(e.released, since)
		}
		if since > 2 && (h.size == nil || !math.IsInf(e.released, 1)) {
			break
		}
	}
	e.stalls = reader.stop()
	e.kept = (liveHeap() - before) / float64(p.entries)
	return e
}

// idleShare is the processor time of this process in percent of a core, while it does nothing by itself.
func idleShare(d time.Duration) float64 {
	before, begun := cpuTime(), time.Now()
	time.Sleep(d)
	return 100 * (cpuTime() - before).Seconds() / time.Since(begun).Seconds()
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A reader looks up keys one after the other, and takes the time of each.
type reader struct {
	restart chan struct{}
	quit    chan struct{}
	done    chan latencies
}

// startReader stores the keys and starts to read them. A key that is gone, since it has expired too, is
// stored again, out of time.
func startReader(h handle[user], keys []string) *reader {
	r := &reader{make(chan struct{}), make(chan struct{}), make(chan latencies, 1)}
	for i, k := range keys {
		h.set(k, newUser(i))
	}
	go r.run(h, keys) // ends with stop
	return r
}

func (r *reader) run(h handle[user], keys []string) {
	var l latencies
	at := time.Now()
	for {
		for i, k := range keys {
			_, ok := h.get(k)
			now := time.Now()
			l.add(now.Sub(at))
			at = now
			if !ok {
				h.set(k, newUser(i))
				at = time.Now()
			}
		}
		select {
		case <-r.restart:
			l = latencies{}
		case <-r.quit:
			r.done <- l
			return
		default:
		}
	}
}

// reset forgets what was measured so far.
func (r *reader) reset() { r.restart <- struct{}{} }

func (r *reader) stop() latencies {
	close(r.quit)
	return <-r.done
}

// latencies counts durations, in buckets of which each is an eighth or less of its durations wide.
type latencies struct {
	counts [64 * 8]uint64
	total  uint64
	most   time.Duration
}

func (l *latencies) add(d time.Duration) {
	n := uint64(max(d, 8))
	exponent := bits.Len64(n) - 4 // the leading bit and the three after it make the bucket
	l.counts[exponent*8+int(n>>exponent)&7]++
	l.total++
	l.most = max(l.most, d)
}

// quantile returns the upper end of the bucket that q falls in, in milliseconds.
func (l *latencies) quantile(q float64) float64 {
	left := uint64(math.Ceil(q * float64(l.total)))
	for i, n := range l.counts {
		if n >= left && n > 0 {
			upper := uint64(8+i%8+1) << (i / 8)
			return min(float64(upper)/1e6, l.worst())
		}
		left -= n
	}
	return l.worst()
}

func (l *latencies) worst() float64 { return l.most.Seconds() * 1e3 }
