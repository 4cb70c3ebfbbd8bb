package cacheaside

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// formOf returns the stored form of a cache's values, as it is on a backend that processes share.
func formOf[T any](t testing.TB, cfg Config, codec Codec[T]) *form[T] {
	t.Helper()
	c := newTestCache[T](t, cfg)
	c.spread = true
	f := c.form(codec)
	return &f
}

// requireEncoded returns the stored form of e.
func requireEncoded[T any](t testing.TB, f *form[T], key string, e entry[T], took time.Duration) []byte {
	t.Helper()
	b, err := f.encode(key, &e, nil, took, nil)
	require.NoError(t, err)
	return b
}

func TestStoredFormIsWhatItsCommentSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := formOf(t, Config{StaleFor: time.Hour}, StringCodec())
		now := f.clock.now()
		b := requireEncoded(t, f, "k", newEntry("value", now, f.clock.deadline(now, time.Minute), f.window, 0), 1234*time.Millisecond)
		require.Equal(t, []byte{0xCA, 0x11, 3, 0}, b[:4])
		require.Equal(t, f.fingerprint, binary.BigEndian.Uint32(b[4:]))
		require.EqualValues(t, time.Now().Add(time.Minute).UnixMilli(), binary.BigEndian.Uint64(b[8:]), "without the stale window")
		require.EqualValues(t, time.Now().UnixMilli(), binary.BigEndian.Uint64(b[16:]))
		require.EqualValues(t, 1234, binary.BigEndian.Uint32(b[24:]))
		require.Equal(t, seal("k", headerBytes+len("value")), binary.BigEndian.Uint32(b[28:]))
		require.Equal(t, "value", string(b[32:]))

		b = requireEncoded(t, f, "k", newEntry("", now, never, f.window, 0), 1<<62)
		require.Equal(t, uint64(math.MaxInt64), binary.BigEndian.Uint64(b[8:]))
		require.Equal(t, uint32(math.MaxUint32), binary.BigEndian.Uint32(b[24:]), "a cost is clamped")
		require.Len(t, b, headerBytes)

		b = requireEncoded(t, f, "k", negativeEntry[string](now, f.clock.deadline(now, time.Second)), 0)
		require.EqualValues(t, 0x12, b[1])
		require.Len(t, b, headerBytes, "a negative entry holds no value")
	})
}

func TestStoredEntriesComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		writer := formOf(t, Config{StaleFor: time.Hour}, JSONCodec[record]())
		time.Sleep(time.Hour + 500*time.Microsecond) // another process has a clock of its own
		reader := formOf(t, Config{StaleFor: 2 * time.Hour}, JSONCodec[record]())
		now := writer.clock.now()
		for _, ttl := range []time.Duration{time.Millisecond, time.Minute, 1000 * 24 * time.Hour} {
			b := requireEncoded(t, writer, "k", newEntry(aRecord, now, writer.clock.deadline(now, ttl), writer.window, 0), 0)
			e, err := reader.decode("k", b)
			require.NoError(t, err)
			require.Equal(t, aRecord, e.value)
			require.False(t, e.negative())
			require.InDelta(t, reader.clock.now()+int64(ttl), e.freshUntil(reader.window), float64(time.Millisecond))
			require.Equal(t, int64(2*time.Hour), e.deadline-e.freshUntil(reader.window), "how long it is stale is the reader's affair")
			time.Sleep(5 * time.Second)
			e, err = reader.decode("k", b)
			require.NoError(t, err)
			require.InDelta(t, 5*time.Second, e.age(reader.clock.now()), float64(time.Millisecond))
			now = writer.clock.now()
		}
		e, err := reader.decode("k", requireEncoded(t, writer, "k", newEntry(aRecord, now, never, writer.window, 0), 0))
		require.NoError(t, err)
		require.Equal(t, never, e.deadline)

		e, err = reader.decode("k", requireEncoded(t, writer, "k", negativeEntry[record](now, writer.clock.deadline(now, time.Minute)), 0))
		require.NoError(t, err)
		require.True(t, e.negative())
		require.InDelta(t, reader.clock.now()+int64(time.Minute), e.deadline, float64(time.Millisecond))
	})
}

