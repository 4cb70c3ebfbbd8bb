package cacheaside

import (
	"cmp"
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"unicode"
)

// jsonField is a field of a struct as encoding/json sees it: those of embedded structs stand beside the
// struct's own.
type jsonField struct {
	name   string // in JSON
	path   string // in Go, with the embedded structs that lead to it
	typ    reflect.Type
	quoted bool // with the option ",string"
	tagged bool // the name is from a tag
	depth  int  // how many embedded structs lead to it
}

// lostField is a field of a struct whose value JSON does not bring back.
type lostField struct {
	path string
	typ  reflect.Type
	why  string
}

// jsonStruct is a struct as encoding/json sees it.
type jsonStruct struct {
	fields []jsonField // in the order of their names
	lost   []lostField
}

// embeddedStruct is a struct whose fields count as those of the struct that embeds it.
type embeddedStruct struct {
	typ  reflect.Type
	path string // with a dot at its end
}

// jsonStructOf goes through a struct level by level, as encoding/json does, since of two fields with one
// name the one with fewer embedded structs above it counts.
func jsonStructOf(t reflect.Type) jsonStruct {
	var s jsonStruct
	visited := make(map[reflect.Type]bool)
	for depth, level := 0, []embeddedStruct{{typ: t}}; len(level) > 0; depth++ {
		var next []embeddedStruct
		for _, e := range level {
			if !visited[e.typ] {
				next = append(next, s.open(e, depth)...)
			}
		}
		for _, e := range level { // not before: a struct that is embedded twice at one level counts twice
			visited[e.typ] = true
		}
		level = next
	}
	s.hide()
	return s
}

// open adds the fields of one struct, and returns the structs that it embeds.
func (s *jsonStruct) open(e embeddedStruct, depth int) (embedded []embeddedStruct) {
	for i := range e.typ.NumField() {
		field := e.typ.Field(i)
		path := e.path + field.Name
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		target := field.Type
		if target.Name() == "" && target.Kind() == reflect.Pointer {
			target = target.Elem()
		}
		isEmbedded := field.Anonymous && target.Kind() == reflect.Struct
		if !isValidJSONName(name) {
			name = ""
		}
		switch {
		case field.Tag.Get("json") == "-":
			s.lost = append(s.lost, lostField{path, field.Type, `is left out by its tag json:"-"`})
		case !field.IsExported() && !isEmbedded:
			s.lost = append(s.lost, lostField{path, field.Type, "is not exported"})
		case !field.IsExported() && field.Type.Kind() == reflect.Pointer:
			s.lost = append(s.lost, lostField{path, field.Type, "is an embedded pointer to a struct that is not exported, which cannot be decoded"})
		case isEmbedded && name == "":
			embedded = append(embedded, embeddedStruct{target, path + "."})
		default:
			f := jsonField{name: name, path: path, typ: field.Type, tagged: name != "", depth: depth}
			f.quoted = isQuotable(target.Kind()) && slices.Contains(strings.Split(options, ","), "string")
			f.name = cmp.Or(name, field.Name)
			s.fields = append(s.fields, f)
		}
	}
	return embedded
}

// hide sorts the fields, and moves to the lost ones those that encoding/json passes over because another
// has their name: at the same depth it takes neither, unless just one has its name from a tag.
func (s *jsonStruct) hide() {
	slices.SortStableFunc(s.fields, func(a, b jsonField) int {
		return cmp.Or(strings.Compare(a.name, b.name), cmp.Compare(a.depth, b.depth), -compareBools(a.tagged, b.tagged))
	})
	var kept []jsonField
	for rest := s.fields; len(rest) > 0; {
		same := 1
		for same < len(rest) && rest[same].name == rest[0].name {
			same++
		}
		hidden := rest[1:same]
		if same > 1 && rest[1].depth == rest[0].depth && rest[1].tagged == rest[0].tagged {
			hidden = rest[:same]
		} else {
			kept = append(kept, rest[0])
		}
		for _, f := range hidden {
			s.lost = append(s.lost, lostField{f.path, f.typ, `shares the name "` + f.name + `" in JSON with another field`})
		}
		rest = rest[same:]
	}
	s.fields = kept
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// isValidJSONName reports whether encoding/json takes this name from a tag.
func isValidJSONName(name string) bool {
	for _, r := range name {
		if !strings.ContainsRune("!#$%&()*+-./:;<=>?@[]^_{|}~ ", r) && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return false
		}
	}
	return name != ""
}

// isQuotable reports whether the option ",string" has an effect on values of this kind.
func isQuotable(k reflect.Kind) bool {
	return k >= reflect.Bool && k <= reflect.Float64 || k == reflect.String
}

// jsonPlace is a type at a place where its values have an address or not: encoding/json treats them differently.
type jsonPlace struct {
	typ         reflect.Type
	addressable bool
}

// jsonMethods are the methods by which a type writes itself as JSON, and reads itself.
type jsonMethods struct{ writes, reads jsonMethod }

type jsonMethod int

const (
	noMethod jsonMethod = iota
	jsonOwn             // MarshalJSON or UnmarshalJSON
	textOwn             // MarshalText or UnmarshalText
)

var (
	jsonMarshaler   = reflect.TypeFor[json.Marshaler]()
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textMarshaler   = reflect.TypeFor[encoding.TextMarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// jsonMethodsOf returns the methods that encoding/json uses of t, which is neither a pointer nor an interface.
// Those of its pointer write only what has an address: the value of a map has none.
func jsonMethodsOf(t reflect.Type, addressable bool) (m jsonMethods) {
	pointer := reflect.PointerTo(t)
	writes := func(i reflect.Type) bool { return t.Implements(i) || addressable && pointer.Implements(i) }
	switch {
	case writes(jsonMarshaler):
		m.writes = jsonOwn
	case writes(textMarshaler):
		m.writes = textOwn
	}
	switch {
	case pointer.Implements(jsonUnmarshaler):
		m.reads = jsonOwn
	case pointer.Implements(textUnmarshaler):
		m.reads = textOwn
	}
	return m
}
