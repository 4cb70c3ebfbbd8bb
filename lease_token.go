package cacheaside

import (
	"crypto/rand"
	"fmt"
	"math"
	"strings"
	"time"
)

// A token stands under a key that is being filled: a lease's first two bytes; its holder's LeaseTTL in milliseconds,
// as eight hexadecimal digits; and letters of five bits each. Nine of them say when its fetch began, in unix
// milliseconds; one how the lease before it ended, if the token has replaced that one's mark; and the others are a text that
// no two tokens share. The LeaseTTL and the time are there for processes that wait. Their own LeaseTTL may be another, and an
// expiry that is further away was not set by a holder. They wait for LeaseWait from when the fetch began.
const (
	tokenTTLAt    = 2
	tokenBeganAt  = tokenTTLAt + 8
	tokenBeforeAt = tokenBeganAt + 9
	tokenTextAt   = tokenBeforeAt + 1
	tokenBytes    = tokenTextAt + tokenText
	tokenText     = 16
	tokenHolder   = 5 // letters of the text, the same in all tokens of a cache
	tokenDigits   = "0123456789abcdef"
	tokenLetters  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
)

// newToken returns a token for one attempt to lease a key.
func newToken(ttl time.Duration, before outcome) string {
	b := make([]byte, 0, tokenBytes)
	b = append(b, magic, version|kindLease)
	b = fmt.Appendf(b, "%08x", min(max(ttl.Milliseconds(), 1), math.MaxUint32))
	began := uint64(max(time.Now().UnixMilli(), 0))
	for shift := 40; shift >= 0; shift -= 5 {
		b = append(b, tokenLetters[began>>shift&31])
	}
	return string(append(append(b, byte(before)), rand.Text()[:tokenText]...))
}

// token returns a token of this cache.
func (a *aside[T]) token(before outcome) string {
	t := newToken(a.lease, before)
	return t[:tokenTextAt] + a.id + t[tokenTextAt+tokenHolder:]
}

// isOurs reports whether a token is one of this cache.
func (a *aside[T]) isOurs(token string) bool { return strings.HasPrefix(token[tokenTextAt:], a.id) }

// isLease reports whether data is a token. Data that only begins as one is not: it is read as any other bytes
// that make no sense, and overwritten, since no process is going to fill its key.
func isLease[B []byte | string](data B) bool {
	if len(data) != tokenBytes || data[0] != magic || data[1] != version|kindLease {
		return false
	}
	for i := tokenTTLAt; i < tokenBytes; i++ {
		allowed := tokenDigits
		if i >= tokenBeganAt {
			allowed = tokenLetters
		}
		if strings.IndexByte(allowed, data[i]) < 0 {
			return false
		}
	}
	return true
}

// tokenAge is how long ago the fetch of a token began, by this process' clock: it may be negative, or far too
// long, where the clocks of two processes differ.
func tokenAge(token string) time.Duration {
	var began int64
	for i := tokenBeganAt; i < tokenBeforeAt; i++ {
		began = began<<5 | int64(strings.IndexByte(tokenLetters, token[i]))
	}
	return time.Duration(time.Now().UnixMilli()-began) * time.Millisecond
}

// outcome is how a lease ended. It is a letter of a token.
type outcome byte

const (
	noOutcome outcome = 'A' // it was let go: the next process leases the key
	notFound  outcome = 'N' // the source has no value
	failed    outcome = 'F' // the fetch failed
	notStored outcome = 'U' // the value was not stored, or the fetch did not end in time
)

// A mark stands for a moment in the place of a token whose fetch has ended without a value that was kept: a mark's
// first two bytes, the outcome, and a text that no two marks share.
const (
	markOutcomeAt = 2
	markTextAt    = markOutcomeAt + 1
	markBytes     = markTextAt + tokenText
)

// markTime is how long a mark stands. Processes that have waited for its lease are told of it at once.
const markTime = time.Second

func newMark(o outcome) string {
	return string([]byte{magic, version | kindOutcome, byte(o)}) + rand.Text()[:tokenText]
}

func isMark[B []byte | string](data B) bool {
	if len(data) != markBytes || data[0] != magic || data[1] != version|kindOutcome {
		return false
	}
	for i := markTextAt; i < markBytes; i++ {
		if strings.IndexByte(tokenLetters, data[i]) < 0 {
			return false
		}
	}
	return true
}

func outcomeOf(mark string) outcome { return outcome(mark[markOutcomeAt]) }
