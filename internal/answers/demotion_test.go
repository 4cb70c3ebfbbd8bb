package answers_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
