package cacheaside

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCloseWaitsForChores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChores()
		var done atomic.Int32
		c.run(func(ctx context.Context) {
			<-time.After(time.Second)
			c.run(func(ctx context.Context) { // one leads to another
				<-time.After(time.Second)
				require.NoError(t, ctx.Err())
				done.Add(1)
			})
			done.Add(1)
		})
		c.close(time.Minute)
		require.EqualValues(t, 2, done.Load())
	})
}

func TestChoresThatTakeTooLongEndAtClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChores()
		ended := make(chan struct{})
		c.run(func(ctx context.Context) {
			<-ctx.Done()
			close(ended)
		})
		begun := time.Now()
		c.close(time.Second)
		require.Equal(t, time.Second, time.Since(begun))
		<-ended

		require.False(t, c.begin(), "none begins after close")
		after := make(chan error)
		c.run(func(ctx context.Context) { after <- ctx.Err() })
		require.ErrorIs(t, <-after, context.Canceled)
		c.close(time.Second)
	})
}
