package cacheaside

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
)

// jsonReport says how values of a type fare when they are written as JSON and read back.
type jsonReport struct {
	lost     []string // fields that do not come back as they were
	doubtful []string // fields for which that depends on the value
}

var jsonReports sync.Map // of jsonReport, by reflect.Type: a type does not change

func jsonReportOf(t reflect.Type) jsonReport {
	if known, ok := jsonReports.Load(t); ok {
		return known.(jsonReport)
	}
	w := jsonWalk{seen: make(map[jsonPlace]bool)}
	w.walk(t, "", true)
	jsonReports.Store(t, w.report)
	return w.report
}

// maxNamedFields is how many fields an error or a line of the log names.
const maxNamedFields = 5

func firstFew(fields []string) string {
	if more := len(fields) - maxNamedFields; more > 0 {
		return fmt.Sprintf("%s; and %d more", strings.Join(fields[:maxNamedFields], "; "), more)
	}
	return strings.Join(fields, "; ")
}

// errorOf refuses the type t, of which this is the report, if it loses anything.
func (r jsonReport) errorOf(t reflect.Type) error {
	if len(r.lost) == 0 {
		return nil
	}
	return fmt.Errorf("%w: values of type %v do not survive JSON, in which Redis would hold them: %s; allowed: "+
		"WithCodec with a codec that keeps them, or WithLossyJSON if it is meant", ErrInvalidConfig, t, firstFew(r.lost))
}

// checkJSON refuses to hold values of type T as JSON if that does not bring them back, and logs what may not
// come back, unless the cache has another codec or WithLossyJSON. In this process nothing is encoded, so there
// it does so only for WithRoundTripCheck.
func (c *Client[T]) checkJSON() error {
	_, isJSON := c.codec.(jsonCodec[T])
	encodes := c.cfg.Backend == BackendRueidis || c.cfg.Backend == BackendRueidisAside
	if !isJSON || c.opts.lossyJSON || !encodes && c.opts.roundTrip == nil {
		return nil
	}
	t := reflect.TypeFor[T]()
	r := jsonReportOf(t)
	if len(r.doubtful) > 0 && len(r.lost) == 0 {
		c.watchers.log(func(l *slog.Logger) {
			l.Warn("cacheaside: some values of this type may not come back from Redis as they were; WithRoundTripCheck finds them in tests",
				"cache", c.cfg.Name, "type", t.String(), "fields", firstFew(r.doubtful))
		})
	}
	return r.errorOf(t)
}

// jsonWalk goes through a type as encoding/json goes through its values. Of a type that occurs in several
// places it reports the first.
type jsonWalk struct {
	seen   map[jsonPlace]bool
	report jsonReport
}

func (w *jsonWalk) lose(path, why string) {
	w.report.lost = append(w.report.lost, fieldName(path)+" "+why)
}

func (w *jsonWalk) doubt(path, why string) {
	w.report.doubtful = append(w.report.doubtful, fieldName(path)+" "+why)
}

// fieldName is a path as an error names it; the value itself has none.
func fieldName(path string) string {
	if path == "" {
		return "the value"
	}
	return "field " + strings.TrimPrefix(path, ".")
}

func (w *jsonWalk) walk(t reflect.Type, path string, addressable bool) {
	if w.seen[jsonPlace{t, addressable}] {
		return
	}
	w.seen[jsonPlace{t, addressable}] = true
	if t.Kind() != reflect.Pointer && t.Kind() != reflect.Interface && w.methods(t, path, addressable) {
		return
	}
	switch t.Kind() {
	case reflect.Pointer:
		if k := t.Elem().Kind(); k == reflect.Pointer || k == reflect.Slice || k == reflect.Map || k == reflect.Interface {
			w.doubt(path, fmt.Sprintf("is a %v, and one that points to nil comes back as nil", t))
		}
		w.walk(t.Elem(), path, true)
	case reflect.Slice:
		w.walk(t.Elem(), path+"[]", true)
	case reflect.Array:
		w.walk(t.Elem(), path+"[]", addressable)
	case reflect.Map:
		w.key(t.Key(), path)
		w.walk(t.Elem(), path+"[]", false)
	case reflect.Struct:
		w.fields(t, path, addressable)
	case reflect.Interface:
		if t.NumMethod() > 0 {
			w.lose(path, fmt.Sprintf("is an interface (%v), which cannot be decoded", t))
		} else {
			w.doubt(path, "may hold any type, and numbers come back as float64, structs as maps")
		}
	case reflect.Func, reflect.Chan, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer, reflect.Invalid:
		w.lose(path, fmt.Sprintf("is a %v, which cannot be encoded", t))
	}
}

