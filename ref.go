package cacheaside

import (
	"fmt"
	"strings"
)

// Ref names what is to be removed together: a key of a cache, or a tag. Refs are comparable. As text a key of the cache
// "users" is "key:users:42", and a tag "tag:org:7". The zero Ref names nothing. Make them with [Client.Refs] and [Tags].
type Ref struct {
	cache string // "" for a tag: no cache has that name
	name  string // the key, or the tag
	some  bool   // it is not the zero Ref
	bare  bool   // the scope of its key is that of the context in which it is used
}

const (
	keyRef = "key:"
	tagRef = "tag:"
)

// Refs returns a Ref for each of keys, as keys of this cache. If that has scopes, they are keys in the scope of the context in
// which they are used; see [WithScope] and [Client.RefsIn].
func (c *Client[T]) Refs(keys ...string) []Ref {
	refs := make([]Ref, len(keys))
	for i, key := range keys {
		refs[i] = c.ref(key)
	}
	return refs
}

func (c *Client[T]) ref(key string) Ref {
	return Ref{cache: c.cfg.Name, name: key, some: true, bare: c.opts.scope != nil}
}

// Tags returns a Ref for each of tags. A tag belongs to the prefix: whatever carries it is named, in whichever cache.
func Tags(tags ...string) []Ref {
	refs := make([]Ref, len(tags))
	for i, tag := range tags {
		refs[i] = Ref{name: tag, some: true}
	}
	return refs
}

// String returns r as text, and "" for the zero Ref. It holds a key, which logs should not.
func (r Ref) String() string {
	switch {
	case !r.some:
		return ""
	case r.cache == "":
		return tagRef + r.name
	}
	return keyRef + r.cache + ":" + r.name
}

// MarshalText returns r as text. The zero Ref is an error, and so is one that Refs of a cache with scopes has made ([ErrNoScope]):
// text has no context, so [Client.RefsIn] names the scope.
func (r Ref) MarshalText() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	if r.bare {
		return nil, fmt.Errorf("%w: a Ref of the cache %q has left its context, wanted: RefsIn", ErrNoScope, r.cache)
	}
	return []byte(r.String()), nil
}

// UnmarshalText reads what MarshalText writes. An error matches [ErrInvalidKey] or [ErrInvalidTag].
func (r *Ref) UnmarshalText(text []byte) error {
	read := Ref{some: true}
	var found bool
	if read.name, found = strings.CutPrefix(string(text), tagRef); !found {
		rest, isKey := strings.CutPrefix(string(text), keyRef)
		read.cache, read.name, found = strings.Cut(rest, ":")
		if !isKey || !found {
			return fmt.Errorf("%w: a Ref of %d bytes, allowed: key:<name>:<key> or tag:<tag>", ErrInvalidKey, len(text))
		}
		if read.cache == "" {
			return fmt.Errorf("%w: a Ref without the name of a cache, allowed: key:<name>:<key>", ErrInvalidKey)
		}
	}
	if err := read.check(); err != nil {
		return err
	}
	*r = read
	return nil
}

// check returns the error of a Ref that names nothing.
func (r Ref) check() error {
	switch {
	case !r.some:
		return fmt.Errorf("%w: a Ref that names nothing (the zero Ref, or one of a key that its codec cannot write), allowed: what Refs and Tags return", ErrInvalidKey)
	case r.cache == "":
		return checkTag(r.name)
	}
	return checkKey(r.name)
}

// sorted are refs by what they name: each once.
type sorted struct {
	keys map[string][]string // by cache
	tags []string
}

func sortRefs(refs []Ref) (s sorted, err error) {
	s.keys = make(map[string][]string)
	seen := make(map[Ref]struct{}, len(refs))
	for _, r := range refs {
		if err := r.check(); err != nil {
			return s, err
		}
		if _, ok := seen[r]; ok {
			continue
		}
		seen[r] = struct{}{}
		if r.cache == "" {
			s.tags = append(s.tags, r.name)
		} else {
			s.keys[r.cache] = append(s.keys[r.cache], r.name)
		}
	}
	return s, nil
}
