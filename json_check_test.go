package cacheaside

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// onRedisThatIsAway is a configuration of a server that is not there: what is said of a type does not wait for it.
func onRedisThatIsAway(backend string) Config {
	return Config{Backend: backend, Name: "types", Redis: RedisConfig{Addrs: []string{"127.0.0.1:1"}}, OpTimeout: 20 * time.Millisecond}
}

func TestConstructorsLookAtTheType(t *testing.T) {
	type victim struct {
		Kept string
		lost int
	}
	for _, backend := range []string{BackendRueidis, BackendRueidisAside} {
		for _, opts := range [][]Option{nil, {WithCodec(JSONCodec[*victim]())}} {
			_, err := Open[*victim](t.Context(), onRedisThatIsAway(backend), opts...)
			require.ErrorIs(t, err, ErrInvalidConfig)
			for _, names := range []string{"cacheaside.victim", "field lost is not exported", "WithCodec", "WithLossyJSON"} {
				require.ErrorContains(t, err, names)
			}
		}
		opens[*victim](t, onRedisThatIsAway(backend), WithLossyJSON())
		opens[*victim](t, onRedisThatIsAway(backend), WithCodec(Codec[*victim](foreign[*victim]{})))
	}
	opens[*victim](t, Config{Backend: BackendMemory})
	opens[*victim](t, Config{Backend: BackendNoop})
	_, err := Open[*victim](t.Context(), Config{Backend: BackendMemory}, WithRoundTripCheck(func(string, error) {}))
	require.ErrorIs(t, err, ErrInvalidConfig, "for tests, in memory too")
}

