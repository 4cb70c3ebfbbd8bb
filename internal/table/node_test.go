package table

import (
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

func TestNodesOwnTheirKeys(t *testing.T) {
	type pair struct {
		key  string
		node *node[*int]
	}
	var all []pair
	for length := range 300 {
		source := []byte(strings.Repeat("k", length))
		for i := range source {
			source[i] += byte(i)
		}
		value := length
		key := string(source)
		// The node gets a string of the bytes that are overwritten below.
		all = append(all, pair{key, newNode(stringOver(source), &value, uint32(length), 7)})
		clear(source)
	}
	for range 2 {
		for i, p := range all {
			require.Equal(t, p.key, p.node.key())
			require.Equal(t, i, *p.node.value)
			require.EqualValues(t, max(i, 1), p.node.weight())
			require.Zero(t, p.node.pending())
			require.False(t, p.node.inMain())
			next := newNode(p.key, p.node.value, 3, 0)
			p.node.touch()
			p.node.moveToMain()
			next.inherit(p.node)
			require.Equal(t, p.key, next.key(), "what is inherited leaves the key alone")
			require.EqualValues(t, 3, next.weight())
			require.True(t, next.inMain())
			all[i].node = newNode(next.key(), next.value, uint32(i), 7) // the older ones are garbage now
		}
		runtime.GC()
	}
}

func stringOver(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
