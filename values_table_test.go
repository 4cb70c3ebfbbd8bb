package cacheaside

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside/internal/redistest"
)

var updateDocs = flag.Bool("update-docs", false, "write the tables of docs/ that tests make")

// kindOfValue is a row of the table in docs/backends.md of what a value may be.
type kindOfValue struct {
	name  string
	typ   reflect.Type
	value any
	codec func(lossy bool) anyCodec
	check bool // the constructor would look at the type
}

// kind is a value of type V that is written as JSON, or by a codec of its own.
func kind[V any](name string, value V, own ...Codec[V]) kindOfValue {
	return kindOfValue{name, reflect.TypeFor[V](), value, func(lossy bool) anyCodec {
		codec := Codec[V](jsonCodec[V]{lossy: lossy})
		if own != nil {
			codec = own[0]
		}
		return anyCodec{
			append: func(dst []byte, v any) ([]byte, error) { return codec.Append(dst, v.(V)) },
			decode: func(data []byte) (any, error) { return codec.Decode(data) },
		}
	}, own == nil}
}

// anyCodec is the codec of one kind of value for a cache that may hold each of them: caches of fifty types would
// take minutes to compile.
type anyCodec struct {
	append func(dst []byte, v any) ([]byte, error)
	decode func(data []byte) (any, error)
}

func (anyCodec) ID() byte { return 100 }

func (a anyCodec) Append(dst []byte, v any) ([]byte, error) { return a.append(dst, v) }

func (a anyCodec) Decode(data []byte) (any, error) { return a.decode(data) }

// store stores the value on a backend, reads it back, and says what became of it.
func (k kindOfValue) store(t *testing.T, cfg Config, lossy bool) string {
	doubt := ""
	if cfg.Backend != BackendMemory && k.check && !lossy {
		r := jsonReportOf(k.typ)
		if r.errorOf(k.typ) != nil {
			return "refused at the start"
		}
		if len(r.doubtful) > 0 {
			doubt = ", logged at the start"
		}
	}
	c, err := Open[any](t.Context(), cfg, WithCodec(Codec[any](k.codec(lossy))))
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	if err := c.Set(t.Context(), key, k.value, time.Minute); err != nil {
		require.ErrorIs(t, err, ErrInvalidValue)
		return "refused by `Set`" + doubt
	}
	got, err := c.Get(t.Context(), key)
	if err != nil {
		require.ErrorIs(t, err, ErrMiss)
		return "never a hit" + doubt
	}
	same := comparison{seen: make(map[pointers]bool)}
	if same.difference(reflect.ValueOf(k.value), reflect.ValueOf(got), "") != "" {
		return "changed" + doubt
	}
	return "as it was" + doubt
}

type (
	plainValue struct {
		ID   int64
		Name string `json:"name"`
	}
	embeddedBase struct{ ID int }
	EmbeddedBase struct{ ID int }
	withBase     struct{ embeddedBase }
	withPointer  struct{ *EmbeddedBase }
	withHidden   struct{ *embeddedBase }
	withTime     struct{ time.Time }
	withTimeAlso struct {
		time.Time
		Name string
	}
	box[V any]    struct{ V V }
	onlyMarshals  struct{ n int }
	onlyReads     struct{ N int }
	onlyByPointer struct{ n int }
	leftSide      struct{ X int }
	rightSide     struct{ X int }
	sameNames     struct {
		leftSide
		rightSide
	}
	likeNames struct {
		A int `json:"id"`
		B int `json:"ID"`
	}
)

func (onlyMarshals) MarshalJSON() ([]byte, error) { return []byte(`"1"`), nil }

func (o *onlyReads) UnmarshalJSON(data []byte) error {
	type plain onlyReads
	return json.Unmarshal(data, (*plain)(o))
}

func (o *onlyByPointer) MarshalJSON() ([]byte, error)    { return json.Marshal(o.n) }
func (o *onlyByPointer) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &o.n) }

