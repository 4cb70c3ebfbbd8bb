package cacheaside

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
)

func init() {
	onRedis := func(r rig) bool { return r.remote }
	promises = append(promises,
		promise{"G13", "Redis keeps a value for its ttl, to the millisecond", onRedis, checkPTTL},
		promise{"G14", "bytes that nobody can decode are a miss, and are overwritten", onRedis, checkBadBytes},
		promise{"G14", "a truncated entry is a miss, even if what is left of it is a value", onRedis, checkTruncated},
		promise{"G14", "a key of another Redis type is a miss, and is overwritten", onRedis, checkWrongType},
		promise{"G14", "a value of 100 MB is a miss, and is overwritten", onRedis, checkHugeValue},
		promise{"G14", "what was stored for another key, type or codec is a miss", onRedis, checkForeignEntries},
		promise{"G14", "lease bytes never reach a caller", onRedis, checkLeaseBytes},
		promise{"G14", "what looks like a lease and is none, or one that does not expire, is overwritten", onRedis, checkForgedLeases},
		promise{"G14", "JSON from before this library is read", onRedis, checkBareJSON},
		promise{"G14", "a value over MaxValueBytes is refused by Set, and returned unstored by GetWithFetch", onRedis, checkOversized},
		promise{"G14", "bytes that cannot be read are counted, and told once a look-up", onRedis, checkUnreadableIsTold},
		promise{"G20", "an error of the codec shows nothing of the value", onRedis, checkCodecErrors},
	)
}

// put stores bytes in the place of an entry.
func put[T any](e *env, c *Client[T], k, data string) {
	e.at(redisKeyOf(c, k)).Must("SET", redisKeyOf(c, k), data)
}

// isUnreadable expects what is under k to be a miss, which a look-up overwrites.
func isUnreadable[T any](e *env, c *Client[T], k string, value T, what string) {
	e.Helper()
	_, err := c.Get(e.Context(), k)
	require.ErrorIs(e, err, ErrMiss, what)
	require.ErrorIs(e, err, ErrInvalidValue, what)
	require.NotErrorIs(e, err, ErrUnavailable, what)
	isOverwritten(e, c, k, value, what)
}

func isOverwritten[T any](e *env, c *Client[T], k string, value T, what string) {
	e.Helper()
	v, err := c.GetWithFetch(e.Context(), k, time.Minute, serve(value).fetch)
	require.NoError(e, err, what)
	require.Equal(e, value, v, what)
	v, err = c.Get(e.Context(), k)
	require.NoError(e, err, what)
	require.Equal(e, value, v, what)
	left, _ := e.at(redisKeyOf(c, k)).Must("PTTL", redisKeyOf(c, k)).(int64)
	require.Positive(e, left, what)
}

func checkPTTL(e *env) {
	c := open[string](e, nil)
	check := func(ttl time.Duration, write func(k string) error) {
		k := ttl.String()
		begun := time.Now()
		require.NoError(e, write(k))
		reply, err := e.at(redisKeyOf(c, k)).Command("PTTL", redisKeyOf(c, k))
		require.NoError(e, err)
		left, _ := reply.(int64)
		took := time.Since(begun).Milliseconds() + 1
		whole := int64(math.Ceil(float64(ttl) / float64(time.Millisecond)))
		switch {
		case ttl == NoExpiry:
			require.EqualValues(e, -1, left)
		case left == -2:
			require.GreaterOrEqual(e, took, whole, "%v: it is gone", ttl)
		default:
			require.LessOrEqual(e, left, whole, "%v", ttl)
			require.GreaterOrEqual(e, left, whole-took, "%v", ttl)
		}
	}
	for _, ttl := range []time.Duration{
		1, 999 * time.Microsecond, 500 * time.Millisecond, 1999 * time.Millisecond, 100 * 365 * 24 * time.Hour, NoExpiry,
	} {
		check(ttl, func(k string) error { return c.Set(e.Context(), k, "v", ttl) })
		check(ttl, func(k string) error {
			require.NoError(e, c.Delete(e.Context(), k))
			_, err := c.GetWithFetch(e.Context(), k, ttl, serve("v").fetch)
			return err
		})
		check(ttl, func(k string) error { return c.SetMany(e.Context(), map[string]string{k: "v"}, ttl) })
	}
}

