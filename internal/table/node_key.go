package table

import (
	"strings"
	"sync/atomic"
	"unsafe"
)

// A node keeps a copy of its key right before its first field, in the same allocation. A look-up waits for
// memory most of its time: for the bucket, for the node, and for the key if that is a third place. With the
// key in the node it takes two thirds of the time, where the entries are more than the processor's cache holds.
//
// The key ends where the node begins. Its length is in the node's state. What is longer than the largest room
// stands elsewhere, and its string before the node.

const (
	maxShortKey = 80         // the longest key that stands in the node
	longKey     = lengthMask // stands for the length of a longer one
)

// newNode makes a node with a copy of key. Nobody else can see it yet.
func newNode[V any](key string, value V, weight, tag uint32) *node[V] {
	length := uint32(len(key))
	if len(key) > maxShortKey {
		length = longKey
	}
	n := node[V]{value: value, tag: tag, state: length<<lengthShift | packWeight(weight)}
	var made *node[V]
	switch (len(key) + 7) / 8 {
	case 0:
		made = behind[struct{}](n)
	case 1:
		made = behind[[8]byte](n)
	case 2:
		made = behind[[16]byte](n)
	case 3:
		made = behind[[24]byte](n)
	case 4:
		made = behind[[32]byte](n)
	case 5:
		made = behind[[40]byte](n)
	case 6:
		made = behind[[48]byte](n)
	case 7, 8:
		made = behind[[64]byte](n)
	case 9, 10:
		made = behind[[80]byte](n)
	default:
		made = behind[string](n)
		*made.longKey() = strings.Clone(key)
		return made
	}
	copy(unsafe.Slice(made.shortKey(length), length), key)
	return made
}

// behind makes a copy of n behind a Room, whose size is a multiple of what any field must be aligned to. That it
// allocates and fills it in one statement spares it the collector's write barrier.
func behind[Room, V any](n node[V]) *node[V] {
	return &(&struct {
		room Room
		node node[V]
	}{node: n}).node
}

// newNodeBeside is newNode for a value with a pointer, which stands right behind the value.
func newNodeBeside[V any](key string, value V, beside unsafe.Pointer, weight, tag uint32) *node[V] {
	length := uint32(len(key))
	if len(key) > maxShortKey {
		length = longKey
	}
	n := node[V]{value: value, tag: tag, state: length<<lengthShift | packWeight(weight)}
	var made *node[V]
	switch {
	case length == longKey:
		made = between[string](n, beside)
		*made.longKey() = strings.Clone(key)
		return made
	case len(key) <= 16:
		made = between[[16]byte](n, beside)
	case len(key) <= 32:
		made = between[[32]byte](n, beside)
	default:
		made = between[[maxShortKey]byte](n, beside)
	}
	copy(unsafe.Slice(made.shortKey(length), length), key)
	return made
}

// between is behind with a pointer behind the node. A value whose size is no multiple of a pointer's would leave a
// gap before it: V must be aligned as a pointer is, at least.
func between[Room, V any](n node[V], beside unsafe.Pointer) *node[V] {
	return &(&struct {
		room   Room
		node   node[V]
		beside unsafe.Pointer
	}{node: n, beside: beside}).node
}

// Beside returns the pointer that v was put with by PutBeside, and must not be called for any other value.
func Beside[V any](v *V) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Add(unsafe.Pointer(v), unsafe.Sizeof(*v)))
}

// key returns the key of n. As long as it is held, so is n.
func (n *node[V]) key() string {
	length := atomic.LoadUint32(&n.state) >> lengthShift & lengthMask
	if length == longKey {
		return *n.longKey()
	}
	return unsafe.String(n.shortKey(length), length)
}

// shortKey is where a key of that length begins that is in the node.
func (n *node[V]) shortKey(length uint32) *byte {
	return (*byte)(unsafe.Add(unsafe.Pointer(n), -int(length)))
}

// longKey is where the string of a key is that is not.
func (n *node[V]) longKey() *string {
	return (*string)(unsafe.Add(unsafe.Pointer(n), -int(unsafe.Sizeof(""))))
}
