//go:build unix

package cacheaside

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// socketPair returns the two ends of a connection over the loopback interface.
func socketPair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	s, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = c.Close()
		_ = s.Close()
	})
	for _, end := range []net.Conn{c, s} { // a test that hangs says where
		require.NoError(t, end.SetDeadline(time.Now().Add(20*time.Second)))
	}
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// testWire returns a wire whose server has spoken, the other end of it, and how many operations it takes
// to be under way.
func testWire(t *testing.T) (w *wire, server *net.TCPConn, underWay *atomic.Int64) {
	t.Helper()
	near, far := socketPair(t)
	underWay = new(atomic.Int64)
	w = newWire(near, underWay.Load)
	w.settle, w.gone = func() {}, func() {}
	w.spoken.Store(true)
	w.direct = directly(near) // on one processor too
	return w, far, underWay
}

// takes requires that the server gets exactly this next.
func takes(t *testing.T, server net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	_, err := io.ReadFull(server, got)
	require.NoError(t, err)
	require.Equal(t, want, string(got))
}

// requireWaiting requires that this has not been written yet.
func requireWaiting(t *testing.T, w *wire, want string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	require.Equal(t, want, string(w.batch))
}

// heldConn holds writes up until they are let go.
type heldConn struct {
	net.Conn
	held  chan struct{} // a write has begun
	letGo chan struct{}
}

func holdUp(c net.Conn) heldConn {
	return heldConn{c, make(chan struct{}, 10), make(chan struct{})}
}

func (c heldConn) Write(b []byte) (int, error) {
	c.held <- struct{}{}
	<-c.letGo
	return c.Conn.Write(b)
}

// send writes to w, as the client does.
func send(t *testing.T, w *wire, text string) {
	t.Helper()
	n, err := w.Write([]byte(text))
	require.NoError(t, err)
	require.Equal(t, len(text), n)
}

func TestCommandsWaitForEachOtherWhileTheReaderIsAwake(t *testing.T) {
	w, server, underWay := testWire(t)
	underWay.Store(3 * parts)
	send(t, w, "nobody is awake,")
	takes(t, server, "nobody is awake,")

	_, err := server.Write([]byte("reply"))
	require.NoError(t, err)
	_, err = w.Read(make([]byte, 5))
	require.NoError(t, err)
	send(t, w, "one,")
	send(t, w, "two,")
	requireWaiting(t, w, "one,two,")
	send(t, w, "three.")
	takes(t, server, "one,two,three.")

	send(t, w, "something large, ")
	send(t, w, string(make([]byte, maxBatch)))
	takes(t, server, "something large, "+string(make([]byte, maxBatch)))

	underWay.Store(manyUnderWay)
	send(t, w, "one of many.")
	takes(t, server, "one of many.")

	underWay.Store(5 * parts)
	send(t, w, "it waits,")
	underWay.Store(1)
	send(t, w, "for one who is alone,")
	send(t, w, "who does not wait.")
	takes(t, server, "it waits,for one who is alone,who does not wait.")
}

func TestWhatWaitsIsWrittenBeforeTheReaderSleeps(t *testing.T) {
	for name, state := range map[string]int64{"nobody asks": 0, "it waits in vain": 5 * parts, "so many ask": manyUnderWay} {
		t.Run(name, func(t *testing.T) {
			w, server, underWay := testWire(t)
			underWay.Store(5 * parts)
			w.awake.Store(true)
			send(t, w, "question")
			requireWaiting(t, w, "question")

			underWay.Store(state)
			answer := make(chan string)
			go func() {
				b := make([]byte, 100)
				n, _ := w.Read(b)
				answer <- string(b[:n])
			}()
			takes(t, server, "question")
			_, err := server.Write([]byte("answer"))
			require.NoError(t, err)
			require.Equal(t, "answer", <-answer)
		})
	}
}

func TestTheWriterNoticesThatTheReaderWentToSleep(t *testing.T) {
	w, server, _ := testWire(t)
	w.awake.Store(true)
	w.underWay = func() int64 { // asked by the writer, who has found the reader awake
		w.fallAsleep()
		return 5 * parts
	}
	send(t, w, "question")
	takes(t, server, "question")
}

