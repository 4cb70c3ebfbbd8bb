// Package proxies_test has tests of the Redis backends behind proxies. They use the public API only, and stand apart from
// the others so that they are compiled in a moment.
package proxies_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cacheaside/cacheaside"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	key    = "key"
	secret = "s3cret-pass"

	// healing is how long a test waits for what should take a second or two.
	healing = 15 * time.Second
)

func config(t *testing.T, line string) cacheaside.Config {
	t.Helper()
	cfg, err := cacheaside.ParseConfig(line)
	require.NoError(t, err)
	cfg.Name = "proxies"
	cfg.OpTimeout = 2 * time.Second // the machine may be busy
	return cfg
}

func open(t *testing.T, cfg cacheaside.Config, opts ...cacheaside.Option) *cacheaside.Client[string] {
	t.Helper()
	c, err := cacheaside.Open[string](t.Context(), cfg, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// give returns a fetch of this value.
func give(v string) func(context.Context, string) (string, error) {
	return func(context.Context, string) (string, error) { return v, nil }
}
