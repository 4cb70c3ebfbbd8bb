package redistest

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
)

func TestClusterSendsClientsToTheOwnerOfAKey(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 3)
	require.Len(t, c.Nodes(), 3)
	require.Equal(t, "rueidis://"+strings.Join(c.Addrs(), ",")+"?cluster=true&prefix=app", c.URL("rueidis", "prefix=app"))

	owners := map[*Server]int{}
	for i := range 60 {
		key := fmt.Sprint("key ", i)
		owner := c.Owner(key)
		owners[owner]++
		for _, node := range c.Nodes() {
			_, err := connect(t, node.Addr()).do("SET", key, "value")
			if node == owner {
				require.NoError(t, err)
				continue
			}
			requireRefusal(t, err, "MOVED")
			require.True(t, strings.HasSuffix(err.Error(), " "+owner.Addr()), err)
		}
	}
	require.Len(t, owners, 3)
}

func TestClusterServesAClientAndSurvivesTheLossOfANode(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 2, User("app", ">secret", "~*", "&*", "+@all"))
	require.Contains(t, c.URL("rueidis"), "rueidis://app:secret@127.0.0.1:")
	cl, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: c.Addrs()[:1], Username: "app", Password: "secret", DisableCache: true,
	})
	require.NoError(t, err)
	defer cl.Close()
	for i := range 20 {
		set(t, cl, fmt.Sprint("key ", i), "value")
	}

	lost := c.Owner("key 0")
	lost.Kill()
	for i := range 20 {
		key := fmt.Sprint("key ", i)
		if owner := c.Owner(key); owner != lost {
			set(t, cl, key, "other")
		}
	}
	lost.Restart()
	c.AwaitOK()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.ErrorIs(t, cl.Do(ctx, cl.B().Get().Key("key 0").Build()).Error(), rueidis.Nil)
}

func TestClusterSpeaksTLS(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, 2, TLS())
	require.Contains(t, c.URL("rueidis"), "?cluster=true&tls=true")
	cl, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: c.Addrs()[:1], TLSConfig: c.Nodes()[0].TLSConfig(), DisableCache: true,
	})
	require.NoError(t, err)
	defer cl.Close()
	for i := range 20 {
		set(t, cl, fmt.Sprint("key ", i), "value")
	}
}