func TestBytesOfAnotherOriginAreRefused(t *testing.T) {
	f := formOf(t, Config{MaxValueBytes: 200}, JSONCodec[record]())
	good := requireEncoded(t, f, "k", newEntry(record{Name: "n"}, 0, never, 0, 0), 0)
	_, err := f.decode("k", good)
	require.NoError(t, err)
	sealed := func(value string) []byte {
		b := append(append([]byte{}, good[:headerBytes]...), value...)
		binary.BigEndian.PutUint32(b[28:], seal("k", len(b)))
		return b
	}
	change := func(at int, to byte) []byte {
		b := append([]byte{}, good...)
		b[at] = to
		return b
	}
	for name, bad := range map[string]struct {
		data []byte
		text string
	}{
		"nothing":             {nil, "cannot be decoded"},
		"too long":            {append(good, make([]byte, 200)...), "MaxValueBytes: 200"},
		"too short":           {good[:headerBytes-1], "too few"},
		"one byte":            {good[:1], "too few"},
		"another version":     {change(1, 0x31), "0x31"},
		"no version":          {change(1, 0x01), "0x1"},
		"an unknown kind":     {change(1, 0x14), "0x14"},
		"another codec":       {change(2, 2), "codec 2"},
		"another type":        {change(7, good[7]+1), "another type"},
		"another key":         {change(31, good[31]+1), "another key"},
		"a value that is not": {sealed(`{"name":"secret"`), "cannot be decoded"},
		"a bare value, too":   {[]byte(`{"name":7,"secret"}`), "cannot be decoded"},
		"a value cut short":   {good[:len(good)-1], "truncated"},
		"a value grown":       {append(append([]byte{}, good...), ' '), "another key, or truncated"},
		"only a header":       {sealed(""), "cannot be decoded"},
	} {
		_, err := f.decode("k", bad.data)
		require.ErrorIs(t, err, ErrInvalidValue, name)
		require.ErrorContains(t, err, bad.text, name)
		require.NotContains(t, err.Error(), "secret", name)
	}
	_, err = f.decode("k", []byte(`{"name":7}`))
	var wrongType *json.UnmarshalTypeError
	require.ErrorAs(t, err, &wrongType, "the decoder's own error is there for who looks for it")
	_, err = f.decode("other", good)
	require.ErrorIs(t, err, ErrInvalidValue, "a reply of another key is not taken")
}

func TestBareValuesAreReadable(t *testing.T) {
	f := formOf(t, Config{}, JSONCodec[record]())
	e, err := f.decode("k", []byte(`{"ID":7,"name":"from before"}`))
	require.NoError(t, err)
	require.Equal(t, record{ID: 7, Name: "from before"}, e.value)
	require.Equal(t, never, e.deadline, "Redis says when it ends")
	require.Zero(t, e.early())
	text, err := formOf(t, Config{}, StringCodec()).decode("k", nil)
	require.NoError(t, err)
	require.Empty(t, text.value, "an empty string is a value of this codec")
}

func TestLeasesAreNoValues(t *testing.T) {
	f := formOf(t, Config{MaxValueBytes: 1}, StringCodec())
	tokens := make(map[string]bool)
	for range 1000 {
		token := newToken(time.Second, noOutcome)
		tokens[token] = true
		require.True(t, isLease(token))
		require.True(t, isLease([]byte(token)))
		_, err := f.decode("k", []byte(token))
		require.Equal(t, errLease, err)
		require.ErrorIs(t, err, ErrInvalidValue)
	}
	require.Len(t, tokens, 1000, "no two are the same")
	token := newToken(time.Second, noOutcome)
	require.Equal(t, "000003e8", token[tokenTTLAt:tokenBeganAt])
	for _, value := range []string{
		"", "\xCA", "\xCA\x11", "\xCA\x13", "\xCB\x13", "{}", token[:tokenBytes-1], token + "A",
		token[:tokenBytes-1] + "1", token[:tokenBytes-1] + "a", "\xCA\x11" + token[2:], "\xCA\x13000003E8" + token[tokenBeganAt:],
	} {
		require.False(t, isLease(value), "%x", value)
	}
}

