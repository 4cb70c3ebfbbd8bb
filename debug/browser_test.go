package debug

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// browser is a headless Chromium, driven by its DevTools protocol over a pipe.
type browser struct {
	t    *testing.T
	to   io.Writer
	from chan message

	session string // of the page that is open
	calls   int

	mu       sync.Mutex
	troubles []string // what the page complained about
}

type message struct {
	ID     int             `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// requireBrowser finds Chromium. Without one, the test is skipped on a developer's machine, and fails in CI.
func requireBrowser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatal("no chromium on PATH: the page is not tested; install Debian's package chromium")
	}
	t.Skip("SKIPPED: no chromium on PATH, so nobody looks at the page; install Debian's package chromium")
	return ""
}

func openBrowser(t *testing.T) *browser {
	t.Helper()
	path := requireBrowser(t)
	theirIn, ourOut, err := os.Pipe()
	require.NoError(t, err)
	ourIn, theirOut, err := os.Pipe()
	require.NoError(t, err)
	var stderr bytes.Buffer
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-proxy-server", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--hide-scrollbars", "--user-data-dir="+t.TempDir(), "--remote-debugging-pipe")
	cmd.ExtraFiles = []*os.File{theirIn, theirOut} // file descriptors 3 and 4
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	_ = theirIn.Close()
	_ = theirOut.Close()
	b := &browser{t: t, to: ourOut, from: make(chan message)}
	go b.read(ourIn) // ends when Chromium does
	t.Cleanup(func() {
		b.call("", "Browser.close", nil, nil)
		_ = ourOut.Close()
		for range b.from {
			continue // until Chromium has closed its side
		}
		_ = cmd.Wait() // how it exits does not matter
		if t.Failed() {
			t.Logf("chromium said: %s", stderr.String())
		}
	})
	return b
}

// read hands on what Chromium answers, and notes what the page complains about.
func (b *browser) read(r io.ReadCloser) {
	defer close(b.from)
	defer r.Close()
	decoder := json.NewDecoder(zeroesToSpaces{r})
	for {
		var m message
		if decoder.Decode(&m) != nil {
			return
		}
		switch m.Method {
		case "":
			b.from <- m
		case "Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening":
			b.mu.Lock()
			b.troubles = append(b.troubles, m.Method+" "+string(m.Params))
			b.mu.Unlock()
		}
	}
}

// zeroesToSpaces makes a stream of JSON of what Chromium sends, which ends each message by a zero byte.
type zeroesToSpaces struct{ io.Reader }

func (z zeroesToSpaces) Read(p []byte) (int, error) {
	n, err := z.Reader.Read(p)
	for i := range p[:n] {
		if p[i] == 0 {
			p[i] = ' '
		}
	}
	return n, err
}

// call sends a command and waits for its result. Nobody else may be calling.
func (b *browser) call(session, method string, params map[string]any, result any) {
	b.t.Helper()
	b.calls++
	command := map[string]any{"id": b.calls, "method": method, "params": params}
	if session != "" {
		command["sessionId"] = session
	}
	data, err := json.Marshal(command)
	require.NoError(b.t, err)
	_, err = b.to.Write(append(data, 0))
	require.NoError(b.t, err)
	select {
	case m, ok := <-b.from:
		require.True(b.t, ok, "chromium has gone")
		require.Equal(b.t, b.calls, m.ID)
		if m.Error != nil {
			require.Fail(b.t, method+": "+m.Error.Message)
		}
		if result != nil {
			require.NoError(b.t, json.Unmarshal(m.Result, result))
		}
	case <-time.After(time.Minute):
		require.Fail(b.t, "chromium does not answer to "+method)
	}
}

// open opens an address in a page of its own, of this width, for readers who prefer this colour scheme.
func (b *browser) open(address, scheme string, width int) {
	b.t.Helper()
	var target struct{ TargetID string }
	b.call("", "Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Log", "Runtime"} {
		b.call(b.session, domain+".enable", nil, nil)
	}
	b.call(b.session, "Emulation.setDeviceMetricsOverride", map[string]any{
		"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600,
	}, nil)
	b.call(b.session, "Emulation.setEmulatedMedia", map[string]any{
		"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}},
	}, nil)
	b.call(b.session, "Page.navigate", map[string]any{"url": address}, nil)
	b.eventually(`document.readyState === "complete" && location.href !== "about:blank"`)
}

// evaluate returns what a script in the page says.
func (b *browser) evaluate(script string, result any) {
	b.t.Helper()
	var reply struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	b.call(b.session, "Runtime.evaluate", map[string]any{"expression": script, "returnByValue": true}, &reply)
	require.Empty(b.t, string(reply.ExceptionDetails))
	require.NoError(b.t, json.Unmarshal(reply.Result.Value, result))
}

func (b *browser) eventually(script string) {
	b.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		var ok bool
		if b.evaluate(script, &ok); ok {
			return
		}
		require.True(b.t, time.Now().Before(deadline), "never came true: "+script)
		<-time.After(50 * time.Millisecond)
	}
}

// screenshot returns a picture of the whole page. If SCREENSHOTS names a directory, it is kept there too.
func (b *browser) screenshot(name string) []byte {
	b.t.Helper()
	var reply struct{ Data string }
	b.call(b.session, "Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true}, &reply)
	picture, err := base64.StdEncoding.DecodeString(reply.Data)
	require.NoError(b.t, err)
	if dir := os.Getenv("SCREENSHOTS"); dir != "" {
		require.NoError(b.t, os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644))
	}
	return picture
}

// complaints returns what the page complained about so far.
func (b *browser) complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.troubles...)
}
