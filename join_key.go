package cacheaside

import (
	"fmt"
	"strings"
)

// JoinKey makes one key of any parts: JoinKey("org", "7", "page", "2") is "org:7:page:2". A colon or a backslash
// within a part gets a backslash in front of it, so two lists of parts never have the same key. [SplitKey] undoes it.
func JoinKey(parts ...string) string {
	if len(parts) == 0 {
		return noParts
	}
	n := len(parts) - 1
	for _, p := range parts {
		n += len(p)
	}
	var b strings.Builder
	b.Grow(n)
	for i, p := range parts {
		if i > 0 {
			b.WriteByte(':')
		}
		for {
			at := strings.IndexAny(p, `:\`)
			if at < 0 {
				break
			}
			b.WriteString(p[:at])
			b.WriteByte('\\')
			b.WriteByte(p[at])
			p = p[at+1:]
		}
		b.WriteString(p)
	}
	return b.String()
}

// noParts is the key of no parts, which the key of one empty part is not.
const noParts = `\`

// SplitKey returns the parts that [JoinKey] has made key of. For a string that JoinKey does not return, the error
// matches [ErrInvalidKey].
func SplitKey(key string) ([]string, error) {
	if key == noParts {
		return []string{}, nil
	}
	var parts []string
	var part strings.Builder
	for i := 0; i < len(key); i++ {
		switch key[i] {
		case ':':
			parts = append(parts, part.String())
			part.Reset()
			continue
		case '\\':
			if i++; i == len(key) || key[i] != ':' && key[i] != '\\' {
				return nil, fmt.Errorf("%w: the backslash at byte %d has neither a colon nor a backslash after it", ErrInvalidKey, i-1)
			}
		}
		part.WriteByte(key[i])
	}
	return append(parts, part.String()), nil
}