func TestEncodeRefusesWhatCannotBeKept(t *testing.T) {
	const most = 10
	f := formOf(t, Config{MaxValueBytes: most}, StringCodec())
	encode := func(value string) error {
		e := newEntry(value, 0, never, 0, 0)
		b, err := f.encode("k", &e, nil, 0, nil)
		require.Equal(t, err == nil, b != nil)
		return err
	}
	require.NoError(t, encode(strings.Repeat("v", 10)))
	err := encode(strings.Repeat("v", 11))
	require.ErrorIs(t, err, ErrInvalidValue)
	require.ErrorContains(t, err, "11 bytes")
	require.ErrorContains(t, err, "MaxValueBytes: 10")
	require.NotContains(t, err.Error(), "vv")

	failing := formOf[string](t, Config{}, xorCodec{errCodec})
	e := newEntry("v", 0, never, 0, 0)
	_, err = failing.encode("k", &e, nil, 0, nil)
	require.ErrorIs(t, err, ErrInvalidValue)
	require.ErrorIs(t, err, errCodec)
	require.NotContains(t, err.Error(), "secret")
	_, err = failing.decode("k", []byte("v"))
	require.ErrorIs(t, err, errCodec)
	require.NotContains(t, err.Error(), "secret")

	for _, value := range []string{"", "short", strings.Repeat("long", 20)} {
		e := newEntry(value, 0, never, 0, 0)
		_, err = formOf(t, Config{}, Codec[string](notAppending{})).encode("k", &e, nil, 0, nil)
		require.ErrorIs(t, err, ErrInvalidValue)
		require.ErrorContains(t, err, "does not append")
	}

	own := formOf[string](t, Config{}, xorCodec{})
	read, err := own.decode("k", requireEncoded(t, own, "k", newEntry("v", 0, never, 0, 0), 0))
	require.NoError(t, err)
	require.Equal(t, "v", read.value)
}

// notAppending forgets what it is to append to.
type notAppending struct{ Codec[string] }

func (notAppending) ID() byte { return 200 }

func (notAppending) Append(_ []byte, value string) ([]byte, error) { return []byte(value), nil }

func TestEachEncodingIsASliceOfItsOwn(t *testing.T) {
	f := formOf(t, Config{}, StringCodec())
	e := newEntry("v", 0, never, 0, 0)
	a, b := requireEncoded(t, f, "k", e, 0), requireEncoded(t, f, "k", e, 0)
	clear(a)
	require.Equal(t, "v", string(b[headerBytes:]), "a client may still be writing the one when the other is made")
}

func TestMillisecondsLeftAreRoundedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := formOf(t, Config{StaleFor: time.Second}, StringCodec())
		now := f.clock.now()
		for ttl, want := range map[time.Duration]int64{
			time.Millisecond: 1001, time.Nanosecond: 1001, 1500 * time.Microsecond: 1002, -time.Hour: 1, -time.Second: 1,
		} {
			e := newEntry("v", now, now+int64(ttl), f.window, 0)
			left, ok := f.millisecondsLeft(&e, nil)
			require.True(t, ok)
			require.Equal(t, want, left, ttl)
		}
		e := newEntry("v", now, never, f.window, 0)
		_, ok := f.millisecondsLeft(&e, nil)
		require.False(t, ok)
	})
}

func TestFingerprintsOfAForeignCodecTellNamesAndTagsApart(t *testing.T) {
	type renamed struct{ A int }
	seen := make(map[uint32]int)
	for i, fingerprint := range []uint32{
		fingerprintOf[struct{ A int }](foreign[struct{ A int }]{}, nil),
		fingerprintOf[renamed](foreign[renamed]{}, nil),
		fingerprintOf[*renamed](foreign[*renamed]{}, nil),
		fingerprintOf[struct {
			A int `msgpack:"a"`
		}](foreign[struct {
			A int `msgpack:"a"`
		}]{}, nil),
		fingerprintOf[struct{ A int32 }](foreign[struct{ A int32 }]{}, nil),
	} {
		require.NotContains(t, seen, fingerprint, i)
		seen[fingerprint] = i
	}
}

// foreign is a codec of which the cache knows nothing.
type foreign[T any] struct{ Codec[T] }