func opens[T any](t *testing.T, cfg Config, opts ...Option) {
	t.Helper()
	c, err := Open[T](t.Context(), cfg, opts...)
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

// refuses expects a cache of type T to be refused for this field. It does not open one: each type of which
// there are caches costs a second to compile.
func refuses[T any](t *testing.T, field string) {
	t.Helper()
	err := jsonReportOf(reflect.TypeFor[T]()).errorOf(reflect.TypeFor[T]())
	require.ErrorIs(t, err, ErrInvalidConfig, field)
	require.ErrorContains(t, err, field)
}

// accepts expects a type to be taken, without a doubt.
func accepts[T any](t *testing.T) {
	t.Helper()
	require.Empty(t, jsonReportOf(reflect.TypeFor[T]()))
}

func TestTypesThatDoNotSurviveJSONAreRefused(t *testing.T) {
	type inner struct {
		Kept int
		lost int
	}
	type tree struct {
		Children []*tree
		Parent   map[string]tree
		cached   string
	}
	refuses[inner](t, "field lost is not exported")
	refuses[*inner](t, "field lost is not exported")
	refuses[struct{ A []map[string]*inner }](t, "field A[][].lost is not exported")
	refuses[[]tree](t, "field [].cached")
	refuses[struct{ inner }](t, "field inner.lost")
	refuses[struct{ mu sync.Mutex }](t, "field mu")
	refuses[struct {
		A string `json:"-" db:"a"`
	}](t, `field A is left out by its tag json:"-"`)
	refuses[struct{ Err error }](t, "field Err is an interface (error)")
	refuses[struct{ error }](t, "field error")
	refuses[error](t, "the value is an interface")
	refuses[struct{ F func() }](t, "field F is a func")
	refuses[map[string]chan int](t, "field [] is a chan")
	refuses[complex128](t, "the value is a complex128")
	refuses[withHidden](t, "field embeddedBase is an embedded pointer")
	refuses[map[float64]int](t, "[key] (float64)")
	refuses[map[[2]int]int](t, "[key] ([2]int)")
	refuses[map[any]int](t, "[key] (interface {})")
	refuses[map[*big.Int]int](t, "[key] (*big.Int)")
	refuses[map[writtenKey]int](t, "[key] (cacheaside.writtenKey) has MarshalText")
	refuses[sameNames](t, `shares the name "X"`)
	refuses[struct {
		embeddedBase
		ID string
	}](t, "field embeddedBase.ID shares")
	refuses[withTimeAlso](t, "field Name is passed over")
	refuses[onlyMarshals](t, "none that reads it")
	refuses[box[box[onlyMarshals]]](t, "field V.V")
	refuses[writtenName](t, "none that reads it")
	refuses[map[string]onlyByPointer](t, "stands in a map")
	refuses[struct {
		N ownNumber `json:",string"`
	}](t, `",string"`)
}

func TestOneRefusalNamesAFewFields(t *testing.T) {
	type many struct{ a, b, c, d, e, f, g int }
	err := jsonReportOf(reflect.TypeFor[many]()).errorOf(reflect.TypeFor[many]())
	require.ErrorContains(t, err, "field e is not exported; and 2 more")
	require.NotContains(t, err.Error(), "field f")
}

func TestTypesThatSurviveJSONAreTaken(t *testing.T) {
	accepts[record](t)
	accepts[time.Time](t)
	accepts[box[map[string]*big.Int]](t)
	accepts[struct {
		A json.RawMessage
		B json.Number `json:",omitempty"`
		C *int        `json:",omitzero,string"`
		_ [8]byte
	}](t)
	accepts[withBase](t)
	accepts[sql.Null[sql.NullTime]](t)
	accepts[box[map[netip.Addr][]url.Values]](t)
	accepts[couple[string, ownNumber]](t)
	accepts[family](t)
	accepts[hiddenByText](t)
	accepts[struct {
		family
		At *hiddenByText
	}](t)
	accepts[withTime](t)
	accepts[box[box[map[int]string]]](t)
	accepts[struct {
		embeddedBase
		Other struct{ ID int } `json:"other"`
	}](t)
	accepts[ownBeside](t)
	accepts[likeNames](t)
}

func TestTypesThatMayNotSurviveJSONAreLoggedOnce(t *testing.T) {
	type mixed struct {
		Meta map[string]any
		Deep **int
		Kind readByKind
		Zero panicsAtZero
	}
	for _, opts := range [][]Option{nil, {WithLossyJSON()}} {
		logged := new(logRecorder)
		opens[*mixed](t, onRedisThatIsAway(BackendRueidis), append(opts, WithLogger(logged.logger()))...)
		var told []map[string]any
		for _, line := range logged.lines(t) {
			if strings.Contains(fmt.Sprint(line["msg"]), "may not come back") {
				told = append(told, line)
			}
		}
		if opts != nil {
			require.Empty(t, told, "it is meant")
			continue
		}
		require.Len(t, told, 1)
		require.Equal(t, "*cacheaside.mixed", told[0]["type"])
		require.Contains(t, told[0]["fields"], "field Meta[] may hold any type")
		require.Contains(t, told[0]["fields"], "field Deep is a **int")
		require.Contains(t, told[0]["fields"], "field Kind (cacheaside.readByKind) has a method that writes it")
		require.Contains(t, told[0]["fields"], "field Zero (cacheaside.panicsAtZero)")
	}
	opens[any](t, onRedisThatIsAway(BackendRueidis), WithLogger(slog.New(new(hysteric))))
}

func TestStringsThatAreNoUTF8AreRefusedAndOthersAreNot(t *testing.T) {
	type text struct {
		S string
		R json.RawMessage `json:",omitempty"`
		M map[string]string
	}
	codec := JSONCodec[text]()
	for _, good := range []text{
		{S: "\ufffd"}, {S: `\ufffd`}, {S: `\\ufffd`}, {S: "\\\ufffd"}, {R: json.RawMessage(`"\ufffd"`)},
	} {
		requireCodec(t, codec, good)
	}
	for _, bad := range []text{
		{S: "\xff"},
		{S: "\\\xff"},
		{S: `\ufffd` + "\xff"},
		{M: map[string]string{"\xff": ""}},
		{S: "\xed\xa0\x80"},
		{S: "\xff", R: json.RawMessage(`"\ufffd"`)},
	} {
		_, err := codec.Append(nil, bad)
		require.ErrorIs(t, err, ErrInvalidValue, "%q", bad)
	}
}

// writtenName is a number that is written as its name, and not read.
type writtenName int

func (writtenName) MarshalText() ([]byte, error) { return []byte("one"), nil }

// readByKind is written by a method of its own and can be read without one.
type readByKind struct{ N int }

func (r readByKind) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, `{"N":%d,"More":1}`, r.N), nil
}

// panicsAtZero is written by a method that does not expect the zero value.
type panicsAtZero struct{ N *int }

func (p panicsAtZero) MarshalJSON() ([]byte, error) { return json.Marshal(map[string]int{"N": *p.N}) }

// writtenKey is a key that is written and not read.
type writtenKey int

func (writtenKey) MarshalText() ([]byte, error) { return []byte("k"), nil }

// couple is a generic struct.
type couple[A, B any] struct {
	A A `json:"a"`
	B B `json:"b,omitempty"`
}

// family refers to itself in several ways.
type (
	family struct {
		Children []family
		Parent   *family
		Others   map[string]*relative
	}
	relative struct{ Of *family }
)