func checkBadBytes(e *env) {
	type user struct {
		Name string
		Age  int
	}
	c := open[*user](e, nil)
	value := &user{"a", 1}
	random := rand.New(rand.NewPCG(1, 2))
	bad := []string{"", "\xca", "\xca\x11", "{", "nope", `"a string"`, "[1,2]", "12", `{"Name":1}`, strings.Repeat("\x00", 100)}
	for range 50 {
		data := make([]byte, random.IntN(200))
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		bad = append(bad, string(data), "\xca\x11"+string(data), "\xca\x12"+string(data), "\xca\x21"+string(data))
	}
	for i, data := range bad {
		k := strconv.Itoa(i)
		put(e, c, k, data)
		isUnreadable(e, c, k, value, fmt.Sprintf("%.80q", data))
	}
}

func checkTruncated(e *env) {
	// Any part of such a value is a value itself, as far as its codec can tell.
	for _, codec := range []Codec[string]{StringCodec(), JSONCodec[string]()} {
		c := open[string](e, func(cfg *Config) { cfg.Name = fmt.Sprint(codec.ID()) }, WithCodec(codec))
		require.NoError(e, c.Set(e.Context(), key, "0123456789", time.Minute))
		stored, _ := e.at(redisKeyOf(c, key)).Must("GET", redisKeyOf(c, key)).(string)
		for n := 1; n < len(stored); n++ {
			if n == 2 {
				continue // the first bytes of a value, and nothing else
			}
			k := strconv.Itoa(n)
			put(e, c, k, stored[:n])
			isUnreadable(e, c, k, "value", k)
		}
		numbers := open[int](e, func(cfg *Config) { cfg.Name = "numbers" + c.cfg.Name })
		require.NoError(e, numbers.Set(e.Context(), key, 123456, time.Minute))
		stored, _ = e.at(redisKeyOf(numbers, key)).Must("GET", redisKeyOf(numbers, key)).(string)
		require.NoError(e, numbers.Delete(e.Context(), key))
		put(e, numbers, key, stored[:len(stored)-1])
		isUnreadable(e, numbers, key, 7, "12345")
		require.NoError(e, numbers.Delete(e.Context(), key)) // so that a near cache reads what is put there
		put(e, numbers, key, stored+"7")
		isUnreadable(e, numbers, key, 7, "1234567")
	}
}

func checkWrongType(e *env) {
	c := open[string](e, nil)
	for i, command := range [][]string{
		{"RPUSH", "", "v"}, {"HSET", "", "f", "v"}, {"SADD", "", "v"}, {"ZADD", "", "1", "v"}, {"XADD", "", "*", "f", "v"},
	} {
		k := strconv.Itoa(i)
		command[1] = redisKeyOf(c, k)
		e.at(command[1]).Must(command...)
		isUnreadable(e, c, k, "value", command[0])
		require.NoError(e, c.Delete(e.Context(), k))
		e.at(command[1]).Must(command...)
		require.NoError(e, c.Set(e.Context(), k, "set", time.Minute), command[0])
		v, err := c.Get(e.Context(), k)
		require.NoError(e, err)
		require.Equal(e, "set", v)
	}
}

func checkHugeValue(e *env) {
	const huge = 100 << 20
	c := open[string](e, nil)
	e.at(redisKeyOf(c, key)).Must("SETRANGE", redisKeyOf(c, key), strconv.Itoa(huge-1), "x")
	begun := time.Now()
	// What takes over a second to arrive, as this may on a machine under load, looks like a dead connection.
	e.settle(func() bool {
		_, err := c.Get(e.Context(), key)
		return errors.Is(err, ErrMiss) && errors.Is(err, ErrInvalidValue) && !errors.Is(err, ErrUnavailable)
	}, "a miss")
	e.settle(func() bool {
		v, err := c.GetWithFetch(e.Context(), key, time.Minute, serve("value").fetch)
		require.NoError(e, err)
		require.Equal(e, "value", v)
		_, err = c.Get(e.Context(), key)
		return err == nil
	}, "overwritten")
	e.Logf("read and overwritten within %v", time.Since(begun).Round(time.Millisecond))
}

