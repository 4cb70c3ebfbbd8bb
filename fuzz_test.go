package cacheaside

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzParseConfig: whatever is parsed is valid, prints, and is read back as it was; nothing panics; and no
// error and no printed form shows a password that stands where passwords belong.
func FuzzParseConfig(f *testing.F) {
	for _, bad := range badConfigs {
		f.Add(bad.text)
	}
	for _, c := range []Config{{}, full, {Backend: BackendRueidis, Redis: RedisConfig{Addrs: []string{"/run/redis.sock"}}}} {
		f.Add(c.String())
	}
	f.Add("memory://?max_entries=100000&stale_for=1m")
	f.Add("rueidis://user:password@host:6379/0?prefix=app&name=users")
	f.Add("rueidis-aside://host1:6379,host2:6379?cluster=true")
	f.Add("rueidis:///run/redis/redis.sock?db=1")
	f.Add("rueidis://?redis=rediss%3A%2F%2Fu%3Ap%40h%3A1%2F2&password=%40%3A%2F&jitter=1e-3")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseConfig(text)
		if err != nil {
			require.ErrorIs(t, err, ErrInvalidConfig)
			require.Equal(t, Config{}, c)
			return
		}
		_, err = c.resolve()
		require.NoError(t, err, "what is parsed can be used")
		printed := c.String()
		read, err := ParseConfig(printed)
		require.NoError(t, err, printed)
		want := c
		if want.Redis.Password != "" {
			want.Redis.Password = redacted
		}
		want.Redis.URL = redactURL(want.Redis.URL)
		require.Equal(t, want, read, printed)
		require.Equal(t, printed, read.String())
		if len(c.Redis.Password) > 20 { // shorter ones are found in anything
			require.NotContains(t, printed, c.Redis.Password)
			c.Jitter = 2
			_, err = c.resolve()
			require.NotContains(t, err.Error(), c.Redis.Password)
		}
	})
}

// FuzzPasswordsStayHidden puts a password into every place where one may stand, as it must not be written.
func FuzzPasswordsStayHidden(f *testing.F) {
	for _, piece := range []string{"", "/", "?", "#", "@", ":", "%zz", "?db=", "?name=", "?tls=", "/0?jitter=", "&", "=", "\x00", "://", ",", "?addrs=", ";"} {
		f.Add("user", piece, "host:6379/0?stale_for=soon")
		f.Add("", piece, "host/x")
		f.Add("user", piece, "")
	}
	const secret = "hunter2hunter2"
	f.Fuzz(func(t *testing.T, user, piece, rest string) {
		if strings.Contains(user+piece+rest, "hunter2") || strings.ContainsAny(user, "/?#:@") {
			t.Skip()
		}
		for _, text := range []string{
			"rueidis://" + user + ":" + piece + secret + "@" + rest,
			"rueidis-aside://" + user + ":1" + piece + secret + "@" + rest,
			"memory://" + user + ":" + piece + secret + "@" + rest,
			"rueidis://?redis=redis://" + user + ":" + piece + secret + "@" + rest,
		} {
			c, err := ParseConfig(text)
			if err != nil {
				require.NotContains(t, err.Error(), secret, text)
				continue
			}
			if strings.Contains(c.Prefix+c.Name+c.Redis.Username+c.Redis.SentinelMaster+strings.Join(c.Redis.Addrs, ""), secret) {
				continue // it was written as something else altogether, and that has been read as it is
			}
			if _, err := clientOption(c.Redis); err != nil {
				require.NotContains(t, err.Error(), secret, text)
			}
			if !strings.ContainsAny(piece, "#?&;%") { // a URL may hold it in places that are none for passwords
				require.NotContains(t, c.String(), secret, text)
			}
		}
	})
}

