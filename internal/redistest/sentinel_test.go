package redistest

import (
	"context"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
)

func TestFailoverMovesTheMaster(t *testing.T) {
	t.Parallel()
	s := StartSentinel(t)
	require.Equal(t, "rueidis://"+s.Addr()+"/0?sentinel_master=mymaster", s.URL("rueidis"))
	first, second := s.Master(), s.Replica()
	cl, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{s.Addr()}, Sentinel: rueidis.SentinelOption{MasterSet: s.MasterName()}, DisableCache: true,
	})
	require.NoError(t, err)
	defer cl.Close()
	set(t, cl, "key", "value")
	require.Equal(t, "value", first.Must("GET", "key"))
	_, err = second.Command("SET", "key", "value")
	requireRefusal(t, err, "READONLY")

	s.Failover()
	require.Same(t, second, s.Master())
	require.Same(t, first, s.Replica())
	require.Equal(t, second.Addr(), s.reported())
	// The client may need a moment until it has heard of it.
	require.NoError(t, await(patience, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return cl.Do(ctx, cl.B().Set().Key("after").Value("value").Build()).Error()
	}))
	require.Equal(t, "value", second.Must("GET", "after"))

	first.Restart()
	s.Failover()
	require.Same(t, first, s.Master())
	require.Equal(t, "value", first.Must("GET", "after"), "it had become a replica, with the data")
}
