package cacheaside

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"reflect"
	"strings"
	"sync"
)

// A fingerprint tells types, and shapes of a type, from each other: a value that one release has stored and
// that another reads is a miss if what the codec sees of its type has changed. It holds 32 bits.

// fingerprintOf returns the fingerprint of the values that codec writes.
func fingerprintOf[T any](codec Codec[T], version *int) uint32 {
	if version != nil {
		return fold(hashOf(fmt.Sprintf("schema version %d", *version)))
	}
	t := reflect.TypeFor[T]()
	if _, ok := codec.(jsonCodec[T]); ok {
		return jsonFingerprint(t)
	}
	var b strings.Builder
	describe(&b, t, make(map[reflect.Type]bool))
	return fold(hashOf(b.String()))
}

func hashOf(text string, labels ...uint64) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text)) // never fails
	var b [8]byte
	for _, l := range labels {
		binary.BigEndian.PutUint64(b[:], l)
		_, _ = h.Write(b[:])
	}
	return h.Sum64()
}

func fold(h uint64) uint32 { return uint32(h>>32) ^ uint32(h) }

// describe writes what of a type may decide its stored form by a codec of which nothing is known: names of
// types, and of fields with their tags.
func describe(b *strings.Builder, t reflect.Type, seen map[reflect.Type]bool) {
	b.WriteString(t.Kind().String())
	if t.Name() != "" {
		b.WriteString(" " + t.Name())
	}
	if seen[t] {
		b.WriteString(" " + t.String())
		return
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Chan:
		describe(b, t.Elem(), seen)
	case reflect.Array:
		fmt.Fprintf(b, "[%d]", t.Len())
		describe(b, t.Elem(), seen)
	case reflect.Map:
		describe(b, t.Key(), seen)
		b.WriteByte(':')
		describe(b, t.Elem(), seen)
	case reflect.Struct:
		b.WriteByte('{')
		for i := range t.NumField() {
			field := t.Field(i)
			if field.IsExported() || field.Anonymous {
				fmt.Fprintf(b, "%s %q ", field.Name, field.Tag)
				describe(b, field.Type, seen)
				b.WriteByte(';')
			}
		}
		b.WriteByte('}')
	}
}

// jsonShapes are the types that are reached from one, as JSON sees them: the names of fields, and whether a
// value is a number, a string, a list. Neither the names of types count nor pointers, nor the order of
// fields, nor what is left out when it is empty.
type jsonShapes struct {
	places map[jsonPlace]int // where each type is in all
	all    []jsonShape
}

type jsonShape struct {
	text string
	of   []int // the shapes in it
}

var jsonFingerprints sync.Map // of uint32, by reflect.Type

// jsonFingerprint labels each shape with a hash of itself and of the labels of the shapes in it, again and
// again, until shapes that differ anywhere, however deep, have different labels. So types may refer to
// themselves, and one type in two places is the same as two that are alike.
func jsonFingerprint(t reflect.Type) uint32 {
	if known, ok := jsonFingerprints.Load(t); ok {
		return known.(uint32)
	}
	s := jsonShapes{places: make(map[jsonPlace]int)}
	root := s.add(t, true)
	labels, kinds := make([]uint64, len(s.all)), 0
	for {
		labels = s.relabel(labels)
		n := countLabels(labels)
		if n == kinds {
			break
		}
		kinds = n
	}
	for range 2 * kinds { // so many steps tell the shapes of two types apart, too, if both have this many kinds
		labels = s.relabel(labels)
	}
	h := fold(hashOf(fmt.Sprint(kinds), labels[root]))
	jsonFingerprints.Store(t, h)
	return h
}

func (s *jsonShapes) relabel(labels []uint64) []uint64 {
	next := make([]uint64, len(labels))
	for i, shape := range s.all {
		inner := make([]uint64, len(shape.of))
		for j, at := range shape.of {
			inner[j] = labels[at]
		}
		next[i] = hashOf(shape.text, inner...)
	}
	return next
}

func countLabels(labels []uint64) int {
	all := make(map[uint64]struct{}, len(labels))
	for _, l := range labels {
		all[l] = struct{}{}
	}
	return len(all)
}

// maxPointers is how many pointers may lead to a value: a type may be a pointer to itself.
const maxPointers = 16

// add adds the shape of t, unless it is there, and returns its place.
func (s *jsonShapes) add(t reflect.Type, addressable bool) int {
	for range maxPointers {
		if t.Kind() == reflect.Pointer {
			t, addressable = t.Elem(), true
		}
	}
	place := jsonPlace{t, addressable}
	if at, ok := s.places[place]; ok {
		return at
	}
	at := len(s.all)
	s.places[place] = at
	s.all = append(s.all, jsonShape{})
	shape := s.shapeOf(t, addressable)
	s.all[at] = shape
	return at
}

func (s *jsonShapes) shapeOf(t reflect.Type, addressable bool) jsonShape {
	if t.Kind() != reflect.Interface && t.Kind() != reflect.Pointer {
		if m := jsonMethodsOf(t, addressable); m != (jsonMethods{}) {
			return jsonShape{text: "as its methods write it: " + t.Name()}
		}
	}
	switch k := t.Kind(); k {
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 && jsonMethodsOf(t.Elem(), true).writes == noMethod {
			return jsonShape{text: "bytes"}
		}
		return jsonShape{"list", []int{s.add(t.Elem(), true)}}
	case reflect.Array: // its length counts: elements that are too many are left out without an error
		return jsonShape{fmt.Sprintf("%d of", t.Len()), []int{s.add(t.Elem(), addressable)}}
	case reflect.Map:
		return jsonShape{"map by " + keyText(t.Key()), []int{s.add(t.Elem(), false)}}
	case reflect.Struct:
		return s.structShape(t, addressable)
	case reflect.String, reflect.Bool:
		if t == reflect.TypeFor[json.Number]() {
			return jsonShape{text: "number"}
		}
		return jsonShape{text: k.String()}
	default:
		if isNumber(k) {
			return jsonShape{text: "number"}
		}
		return jsonShape{text: k.String()}
	}
}

func (s *jsonShapes) structShape(t reflect.Type, addressable bool) jsonShape {
	shape := jsonShape{text: "struct"}
	for _, f := range jsonStructOf(t).fields {
		shape.text += fmt.Sprintf(" %q", f.name)
		if f.quoted {
			shape.text += " as a string"
		}
		shape.of = append(shape.of, s.add(f.typ, addressable))
	}
	return shape
}

func isNumber(k reflect.Kind) bool { return k >= reflect.Int && k <= reflect.Float64 }

// keyText says how the keys of a map are written.
func keyText(t reflect.Type) string {
	switch {
	case t.Kind() == reflect.String:
		return "string"
	case t.Implements(textMarshaler):
		return t.Name()
	case isNumber(t.Kind()):
		return "number"
	}
	return t.String()
}