func TestTheReaderGoesOnWhenTheServerTakesNothing(t *testing.T) {
	w, server, underWay := testWire(t)
	underWay.Store(5 * parts)
	held := holdUp(w.Conn)
	w.Conn = held
	room := len("quest")
	w.direct.out.call = func(fd int, b []byte) (int, error) {
		if room == 0 {
			return -1, syscall.EAGAIN
		}
		b, room = b[:room], 0
		return syscall.Write(fd, b)
	}
	w.awake.Store(true)
	send(t, w, "question")
	_, err := server.Write([]byte("answer"))
	require.NoError(t, err)
	_, err = io.ReadFull(w, make([]byte, len("answer"))) // writes what waits, as far as there is room
	require.NoError(t, err)
	takes(t, server, "quest")

	<-held.held
	done := make(chan error)
	go func() {
		_, err := w.Write([]byte(", and another")) // behind the first, whoever writes it
		done <- err
	}()
	close(held.letGo)
	takes(t, server, "ion")
	require.NoError(t, <-done)
	w.fallAsleep()
	takes(t, server, ", and another")
}

func TestAWireThatFailsSaysSo(t *testing.T) {
	t.Run("closed", func(t *testing.T) {
		w, _, underWay := testWire(t)
		underWay.Store(5 * parts)
		w.awake.Store(true) // the reader has gone without a word
		send(t, w, "question")
		require.NoError(t, w.Close())
		_, err := w.Write([]byte("another"))
		require.ErrorIs(t, err, net.ErrClosed, "the client waits for that error")
	})
	t.Run("lost", func(t *testing.T) {
		w, _, underWay := testWire(t)
		underWay.Store(5 * parts)
		w.awake.Store(true)
		send(t, w, "question")
		require.NoError(t, w.Conn.(*net.TCPConn).CloseWrite())
		require.NoError(t, w.Conn.(*net.TCPConn).SetReadDeadline(time.Time{}))
		_, err := w.Read(make([]byte, 1)) // it fails to write what waits, and the reader would wait for ever
		require.Error(t, err)
		_, err = w.Write([]byte("another"))
		require.ErrorIs(t, err, syscall.EPIPE)
	})
	t.Run("ended by the server", func(t *testing.T) {
		w, server, underWay := testWire(t)
		underWay.Store(5 * parts)
		require.NoError(t, server.Close())
		_, err := w.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		require.False(t, w.awake.Load())
	})
}

func TestAReaderStaysAwakeOnlyIfItIsWorthIt(t *testing.T) {
	w, _, underWay := testWire(t)
	w.Conn = readyConn{w.Conn}
	asked, isFar := 0, false
	w.direct.in.call = func(int, []byte) (int, error) {
		asked++
		if isFar {
			return -1, syscall.EAGAIN
		}
		return 1, nil
	}
	get := func(replies int, fromFar bool) (attempts int) {
		asked, isFar = 0, fromFar
		for range replies {
			n, err := w.Read(make([]byte, 1))
			require.NoError(t, err)
			require.Equal(t, 1, n)
		}
		return asked
	}
	near := func(replies int) (attempts int) { return get(replies, false) }
	far := func(replies int) (attempts int) { return get(replies, true) }
	for _, n := range []int64{0, manyUnderWay} {
		underWay.Store(n)
		require.Zero(t, near(3)+far(3), "with %d operations under way", n)
	}
	underWay.Store(1)
	tried := far(2 * maxSkip)
	require.Greater(t, tried, maxPolls, "it does try")
	require.Less(t, tried, 20*maxPolls, "but seldom, for a server that is far away")
	near(maxSkip)
	require.Equal(t, 10, near(10), "it tries again once the server is near")
	require.Greater(t, far(2), maxPolls, "and forgets how far away it was")
	near(2)
	require.Equal(t, 3*sleepTurn-3, near(3*sleepTurn), "and sleeps now and then, for the sake of others")
}

// readyConn has a reply for whoever waits for it.
type readyConn struct{ net.Conn }

func (readyConn) Read([]byte) (int, error) { return 1, nil }

func TestTheReaderGoesOnWhileTheWriterIsStuck(t *testing.T) {
	w, server, underWay := testWire(t)
	underWay.Store(5 * parts)
	w.awake.Store(true)
	held := holdUp(w.Conn)
	w.Conn = held
	question := string(make([]byte, maxBatch))
	done := make(chan error)
	go func() {
		_, err := w.Write([]byte("first, "))
		if err == nil {
			_, err = w.Write([]byte(question))
		}
		done <- err
	}()
	<-held.held
	_, err := server.Write([]byte("answer"))
	require.NoError(t, err)
	_, err = io.ReadFull(w, make([]byte, len("answer")))
	require.NoError(t, err)
	close(held.letGo)
	takes(t, server, "first, "+question)
	require.NoError(t, <-done)
}

func TestTheFirstByteSettlesAWire(t *testing.T) {
	w, server, underWay := testWire(t)
	underWay.Store(5 * parts)
	w.spoken.Store(false)
	settled := 0
	w.settle = func() { settled++ }
	_, err := server.Write([]byte("hello, and"))
	require.NoError(t, err)
	for range 5 {
		_, err := w.Read(make([]byte, 2))
		require.NoError(t, err)
		require.Equal(t, 1, settled)
	}
}

