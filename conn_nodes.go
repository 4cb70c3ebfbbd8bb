package cacheaside

import (
	"context"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// node is a server as operations see it: whether it answers, how busy the queue is that leads there, and what passes.
// Without a cluster there is one.
type node struct {
	breaker *breaker
	load    load
	line    line
}

// nodes are those of a cluster. Trouble is counted by node: one that is gone must not keep the keys of the others from
// being looked up. The client does not tell which node it sends a key to, so it is found out as the client does.
type nodes struct {
	conn   *conn
	events func(Event)
	owners atomic.Pointer[[slots]*node] // by slot; nil until it is known

	mu     sync.Mutex
	byAddr map[string]*node
	down   map[*node]bool // those that do not answer
	asked  time.Time      // when a node was asked last who owns what
	closed bool
}

const (
	// slots is how many a cluster has.
	slots = 1 << 14

	// nodesEvery is the shortest time from asking who owns what to asking again.
	nodesEvery = time.Second
)

// of returns the node of a key in Redis, or nil if it is not known.
func (ns *nodes) of(redisKey string) *node {
	if owners := ns.owners.Load(); owners != nil {
		return owners[slotOf(redisKey)]
	}
	return nil
}

// nodeOf returns the node of a key in Redis. "" stands for no key in particular, which any node may be asked.
func (n *conn) nodeOf(redisKey string) *node {
	if n.nodes == nil || redisKey == "" {
		return &n.node
	}
	if at := n.nodes.of(redisKey); at != nil {
		return at
	}
	return &n.node
}

// isDown reports whether nothing is asked of the node of a key, until it answers a probe.
func (n *conn) isDown(redisKey string) bool {
	return n.breaker.isDown() || n.nodes != nil && n.nodeOf(redisKey).breaker.isDown()
}

// isAnyDown reports whether some node does not answer.
func (n *conn) isAnyDown() bool {
	if n.nodes == nil || n.breaker.isDown() {
		return n.breaker.isDown()
	}
	n.nodes.mu.Lock()
	defer n.nodes.mu.Unlock()
	return len(n.nodes.down) > 0
}

// at returns the node at an address, which the client may be about to dial.
func (ns *nodes) at(addr string) *node {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return ns.atLocked(addr)
}

func (ns *nodes) atLocked(addr string) *node {
	if at := ns.byAddr[addr]; at != nil {
		return at
	}
	at := new(node)
	ns.conn.prepare(at)
	at.line.lost = func() {} // who uses the connection gets the error
	at.breaker = newBreaker(func(ctx context.Context, brisk bool) error { return ns.probe(ctx, addr, at, brisk) }, func(e Event) { ns.tell(at, e) })
	at.breaker.brief = ns.conn.breaker.brief
	if ns.closed {
		at.breaker.stop()
	}
	ns.byAddr[addr] = at
	return at
}

// tell passes on that a node does not answer, and that all do again.
func (ns *nodes) tell(at *node, e Event) {
	ns.mu.Lock()
	if e.Kind == EventBackendUp {
		delete(ns.down, at)
	} else {
		ns.down[at] = true
	}
	up := len(ns.down) == 0
	ns.mu.Unlock()
	if e.Kind != EventBackendUp || up {
		ns.events(e)
	}
}

// probe asks whether a node answers. One that owns nothing any more does not matter.
func (ns *nodes) probe(ctx context.Context, addr string, at *node, brisk bool) error {
	limit := ns.conn.cfg.OpTimeout
	if !brisk {
		limit += dialTimeout + writeTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c := ns.conn.client.Load()
	if c == nil {
		return rueidis.ErrClosing
	}
	known := (*c).Nodes()
	ns.learn(ctx, known)
	server := known[addr]
	if server == nil || !ns.owns(at) {
		return nil
	}
	err := ns.conn.askFor(ctx, server)
	if isLost(err) && !isRefused(err) { // it may have gone by the connection that was lost
		err = ns.conn.askFor(ctx, server)
	}
	re, ok := rueidis.IsRedisErr(err)
	if ok && !notServing(re) && !refusesConnection(re) || at.isLate(err, ns.conn.cfg.OpTimeout) {
		return nil
	}
	return err
}

func (ns *nodes) owns(at *node) bool {
	owners := ns.owners.Load()
	if owners == nil {
		return false
	}
	for _, owner := range owners {
		if owner == at {
			return true
		}
	}
	return false
}

// askAny asks all nodes whether they answer. One is enough.
func (ns *nodes) askAny(ctx context.Context, c rueidis.Client) error {
	known := c.Nodes()
	ns.learn(ctx, known)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan error, len(known))
	for _, server := range known {
		go func() { answers <- ns.conn.askFor(ctx, server) }() // ends with ctx
	}
	err := rueidis.ErrNoAddr
	for range known {
		if err = <-answers; err == nil {
			return nil
		}
	}
	return err
}

// learn asks the nodes one by one who owns what, until one has told, unless that was done a moment ago.
func (ns *nodes) learn(ctx context.Context, known map[string]rueidis.Client) {
	ns.mu.Lock()
	now := time.Now()
	recently := now.Sub(ns.asked) < nodesEvery
	if !recently {
		ns.asked = now
	}
	ns.mu.Unlock()
	if recently {
		return
	}
	for addr, server := range known {
		if ns.at(addr).breaker.isDown() {
			continue
		}
		asking, cancel := context.WithTimeout(ctx, ns.conn.cfg.OpTimeout)
		reply, err := leavable{Client: server}.Do(asking, server.B().ClusterSlots().Build()).ToArray()
		cancel()
		if err == nil {
			ns.adopt(addr, reply)
			return
		}
	}
}

// adopt takes over what the node at an address has told of who owns what: ranges of slots, each with the endpoints of
// its master and its replicas.
func (ns *nodes) adopt(teller string, ranges []rueidis.RedisMessage) {
	owners := new([slots]*node)
	for _, r := range ranges {
		parts, err := r.ToArray()
		if err != nil || len(parts) < 3 {
			continue
		}
		first, err1 := parts[0].AsInt64()
		last, err2 := parts[1].AsInt64()
		addr := endpoint(teller, parts[2])
		if err1 != nil || err2 != nil || addr == "" || first < 0 || last >= slots {
			continue
		}
		at := ns.at(addr)
		for slot := first; slot <= last; slot++ {
			owners[slot] = at
		}
	}
	ns.owners.Store(owners)
}

// endpoint is the address of a node, as the client makes it: one that does not know its own is where it was asked.
func endpoint(teller string, m rueidis.RedisMessage) string {
	parts, err := m.ToArray()
	if err != nil || len(parts) < 2 {
		return ""
	}
	host, _ := parts[0].ToString() // "" if it is nil
	port, err := parts[1].AsInt64()
	switch {
	case err != nil, host == "?":
		return ""
	case host == "":
		host, _, _ = net.SplitHostPort(teller)
	}
	return net.JoinHostPort(host, strconv.FormatInt(port, 10))
}

// stop ends all probing, and returns a function that waits for that.
func (ns *nodes) stop() (wait func()) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	ns.closed = true
	for _, at := range ns.byAddr {
		at.breaker.stop()
	}
	all := slices.Collect(maps.Values(ns.byAddr))
	return func() {
		for _, at := range all {
			at.breaker.probing.Wait()
		}
	}
}
