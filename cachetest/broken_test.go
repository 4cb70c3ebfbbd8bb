package cachetest

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
)

const brokenEnv = "CACHETEST_BROKEN"

// TestABrokenWrapper is run by the next test, in a process of its own.
func TestABrokenWrapper(t *testing.T) {
	for _, b := range broken {
		if b.name == os.Getenv(brokenEnv) {
			patience = time.Second
			Run(t, func(t *testing.T) cacheaside.Cache[string] { return b.wrap(newFake(t)) })
			return
		}
	}
	t.Skip("it fails, and is run by TestRunFindsBrokenWrappers")
}

func TestRunFindsBrokenWrappers(t *testing.T) {
	for _, b := range broken {
		t.Run(b.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			name := strings.ReplaceAll(b.found, " ", "_")
			test := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestABrokenWrapper$/^"+name+"$", "-test.v")
			test.Env = append(os.Environ(), brokenEnv+"="+b.name)
			output, err := test.CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, "it passes:\n%s", output)
			require.Contains(t, string(output), "=== RUN   TestABrokenWrapper/"+name)
		})
	}
}
