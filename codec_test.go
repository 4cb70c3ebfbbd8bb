package cacheaside

import (
	"encoding/json"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// record is a value such as services cache.
type record struct {
	ID      int64
	Name    string `json:"name"`
	Tags    []string
	Changed time.Time
	Parent  *record `json:",omitempty"`
}

var aRecord = record{
	ID: 7, Name: "<Ada> & \u2028", Tags: []string{"a", ""}, Changed: time.Unix(1, 2).UTC(), Parent: &record{Name: "p"},
}

// requireCodec shows that values come back from codec as they were, and that it appends.
func requireCodec[T any](t *testing.T, codec Codec[T], values ...T) {
	t.Helper()
	for _, want := range values {
		encoded, err := codec.Append([]byte("before"), want)
		require.NoError(t, err)
		require.Equal(t, "before", string(encoded[:6]))
		got, err := codec.Decode(encoded[6:])
		require.NoError(t, err)
		require.Equal(t, want, got)
		clear(encoded)
		require.Equal(t, want, got, "what is decoded does not share the encoded bytes")
	}
}

func TestCodecsGiveBackWhatTheyTook(t *testing.T) {
	requireCodec(t, JSONCodec[record](), record{}, aRecord)
	requireCodec(t, JSONCodec[*record](), nil, &aRecord)
	requireCodec(t, JSONCodec[string](), "", "\x00 ü \n", "null")
	requireCodec[any](t, JSONCodec[any](), nil, "text", 1.5, map[string]any{"a": nil})
	requireCodec(t, JSONCodec[[]int](), nil, []int{}, []int{1, 2})
	requireCodec(t, JSONCodec[json.RawMessage](), json.RawMessage(`{"a":1}`))
	requireCodec(t, JSONCodec[map[string]int](), nil, map[string]int{"a": 1})
	requireCodec(t, BytesCodec(), []byte{}, []byte("null"), []byte{0, 0xCA, 0xFF})
	requireCodec(t, StringCodec(), "", "text", "\xCA\x11", "\xff")
}

func TestCodecsHaveIDsOfTheirOwn(t *testing.T) {
	ids := map[byte]bool{JSONCodec[int]().ID(): true, BytesCodec().ID(): true, StringCodec().ID(): true}
	require.Len(t, ids, 3)
	for id := range ids {
		require.LessOrEqual(t, id, byte(127))
	}
}

func TestJSONCodecWritesPlainJSON(t *testing.T) {
	encoded, err := JSONCodec[record]().Append(nil, aRecord)
	require.NoError(t, err)
	want, err := json.Marshal(aRecord)
	require.NoError(t, err)
	require.Equal(t, string(want), string(encoded), "other programs read it, and no byte more than needed is stored")
}

// money writes itself by a method of its pointer, as math/big's numbers do.
type money struct{ cents int64 }

func (m *money) MarshalJSON() ([]byte, error) { return json.Marshal(m.cents) }

func (m *money) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &m.cents) }

func TestJSONCodecUsesMethodsOfPointersBothWays(t *testing.T) {
	requireCodec(t, JSONCodec[money](), money{4200})
	type account struct{ Balance money }
	requireCodec(t, JSONCodec[account](), account{money{4200}})
	requireCodec(t, JSONCodec[*account](), &account{money{4200}}, nil)
	requireCodec(t, JSONCodec[map[string]*money](), map[string]*money{"a": {1}, "b": nil}, nil)
	requireCodec[any](t, JSONCodec[any](), "v", nil)
}

func TestJSONCodecReportsWhatItCannotDo(t *testing.T) {
	_, err := JSONCodec[float64]().Append(nil, math.Inf(1))
	var unsupported *json.UnsupportedValueError
	require.ErrorAs(t, err, &unsupported)
	_, err = JSONCodec[func()]().Append(nil, func() {})
	require.Error(t, err)
	for _, bad := range []string{"", "{", "1 2", `{"ID":"seven"}`} {
		_, err = JSONCodec[record]().Decode([]byte(bad))
		require.Error(t, err, bad)
	}
}

// xorCodec is a codec of a user: it keeps strings so that they cannot be read at a glance.
type xorCodec struct{ fails error }

func (xorCodec) ID() byte { return 200 }

func (c xorCodec) Append(dst []byte, value string) ([]byte, error) {
	for i := range len(value) {
		dst = append(dst, value[i]^0x55)
	}
	return dst, c.fails
}

func (c xorCodec) Decode(data []byte) (string, error) {
	b, err := c.Append(nil, string(data))
	return string(b), err
}

var errCodec = errors.New("codec: cannot read secret")
