package cacheaside

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// toldSink notes what a bus does with it.
type toldSink struct {
	refs  []Ref
	names []string
	lost  []error
}

func (s *toldSink) Invalidate(refs ...Ref) { s.refs = append(s.refs, refs...) }
func (s *toldSink) Alive()                 {}
func (s *toldSink) Lost(err error)         { s.lost = append(s.lost, err) }
func (s *toldSink) cleared(name string)    { s.names = append(s.names, name) }
func (s *toldSink) aliveAsOf(time.Time)    {}

func newsAt(epoch string, n uint64, items ...string) news {
	return news{at: busPlace{epoch, n}, sender: "another", items: items}
}

func TestABusTakesWhatComesEarly(t *testing.T) {
	b, to := newBus(nil, "p"), &toldSink{}
	b.forget()
	b.take(newsAt("e", 4, "key:c:4"), to)
	b.take(newsAt("e", 5, "key:c:5"), to)
	require.Empty(t, to.refs)
	b.begin(busPlace{"e", 4}, to)
	require.Len(t, to.refs, 2)
	b.take(newsAt("e", 6, "key:c:6", "clear:c", "tag:t"), to)
	require.Len(t, to.refs, 4)
	require.Equal(t, []string{"c"}, to.names)
	require.Empty(t, to.lost)
}

// What was counted before the process asked may come after it has asked.
func TestABusTakesWhatWasCountedInTheBeginning(t *testing.T) {
	b, to := newBus(nil, "p"), &toldSink{}
	b.begin(busPlace{"e", 4}, to)
	b.take(newsAt("e", 3, "key:c:3"), to)
	b.take(newsAt("e", 4, "key:c:4"), to)
	b.take(newsAt("e", 5, "key:c:5"), to)
	require.Len(t, to.refs, 3)
	require.Empty(t, to.lost)
	b.take(newsAt("e", 5, "key:c:again"), to) // after a failover
	require.Len(t, to.lost, 1)
	require.Len(t, to.refs, 4)
}

func TestABusForgets(t *testing.T) {
	b, to := newBus(nil, "p"), &toldSink{}
	b.begin(busPlace{}, to)
	b.take(newsAt("e", 1), to)
	require.Empty(t, to.lost)
	b.restart()
	b.take(newsAt("f", 1), to)
	require.Empty(t, to.lost)
	b.take(newsAt("g", 2), to)
	b.take(newsAt("g", 4), to)
	b.take(newsAt("g", 4), to)
	require.Len(t, to.lost, 3)
}

func TestBadNews(t *testing.T) {
	good := "e:1 me \x03a:b"
	n, err := parseNews(good)
	require.NoError(t, err)
	require.Equal(t, news{busPlace{"e", 1}, "me", []string{"a:b"}}, n)
	for _, message := range []string{"", " ", "e:1me", ":1 me ", "e:x me ", "e:-1 me ", good + "\x05abc", good + strings.Repeat("\xff", 20), good[:len(good)-1]} {
		_, err := parseNews(message)
		require.ErrorIs(t, err, errBusReads, "%q", message)
	}
	b, to := newBus(nil, "p"), &toldSink{}
	b.begin(busPlace{}, to)
	b.take(newsAt("e", 1, "nonsense", "key:c:k"), to)
	require.Len(t, to.lost, 1)
	require.Len(t, to.refs, 1)
}

// A feed that was alive as of a while ago is alive for that much less.
func TestAnAnswerThatWasLongUnderWayProvesLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCache[string](t, Config{})
		f := newTestFeed()
		require.NoError(t, c.Backend().Follow(t.Context(), f))
		s := (<-f.sinks).(*feedSource)
		asked := time.Now()
		time.Sleep(time.Second)
		s.aliveAsOf(asked)
		require.NoError(t, c.Set(t.Context(), key, "v", time.Minute))
		time.Sleep(feedSilence - time.Second - time.Millisecond)
		_, err := c.Get(t.Context(), key)
		require.NoError(t, err)
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		_, err = c.Get(t.Context(), key)
		require.ErrorIs(t, err, ErrMiss)
		s.aliveAsOf(time.Now().Add(-feedSilence))
		require.Equal(t, 1, c.Stats().FeedsLost)
	})
}

func FuzzParseNews(f *testing.F) {
	f.Add("e:1 me \x03a:b")
	f.Fuzz(func(t *testing.T, message string) {
		n, err := parseNews(message)
		if err == nil {
			require.NotEmpty(t, n.at.epoch)
		}
	})
}
