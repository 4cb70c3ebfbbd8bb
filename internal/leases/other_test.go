package leases_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
)

// Caches of one name in a process see each other's writes at once, so another process is a real
// one: this test binary once more, with the configuration of its cache in the environment. It is
// told what to do by a line of words on its standard input, and answers each by a line.
const otherPlace = "CACHEASIDE_LEASES_OTHER"

// other is another process with a cache of the same name.
type other struct {
	t       *testing.T
	command *exec.Cmd
	in      io.Writer
	out     *bufio.Reader
}

func startOther(t *testing.T, cfg cacheaside.Config) *other {
	t.Helper()
	line, err := json.Marshal(cfg)
	require.NoError(t, err)
	o := &other{t: t, command: exec.Command(os.Args[0])}
	o.command.Env = append(os.Environ(), otherPlace+"="+string(line))
	o.command.Stderr = os.Stderr
	o.in, err = o.command.StdinPipe()
	require.NoError(t, err)
	out, err := o.command.StdoutPipe()
	require.NoError(t, err)
	o.out = bufio.NewReader(out)
	require.NoError(t, o.command.Start())
	t.Cleanup(func() {
		_ = o.command.Process.Kill() // it may have ended
		_ = o.command.Wait()         // it was killed
	})
	require.Equal(t, "open", o.hear())
	return o
}

// do has it do something, and returns its answer.
func (o *other) do(words ...string) string {
	o.t.Helper()
	_, err := fmt.Fprintln(o.in, strings.Join(words, " "))
	require.NoError(o.t, err)
	return o.hear()
}

func (o *other) hear() string {
	o.t.Helper()
	line, err := o.out.ReadString('\n')
	require.NoError(o.t, err, "the other process has ended")
	return strings.TrimSpace(line)
}

// playOther is what the other process does, until its input ends.
func playOther(line string) {
	var cfg cacheaside.Config
	if err := json.Unmarshal([]byte(line), &cfg); err != nil {
		panic(err)
	}
	c, err := cacheaside.Open[string](context.Background(), cfg, cacheaside.WithCodec(cacheaside.StringCodec()))
	if err != nil {
		panic(err)
	}
	fmt.Println("open")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		words := strings.Fields(in.Text())
		value, err := obey(c, words[0], words[1:])
		if err != nil {
			value = "error: " + strings.ReplaceAll(err.Error(), "\n", " ")
		}
		fmt.Println(value)
	}
}

func obey(c *cacheaside.Client[string], order string, args []string) (value string, err error) {
	ctx := context.Background()
	switch order {
	case "delete":
		return "done", c.Delete(ctx, args[0])
	case "deletemany":
		return "done", c.DeleteMany(ctx, args)
	case "mutate":
		return "done", c.Mutate(ctx, args, func(context.Context) error { return nil })
	case "clear":
		return "done", c.Clear(ctx)
	case "set":
		ttl, err := time.ParseDuration(args[2])
		if err != nil {
			return "", err
		}
		return "done", c.Set(ctx, args[0], args[1], ttl)
	case "get":
		return c.Get(ctx, args[0])
	case "fetch":
		return c.GetWithFetch(ctx, args[0], time.Hour, func(context.Context, string) (string, error) { return args[1], nil })
	case "fail":
		_, err = c.GetWithFetch(ctx, args[0], time.Hour, func(context.Context, string) (string, error) { return "", errors.New("down") })
		return "", err
	case "hang":
		begun := make(chan struct{})
		go func() {
			_, _ = c.GetWithFetch(ctx, args[0], time.Hour, func(ctx context.Context, _ string) (string, error) {
				close(begun)
				<-ctx.Done()
				return "", ctx.Err()
			})
		}()
		<-begun
		return "hangs", nil
	}
	return "", fmt.Errorf("%q is no order", order)
}
