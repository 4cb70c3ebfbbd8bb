package cachetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
)

func TestEveryBackendConforms(t *testing.T) {
	for _, backend := range []string{cacheaside.BackendMemory, cacheaside.BackendRueidis, cacheaside.BackendRueidisAside} {
		t.Run(backend, func(t *testing.T) {
			cfg := cacheaside.Config{Backend: backend}
			if backend != cacheaside.BackendMemory {
				redistest.Require(t)
				var err error
				cfg, err = cacheaside.ParseConfig(redistest.Start(t).URL(backend))
				require.NoError(t, err)
				cfg.OpTimeout = 3 * time.Second
			}
			n := 0
			Run(t, func(t *testing.T) cacheaside.Cache[string] {
				n++
				cfg.Prefix = fmt.Sprintf("case%d", n)
				c, err := cacheaside.Open[string](t.Context(), cfg)
				require.NoError(t, err)
				return c
			})
		})
	}
}
