package cacheaside

import (
	"context"
	"crypto/sha1" // it is how Redis names scripts
	"encoding/hex"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

func TestScriptsAreKnownByTheirHashes(t *testing.T) {
	for _, s := range scripts {
		sum := sha1.Sum([]byte(s.text))
		require.Equal(t, hex.EncodeToString(sum[:]), s.sha)
	}
}

func TestIdleArgumentsChangeNothing(t *testing.T) {
	redistest.Require(t)
	server := redistest.Start(t)
	idles := func(reply any) {
		if of, ok := reply.([]any); ok { // for each key
			require.Len(t, of, 1)
			reply = of[0]
		}
		require.EqualValues(t, 0, reply)
	}
	for _, value := range []string{"", "-", "v", newToken(time.Second, noOutcome), "\xca" + string(make([]byte, 40))} {
		for _, s := range scripts {
			server.Must("SET", key, value)
			args := append([]string{"EVAL", s.text, "1", key}, s.idle...)
			idles(server.Must(args...))
			require.Equal(t, value, server.Must("GET", key))
			require.EqualValues(t, -1, server.Must("PTTL", key))
			server.Must("DEL", key)
			idles(server.Must(args...))
			require.EqualValues(t, 0, server.Must("EXISTS", key))
		}
	}
}

// TestAServerFarAwayLearnsTheScripts has a round trip of more than a third of OpTimeout: there is no time left to
// send the text of a script that the server does not know.
func TestAServerFarAwayLearnsTheScripts(t *testing.T) {
	redistest.Require(t)
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr())
	c := openOn(t, server, proxy.Addr(), BackendRueidisAside, 400*time.Millisecond)
	proxy.Delay(150 * time.Millisecond)
	for _, flush := range []bool{false, true} {
		if flush {
			server.Must("SCRIPT", "FLUSH")
		}
		n := 0
		require.Eventually(t, func() bool {
			n++
			k := strconv.Itoa(n) + strconv.FormatBool(flush)
			v, err := c.GetWithFetch(t.Context(), k, time.Minute, func(context.Context, string) (string, error) { return "v", nil })
			require.NoError(t, err)
			require.Equal(t, "v", v)
			held, err := server.Command("GET", redisKeyOf(c, k))
			text, _ := held.(string)
			return err == nil && len(text) > headerBytes && !isLease(text)
		}, healing, time.Millisecond, "nothing is ever stored")
	}
}
