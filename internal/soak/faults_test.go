package soak

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// site is where members keep their values: a server, and the network in front of it.
type site struct {
	server  *redistest.Server
	network []*redistest.Proxy // one for each member
	counts  map[string]int     // by fault
}

// A fault holds for some time. Its functions are called by the test's goroutine.
type fault struct {
	name       string
	begin, end func(s *site, p *redistest.Proxy) // end may be nil
}

var faults = []fault{
	{"cut", func(_ *site, p *redistest.Proxy) { p.CutAll() }, nil},
	{"cut in a reply", func(_ *site, p *redistest.Proxy) { p.CutAfter(rand.IntN(200)) }, nil},
	{"refused", func(_ *site, p *redistest.Proxy) { p.Refuse(true); p.CutAll() }, func(_ *site, p *redistest.Proxy) { p.Refuse(false) }},
	{"packets lost", func(_ *site, p *redistest.Proxy) { p.BlackHole(true) }, func(_ *site, p *redistest.Proxy) { p.BlackHole(false) }},
	{"slow network", func(_ *site, p *redistest.Proxy) { p.Delay(rand.N(150 * time.Millisecond)) }, func(_ *site, p *redistest.Proxy) { p.Delay(0) }},
	{"frozen", func(s *site, _ *redistest.Proxy) { s.server.Freeze() }, func(s *site, _ *redistest.Proxy) { s.server.Thaw() }},
	{"killed", func(s *site, _ *redistest.Proxy) { s.server.Kill() }, func(s *site, _ *redistest.Proxy) { s.server.Restart() }},
	{"clients killed", func(s *site, _ *redistest.Proxy) { s.server.KillClients() }, nil},
	{"flushed", func(s *site, _ *redistest.Proxy) { s.server.Must("FLUSHALL") }, nil},
	{"out of memory", func(s *site, _ *redistest.Proxy) { s.server.FillMemory() }, func(s *site, _ *redistest.Proxy) { s.server.FreeMemory() }},
	{"read-only", func(s *site, _ *redistest.Proxy) { s.server.ReadOnly(true) }, func(s *site, _ *redistest.Proxy) { s.server.ReadOnly(false) }},
	{
		"tracks few keys",
		func(s *site, _ *redistest.Proxy) { s.server.Must("CONFIG", "SET", "tracking-table-max-keys", "2") },
		func(s *site, _ *redistest.Proxy) {
			s.server.Must("CONFIG", "SET", "tracking-table-max-keys", "1000000")
		},
	},
}

// strike lets one fault come and go.
func (s *site) strike() {
	f := faults[rand.IntN(len(faults))]
	s.counts[f.name]++
	p := s.network[rand.IntN(len(s.network))]
	f.begin(s, p)
	<-time.After(rand.N(longestFault))
	if f.end != nil {
		f.end(s, p)
	}
}

// String tells what was broken, for the report.
func (s *site) String() string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(s.counts)) {
		all = append(all, fmt.Sprintf("%s %d", name, s.counts[name]))
	}
	return strings.Join(all, ", ")
}
