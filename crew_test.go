package cacheaside

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

type taskFunc func()

func (f taskFunc) run() { f() }

func idle(c *crew) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.idle)
}

func TestCrewRunsEverythingAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrew()
		defer c.stop()
		release, done := make(chan struct{}), make(chan struct{}, 1000)
		for range 1000 {
			c.run(taskFunc(func() { <-release; done <- struct{}{} }))
		}
		synctest.Wait()
		require.Empty(t, done)
		close(release)
		synctest.Wait()
		require.Len(t, done, 1000)
		require.Equal(t, maxIdle, idle(c), "the others have ended")
	})
}

func TestCrewKeepsAHandForTheNextTaskAndThenLetsItGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrew()
		for range 20 {
			c.run(taskFunc(func() {}))
			synctest.Wait()
			require.Equal(t, 1, idle(c), "one hand serves them all")
			<-time.After(trimEvery / 3)
		}
		<-time.After(2 * trimEvery)
		synctest.Wait()
		require.Zero(t, idle(c))
		// The bubble ends only if no goroutine is left, though stop was not called.
	})
}

func TestCrewEndsAtStopWithWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrew()
		release := make(chan struct{})
		c.run(taskFunc(func() {}))
		synctest.Wait()
		c.run(taskFunc(func() { <-release }))
		c.run(taskFunc(runtime.Goexit))
		synctest.Wait()
		c.stop()
		close(release)
		synctest.Wait()
		require.Zero(t, idle(c))
	})
}