func (w *jsonWalk) fields(t reflect.Type, path string, addressable bool) {
	s := jsonStructOf(t)
	for _, f := range s.lost {
		if f.typ.Size() > 0 && !isBlank(f.path) { // nothing is in the others
			w.lose(path+"."+f.path, f.why)
		}
	}
	for _, f := range s.fields {
		own := jsonMethodsOf(pointedTo(f.typ), true)
		if f.quoted && own != (jsonMethods{}) {
			w.lose(path+"."+f.path, `has the option ",string" and methods of its own, so that it cannot be decoded`)
			continue
		}
		w.walk(f.typ, path+"."+f.path, addressable)
	}
}

func isBlank(path string) bool { return path == "_" || strings.HasSuffix(path, "._") }

func pointedTo(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

// methods looks at the methods by which t writes and reads itself, and reports whether there is nothing else to
// look at. A type that has both of a kind is trusted.
func (w *jsonWalk) methods(t reflect.Type, path string, addressable bool) (done bool) {
	m := jsonMethodsOf(t, addressable)
	switch {
	case m == jsonMethods{}:
		return false
	case m.writes == noMethod:
		if jsonMethodsOf(t, true).writes != noMethod {
			w.lose(path, fmt.Sprintf("(%v) stands in a map, where the method of its pointer that writes it is not called", t))
			return true
		}
		w.doubt(path, fmt.Sprintf("(%v) has a method that reads it, and none that writes it", t))
		return false
	case m.reads == noMethod && !zeroIsRead(t):
		w.lose(path, fmt.Sprintf("(%v) has a method that writes it, and none that reads it", t))
	case m.reads == noMethod:
		w.doubt(path, fmt.Sprintf("(%v) has a method that writes it, and none that reads it", t))
	case m.writes != m.reads:
		w.doubt(path, fmt.Sprintf("(%v) is written by MarshalJSON and read by UnmarshalText, or the other way round", t))
	default:
		w.promoted(t, path, m)
	}
	return true
}

// promoted looks whether the methods of a struct are those of a struct that it embeds, which know nothing of
// its other fields.
func (w *jsonWalk) promoted(t reflect.Type, path string, m jsonMethods) {
	if t.Kind() != reflect.Struct {
		return
	}
	methods := []ownMethod{marshalJSON, unmarshalJSON}
	if m.writes == textOwn {
		methods = []ownMethod{marshalText, unmarshalText}
	}
	for _, method := range methods {
		from := method.embeddedIn(t)
		if from == "" || !method.isPromotedTo(t) {
			continue
		}
		for i := range t.NumField() {
			if f := t.Field(i); f.Name != from && f.Name != "_" && f.Type.Size() > 0 {
				w.lose(path+"."+f.Name, fmt.Sprintf("is passed over, since %v has the method %s of its embedded %s", t, method.name, from))
			}
		}
		return
	}
}

// zeroIsRead reports whether the zero value of a type that writes itself can be read by the rules for its kind.
// If even that one cannot, the form that is written is another, such as the name of a number.
func zeroIsRead(t reflect.Type) (read bool) {
	read = true // if its method panics, or returns an error, of the zero value
	defer func() { _ = recover() }()
	data, err := json.Marshal(reflect.New(t).Interface())
	if err != nil {
		return true
	}
	return json.Unmarshal(data, reflect.New(t).Interface()) == nil
}

// key looks at the type of a map's keys, which have no address.
func (w *jsonWalk) key(t reflect.Type, path string) {
	path += "[key]"
	writes, reads := t.Implements(textMarshaler), reflect.PointerTo(t).Implements(textUnmarshaler)
	plain := t.Kind() == reflect.String || t.Kind() >= reflect.Int && t.Kind() <= reflect.Uintptr
	if t.Kind() == reflect.String {
		writes = false // encoding/json takes the string itself
	}
	switch {
	case writes && !reads:
		w.lose(path, fmt.Sprintf("(%v) has MarshalText and no UnmarshalText", t))
	case !writes && !plain:
		w.lose(path, fmt.Sprintf("(%v) cannot be encoded", t))
	case !writes && reads:
		w.doubt(path, fmt.Sprintf("(%v) is read by UnmarshalText, and not written by MarshalText", t))
	}
}