// FuzzDecode: bytes of any origin are an entry or an error that matches ErrInvalidValue, never a panic; a
// lease is never a value; and what is decoded comes back when it is stored again.
func FuzzDecode(f *testing.F) {
	text, records, raw := formOf(f, Config{StaleFor: time.Hour, RefreshAhead: 0.5}, StringCodec()), formOf(f, Config{MaxValueBytes: 1 << 12}, JSONCodec[record]()), formOf(f, Config{}, BytesCodec())
	now := text.clock.now()
	f.Add("k", requireEncoded(f, text, "k", newEntry("value", now, text.clock.deadline(now, time.Hour), text.window, 0), time.Second))
	f.Add("k", requireEncoded(f, text, "k", newEntry("", now, never, text.window, 0), 0))
	f.Add("", requireEncoded(f, records, "", newEntry(aRecord, now, never, 0, 0), 0))
	f.Add("k", requireEncoded(f, records, "k", negativeEntry[record](now, now+1), 0))
	f.Add("k", requireEncoded(f, raw, "k", newEntry([]byte{0xCA}, now, never, 0, 0), 0))
	f.Add("k", []byte(newToken(time.Second, noOutcome)))
	f.Add("k", []byte(`{"ID":7}`))
	f.Add("k", []byte{})
	f.Add("k", []byte{0xCA, 0x13})
	f.Fuzz(func(t *testing.T, key string, data []byte) {
		requireDecoded(t, text, key, data)
		requireDecoded(t, records, key, data)
		requireDecoded(t, raw, key, data)
		// With a header that fits, so that the rest of the bytes is reached.
		if len(data) >= headerBytes {
			sealed := bytes.Clone(data)
			sealed[0], sealed[1], sealed[2] = magic, version|data[1]&1+1, text.codec.ID()
			binary.BigEndian.PutUint32(sealed[4:], text.fingerprint)
			binary.BigEndian.PutUint32(sealed[28:], seal(key, len(sealed)))
			e := requireDecoded(t, text, key, sealed)
			require.NotNil(t, e)
			if !e.negative() {
				require.Equal(t, string(data[headerBytes:]), e.value)
			}
			until := int64(binary.BigEndian.Uint64(sealed[8:]))
			fresh := text.clock.now() < e.freshUntil(text.window)
			switch wall := time.Now().UnixMilli(); {
			case until < wall-1000:
				require.False(t, fresh, "what is over is not fresh")
			case until > wall+60_000:
				require.True(t, fresh)
			}
		}
	})
}

func requireDecoded[T any](t *testing.T, f *form[T], key string, data []byte) *entry[T] {
	t.Helper()
	before := bytes.Clone(data)
	e, err := f.decode(key, data)
	require.Equal(t, before, data, "what was read is left as it is")
	if err != nil {
		require.ErrorIs(t, err, ErrInvalidValue)
		require.Nil(t, e)
		return nil
	}
	require.False(t, isLease(data), "a lease is never a value")
	require.LessOrEqual(t, len(data), headerBytes+f.maxBytes)
	require.GreaterOrEqual(t, e.early(), int64(0))
	require.GreaterOrEqual(t, e.age(f.clock.now()), time.Duration(0))
	again, err := f.encode(key, e, nil, 0, nil)
	if errors.Is(err, ErrInvalidValue) {
		return e // with a header it is too large
	}
	require.NoError(t, err)
	require.False(t, isLease(again), "what is stored is never a lease")
	same, err := f.decode(key, again)
	require.NoError(t, err)
	require.Equal(t, e.value, same.value)
	require.Equal(t, e.negative(), same.negative())
	return e
}

// FuzzStoredForm: what is stored comes back, with its times, under its own key only.
func FuzzStoredForm(f *testing.F) {
	f.Add("k", "value", int64(time.Minute), int64(time.Second), "other")
	f.Add("", "", int64(NoExpiry), int64(0), "k")
	f.Add("a:b", "\xCA\x13token", int64(1), int64(math.MaxInt64), "a")
	f.Add(strings.Repeat("k", 100), "\x00", int64(-1), int64(-1), strings.Repeat("k", 101))
	f.Fuzz(func(t *testing.T, key, value string, ttl, took int64, other string) {
		if took < 0 {
			t.Skip() // no fetch takes less than no time
		}
		synctest.Test(t, func(t *testing.T) {
			f := formOf(t, Config{StaleFor: time.Minute, RefreshAhead: 0.5}, StringCodec())
			now := f.clock.now()
			rounded := roundUp(max(time.Duration(ttl), 1))
			e := newEntry(value, now, f.clock.deadline(now, rounded), f.window, 0)
			data := requireEncoded(t, f, key, e, time.Duration(took))
			require.Equal(t, value, string(data[headerBytes:]))
			read, err := f.decode(key, data)
			require.NoError(t, err)
			require.Equal(t, value, read.value)
			require.Zero(t, read.age(now))
			if until := e.freshUntil(f.window); until < never/2 {
				require.Equal(t, until, read.freshUntil(f.window))
				require.Equal(t, e.deadline, read.deadline)
				require.LessOrEqual(t, read.early(), max(int64(rounded), int64(time.Millisecond)), "a refresh is not due before it is stored")
			}
			if _, err := f.decode(other, data); other != key && hashKey(other) != hashKey(key) {
				require.ErrorIs(t, err, ErrInvalidValue)
			}
		})
	})
}

