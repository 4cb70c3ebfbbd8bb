package cacheaside

import (
	"math"
	"reflect"
	"strconv"
	"strings"
)

// comparison looks for the first difference of two values. It is stricter than encodings are, an empty slice is
// not nil, and laxer than reflect.DeepEqual: an Equal method decides, as for time.Time, NaN is NaN, and what
// a type hides may be nil or empty.
type comparison struct {
	lossy bool // fields that JSON leaves out are not compared
	seen  map[pointers]bool
}

// pointers are two that are being compared, so that values that refer to themselves end.
type pointers struct{ a, b uintptr }

// difference returns the place where a and b differ, and "" if they do not. b has the type of a.
func (c *comparison) difference(a, b reflect.Value, path string) string {
	if !a.IsValid() || !b.IsValid() || a.Type() != b.Type() {
		return differs(path, a.IsValid() == b.IsValid() && !a.IsValid())
	}
	switch a.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Interface, reflect.Func, reflect.Chan:
		if a.IsNil() != b.IsNil() {
			hidden := !a.CanInterface() && (a.Kind() == reflect.Slice || a.Kind() == reflect.Map)
			return differs(path, hidden && a.Len() == 0 && b.Len() == 0)
		}
		if a.IsNil() {
			return ""
		}
	}
	if same, ok := equalByMethod(a, b); ok {
		return differs(path, same)
	}
	switch a.Kind() {
	case reflect.Pointer:
		at := pointers{a.Pointer(), b.Pointer()}
		if at.a == at.b || c.seen[at] {
			return ""
		}
		c.seen[at] = true
		return c.difference(a.Elem(), b.Elem(), path)
	case reflect.Interface:
		return c.difference(a.Elem(), b.Elem(), path)
	case reflect.Slice, reflect.Array:
		return c.elements(a, b, path)
	case reflect.Map:
		return c.entries(a, b, path)
	case reflect.Struct:
		return c.fields(a, b, path)
	}
	return differs(path, sameScalar(a, b))
}

// differs is path unless the values there are the same.
func differs(path string, same bool) string {
	switch {
	case same:
		return ""
	case path == "":
		return "the value"
	}
	return "field " + strings.TrimPrefix(path, ".")
}

// equalByMethod compares by an Equal method of the values' type, if there is one that may be called.
func equalByMethod(a, b reflect.Value) (same, ok bool) {
	if !a.CanInterface() || a.Kind() == reflect.Interface {
		return false, false
	}
	m := a.MethodByName("Equal")
	if !m.IsValid() || m.Type().NumIn() != 1 || m.Type().In(0) != a.Type() ||
		m.Type().NumOut() != 1 || m.Type().Out(0).Kind() != reflect.Bool {
		return false, false
	}
	return m.Call([]reflect.Value{b})[0].Bool(), true
}

func (c *comparison) elements(a, b reflect.Value, path string) string {
	if a.Len() != b.Len() {
		return differs(path, false)
	}
	for i := range a.Len() {
		if d := c.difference(a.Index(i), b.Index(i), path+"["+strconv.Itoa(i)+"]"); d != "" {
			return d
		}
	}
	return ""
}

func (c *comparison) entries(a, b reflect.Value, path string) string {
	if a.Len() != b.Len() {
		return differs(path, false)
	}
	for i := a.MapRange(); i.Next(); {
		other := b.MapIndex(i.Key())
		if !other.IsValid() {
			return differs(path+"[key]", false)
		}
		if d := c.difference(i.Value(), other, path+"[]"); d != "" { // without the key, which is data
			return d
		}
	}
	return ""
}

func (c *comparison) fields(a, b reflect.Value, path string) string {
	t := a.Type()
	skips := c.lossy && jsonMethodsOf(t, true) == jsonMethods{}
	for i := range t.NumField() {
		f := t.Field(i)
		if skips && (f.Tag.Get("json") == "-" || !f.IsExported() && !f.Anonymous) || f.Name == "_" {
			continue
		}
		if d := c.difference(a.Field(i), b.Field(i), path+"."+f.Name); d != "" {
			return d
		}
	}
	return ""
}

func sameScalar(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Float32, reflect.Float64:
		x, y := a.Float(), b.Float()
		return x == y || math.IsNaN(x) && math.IsNaN(y)
	case reflect.Func:
		return false // only nil ones can be compared
	default:
		return a.Equal(b)
	}
}
