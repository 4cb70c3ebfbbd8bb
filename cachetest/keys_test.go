package cachetest

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
)

type pair struct{ First, Second string }

// joined writes pairs with a separator that their parts may hold.
type joined struct{ escaped bool }

func (j joined) Append(b []byte, p pair) []byte {
	if j.escaped {
		return append(b, cacheaside.JoinKey(p.First, p.Second)...)
	}
	return append(b, p.First+":"+p.Second...)
}

func (j joined) Parse(s string) (p pair, err error) {
	if !j.escaped {
		p.First, p.Second, _ = strings.Cut(s, ":")
		return p, nil
	}
	parts, err := cacheaside.SplitKey(s)
	if err != nil || len(parts) != 2 {
		return p, errors.Join(err, errors.New("not a pair"))
	}
	return pair{parts[0], parts[1]}, nil
}

// replacing forgets what is in b.
type replacing struct{}

func (replacing) Append(_ []byte, n int) []byte { return []byte(strconv.Itoa(n)) }
func (replacing) Parse(s string) (int, error)   { return strconv.Atoi(s) }

// refusing does not read negative numbers.
type refusing struct{}

func (refusing) Append(b []byte, n int) []byte { return strconv.AppendInt(b, int64(n), 10) }

func (refusing) Parse(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	return int(n), err
}

func TestKeysFindsACodecThatConfusesKeys(t *testing.T) {
	pairs := []pair{{"a", "b:c"}, {"a:b", "c"}, {"", ""}, {"a", "b:c"}}
	Keys(t, cacheaside.KeyCodec[pair](joined{escaped: true}), pairs...)
	Keys(t, cacheaside.IntKeys[int](), 0, -1, 1)

	problems := strings.Join(confused(cacheaside.KeyCodec[pair](joined{}), pairs), "\n")
	require.Contains(t, problems, "have one string")
	require.Contains(t, problems, "Parse reads the string of")
	require.Contains(t, strings.Join(confused(cacheaside.KeyCodec[int](replacing{}), []int{1}), "\n"), "does not append")
	require.Contains(t, strings.Join(confused(cacheaside.KeyCodec[int](refusing{}), []int{1, -1}), "\n"), "refuses the string of -1")
}
