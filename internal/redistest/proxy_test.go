package redistest

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestProxyPassesEverythingOn(t *testing.T) {
	t.Parallel()
	s := Start(t)
	p := NewProxy(t, s.Addr())
	large := strings.Repeat("value", 100_000)
	c := connect(t, p.Addr())
	must(t, c, "SET", "key", large)
	require.Equal(t, large, must(t, c, "GET", "key"))
	require.Equal(t, "PONG", must(t, connect(t, NewProxy(t, s.Socket()).Addr()), "PING"))
}

func TestProxyCountsTheConnectionsThatAreOpen(t *testing.T) {
	t.Parallel()
	p := NewProxy(t, Start(t).Addr())
	first, second := connect(t, p.Addr()), connect(t, p.Addr())
	must(t, first, "PING")
	must(t, second, "PING")
	require.Equal(t, 2, p.Connections())
	first.Close()
	requireConnections(t, p, 1)
}

func TestProxyCutsAReplyInTheMiddle(t *testing.T) {
	t.Parallel()
	s := Start(t)
	s.Must("SET", "key", "value")
	p := NewProxy(t, s.Addr())
	cut, other := connect(t, p.Addr()), connect(t, p.Addr())
	must(t, other, "PING")
	must(t, cut, "PING")

	whole := "$5\r\nvalue\r\n"
	p.CutAfter(len(whole) + 7)
	require.Equal(t, "value", must(t, cut, "GET", "key"))
	_, err := io.WriteString(cut, encode([]string{"GET", "key"}))
	require.NoError(t, err)
	got, err := io.ReadAll(cut.replies)
	require.Equal(t, whole[:7], string(got), "then the end: %v", err)
	requireConnections(t, p, 1)

	must(t, other, "PING")
	must(t, connect(t, p.Addr()), "PING")
}

func TestProxyCutsBeforeTheFirstByteAndAtTheEndOfAReply(t *testing.T) {
	t.Parallel()
	p := NewProxy(t, Start(t).Addr())
	for n, want := range map[int]string{0: "", 7: "+PONG\r\n"} {
		c := connect(t, p.Addr())
		p.CutAfter(n)
		_, err := io.WriteString(c, encode([]string{"PING"}))
		require.NoError(t, err)
		got, err := io.ReadAll(c.replies)
		require.Equal(t, want, string(got), "then the end: %v", err)
	}
}

func TestProxyCutsAllConnections(t *testing.T) {
	t.Parallel()
	p := NewProxy(t, Start(t).Addr())
	first, second := connect(t, p.Addr()), connect(t, p.Addr())
	must(t, first, "PING")
	must(t, second, "PING")
	p.CutAll()
	require.Zero(t, p.Connections())
	for _, c := range []*connection{first, second} {
		_, err := c.receive()
		require.Error(t, err)
	}
	must(t, connect(t, p.Addr()), "PING")
}

func TestProxyRefusesNewConnectionsOnly(t *testing.T) {
	t.Parallel()
	p := NewProxy(t, Start(t).Addr())
	open := connect(t, p.Addr())
	must(t, open, "PING")
	p.Refuse(true)
	_, err := connect(t, p.Addr()).do("PING")
	require.Error(t, err)
	must(t, open, "PING")
	p.Refuse(false)
	must(t, connect(t, p.Addr()), "PING")
}

func TestProxyClosesConnectionsToAServerThatIsDown(t *testing.T) {
	t.Parallel()
	s := Start(t)
	p := NewProxy(t, s.Addr())
	s.Kill()
	_, err := connect(t, p.Addr()).do("PING")
	require.Error(t, err)
	requireConnections(t, p, 0)
	s.Restart()
	must(t, connect(t, p.Addr()), "PING")
}

func TestProxyDelaysReplies(t *testing.T) {
	t.Parallel()
	s := Start(t)
	p := NewProxy(t, s.Addr())
	c := connect(t, p.Addr())
	must(t, c, "PING")
	p.Delay(time.Hour)
	require.NoError(t, c.SetDeadline(time.Now().Add(50*time.Millisecond)))
	_, err := c.do("SET", "key", "value")
	requireTimeout(t, err)
	require.Equal(t, "value", s.Must("GET", "key"), "the request was not delayed")

	p.Delay(time.Millisecond)
	must(t, connect(t, p.Addr()), "PING")
	p.Delay(0)
	must(t, connect(t, p.Addr()), "PING")
}

func TestProxyLimitsTheRateOfAllConnectionsTogether(t *testing.T) {
	t.Parallel()
	s := Start(t)
	s.Must("SET", "large", strings.Repeat("v", 1<<20))
	p := NewProxy(t, s.Addr())
	p.Rate(0, 2<<20)
	large, small := connect(t, p.Addr()), connect(t, p.Addr())
	must(t, small, "PING")
	begun := time.Now()
	done := make(chan error, 1)
	go func() {
		_, err := large.do("GET", "large")
		done <- err
	}()
	pings := 0
	for len(done) == 0 {
		must(t, small, "PING")
		pings++
	}
	require.NoError(t, <-done)
	require.GreaterOrEqual(t, time.Since(begun), 400*time.Millisecond, "a mebibyte, at two a second")
	require.Greater(t, pings, 5, "connections take turns")
	p.Rate(0, 0)
	must(t, large, "GET", "large")
}

func TestProxyAsABlackHoleLosesEverythingAndThenTheConnections(t *testing.T) {
	t.Parallel()
	s := Start(t)
	p := NewProxy(t, s.Addr())
	used, idle := connect(t, p.Addr()), connect(t, p.Addr())
	must(t, used, "PING")
	must(t, idle, "PING")
	p.BlackHole(true)
	fresh := connect(t, p.Addr())
	for _, c := range []*connection{used, fresh} {
		require.NoError(t, c.SetDeadline(time.Now().Add(50*time.Millisecond)))
		_, err := c.do("SET", "key", "value")
		requireTimeout(t, err)
	}
	require.Nil(t, s.Must("GET", "key"))

	p.BlackHole(false)
	for _, c := range []*connection{used, fresh} {
		require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
		_, err := c.receive()
		require.Error(t, err)
		var timeout interface{ Timeout() bool }
		require.False(t, errors.As(err, &timeout) && timeout.Timeout(), "want the end, got %v", err)
	}
	must(t, idle, "PING")
	must(t, connect(t, p.Addr()), "PING")
}

func TestProxyAsABlackHoleHidesThatTheServerIsGone(t *testing.T) {
	t.Parallel()
	s := Start(t)
	p := NewProxy(t, s.Addr())
	open := connect(t, p.Addr())
	must(t, open, "PING")
	p.BlackHole(true)
	s.Kill()
	for _, c := range []*connection{open, connect(t, p.Addr())} {
		require.NoError(t, c.SetDeadline(time.Now().Add(50*time.Millisecond)))
		_, err := c.do("PING")
		requireTimeout(t, err)
	}
}

func TestProxyTakesNoTargetOnAnotherMachine(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"192.0.2.1:6379", "example.com:6379", ":6379", "nonsense"} {
		r := &recorder{TB: t}
		r.run(func() { NewProxy(r, target) })
		require.Contains(t, r.fatal, target)
	}
}

func requireConnections(t testing.TB, p *Proxy, n int) {
	t.Helper()
	require.NoError(t, await(patience, func() error {
		if got := p.Connections(); got != n {
			return errors.New("not yet closed")
		}
		return nil
	}))
}
