package cachetest_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/cachetest"
)

// failures notes what a test would fail with.
type failures struct {
	testing.TB
	all []string
}

func (f *failures) Helper() {}

func (f *failures) Errorf(format string, args ...any) {
	f.all = append(f.all, fmt.Sprintf(format, args...))
}

type survivor struct {
	Name string
	At   time.Time
	Any  any
	Tags []string `json:",omitempty"`
}

type victim struct {
	Name   string
	secret string
}

func TestSurviveShowsWhatDoesNot(t *testing.T) {
	cachetest.Survive(t, &survivor{Name: "n", At: time.Now(), Any: 1.5, Tags: []string{"a"}})
	cachetest.Survive(t, (*survivor)(nil))
	cachetest.Survive(t, &victim{Name: "n"}, cacheaside.WithLossyJSON())
	cachetest.Survive(t, "text \xff", cacheaside.WithCodec(cacheaside.StringCodec()))
	for want, survive := range map[string]func(testing.TB){
		"field secret is not exported": func(t testing.TB) { cachetest.Survive(t, &victim{secret: "hidden"}) },
		"field Any of":                 func(t testing.TB) { cachetest.Survive(t, &survivor{Any: 7}) },
		"field Tags of":                func(t testing.TB) { cachetest.Survive(t, &survivor{Tags: []string{}}) },
		"no UTF-8":                     func(t testing.TB) { cachetest.Survive(t, "hidden \xff") },
		"WithCodec":                    func(t testing.TB) { cachetest.Survive(t, "", cacheaside.WithCodec(cacheaside.BytesCodec())) },
	} {
		seen := &failures{TB: t}
		survive(seen)
		require.Len(t, seen.all, 1, want)
		require.Contains(t, seen.all[0], want)
		require.NotContains(t, seen.all[0], "hidden")
	}
}