func TestOnlyABareSocketIsReadDirectly(t *testing.T) {
	near, _ := socketPair(t)
	require.NotNil(t, directly(near))
	require.Nil(t, directly(struct{ *net.TCPConn }{near}), "what somebody has wrapped counts, logs, or encrypts")
	require.Nil(t, directly(tls.Client(near, &tls.Config{MinVersion: tls.VersionTLS12})))

	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.NotNil(t, directly(c))

	require.NoError(t, near.Close())
	_, err = directly(near).readNow(make([]byte, 1))
	require.Error(t, err)
	require.Zero(t, directly(near).writeNow([]byte{1}))
}

// TestNothingIsLostBetweenWriterAndReader sends frames to a server that sends them back, while the number of
// operations jumps: each frame comes back, in order, and the last of them without another's help.
func TestNothingIsLostBetweenWriterAndReader(t *testing.T) {
	w, server, underWay := testWire(t)
	go func() { _, _ = io.Copy(server, server) }()
	const frames = 30000
	sent := func(i uint32) []byte {
		return binary.BigEndian.AppendUint32(bytes.Repeat([]byte{byte(i)}, int(i%97)), i)
	}
	underWayAtMost := make(chan struct{}, 200) // callers wait for replies
	var all sync.WaitGroup
	all.Go(func() {
		levels := []int64{1, 2, 9, 20, 40, manyUnderWay, 1}
		for i := range uint32(frames) {
			if i%8 == 0 {
				underWay.Store(levels[rand.IntN(len(levels))])
			}
			underWayAtMost <- struct{}{}
			if _, err := w.Write(sent(i)); err != nil {
				t.Errorf("frame %d: %v", i, err)
				return
			}
		}
	})
	got := &wireReader{w}
	for i := range uint32(frames) {
		b := make([]byte, len(sent(i)))
		_, err := io.ReadFull(got, b)
		require.NoError(t, err, "frame %d", i)
		require.Equal(t, sent(i), b, "frame %d", i)
		<-underWayAtMost
	}
	all.Wait()
}

// wireReader reads pieces of any length.
type wireReader struct{ w *wire }

func (r *wireReader) Read(b []byte) (int, error) { return r.w.Read(b[:1+rand.IntN(len(b))]) }

func TestAnAttemptIsInterrupted(t *testing.T) {
	w, _, _ := testWire(t)
	for err, want := range map[error]error{syscall.EINTR: nil, syscall.EAGAIN: nil, syscall.ECONNRESET: syscall.ECONNRESET} {
		w.direct.in.call = func(int, []byte) (int, error) { return -1, err }
		n, got := w.direct.readNow(make([]byte, 1))
		require.Zero(t, n)
		require.ErrorIs(t, got, want)
	}
}

// A wire is closed when nothing comes though something was written, and not as long as pieces come or go.
func TestASilentWireIsClosed(t *testing.T) {
	const patience = 400 * time.Millisecond
	watched := func(t *testing.T) (*wire, *net.TCPConn) {
		w, server, _ := testWire(t)
		w.dog.patience, w.dog.bark = patience, func() { _ = w.Conn.Close() }
		return w, server
	}
	read := func(w *wire) error {
		_, err := w.Read(make([]byte, 10))
		return err
	}
	t.Run("nothing was written", func(t *testing.T) {
		w, server := watched(t)
		time.AfterFunc(2*patience, func() { _, _ = server.Write([]byte("late")) })
		require.NoError(t, read(w))
	})
	t.Run("silent", func(t *testing.T) {
		w, _ := watched(t)
		_, err := w.Write([]byte("PING"))
		require.NoError(t, err)
		require.ErrorIs(t, read(w), os.ErrDeadlineExceeded)
	})
	t.Run("silent after an answer", func(t *testing.T) {
		w, server := watched(t)
		for range 3 {
			_, err := w.Write([]byte("PING"))
			require.NoError(t, err)
			_, err = server.Write([]byte("PONG"))
			require.NoError(t, err)
			require.NoError(t, read(w))
			time.Sleep(2 * patience) // it may rest meanwhile
		}
		_, err := w.Write([]byte("PING"))
		require.NoError(t, err)
		require.ErrorIs(t, read(w), os.ErrDeadlineExceeded)
	})
	t.Run("slow", func(t *testing.T) {
		w, server := watched(t)
		go func() {
			for range 12 {
				time.Sleep(patience / 4)
				_, _ = server.Write([]byte("a piece"))
			}
		}()
		for range 12 {
			_, err := w.Write([]byte("more"))
			require.NoError(t, err)
			require.NoError(t, read(w))
		}
	})
}
