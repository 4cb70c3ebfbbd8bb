package cacheaside

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestWhatADiscardKeepsAgainIsNotOlderThanADelete has a change taken back while its key is deleted, again and again.
func TestWhatADiscardKeepsAgainIsNotOlderThanADelete(t *testing.T) {
	c := openMemory(t)
	for name, remove := range map[string]func() error{
		"Delete":     func() error { return c.Delete(t.Context(), key) },
		"DeleteMany": func() error { return c.DeleteMany(t.Context(), []string{"other", key}) },
		"Clear":      func() error { return c.Clear(t.Context()) },
		"Invalidate": func() error { return c.Backend().Invalidate(t.Context(), c.Refs(key)...) },
	} {
		t.Run(name, func(t *testing.T) {
			for range 20_000 {
				require.NoError(t, c.Set(t.Context(), key, "old", time.Hour))
				var both sync.WaitGroup
				both.Go(func() {
					for range 3 {
						ctx, change := Begin(t.Context())
						_ = c.Changed(ctx, key)
						change.Discard()
					}
				})
				require.NoError(t, remove())
				if v, err := c.Get(t.Context(), key); err == nil {
					both.Wait()
					t.Fatalf("%q after it was removed", v)
				}
				both.Wait()
				_, err := c.Get(t.Context(), key)
				require.ErrorIs(t, err, ErrMiss)
			}
		})
	}
}

// TestALookupFindsWhatIsSetDuringAMutate looks a key up while it is set, which a Mutate has hidden: there is a value at all
// times, so nothing is fetched.
func TestALookupFindsWhatIsSetDuringAMutate(t *testing.T) {
	c := openMemory(t)
	for range 20_000 {
		require.NoError(t, c.Set(t.Context(), key, "old", time.Hour))
		require.NoError(t, c.Mutate(t.Context(), []string{key}, func(context.Context) error {
			var both sync.WaitGroup
			var begun atomic.Bool
			both.Go(func() {
				begun.Store(true)
				_ = c.Set(t.Context(), key, "new", time.Hour)
			})
			for !begun.Load() {
				runtime.Gosched()
			}
			for range 8 {
				_, err := c.GetWithFetch(t.Context(), key, time.Hour, func(context.Context, string) (string, error) {
					t.Error("fetched")
					return "", nil
				})
				require.NoError(t, err)
			}
			both.Wait()
			return nil
		}))
		if t.Failed() {
			return
		}
	}
}

// TestASetAtTheBeginningOfAMutateIsKept sets a key while a Mutate of it begins: other callers are served that until it ends.
func TestASetAtTheBeginningOfAMutateIsKept(t *testing.T) {
	c := openMemory(t)
	for range 20_000 {
		require.NoError(t, c.Set(t.Context(), key, "old", time.Hour))
		var begun atomic.Bool
		set := make(chan struct{})
		go func() {
			defer close(set)
			begun.Store(true)
			_ = c.Set(t.Context(), key, "new", time.Hour)
		}()
		for !begun.Load() {
			runtime.Gosched()
		}
		require.NoError(t, c.Mutate(t.Context(), []string{key}, func(context.Context) error {
			<-set
			v, err := c.Get(t.Context(), key)
			require.NoError(t, err)
			require.Equal(t, "new", v)
			return nil
		}))
	}
}

func openMemory(t *testing.T) *Client[string] {
	c, err := Open[string](t.Context(), Config{Backend: BackendMemory})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}
