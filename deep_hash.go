package cacheaside

import (
	"encoding/binary"
	"hash/maphash"
	"maps"
	"math"
	"reflect"
	"time"
)

// deepHash hashes a value with all that it points to, unexported fields too. Values of one type that differ
// in anything that a reader could see differ in their hash, but for what it leaves out: locks and atomics,
// and where a time.Location points, which fills itself in.
//
// Maps that share maps have as many ways through them as the product of their sizes. After maxPairs of them
// deepHash gives up, and returns zero.
func deepHash(seed maphash.Seed, v reflect.Value) uint64 {
	left := maxPairs
	h := deepHasher{seen: make(map[pointee]bool), seed: seed, left: &left}
	h.out.SetSeed(seed)
	h.add(v)
	if left < 0 {
		return 0
	}
	return h.out.Sum64()
}

const maxPairs = 1 << 22

type deepHasher struct {
	out  maphash.Hash
	seed maphash.Seed
	seen map[pointee]bool // what has been hashed already, or is being: pointers may go round in circles

	// left is how many pairs of maps may still be hashed, by this hasher and all that it was made for.
	left *int
}

// pointee is where a pointer, slice or map points to, and as what.
type pointee struct {
	at  uintptr
	len int
	as  reflect.Type
}

func (h *deepHasher) add(v reflect.Value) {
	h.number(uint64(v.Kind()))
	switch v.Kind() {
	case reflect.Bool:
		h.number(map[bool]uint64{true: 1}[v.Bool()])
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		h.number(uint64(v.Int()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		h.number(v.Uint())
	case reflect.Float32, reflect.Float64:
		h.number(math.Float64bits(v.Float()))
	case reflect.Complex64, reflect.Complex128:
		h.number(math.Float64bits(real(v.Complex())))
		h.number(math.Float64bits(imag(v.Complex())))
	case reflect.String:
		h.number(uint64(v.Len()))
		_, _ = h.out.WriteString(v.String()) // never fails
	case reflect.Chan, reflect.Func, reflect.UnsafePointer:
		h.number(uint64(v.Pointer()))
	case reflect.Interface:
		if !v.IsNil() {
			_, _ = h.out.WriteString(v.Elem().Type().String()) // never fails
			h.add(v.Elem())
		}
	default:
		h.parts(v)
	}
}

// parts adds what consists of other values.
func (h *deepHasher) parts(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		h.pointer(v)
	case reflect.Struct:
		if path := v.Type().PkgPath(); path == "sync" || path == "sync/atomic" {
			return
		}
		for i := range v.NumField() {
			h.add(v.Field(i))
		}
	case reflect.Array:
		h.elements(v)
	case reflect.Slice:
		if h.number(uint64(v.Len())); h.enter(v, v.Len()) {
			h.elements(v)
		}
	case reflect.Map:
		if h.number(uint64(v.Len())); h.enter(v, v.Len()) {
			h.pairs(v)
		}
	}
}

func (h *deepHasher) pointer(v reflect.Value) {
	switch {
	case v.IsNil():
		h.number(0)
	case v.Type() == reflect.TypeFor[*time.Location]():
		h.number(uint64(v.Pointer()))
	case h.enter(v, 1):
		h.add(v.Elem())
	}
}

func (h *deepHasher) elements(v reflect.Value) {
	if v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8 {
		_, _ = h.out.Write(v.Bytes()) // never fails
		return
	}
	for i := range v.Len() {
		h.add(v.Index(i))
	}
}

// pairs adds a map, whose order is another one each time: the sum of what its pairs hash to has none. A pair
// does not know what another one has visited, since it would depend on the order which of them came first.
func (h *deepHasher) pairs(v reflect.Value) {
	var sum uint64
	for pairs := v.MapRange(); pairs.Next() && *h.left >= 0; {
		*h.left -= 1 + len(h.seen) // which are copied
		one := deepHasher{seen: maps.Clone(h.seen), seed: h.seed, left: h.left}
		one.out.SetSeed(h.seed)
		one.add(pairs.Key())
		one.add(pairs.Value())
		sum += one.out.Sum64()
	}
	h.number(sum)
}

// enter reports whether this is the first visit to where v points.
func (h *deepHasher) enter(v reflect.Value, n int) bool {
	p := pointee{at: v.Pointer(), len: n, as: v.Type()}
	if n == 0 || h.seen[p] {
		return false
	}
	h.seen[p] = true
	return true
}

func (h *deepHasher) number(n uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	_, _ = h.out.Write(b[:]) // never fails
}