func TestFingerprintsTellWhatJSONSeesApart(t *testing.T) {
	type list struct {
		Next *list
		V    int
	}
	type twoLists struct {
		Next *struct {
			Next *list
			V    string
		}
		V int
	}
	different := map[string]uint32{
		"field": jsonFingerprintOf[struct{ A int }](), "of another type": jsonFingerprintOf[struct{ A string }](),
		"of another name": jsonFingerprintOf[struct{ B int }](), "two": jsonFingerprintOf[struct{ A, B int }](),
		"named by a tag": jsonFingerprintOf[struct {
			A int `json:"a"`
		}](),
		"as a string": jsonFingerprintOf[struct {
			A int `json:",string"`
		}](),
		"list": jsonFingerprintOf[[]struct{ A int }](), "array": jsonFingerprintOf[[2]struct{ A int }](),
		"longer array": jsonFingerprintOf[[3]struct{ A int }](), "map": jsonFingerprintOf[map[string]int](),
		"map of strings": jsonFingerprintOf[map[string]string](), "map by numbers": jsonFingerprintOf[map[int]int](),
		"number": jsonFingerprintOf[int](), "string": jsonFingerprintOf[string](), "boolean": jsonFingerprintOf[bool](),
		"bytes": jsonFingerprintOf[[]byte](), "any": jsonFingerprintOf[any](), "time": jsonFingerprintOf[time.Time](),
		"recursive": jsonFingerprintOf[list](), "almost recursive": jsonFingerprintOf[twoLists](), "record": jsonFingerprintOf[record](),
		"a b a": jsonFingerprintOf[struct {
			A []int
			B []string
			C []int
		}](),
		"a b b": jsonFingerprintOf[struct {
			A []int
			B []string
			C []string
		}](),
	}
	seen := make(map[uint32]string)
	for name, fingerprint := range different {
		require.Empty(t, seen[fingerprint], name)
		seen[fingerprint] = name
	}
}

func TestFingerprintsPassOverWhatJSONDoesNotShow(t *testing.T) {
	type base struct{ ID int }
	type user struct {
		ID   int
		Name string
	}
	type opened struct {
		base
		hidden int
		Left   int     `json:"-"`
		Name   *string `json:",omitempty"`
	}
	type address struct{ City string }
	type billing struct{ City string }
	type label string
	same := func(a, b uint32) { t.Helper(); require.Equal(t, a, b) }
	same(jsonFingerprintOf[user](), jsonFingerprintOf[opened]())
	same(jsonFingerprintOf[user](), jsonFingerprintOf[**user]())
	same(jsonFingerprintOf[[]user](), jsonFingerprintOf[[]*opened]())
	same(jsonFingerprintOf[struct{ From, To address }](), jsonFingerprintOf[struct {
		To   *billing
		From address `validate:"required"`
	}]())
	same(jsonFingerprintOf[map[string]int](), jsonFingerprintOf[map[label]time.Duration]())
}

func jsonFingerprintOf[T any]() uint32 { return fingerprintOf(JSONCodec[T](), nil) }

type pointerToItself *pointerToItself

func TestFingerprintsEndOnTypesThatReferToThemselves(t *testing.T) {
	type even struct{ Next *struct{ Next *even } }
	type list struct{ Next *list }
	type each []each
	type all map[string]all
	require.Equal(t, jsonFingerprintOf[list](), jsonFingerprintOf[even](), "they are written alike")
	require.NotEqual(t, jsonFingerprintOf[each](), jsonFingerprintOf[all]())
	require.NotZero(t, jsonFingerprintOf[pointerToItself]())
}

func TestRefreshAheadIsSpreadOverProcesses(t *testing.T) {
	const ttl, took, processes, rounds = time.Minute, 100 * time.Millisecond, 50, 40
	f := formOf(t, Config{RefreshAhead: 0.5}, StringCodec())
	now := f.clock.now()
	stored := requireEncoded(t, f, key, newEntry("v", now, f.clock.deadline(now, ttl), f.window, 0), took)
	together := 0
	for range rounds {
		var first int64
		all := make([]int64, processes)
		for i := range all { // each process draws for itself when it has read the entry
			read, err := f.decode(key, stored)
			require.NoError(t, err)
			require.GreaterOrEqual(t, read.early(), int64(ttl/2), "never later than the fraction")
			require.LessOrEqual(t, read.early(), int64(ttl*3/4), "never before half of the fraction")
			all[i] = read.early()
			first = max(first, all[i])
		}
		for _, early := range all {
			if first-early < int64(took) {
				together++
			}
		}
	}
	require.Less(t, together, 6*rounds, "most processes find the value refreshed by the first")
}

func TestRefreshAheadOfAnExpensiveFetchIsNotAtOnce(t *testing.T) {
	f := formOf(t, Config{RefreshAhead: 0.5}, StringCodec())
	now := f.clock.now()
	stored := requireEncoded(t, f, key, newEntry("v", now, f.clock.deadline(now, time.Second), f.window, 0), time.Hour)
	for range 100 {
		read, err := f.decode(key, stored)
		require.NoError(t, err)
		require.LessOrEqual(t, read.early(), int64(750*time.Millisecond))
	}
}
