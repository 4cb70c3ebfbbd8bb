package redistest

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// slots is how many slots a Redis Cluster has.
const slots = 16384

// clusterTimeout leaves room beyond the two seconds for which a node that starts as a master refuses to
// serve, which nothing can shorten.
const clusterTimeout = 15 * time.Second

// A Cluster is a Redis Cluster of masters without replicas. A part of it goes on when a node is down.
type Cluster struct {
	t     testing.TB
	nodes []*Server
}

// StartCluster starts a cluster with so many masters, which share the slots evenly and in order, and
// returns when each of them serves, after about two seconds. The options are for every node.
func StartCluster(t testing.TB, masters int, opts ...Option) *Cluster {
	t.Helper()
	if masters < 1 {
		t.Fatalf("redistest: a cluster of %d masters; at least 1", masters)
	}
	o := newOptions(opts)
	o.cluster = true
	o.args = append([]string{
		"--cluster-node-timeout", "2000", "--cluster-require-full-coverage", "no",
	}, o.args...)
	if o.tls {
		o.args = append([]string{"--tls-cluster", "yes"}, o.args...)
		o.keys = newAuthority(t, t.TempDir()) // one for all, because they must trust each other
	}
	c := &Cluster{t: t}
	for range masters {
		c.nodes = append(c.nodes, start(t, o))
	}
	c.join()
	c.AwaitOK()
	return c
}

// Nodes returns the servers, in the order of their slots.
func (c *Cluster) Nodes() []*Server { return c.nodes }

// Addrs returns host:port of each node.
func (c *Cluster) Addrs() []string {
	addrs := make([]string, len(c.nodes))
	for i, node := range c.nodes {
		addrs[i] = node.Addr()
	}
	return addrs
}

// URL returns all nodes in the one-line form:
//
//	rueidis://user:password@127.0.0.1:12345,127.0.0.1:12346?cluster=true
//
// Parameters follow as in [Server.URL].
func (c *Cluster) URL(scheme string, parameters ...string) string {
	fixed := []string{"cluster=true"}
	if c.nodes[0].keys != nil {
		fixed = append(fixed, "tls=true")
	}
	place := c.nodes[0].userinfo() + strings.Join(c.Addrs(), ",")
	return oneLine(scheme, place, append(fixed, parameters...))
}

// Owner returns the node that a key belongs to.
func (c *Cluster) Owner(key string) *Server {
	c.t.Helper()
	slot, _ := c.nodes[0].Must("CLUSTER", "KEYSLOT", key).(int64)
	for i, node := range c.nodes {
		if _, last := c.share(i); int(slot) <= last {
			return node
		}
	}
	return nil // can't be: the last share ends with the last slot
}

// AwaitOK waits until every node serves and knows all others, for example after a [Server.Restart] of
// one.
func (c *Cluster) AwaitOK() {
	c.t.Helper()
	err := await(clusterTimeout, func() error {
		for _, node := range c.nodes {
			if err := c.check(node); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		c.nodes[0].fatalf("the cluster is not ok: %v", err)
	}
}

// check returns what is missing until a node serves.
func (c *Cluster) check(node *Server) error {
	info := node.info("CLUSTER", "INFO")
	for _, field := range [][2]string{
		{"cluster_state", "ok"},
		{"cluster_slots_ok", strconv.Itoa(slots)},
		{"cluster_known_nodes", strconv.Itoa(len(c.nodes))},
	} {
		if err := want(info, field[0], field[1]); err != nil {
			return fmt.Errorf("%s: %w", node.Addr(), err)
		}
	}
	return nil
}

// join gives each node its slots and introduces it to every other one, rather than wait for gossip.
func (c *Cluster) join() {
	c.t.Helper()
	for i, node := range c.nodes {
		c.assign(node, i)
		// Epochs that differ from the start spare the nodes to settle who is right.
		node.Must("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
	}
	for i, node := range c.nodes {
		for _, other := range c.nodes[i+1:] {
			node.Must("CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(other.port), strconv.Itoa(other.busPort))
		}
	}
}

// assign gives a node its slots, one by one, as versions before 7.0 need it.
func (c *Cluster) assign(node *Server, i int) {
	c.t.Helper()
	command := []string{"CLUSTER", "ADDSLOTS"}
	for first, last := c.share(i); first <= last; first++ {
		command = append(command, strconv.Itoa(first))
	}
	node.Must(command...)
}

// share returns the first and the last slot of a node.
func (c *Cluster) share(i int) (first, last int) {
	n := len(c.nodes)
	return slots * i / n, slots*(i+1)/n - 1
}
