package postgres_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Some tests are about several processes. Those are this test binary once more: startChild runs it
// with a role and what that needs in its environment, and TestChild plays the role. The two talk in
// lines, by the child's standard input and output.

const (
	childRole = "CACHEASIDE_CHILD_ROLE"
	childTask = "CACHEASIDE_CHILD_TASK"

	// childMark begins the lines that are meant for the parent, among what the testing package
	// prints.
	childMark = "@child "
)

var childRoles = map[string]func(*testing.T, *parent){"killed": beKilled, "transacting": transact}

// TestChild is what a child runs. Anywhere else it has nothing to do.
func TestChild(t *testing.T) {
	role := os.Getenv(childRole)
	if role == "" {
		t.Skip("it is what the processes run that other tests start")
	}
	p := &parent{t: t, in: bufio.NewReader(os.Stdin)}
	childRoles[role](t, p)
}

// parent is the process that has started this one.
type parent struct {
	t  *testing.T
	in *bufio.Reader
}

// task decodes what the child was started with.
func (p *parent) task(v any) {
	require.NoError(p.t, json.Unmarshal([]byte(os.Getenv(childTask)), v))
}

// hear waits for the next word of the parent. If that is gone, so is the child.
func (p *parent) hear(v any) {
	line, err := p.in.ReadString('\n')
	if err != nil {
		os.Exit(0)
	}
	require.NoError(p.t, json.Unmarshal([]byte(line), v))
}

// tell sends v to the parent.
func (p *parent) tell(v any) {
	line, err := json.Marshal(v)
	require.NoError(p.t, err)
	_, err = fmt.Printf("\n%s%s\n", childMark, line)
	require.NoError(p.t, err)
}

// child is a process that plays a role.
type child struct {
	t       *testing.T
	command *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	said    strings.Builder // by the testing package, or by the race detector
}

// startChild starts a child, which ends with the test.
func startChild(t *testing.T, role string, task any) *child {
	t.Helper()
	line, err := json.Marshal(task)
	require.NoError(t, err)
	c := &child{t: t, command: exec.Command(os.Args[0], "-test.run=^TestChild$", "-test.timeout=10m")}
	// A data race must end the child, so that the parent hears no more of it and fails.
	c.command.Env = append(os.Environ(), childRole+"="+role, childTask+"="+string(line), "GORACE=halt_on_error=1")
	c.command.Stderr = os.Stderr
	c.in, err = c.command.StdinPipe()
	require.NoError(t, err)
	out, err := c.command.StdoutPipe()
	require.NoError(t, err)
	c.out = bufio.NewReader(out)
	require.NoError(t, c.command.Start())
	t.Cleanup(c.kill)
	return c
}

// kill ends the child without a word, as kill -9 does.
func (c *child) kill() {
	_ = c.command.Process.Kill() // it may have ended
	_ = c.command.Wait()         // it was killed
}

func (c *child) tell(v any) {
	c.t.Helper()
	line, err := json.Marshal(v)
	require.NoError(c.t, err)
	_, err = c.in.Write(append(line, '\n'))
	require.NoError(c.t, err)
}

// hear waits for the child's next word.
func (c *child) hear(v any) {
	c.t.Helper()
	for {
		line, err := c.out.ReadString('\n')
		if err != nil {
			c.t.Fatalf("the child has ended: %v\n%s", err, c.said.String())
		}
		if word, ok := strings.CutPrefix(line, childMark); ok {
			require.NoError(c.t, json.Unmarshal([]byte(word), v))
			return
		}
		c.said.WriteString(line)
	}
}