func checkForeignEntries(e *env) {
	type before struct{ Name string }
	type after struct{ Name, Mail string }
	old := open[*before](e, func(cfg *Config) { cfg.Name = "old" })
	c := open[*after](e, nil)
	require.NoError(e, old.Set(e.Context(), key, &before{"a"}, time.Minute))
	stored, _ := e.at(redisKeyOf(old, key)).Must("GET", redisKeyOf(old, key)).(string)
	put(e, c, key, stored)
	isUnreadable(e, c, key, &after{"b", "c"}, "another type")

	mine, _ := e.at(redisKeyOf(c, key)).Must("GET", redisKeyOf(c, key)).(string)
	put(e, c, "another", mine)
	isUnreadable(e, c, "another", &after{"b", "c"}, "another key's")

	texts := open[string](e, func(cfg *Config) { cfg.Name = "texts" }, WithCodec(StringCodec()))
	quoted := open[string](e, func(cfg *Config) { cfg.Name = "quoted" })
	require.NoError(e, quoted.Set(e.Context(), key, "v", time.Minute))
	stored, _ = e.at(redisKeyOf(quoted, key)).Must("GET", redisKeyOf(quoted, key)).(string)
	put(e, texts, key, stored)
	isUnreadable(e, texts, key, "w", "another codec's")
}

func checkLeaseBytes(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.LeaseTTL = 200 * time.Millisecond }, WithCodec(StringCodec()))
	token := newToken(time.Second, noOutcome)
	e.at(redisKeyOf(c, key)).Must("SET", redisKeyOf(c, key), token, "PX", "100")
	_, err := c.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss)
	require.NotErrorIs(e, err, ErrInvalidValue, "that a key is being fetched is nothing wrong")
	got, err := c.GetMany(e.Context(), []string{key})
	require.NoError(e, err)
	require.Empty(e, got)
	isOverwritten(e, c, key, "value", "a lease")
	bytes := open[[]byte](e, func(cfg *Config) { cfg.Name = "bytes" }, WithCodec(BytesCodec()))
	e.at(redisKeyOf(bytes, key)).Must("SET", redisKeyOf(bytes, key), token, "PX", "100")
	_, err = bytes.Get(e.Context(), key)
	require.ErrorIs(e, err, ErrMiss)
}

func checkForgedLeases(e *env) {
	c := open[string](e, func(cfg *Config) { cfg.LeaseTTL = 200 * time.Millisecond }, WithCodec(StringCodec()))
	for i, data := range []string{"\xca\x13", "\xca\x13x", "\xca\x13ABCDEFGHIJKLMNOPQRSTUVWXYZ", newToken(time.Second, noOutcome) + "A"} {
		for _, ttl := range [][]string{nil, {"PX", "3600000"}} {
			k := fmt.Sprint(i, ttl)
			e.at(redisKeyOf(c, k)).Must(append([]string{"SET", redisKeyOf(c, k), data}, ttl...)...)
			isUnreadable(e, c, k, "value", fmt.Sprintf("%q %v", data, ttl))
		}
	}
	for _, ttl := range [][]string{nil, {"PX", "3600000"}} {
		k := fmt.Sprint("copied", ttl)
		e.at(redisKeyOf(c, k)).Must(append([]string{"SET", redisKeyOf(c, k), newToken(time.Second, noOutcome)}, ttl...)...)
		_, err := c.Get(e.Context(), k)
		require.ErrorIs(e, err, ErrMiss)
		isOverwritten(e, c, k, "value", k)
	}
}

func checkBareJSON(e *env) {
	type user struct {
		Name string
		Age  int
	}
	c := open[*user](e, nil)
	data, err := json.Marshal(&user{"bare", 7})
	require.NoError(e, err)
	e.at(redisKeyOf(c, key)).Must("SET", redisKeyOf(c, key), string(data), "PX", "60000")
	v, err := c.Get(e.Context(), key)
	require.NoError(e, err)
	require.Equal(e, &user{"bare", 7}, v)
	v, err = c.GetWithFetch(e.Context(), key, time.Minute, func(context.Context, string) (*user, error) {
		return nil, errSource
	})
	require.NoError(e, err)
	require.Equal(e, &user{"bare", 7}, v)
	require.NoError(e, c.Set(e.Context(), key, &user{"new", 8}, time.Minute))
	v, err = c.Get(e.Context(), key)
	require.NoError(e, err)
	require.Equal(e, &user{"new", 8}, v)

	texts := open[string](e, func(cfg *Config) { cfg.Name = "texts" }, WithCodec(StringCodec()))
	put(e, texts, key, "bare text")
	text, err := texts.Get(e.Context(), key)
	require.NoError(e, err)
	require.Equal(e, "bare text", text)
}

