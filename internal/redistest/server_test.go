package redistest

import (
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
)

func TestServerAnswersOnItsAddressAndItsSocket(t *testing.T) {
	t.Parallel()
	s := Start(t)
	must(t, connect(t, s.Addr()), "SET", "key", "value")
	require.Equal(t, "value", must(t, connect(t, s.Socket()), "GET", "key"))
	require.Equal(t, "value", s.Must("GET", "key"))
}

func TestServerListensOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	s := Start(t)
	require.Equal(t, []any{"bind", "127.0.0.1"}, s.Must("CONFIG", "GET", "bind"))
	host, _, err := net.SplitHostPort(s.Addr())
	require.NoError(t, err)
	require.True(t, net.ParseIP(host).IsLoopback())
}

func TestCommandReturnsEveryKindOfReply(t *testing.T) {
	t.Parallel()
	s := Start(t)
	require.Equal(t, "OK", s.Must("SET", "key", "line\r\nline"))
	require.Equal(t, "line\r\nline", s.Must("GET", "key"))
	require.Empty(t, s.Must("GETRANGE", "missing", "0", "1"))
	require.Nil(t, s.Must("GET", "missing"))
	require.Equal(t, int64(1), s.Must("DEL", "key"))
	require.Equal(t, []any{int64(1), "two", nil, []any{}}, s.Must("EVAL", "return {1, 'two', false, {}}", "0"))
	_, err := s.Command("LPUSH")
	requireRefusal(t, err, "ERR")
}

func TestURLLogsInAsTheFirstUser(t *testing.T) {
	t.Parallel()
	s := Start(t, User("us:er", ">p@ss/word", "~*", "&*", "+@all"), User("second", ">other"), Password("default"))
	require.Equal(t, "rueidis://us%3Aer:p%40ss%2Fword@"+s.Addr()+"/0?prefix=app", s.URL("rueidis", "prefix=app"))

	option, err := rueidis.ParseURL(s.URL("redis"))
	require.NoError(t, err)
	set(t, client(t, option), "key", "value")
	_, err = connect(t, s.Addr()).do("GET", "key")
	requireRefusal(t, err, "NOAUTH")
}

func TestPasswordIsTheDefaultUsers(t *testing.T) {
	t.Parallel()
	s := Start(t, Password("secret"))
	require.Equal(t, "rueidis://:secret@"+s.Addr()+"/0", s.URL("rueidis"))
	c := connect(t, s.Addr())
	_, err := c.do("GET", "key")
	requireRefusal(t, err, "NOAUTH")
	must(t, c, "AUTH", "secret")
	must(t, c, "GET", "key")
}

func TestUserLacksWhatTheRulesLeaveOut(t *testing.T) {
	t.Parallel()
	s := Start(t, User("reader", ">secret", "~*", "+get"))
	c := connect(t, s.Addr())
	must(t, c, "AUTH", "reader", "secret")
	must(t, c, "GET", "key")
	_, err := c.do("SET", "key", "value")
	requireRefusal(t, err, "NOPERM")
}

func TestAdminCommandsWorkWhenTheDefaultUserIsOff(t *testing.T) {
	t.Parallel()
	s := Start(t)
	s.Must("ACL", "SETUSER", "default", "off", "-@all")
	require.Equal(t, "PONG", s.Must("PING"))
}

func TestTLSServerTakesOnlyClientsThatTrustIt(t *testing.T) {
	t.Parallel()
	s := Start(t, TLS())
	require.Equal(t, "rueidis://"+s.Addr()+"/0?tls=true", s.URL("rueidis"))
	set(t, client(t, rueidis.ClientOption{InitAddress: []string{s.Addr()}, TLSConfig: s.TLSConfig()}), "key", "value")
	require.Equal(t, "value", s.Must("GET", "key"))

	_, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.Addr()}, TLSConfig: Start(t, TLS()).TLSConfig()})
	require.ErrorContains(t, err, "certificate signed by unknown authority")
	_, err = connect(t, s.Addr()).do("PING")
	require.Error(t, err, "plain text on a port for TLS")
}

func TestUnixSocketServerHasNoPort(t *testing.T) {
	t.Parallel()
	s := Start(t, UnixSocket(), Password("secret"))
	require.Equal(t, s.Socket(), s.Addr())
	require.Equal(t, "rueidis://:secret@"+s.Socket(), s.URL("rueidis"))
	require.Equal(t, []any{"port", "0"}, s.Must("CONFIG", "GET", "port"))
	require.Nil(t, s.TLSConfig())
	must(t, connect(t, s.Addr()), "AUTH", "secret")
}

func TestArgsOverrideTheKitsOwn(t *testing.T) {
	t.Parallel()
	s := Start(t, Args("--maxclients", "17", "--enable-debug-command", "no"))
	require.Equal(t, []any{"maxclients", "17"}, s.Must("CONFIG", "GET", "maxclients"))
	_, err := s.Command("DEBUG", "SLEEP", "0")
	requireRefusal(t, err, "ERR")
}

func TestDownServerKeepsItsPort(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("ports can be reserved on Linux only")
	}
	s, other := Start(t), Start(t)
	s.Kill()
	_, err := net.Dial("tcp", s.Addr())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)

	own, err := net.ResolveTCPAddr("tcp", s.Addr())
	require.NoError(t, err)
	thief := net.Dialer{LocalAddr: own}
	_, err = thief.Dial("tcp", other.Addr())
	require.ErrorIs(t, err, syscall.EADDRINUSE, "a connection from the port would keep it for a minute")
	s.Restart()
}

func TestFailureShowsTheLog(t *testing.T) {
	t.Parallel()
	Require(t)
	failed := &recorder{TB: t}
	failed.run(func() { Start(failed, Args("--no-such-option", "1")) })
	require.Contains(t, failed.fatal, "ended as soon as it was started")
	require.Contains(t, failed.fatal, "no-such-option")
}

func TestMissingServerSkipsUnlessOneIsRequired(t *testing.T) {
	saved := places
	places = nil
	t.Cleanup(func() { places = saved })
	t.Setenv("PATH", t.TempDir())
	t.Setenv("CI", "")
	t.Setenv("CACHEASIDE_REQUIRE_REDIS", "")
	_, ok := Path()
	require.False(t, ok)

	r := &recorder{TB: t}
	r.run(func() { Require(r) })
	require.Contains(t, r.skip, "SKIPPED, NOT TESTED: redis-server not found; install redis-server 6.0")
	require.Empty(t, r.fatal)

	for _, name := range []string{"CI", "CACHEASIDE_REQUIRE_REDIS"} {
		require.NoError(t, os.Setenv(name, "1"))
		r := &recorder{TB: t}
		r.run(func() { Require(r) })
		require.Contains(t, r.fatal, "apt-get install redis-server", name)
		require.Empty(t, r.skip)
		require.NoError(t, os.Setenv(name, ""))
	}
}
