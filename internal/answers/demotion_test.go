package answers_test

import (
	"context"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
)

// A name points at one server, which becomes a replica of another; then the name moves there.
func TestADemotedMasterIsLeftForTheOneThatItsNamePointsAt(t *testing.T) {
	for name, lose := range map[string]bool{"READONLY": false, "MASTERDOWN": true} {
		t.Run(name, func(t *testing.T) {
			onBothBackends(t, func(t *testing.T, backend string) {
				old, promoted := redistest.Start(t), redistest.Start(t)
				proxy := redistest.NewProxy(t, old.Addr())
				var dials atomic.Int64
				cfg := config(t, backend+"://"+proxy.Addr())
				c := open(t, cfg, countingDials(&dials))
				require.NoError(t, c.Set(t.Context(), key, "old", time.Hour))

				host, port, err := net.SplitHostPort(promoted.Addr())
				require.NoError(t, err)
				if lose {
					old.Must("CONFIG", "SET", "replica-serve-stale-data", "no")
					port = "1" // where no server is
				}
				old.Must("REPLICAOF", host, port)
				before := dials.Load()
				underLoad(t, c, func() { time.Sleep(3 * time.Second) })
				require.Less(t, dials.Load()-before, int64(8), "connections in three seconds")

				proxy.Retarget(t, promoted.Addr())
				underLoad(t, c, func() {
					require.Eventually(t, func() bool { return c.Set(context.Background(), key, "new", time.Hour) == nil }, healing, 10*time.Millisecond)
				})
				require.EqualValues(t, 1, promoted.Must("EXISTS", "cache:answers:"+key))
				require.NoError(t, c.Health(t.Context()))
				v, err := c.Get(t.Context(), key)
				require.NoError(t, err)
				require.Equal(t, "new", v)
			})
		})
	}
}

// A process that only reads is not refused anything by a server that has become a replica. It leaves that all the
// same, on rueidis-aside also while it is all near hits.
func TestAProcessThatOnlyReadsLeavesADemotedMaster(t *testing.T) {
	t.Parallel()
	onBothBackends(t, func(t *testing.T, backend string) {
		old, promoted := redistest.Start(t), redistest.Start(t)
		for _, server := range []*redistest.Server{old, promoted} {
			server.Must("SET", "cache:answers:"+key, `"old"`)
		}
		proxy := redistest.NewProxy(t, old.Addr())
		var dials atomic.Int64
		c := open(t, config(t, backend+"://"+proxy.Addr()), countingDials(&dials))
		v, err := c.Get(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, "old", v)

		old.Must("REPLICAOF", "127.0.0.1", "1") // where no server is: it keeps what it has
		promoted.Must("SET", "cache:answers:"+key, `"new"`)
		proxy.Retarget(t, promoted.Addr())
		require.Eventually(t, func() bool {
			v, err := c.Get(t.Context(), key)
			return err == nil && v == "new"
		}, 2*healing, 10*time.Millisecond)
		require.Less(t, dials.Load(), int64(6))
		require.EqualValues(t, 1, promoted.Must("DBSIZE"), "nothing was written")
	})
}

// A program may be meant to read from a replica: its connection is not made anew all the time.
func TestAReplicaThatIsReadFromIsNotLeftAllTheTime(t *testing.T) {
	t.Parallel()
	onBothBackends(t, func(t *testing.T, backend string) {
		replica := redistest.Start(t)
		replica.Must("SET", "cache:answers:"+key, `"v"`)
		replica.Must("REPLICAOF", "127.0.0.1", "1")
		var dials atomic.Int64
		c := open(t, config(t, backend+"://"+replica.Addr()), countingDials(&dials))
		before := dials.Load()
		for end := time.Now().Add(11 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			v, err := c.Get(t.Context(), key)
			require.NoError(t, err)
			require.Equal(t, "v", v)
		}
		require.EqualValues(t, 1, dials.Load()-before, "the next time is ten seconds later")
	})
}

// The sentinel says who the master is when it is asked, and its message that there is another one is lost. A write
// that the old one refuses is the sign.
func TestADemotedMasterIsLeftForTheOneThatSentinelsName(t *testing.T) {
	t.Parallel()
	onBothBackends(t, func(t *testing.T, backend string) {
		old, promoted := redistest.Start(t), redistest.Start(t)
		var master atomic.Pointer[string]
		point := func(server *redistest.Server) { addr := server.Addr(); master.Store(&addr) }
		point(old)
		sentinel := startFake(t, func(command []string) string { return asSentinel(command, *master.Load()) })
		c := open(t, config(t, backend+"://"+sentinel.addr()+"?sentinel_master=mymaster"), cacheaside.WithRueidisOption(
			func(o *rueidis.ClientOption) { o.Sentinel.TopologyRefreshInterval = time.Hour }))
		require.NoError(t, c.Set(t.Context(), key, "old", time.Hour))

		old.Must("REPLICAOF", "127.0.0.1", "1")
		point(promoted)
		underLoad(t, c, func() {
			require.Eventually(t, func() bool { return c.Set(context.Background(), key, "new", time.Hour) == nil }, healing, 10*time.Millisecond)
		})
		require.EqualValues(t, 1, promoted.Must("EXISTS", "cache:answers:"+key))
		v, err := c.Get(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, "new", v)
	})
}

// asSentinel is what a sentinel replies that knows this master.
func asSentinel(command []string, master string) string {
	host, port, _ := net.SplitHostPort(master)
	switch strings.ToUpper(command[0]) {
	case "SENTINEL":
		if strings.EqualFold(command[1], "GET-MASTER-ADDR-BY-NAME") {
			return "*2\r\n+" + host + "\r\n+" + port
		}
		return "*0"
	case "SUBSCRIBE", "UNSUBSCRIBE":
		replies := make([]string, 0, len(command))
		for i, channel := range command[1:] {
			replies = append(replies, ">3\r\n+"+strings.ToLower(command[0])+"\r\n+"+channel+"\r\n:"+strconv.Itoa(i+1))
		}
		return strings.Join(replies, "\r\n")
	}
	return ""
}
