package cachetest

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
)

// Keys tests that a codec gives each of keys a string of its own, and reads it back as that key. Give it the
// keys that might be confused: zero, empty and negative ones, and those that hold what the codec writes between the parts.
// A key may be given more than once.
func Keys[K comparable](t *testing.T, codec cacheaside.KeyCodec[K], keys ...K) {
	t.Helper()
	for _, problem := range confused(codec, keys) {
		t.Error(problem)
	}
	require.NotEmpty(t, keys, "keys to try")
}

// confused says what is wrong with the strings that codec gives to keys.
func confused[K comparable](codec cacheaside.KeyCodec[K], keys []K) (problems []string) {
	const kept = "kept"
	owners := make(map[string]K, len(keys))
	for _, key := range keys {
		s := string(codec.Append([]byte(kept), key))
		if len(s) < len(kept) || s[:len(kept)] != kept {
			problems = append(problems, fmt.Sprintf("Append does not append to b: for %#v it returns %q", key, s))
			continue
		}
		s = s[len(kept):]
		if other, ok := owners[s]; ok && other != key {
			problems = append(problems, fmt.Sprintf("%#v and %#v have one string: %q", other, key, s))
		}
		owners[s] = key
		switch back, err := codec.Parse(s); {
		case err != nil:
			problems = append(problems, fmt.Sprintf("Parse refuses the string of %#v, %q: %v", key, s, err))
		case back != key:
			problems = append(problems, fmt.Sprintf("Parse reads the string of %#v, %q, as %#v", key, s, back))
		}
	}
	return problems
}
