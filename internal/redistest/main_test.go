package redistest

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// patience is how long tests wait for what comes about by itself.
const patience = 5 * time.Second

func TestMain(m *testing.M) {
	// A closed cluster client leaves a goroutine behind that sleeps for up to a second, then ends.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"))
}

// connect opens a connection as a client of a server that speaks plain TCP or a unix socket has it.
func connect(t testing.TB, address string) *connection {
	t.Helper()
	network := "tcp"
	if strings.HasPrefix(address, "/") {
		network = "unix"
	}
	c, err := dial(network, address, patience)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// must sends a command that is to succeed.
func must(t testing.TB, c *connection, args ...string) any {
	t.Helper()
	reply, err := c.do(args...)
	require.NoError(t, err)
	return reply
}

// requireRefusal asserts that an error is Redis' own, and of that kind.
func requireRefusal(t testing.TB, err error, kind string) {
	t.Helper()
	var refused ReplyError
	require.ErrorAs(t, err, &refused)
	require.True(t, strings.HasPrefix(string(refused), kind+" "), "want %s, got %s", kind, refused)
}

// requireTimeout asserts that nothing came before the deadline.
func requireTimeout(t testing.TB, err error) {
	t.Helper()
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout(), "want a timeout, got %v", err)
}

// client opens a real client to one server, to see that URLs and certificates are what one needs.
func client(t testing.TB, option rueidis.ClientOption) rueidis.Client {
	t.Helper()
	option.DisableCache, option.ForceSingleClient = true, true
	c, err := rueidis.NewClient(option)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func set(t testing.TB, c rueidis.Client, key, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, c.Do(ctx, c.B().Set().Key(key).Value(value).Build()).Error())
}
