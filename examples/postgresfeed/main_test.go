package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/pgtest"
)

func TestDemo(t *testing.T) {
	pgtest.Require(t)
	out := new(strings.Builder)
	require.NoError(t, demo(t.Context(), out))
	require.Contains(t, out.String(), `the page shows "Ada"; 1000 requests, 1 query`)
	require.Contains(t, out.String(), `the page shows "Edsger"`)
}
