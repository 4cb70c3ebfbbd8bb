package redistest

import (
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFrozenServerAcceptsButDoesNotAnswerUntilThawed(t *testing.T) {
	t.Parallel()
	s := Start(t)
	open := connect(t, s.Addr())
	must(t, open, "PING")
	s.Freeze()

	require.NoError(t, open.SetDeadline(time.Now().Add(50*time.Millisecond)))
	_, err := open.do("PING")
	requireTimeout(t, err)
	fresh, err := dial("tcp", s.Addr(), 50*time.Millisecond)
	require.NoError(t, err)
	defer fresh.Close()
	_, err = fresh.do("PING")
	requireTimeout(t, err)

	s.Thaw()
	require.NoError(t, open.SetDeadline(time.Now().Add(patience)))
	reply, err := open.receive()
	require.NoError(t, err)
	require.Equal(t, "PONG", reply, "what was sent while it was frozen is answered")
}

func TestFrozenServerCanBeKilled(t *testing.T) {
	t.Parallel()
	s := Start(t)
	s.Freeze()
	s.Kill()
	s.Kill()
	_, err := net.Dial("tcp", s.Addr())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

func TestRestartedServerHasTheSameAddressAndNoData(t *testing.T) {
	t.Parallel()
	s := Start(t, User("reader", ">secret", "~*", "+get"), Args("--maxclients", "17"))
	address := s.Addr()
	open := connect(t, address)
	must(t, open, "SET", "key", "value")
	s.Must("SAVE")
	s.Restart()

	require.Equal(t, address, s.Addr())
	_, err := open.do("PING")
	require.Error(t, err, "the old connection is gone")
	require.Nil(t, must(t, connect(t, address), "GET", "key"))
	require.Equal(t, []any{"maxclients", "17"}, s.Must("CONFIG", "GET", "maxclients"))
	must(t, connect(t, address), "AUTH", "reader", "secret")
}

func TestStoppedServerClosesConnectionsAndRefusesNewOnes(t *testing.T) {
	t.Parallel()
	s := Start(t)
	open := connect(t, s.Addr())
	must(t, open, "PING")
	s.Stop()
	_, err := open.receive()
	require.Error(t, err)
	_, err = net.Dial("tcp", s.Addr())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	_, err = s.Command("PING")
	require.Error(t, err)

	s.Restart()
	must(t, connect(t, s.Addr()), "PING")
}

func TestReadOnlyServerReadsAndRefusesToWrite(t *testing.T) {
	t.Parallel()
	s := Start(t)
	c := connect(t, s.Addr())
	must(t, c, "SET", "key", "value")
	s.ReadOnly(true)
	require.Equal(t, "value", must(t, c, "GET", "key"))
	_, err := c.do("SET", "key", "other")
	requireRefusal(t, err, "READONLY")
	_, err = c.do("DEL", "key")
	requireRefusal(t, err, "READONLY")

	s.ReadOnly(false)
	require.Equal(t, "value", must(t, c, "GET", "key"))
	must(t, c, "SET", "key", "other")
}

func TestFullMemoryRefusesToStoreButReadsAndDeletes(t *testing.T) {
	t.Parallel()
	s := Start(t)
	c := connect(t, s.Addr())
	must(t, c, "SET", "key", "value")
	s.FillMemory()
	_, err := c.do("SET", "key", "other")
	requireRefusal(t, err, "OOM")
	require.Equal(t, "value", must(t, c, "GET", "key"))
	require.Equal(t, int64(1), must(t, c, "DEL", "key"))
	s.FreeMemory()
	must(t, c, "SET", "key", "other")
}

func TestLoadingServerRefusesUntilItHasItsDataBack(t *testing.T) {
	t.Parallel()
	s := Start(t)
	must(t, connect(t, s.Addr()), "SET", "key", "value")
	s.Loading(true)
	c := connect(t, s.Addr())
	for range 10 {
		for _, args := range [][]string{{"PING"}, {"GET", "key"}, {"SET", "key", "other"}} {
			_, err := c.do(args...)
			requireRefusal(t, err, "LOADING")
		}
	}

	s.Loading(false)
	require.Equal(t, "value", must(t, c, "GET", "key"), "the connection survives")
	must(t, c, "SET", "key", "other")
	require.Equal(t, int64(1), must(t, c, "DBSIZE"))
	require.Contains(t, s.Must("INFO", "keyspace"), "keys=1,")
	require.NotContains(t, s.Must("INFO", "keyspace"), "db"+fillerDatabase)
	s.Restart()
	require.Equal(t, int64(0), s.Must("DBSIZE"))
}

func TestLoadingServerCanBeKilledAndRestarted(t *testing.T) {
	t.Parallel()
	s := Start(t)
	s.Loading(true)
	s.Restart()
	require.Equal(t, int64(0), s.Must("DBSIZE"))
}

func TestKillClientsClosesTheirConnectionsAndNoMore(t *testing.T) {
	t.Parallel()
	s := Start(t)
	commands, subscriber := connect(t, s.Addr()), connect(t, s.Addr())
	must(t, commands, "PING")
	must(t, subscriber, "SUBSCRIBE", "channel")
	require.Equal(t, 2, s.Clients())
	require.Equal(t, 2, s.KillClients())
	_, err := commands.receive()
	require.Error(t, err)
	_, err = subscriber.receive()
	require.Error(t, err)
	require.Equal(t, 0, s.Clients())
	must(t, connect(t, s.Addr()), "PING")
}

func TestCommandStatsCountCallsSinceTheReset(t *testing.T) {
	t.Parallel()
	s := Start(t)
	c := connect(t, s.Addr())
	must(t, c, "GET", "key")
	s.ResetStats()
	require.Zero(t, s.CommandStats()["get"])
	for range 3 {
		must(t, c, "GET", "key")
	}
	must(t, c, "CLIENT", "ID")
	stats := s.CommandStats()
	require.Equal(t, int64(3), stats["get"])
	require.Equal(t, int64(1), stats["client|id"])
}

func TestKillClientsSparesTheKitsOwnCommands(t *testing.T) {
	t.Parallel()
	s := Start(t)
	done := make(chan error)
	go func() { // ends with the last command
		for range 200 {
			if _, err := s.Command("PING"); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for {
		select {
		case err := <-done:
			require.NoError(t, err)
			return
		default:
			s.KillClients()
		}
	}
}
