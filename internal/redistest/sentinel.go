package redistest

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	masterName      = "mymaster"
	sentinelTimeout = 15 * time.Second
)

// How long the master must be silent for the sentinel to hold it to be down. It is the short time only
// while the kit fails over: on a loaded machine half a second of silence means nothing, and the sentinel
// would replace a master that a test still counts on.
const (
	downAfter          = "500"
	downAfterOtherwise = "5000"
)

// sentinelPace makes the sentinel look, decide and act faster than it would. How often it sends a PING is
// as ever: five of those periods are how fresh the news of a replica must be for it to be promoted.
var sentinelPace = []string{
	"info-period", "100", "ask-period", "50", "publish-period", "100",
	"min-link-reconnect-period", "100", "election-timeout", "500",
}

// A Sentinel is a master with one replica, and a sentinel that watches them.
type Sentinel struct {
	t    testing.TB
	node *Server

	mu              sync.Mutex
	master, replica *Server
}

// StartSentinel starts the three servers and returns when the sentinel would promote the replica. With [TLS]
// all three speak TLS, by the same keys; a [Password] is the sentinel's own.
func StartSentinel(t testing.TB, opts ...Option) *Sentinel {
	t.Helper()
	s := &Sentinel{t: t}
	own := newOptions(opts)
	data := options{args: []string{"--repl-diskless-sync-delay", "0"}, tls: own.tls}
	if own.tls {
		own.keys = newAuthority(t, t.TempDir()) // one for all, because they must trust each other
		own.args = append([]string{"--tls-replication", "yes"}, own.args...)
		data.args, data.keys = append(data.args, "--tls-replication", "yes"), own.keys
	}
	s.master = start(t, data)
	data.args = append(data.args, "--replicaof", "127.0.0.1", strconv.Itoa(s.master.port))
	s.replica = start(t, data)
	// A sentinel that starts before the replica is there would not look again for ten seconds.
	s.await("replicate", func() error {
		return want(s.replica.info("INFO", "replication"), "master_link_status", "up")
	})
	own.args, own.config = append([]string{"--sentinel"}, own.args...), s.config
	s.node = start(t, own)
	if s.node.version.isAtLeast(7, 0) { // an older one keeps its own pace
		s.node.Must(append([]string{"SENTINEL", "DEBUG"}, sentinelPace...)...)
	}
	s.awaitReplica()
	return s
}

// Addr returns host:port of the sentinel.
func (s *Sentinel) Addr() string { return s.node.Addr() }

// Node returns the sentinel's own process, to be frozen or killed.
func (s *Sentinel) Node() *Server { return s.node }

// MasterName returns what the sentinel calls the master.
func (s *Sentinel) MasterName() string { return masterName }

// Master returns the present master.
func (s *Sentinel) Master() *Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.master
}

// Replica returns the other server, which is down after [Sentinel.Failover] until it is restarted.
func (s *Sentinel) Replica() *Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.replica
}

// URL returns the sentinel in the one-line form:
//
//	rueidis://127.0.0.1:12345/0?sentinel_master=mymaster
//
// Parameters follow as in [Server.URL].
func (s *Sentinel) URL(scheme string, parameters ...string) string {
	return s.node.URL(scheme, append([]string{"sentinel_master=" + masterName}, parameters...)...)
}

// Failover kills the master and returns when the replica is the master and the sentinel says so, after
// one to two seconds. A master that a test kills by itself is replaced too, but only after five seconds,
// and [Sentinel.Master] does not follow. For another failover, call Restart on the new [Sentinel.Replica] before: the
// sentinel then makes it follow the new master.
func (s *Sentinel) Failover() {
	s.t.Helper()
	s.awaitReplica()
	old, promoted := s.Master(), s.Replica()
	s.setDownAfter(downAfter)
	old.Kill()
	s.await("fail over", func() error {
		if addr := s.reported(); addr != promoted.Addr() {
			return fmt.Errorf("the master is %s, not %s", addr, promoted.Addr())
		}
		return want(promoted.info("INFO", "replication"), "role", "master")
	})
	s.setDownAfter(downAfterOtherwise)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.master, s.replica = promoted, old
}

// config is what the sentinel starts with. It adds to the file what it learns.
func (s *Sentinel) config() string {
	return fmt.Sprintf("sentinel monitor %[1]s 127.0.0.1 %[2]d 1\n"+
		"sentinel down-after-milliseconds %[1]s %[3]s\n"+
		"sentinel failover-timeout %[1]s 3000\n", masterName, s.Master().port, downAfterOtherwise)
}

func (s *Sentinel) setDownAfter(milliseconds string) {
	s.t.Helper()
	s.node.Must("SENTINEL", "SET", masterName, "down-after-milliseconds", milliseconds)
}

// reported returns host:port of what the sentinel holds to be the master.
func (s *Sentinel) reported() string {
	s.t.Helper()
	reply, _ := s.node.Must("SENTINEL", "GET-MASTER-ADDR-BY-NAME", masterName).([]any)
	if len(reply) != 2 {
		return "unknown"
	}
	return fmt.Sprintf("%v:%v", reply[0], reply[1])
}

// awaitReplica waits until the sentinel knows the replica, and that it is fit to be promoted.
func (s *Sentinel) awaitReplica() {
	s.t.Helper()
	s.await("see the replica", func() error {
		replicas, _ := s.node.Must("SENTINEL", "REPLICAS", masterName).([]any)
		for _, replica := range replicas {
			fields := pairs(replica)
			if fields["name"] == s.Replica().Addr() {
				if strings.Contains(fields["flags"], "down") || strings.Contains(fields["flags"], "disconnected") {
					return fmt.Errorf("the replica's flags are %s", fields["flags"])
				}
				return want(fields, "master-link-status", "ok")
			}
		}
		return fmt.Errorf("the replica is not among %v", replicas)
	})
}

// await ends the test if the condition does not come about.
func (s *Sentinel) await(what string, check func() error) {
	s.t.Helper()
	if err := await(sentinelTimeout, check); err != nil {
		reporter := s.node
		if reporter == nil {
			reporter = s.Replica()
		}
		reporter.fatalf("%s: %v", what, err)
	}
}

// want returns an error unless a field has that value.
func want(fields map[string]string, name, value string) error {
	if fields[name] != value {
		return fmt.Errorf("%s is %q, not %q", name, fields[name], value)
	}
	return nil
}

// pairs reads a reply in which names and values alternate.
func pairs(reply any) map[string]string {
	items, _ := reply.([]any)
	fields := map[string]string{}
	for i := 0; i+1 < len(items); i += 2 {
		fields[fmt.Sprint(items[i])] = fmt.Sprint(items[i+1])
	}
	return fields
}
