package cachetest_test

import (
	"testing"

	"github.com/cacheaside/cacheaside/cachetest"
)

// TestTheWrapperOfTheExampleConforms stands apart from the example, which pkg.go.dev shows as a whole file only if
// there is no test in it.
func TestTheWrapperOfTheExampleConforms(t *testing.T) { cachetest.Run(t, openTenant) }