// FuzzKeysDoNotMeet: no two of (prefix, name, key) have one key in Redis, a lease's key is none of a value,
// and an invalidation finds its way back.
func FuzzKeysDoNotMeet(f *testing.F) {
	f.Add("cache", "users", "1", "cache", "users", "1:2")
	f.Add("a", "b", "c:d", "a", "b:c", "d")
	f.Add("a", "b", ":", "a", "b", "")
	f.Add("a", "b", "", "a:", "", "b:")
	f.Add("\xff", "\x00", "\n", "\xff\x00", "", "\n")
	f.Fuzz(func(t *testing.T, prefix1, name1, key1, prefix2, name2, key2 string) {
		caches := make([]*aside[int], 2)
		hubs := make([]*nearHub, 2)
		for i, c := range []Config{{Prefix: prefix1, Name: name1}, {Prefix: prefix2, Name: name2}} {
			cfg, err := c.resolve()
			if err != nil {
				require.ErrorIs(t, err, ErrInvalidConfig)
				return
			}
			caches[i] = &aside[int]{remote: remote[int]{name: cfg.Prefix + ":" + cfg.Name + ":"}}
			hubs[i] = newNearHub(cfg.Prefix, cfg.LocalTTL)
			require.NoError(t, hubs[i].add(cfg.Name, caches[i]))
		}
		a, b := caches[0], caches[1]
		same := a.name == b.name && key1 == key2
		require.Equal(t, same, a.redisKey(key1) == b.redisKey(key2))
		require.Equal(t, same, a.leaseKey(key1) == b.leaseKey(key2))
		require.NotEqual(t, a.redisKey(key1), b.leaseKey(key2))
		require.NotEqual(t, a.leaseKey(key1), b.redisKey(key2))

		found, key := hubs[0].route(a.redisKey(key1))
		require.True(t, found == nearCache(a))
		require.Equal(t, key1, key)
		found, _ = hubs[0].route(b.redisKey(key2))
		require.Equal(t, a.name == b.name, found == nearCache(a))
		found, _ = hubs[0].route(a.leaseKey(key1))
		require.Nil(t, found, "a lease is no cache's value")
	})
}

// FuzzLeaseTokens: what begins as a token is never taken for a value, by any codec, whatever follows; and for
// a lease only if it is a whole token.
func FuzzLeaseTokens(f *testing.F) {
	f.Add([]byte(newToken(time.Second, noOutcome)[2:]))
	f.Add([]byte{})
	f.Add([]byte(`{"ID":1}`))
	text, records, raw := formOf(f, Config{}, StringCodec()), formOf(f, Config{}, JSONCodec[record]()), formOf(f, Config{}, BytesCodec())
	f.Fuzz(func(t *testing.T, rest []byte) {
		token := append([]byte{magic, version | kindLease}, rest...)
		isWhole := regexp.MustCompile(`^[0-9a-f]{8}[A-Z2-7]{26}$`).Match(rest)
		require.Equal(t, isWhole, isLease(token))
		_, err1 := text.decode(key, token)
		_, err2 := records.decode(key, token)
		_, err3 := raw.decode(key, token)
		for _, err := range []error{err1, err2, err3} {
			require.ErrorIs(t, err, ErrInvalidValue)
			require.Equal(t, isWhole, err == errLease)
		}
		stored := requireEncoded(t, raw, key, newEntry(token, 0, never, 0, 0), 0)
		require.False(t, isLease(stored), "a value that looks like one is stored as a value")
		e, err := raw.decode(key, stored)
		require.NoError(t, err)
		require.Equal(t, token, e.value)
	})
}