// hiddenByText has fields that are not exported, and both methods for text.
type hiddenByText struct{ a, b int }

func (h hiddenByText) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%d %d", h.a, h.b), nil }

func (h *hiddenByText) UnmarshalText(text []byte) error {
	_, err := fmt.Sscanf(string(text), "%d %d", &h.a, &h.b)
	return err
}

// ownNumber is a number with methods of its own.
type ownNumber int

func (n ownNumber) MarshalJSON() ([]byte, error) { return json.Marshal(int(n)) }

func (n *ownNumber) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, (*int)(n)) }

// ownBeside embeds a type with methods for JSON, and has its own.
type ownBeside struct {
	time.Time
	hidden int
}

func (ownBeside) MarshalJSON() ([]byte, error) { return []byte("1"), nil }

func (o *ownBeside) UnmarshalJSON([]byte) error { o.hidden = 1; return nil }

func init() {
	promises = append(promises,
		promise{"round trip", "the check reports what would not come back, on every backend", holdsEntries, checkRoundTrips},
		promise{"G14", "a string that is no UTF-8 is not changed: it is returned unstored", func(r rig) bool { return r.remote }, checkNoUTF8},
	)
}

func checkRoundTrips(e *env) {
	type item struct {
		Name string
		Any  any
		Tags []string `json:",omitempty"`
		At   time.Time
		big  int
	}
	var mu sync.Mutex
	var found []string
	report := func(k string, err error) {
		mu.Lock()
		defer mu.Unlock()
		require.ErrorIs(e, err, ErrInvalidValue)
		found = append(found, k+": "+err.Error())
	}
	c := open[*item](e, nil, WithLossyJSON(), WithRoundTripCheck(report))
	reported := func(want string) {
		e.Helper()
		mu.Lock()
		defer mu.Unlock()
		if want == "" {
			require.Empty(e, found)
			return
		}
		require.Len(e, found, 1, want)
		require.Contains(e, found[0], want)
		require.NotContains(e, found[0], "secret")
		found = nil
	}
	set := func(v *item) { require.NoError(e, c.Set(e.Context(), key, v, time.Minute)) }
	set(&item{Name: "n", Any: "s", Tags: []string{""}, At: time.Now(), big: 1})
	set(nil)
	reported("")
	set(&item{Any: []any{1.5, 7}})
	reported(key + ": cacheaside: invalid value: field Any[1]")
	set(&item{Tags: []string{}})
	reported("field Tags")
	_, err := c.GetWithFetch(e.Context(), "fetched", time.Minute, serve(&item{Name: "secret\xff"}).fetch)
	require.NoError(e, err)
	reported("fetched: cacheaside: invalid value: field Name")
	_, err = c.GetManyWithFetch(e.Context(), []string{"b"}, time.Minute, func(context.Context, []string) (map[string]*item, error) {
		return map[string]*item{"b": {Any: map[string]any{"secret": 1}}}, nil
	})
	require.NoError(e, err)
	reported("b: cacheaside: invalid value: field Any[]")

	own := open[string](e, func(cfg *Config) { cfg.Name = "own" }, WithCodec(Codec[string](xorCodec{})), WithRoundTripCheck(report))
	require.NoError(e, own.Set(e.Context(), key, "v\xff", time.Minute))
	reported("")
	_, err = Open[*item](e.Context(), e.with(func(cfg *Config) { cfg.Name = "refused" }), WithRoundTripCheck(report))
	require.ErrorIs(e, err, ErrInvalidConfig)
	require.ErrorContains(e, err, "field big is not exported")
	failing := open[string](e, func(cfg *Config) { cfg.Name = "failing" }, WithCodec(Codec[string](xorCodec{errors.New("secret")})), WithRoundTripCheck(report))
	_ = failing.Set(e.Context(), key, "v", time.Minute)
	reported("cannot be encoded")
}

func checkNoUTF8(e *env) {
	seen := newWatcher()
	c := open[*map[string]string](e, nil, WithObserver(seen))
	value := &map[string]string{"a\xff": "1", "a\xfe": "2"}
	require.ErrorIs(e, c.Set(e.Context(), key, value, time.Minute), ErrInvalidValue)
	for i := range 2 {
		v, err := c.GetWithFetch(e.Context(), key, time.Minute, serve(value).fetch)
		require.NoError(e, err)
		require.Equal(e, value, v)
		require.EqualValues(e, i+1, c.Stats().Unstorable)
	}
	require.Equal(e, 2, seen.count(EventUnstorable))
}