func kindsOfValues() []kindOfValue {
	one, null := 1, (*int)(nil)
	return []kindOfValue{
		kind("a struct with exported fields", plainValue{1, "n"}),
		kind("a pointer to one, and a nil pointer", []*plainValue{{1, "n"}, nil}),
		kind("a nil pointer", (*plainValue)(nil)),
		kind("a pointer to a pointer", func() **int { p := &one; return &p }()),
		kind("a pointer to a nil pointer", &null),
		kind("a string", "text ü \u2028 <&>"),
		kind("a string that is no UTF-8", "a\xff"),
		kind("a string that is no UTF-8, by `StringCodec`", "a\xff", StringCodec()),
		kind("`[]byte`", []byte{0, 0xff}),
		kind("`[]byte`, by `BytesCodec`", []byte{0, 0xff}, BytesCodec()),
		kind("an empty `[]byte`, by `BytesCodec`", []byte{}, BytesCodec()),
		kind("a nil `[]byte`, by `BytesCodec`", []byte(nil), BytesCodec()),
		kind("an `int64` beyond 2^53", int64(1<<62+1)),
		kind("a `float64`", 0.1),
		kind("NaN, an infinity", []float64{math.NaN()}),
		kind("a complex number", complex(1, 1)),
		kind("a slice, nil or empty", [][]int{nil, {}, {1}}),
		kind("an empty slice with `omitempty` or `omitzero`", struct {
			A []int `json:",omitempty"`
			B []int `json:",omitzero"`
		}{[]int{}, []int{}}),
		kind("an array", [2]int{1, 2}),
		kind("a map with keys of a string or an integer type", map[int8]string{-1: "a"}),
		kind("a map with keys that have both text methods", map[netip.Addr]int{netip.MustParseAddr("::1"): 1}),
		kind("a map with keys of another type", map[bool]int{true: 1}),
		kind("a map with a key that is no UTF-8", map[string]int{"a\xff": 1, "a\xfe": 2}),
		kind("`time.Time`, apart from its monotonic clock", time.Now()),
		kind("`time.Duration`", time.Second),
		kind("`*big.Int`, or another type with both methods for JSON", big.NewInt(1<<40)),
		kind("`json.RawMessage`, written as encoding/json does", json.RawMessage(`{"a":1}`)),
		kind("`json.RawMessage` with spaces", json.RawMessage(`{"a": 1}`)),
		kind("`json.Number`", json.Number("1.50")),
		kind("an empty `json.Number`", json.Number("")),
		kind("an `any` with a string, a bool, a `float64`, nil", []any{"s", true, 1.5, nil}),
		kind("an `any` with another number or a struct", []any{1, plainValue{1, "n"}}),
		kind("an interface with methods, `error` for instance", box[error]{errors.New("e")}),
		kind("a field that is not exported", struct {
			A int
			b int
		}{1, 2}),
		kind("a mutex", &struct{ mu sync.Mutex }{}),
		kind("a field of no size that is not exported (`noCopy`)", struct {
			A int
			_ struct{}
			b [0]func()
		}{A: 1}),
		kind("a field with the tag `json:\"-\"`", struct {
			A int `json:"-"`
		}{1}),
		kind("a field with the option `,string`", struct {
			A int    `json:",string"`
			B string `json:",string"`
		}{1, `"`}),
		kind("an embedded struct that is not exported", withBase{embeddedBase{1}}),
		kind("an embedded pointer to an exported struct", withPointer{&EmbeddedBase{1}}),
		kind("an embedded pointer to a struct that is not exported", withHidden{&embeddedBase{1}}),
		kind("an embedded `time.Time` alone", withTime{time.Unix(1, 2)}),
		kind("an embedded `time.Time` beside other fields", withTimeAlso{time.Unix(1, 2), "n"}),
		kind("two fields with one name in JSON", sameNames{leftSide{1}, rightSide{2}}),
		kind("two names in JSON that differ by case", likeNames{1, 2}),
		kind("a generic struct", box[box[string]]{box[string]{"v"}}),
		kind("a type with `MarshalJSON` and no `UnmarshalJSON`", onlyMarshals{1}),
		kind("one that its fields can be read from all the same", readByKind{1}),
		kind("a type with `UnmarshalJSON` and no `MarshalJSON`", onlyReads{1}),
		kind("a type whose pointer has both, as a field", box[onlyByPointer]{onlyByPointer{1}}),
		kind("the same in a map", map[string]onlyByPointer{"a": {1}}),
		kind("a func, a channel", box[func()]{}),
		kind("a struct by a codec of your own", plainValue{1, "n"}, Codec[plainValue](ownCodec{})),
	}
}

// ownCodec stands for a codec of the user.
type ownCodec struct{}

func (ownCodec) ID() byte { return 200 }

func (ownCodec) Append(dst []byte, v plainValue) ([]byte, error) {
	return fmt.Appendf(dst, "%d %s", v.ID, v.Name), nil
}

func (ownCodec) Decode(data []byte) (v plainValue, err error) {
	_, err = fmt.Sscanf(string(data), "%d %s", &v.ID, &v.Name)
	return v, err
}

const (
	tableBegins = "<!-- made by TestTheTableOfValues -->\n"
	tableEnds   = "<!-- end -->\n"
)

func TestTheTableOfValues(t *testing.T) {
	server := redistest.Start(t)
	n := 0
	config := func(backend string) Config {
		if backend == BackendMemory {
			return Config{Backend: BackendMemory}
		}
		cfg, err := ParseConfig(server.URL(backend))
		require.NoError(t, err)
		n++
		cfg.Prefix, cfg.OpTimeout = fmt.Sprint("values", n), 3*time.Second
		return cfg
	}
	var table strings.Builder
	table.WriteString("| value | memory | rueidis, rueidis-aside | the same, with `WithLossyJSON` |\n|---|---|---|---|\n")
	for _, k := range kindsOfValues() {
		memory := k.store(t, config(BackendMemory), false)
		redis, lossy := k.store(t, config(BackendRueidis), false), k.store(t, config(BackendRueidis), true)
		require.Equal(t, redis, k.store(t, config(BackendRueidisAside), false), k.name)
		require.Equal(t, lossy, k.store(t, config(BackendRueidisAside), true), k.name)
		fmt.Fprintf(&table, "| %s | %s | %s | %s |\n", k.name, memory, redis, lossy)
	}
	const file = "docs/backends.md"
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(text), tableBegins)
	require.True(t, ok)
	was, after, ok := strings.Cut(rest, tableEnds)
	require.True(t, ok)
	if *updateDocs {
		require.NoError(t, os.WriteFile(file, []byte(before+tableBegins+table.String()+tableEnds+after), 0o600))
		return
	}
	require.Equal(t, table.String(), was, "run go test -run TestTheTableOfValues -update-docs")
}
