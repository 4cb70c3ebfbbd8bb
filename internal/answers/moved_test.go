package answers_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

// moved returns how many commands the nodes have sent elsewhere.
func moved(t *testing.T, nodes ...*redistest.Server) (n int) {
	t.Helper()
	for _, node := range nodes {
		text, _ := node.Must("INFO", "errorstats").(string)
		if _, count, ok := strings.Cut(text, "errorstat_MOVED:count="); ok {
			count, _, _ = strings.Cut(count, "\r\n")
			more, err := strconv.Atoi(count)
			require.NoError(t, err)
			n += more
		}
	}
	return n
}

// disagreeing returns a cluster of two nodes, each of which says that the slot of this key is the other's.
func disagreeing(t *testing.T, redisKey string) *redistest.Cluster {
	t.Helper()
	cluster := redistest.StartCluster(t, 2)
	owner, other := cluster.Nodes()[0], cluster.Nodes()[1]
	if cluster.Owner(redisKey) == other {
		owner, other = other, owner
	}
	slot, _ := owner.Must("CLUSTER", "KEYSLOT", redisKey).(int64)
	id, _ := other.Must("CLUSTER", "MYID").(string)
	owner.Must("CLUSTER", "SETSLOT", strconv.FormatInt(slot, 10), "NODE", id)
	return cluster
}

func TestALookupThatIsSentToAndFroEnds(t *testing.T) {
	onBothBackends(t, func(t *testing.T, backend string) {
		cluster := disagreeing(t, "cache:answers:"+key)
		c := open(t, config(t, cluster.URL(backend)))
		for range 3 {
			before := moved(t, cluster.Nodes()...)
			v, err := c.GetWithFetch(context.Background(), key, time.Minute, give("v"))
			require.NoError(t, err)
			require.Equal(t, "v", v)
			time.Sleep(300 * time.Millisecond) // what goes on after the lookup counts
			sent := moved(t, cluster.Nodes()...) - before
			t.Logf("%d commands", sent)
			require.Positive(t, sent, "the nodes disagree")
			require.LessOrEqual(t, sent, 10)

			before = moved(t, cluster.Nodes()...)
			got, err := c.GetManyWithFetch(context.Background(), []string{key}, time.Minute, func(context.Context, []string) (map[string]string, error) {
				return map[string]string{key: "v"}, nil
			})
			require.NoError(t, err)
			require.Equal(t, map[string]string{key: "v"}, got)
			time.Sleep(300 * time.Millisecond)
			require.LessOrEqual(t, moved(t, cluster.Nodes()...)-before, 10)
		}
	})
}
