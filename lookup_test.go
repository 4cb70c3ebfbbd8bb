package cacheaside

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// interrupted is a store in which something happens right after one of its peeks.
type interrupted struct {
	store[string]
	peeks  atomic.Int64
	after  int64 // which peek, from 1
	happen func()
}

func (s *interrupted) peek(key string) *entry[string] {
	e := s.store.peek(key)
	if s.peeks.Add(1) == s.after {
		s.happen()
	}
	return e
}

// TestALookUpThatHasJustMissedLooksAgain has the key fetched and kept, by another caller, between a look-up's
// miss and its flight. Callers who come in a crowd meet that all the time.
func TestALookUpThatHasJustMissedLooksAgain(t *testing.T) {
	for after := range int64(2) {
		t.Run(fmt.Sprintf("after peek %d", after+1), func(t *testing.T) {
			c, err := NewMemory[string](Config{})
			require.NoError(t, err)
			defer c.Close()
			first, second := serve("first"), serve("second")
			c.store = &interrupted{store: c.store, after: after + 1, happen: func() {
				_, err := c.GetWithFetch(t.Context(), key, time.Minute, first.fetch)
				require.NoError(t, err)
			}}
			c.quick = c.store
			v, err := c.GetWithFetch(t.Context(), key, time.Minute, second.fetch)
			require.NoError(t, err)
			require.Equal(t, "first", v)
			require.Zero(t, second.calls.Load())
		})
	}
}