func checkOversized(e *env) {
	const most = 1000
	seen := newWatcher()
	c := open[string](e, func(cfg *Config) { cfg.MaxValueBytes = most }, WithCodec(StringCodec()), WithObserver(seen))
	fits, over := strings.Repeat("v", most), strings.Repeat("v", most+1)
	require.NoError(e, c.Set(e.Context(), key, fits, time.Minute))
	v, err := c.Get(e.Context(), key)
	require.NoError(e, err)
	require.Equal(e, fits, v)
	err = c.Set(e.Context(), key, over, time.Minute)
	require.ErrorIs(e, err, ErrInvalidValue)
	require.NotErrorIs(e, err, ErrUnavailable)
	require.ErrorContains(e, err, "1001")
	_, err = c.Get(e.Context(), key)
	require.Equal(e, ErrMiss, err, "an older value does not outlive the newer one")
	require.NoError(e, c.Set(e.Context(), key, fits, time.Minute))
	require.ErrorIs(e, c.SetMany(e.Context(), map[string]string{key: over}, time.Minute), ErrInvalidValue)
	_, err = c.Get(e.Context(), key)
	require.Equal(e, ErrMiss, err)
	for i := range 2 {
		s := serve(over)
		v, err = c.GetWithFetch(e.Context(), key, time.Minute, s.fetch)
		require.NoError(e, err)
		require.Equal(e, over, v)
		require.EqualValues(e, 1, s.calls.Load(), "it is not stored")
		require.EqualValues(e, i+1, c.Stats().Unstorable)
		require.Equal(e, i+1, seen.count(EventUnstorable))
	}
	e.settle(func() bool { return e.at(redisKeyOf(c, key)).Must("EXISTS", redisKeyOf(c, key)) == int64(0) }, "nor is a lease left behind")
	put(e, c, key, over)
	isUnreadable(e, c, key, "value", "stored by whoever allows more")
	put(e, c, "bare", fits)
	v, err = c.Get(e.Context(), "bare")
	require.NoError(e, err)
	require.Equal(e, fits, v)
}

func checkCodecErrors(e *env) {
	seen := newWatcher()
	c := open[json.Number](e, nil, WithObserver(seen))
	const bad = json.Number("4111-secret")
	all := []error{c.Set(e.Context(), key, bad, time.Minute), c.SetMany(e.Context(), map[string]json.Number{key: bad}, time.Minute)}
	v, err := c.GetWithFetch(e.Context(), key, time.Minute, serve(bad).fetch)
	require.NoError(e, err)
	require.Equal(e, bad, v)
	require.Equal(e, 1, seen.count(EventUnstorable))
	for _, err := range append(all, seen.errs...) {
		require.ErrorIs(e, err, ErrInvalidValue)
		require.NotContains(e, err.Error(), "secret")
	}
}

// oneWay is a value that is written and cannot be read.
type oneWay struct{ Name string }

func (oneWay) MarshalJSON() ([]byte, error) { return []byte(`"secret"`), nil }

func (*oneWay) UnmarshalJSON([]byte) error { return errors.New("secret") }

func checkUnreadableIsTold(e *env) {
	type other struct{ Mail string }
	seen, recorder := newWatcher(), new(logRecorder)
	c := open[*oneWay](e, nil, WithObserver(seen), WithLogger(recorder.logger()))
	require.NoError(e, c.Set(e.Context(), "own", &oneWay{"n"}, time.Minute))
	put(e, c, "foreign", "secret \xff")
	two := open[*other](e, func(cfg *Config) { cfg.Name = "two" })
	require.NoError(e, two.Set(e.Context(), key, &other{"m"}, time.Minute))
	stored, _ := e.at(redisKeyOf(two, key)).Must("GET", redisKeyOf(two, key)).(string)
	put(e, c, "two types", stored)
	for i, k := range []string{"own", "foreign", "two types"} {
		_, err := c.Get(e.Context(), k)
		require.ErrorIs(e, err, ErrMiss)
		v, err := c.GetWithFetch(e.Context(), k, time.Minute, serve(&oneWay{"n"}).fetch)
		require.NoError(e, err)
		require.Equal(e, &oneWay{"n"}, v)
		require.EqualValues(e, 2*i+2, c.Stats().Unreadable, k)
		require.Equal(e, 2*i+2, seen.count(EventUnreadable), k)
	}
	_, err := c.GetMany(e.Context(), []string{"own", "foreign", "nothing"})
	require.NoError(e, err)
	require.EqualValues(e, 8, c.Stats().Unreadable)
	lines := recorder.lines(e.T) // none with a secret
	require.Len(e, lines, 1, "the line is limited")
	require.Contains(e, lines[0]["msg"], "cannot be read")
	require.Equal(e, "*cacheaside.oneWay", lines[0]["type"])
}
