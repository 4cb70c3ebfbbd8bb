package answers_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// fake is a server that has nothing stored and speaks RESP3, but for what a test has it reply: the words of
// versions that are not at hand.
type fake struct {
	listener net.Listener
	reply    func(command []string) string // "" for what a server with nothing stored says
	accepted atomic.Int64
}

func startFake(t *testing.T, reply func(command []string) string) *fake {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f := &fake{listener: listener, reply: reply}
	var workers sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	workers.Go(func() { // ends when the listener is closed
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			f.accepted.Add(1)
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			workers.Go(func() { f.serve(c) }) // ends when the connection is closed
		}
	})
	t.Cleanup(func() {
		listener.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		workers.Wait()
	})
	return f
}

func (f *fake) addr() string { return f.listener.Addr().String() }

func (f *fake) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		command, err := readCommand(in)
		if err != nil {
			return
		}
		reply := f.reply(command)
		if reply == "" {
			reply = nothingStored(command)
		}
		if _, err := io.WriteString(c, reply+"\r\n"); err != nil {
			return
		}
	}
}

func nothingStored(command []string) string {
	switch strings.ToUpper(command[0]) {
	case "HELLO":
		return "%3\r\n+server\r\n+redis\r\n+version\r\n+7.2.4\r\n+proto\r\n:3"
	case "GET":
		return "_"
	case "MGET":
		return "*" + strconv.Itoa(len(command)-1) + strings.Repeat("\r\n_", len(command)-1)
	case "DEL", "EVAL":
		return ":0"
	case "EVALSHA":
		return "-NOSCRIPT No matching script. Please use EVAL."
	case "PING":
		return "+PONG"
	default:
		return "+OK"
	}
}

func readCommand(in *bufio.Reader) ([]string, error) {
	count, err := readNumber(in, '*')
	if err != nil {
		return nil, err
	}
	command := make([]string, count)
	for i := range command {
		length, err := readNumber(in, '$')
		if err != nil {
			return nil, err
		}
		text := make([]byte, length+len("\r\n"))
		if _, err := io.ReadFull(in, text); err != nil {
			return nil, err
		}
		command[i] = string(text[:length])
	}
	return command, nil
}

func readNumber(in *bufio.Reader, kind byte) (int, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return 0, err
	}
	if line[0] != kind {
		return 0, fmt.Errorf("%q where %q should begin", line, kind)
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}
