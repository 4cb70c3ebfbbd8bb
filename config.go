package cacheaside

import (
	"log/slog"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// The backends that [Config.Backend] may name.
const (
	BackendMemory       = "memory"        // values live in this process
	BackendRueidis      = "rueidis"       // values live in Redis
	BackendRueidisAside = "rueidis-aside" // values live in Redis and, coherently, in this process
	BackendNoop         = "noop"          // nothing is kept; fetches are still shared
)

// NoExpiry is the ttl of a value that does not expire.
const NoExpiry time.Duration = math.MaxInt64

// MaxKeyBytes is the longest key that a cache takes.
const MaxKeyBytes = 64 << 10

// Config says where values are kept and how they age. It is plain data: it can be loaded from YAML,
// JSON or the one-line form of [ParseConfig], and it serves a cache of any type. Go values, such as
// functions and codecs, are given as an [Option] instead.
//
// The zero value of every field means its default. Durations are in Go's form ("1m30s").
type Config struct {
	// Backend is "memory", "rueidis", "rueidis-aside" or "noop". Defaults to "memory".
	Backend string `json:"backend,omitempty" yaml:"backend"`

	// Redis says how to reach Redis; the memory backend does not look at it.
	Redis RedisConfig `json:"redis" yaml:"redis"`

	// Prefix is the first part of every key in Redis; it must not contain a colon. Defaults to "cache".
	Prefix string `json:"prefix,omitempty" yaml:"prefix"`

	// Name is this cache's name: the second part of its keys in Redis, and its label in metrics. It
	// must not contain a colon. Caches of one name on one Redis share their values, so give each its own;
	// see [Open]. Defaults to "default".
	Name string `json:"name,omitempty" yaml:"name"`

	// Bus is the URL of a Redis by which memory backends of one Prefix tell each other what they have changed
	// (redis://user:password@host:port/db; [WithBus] takes what a URL cannot say). Values stay in each process. Other backends do not look
	// at it. Defaults to "": each process is on its own.
	Bus string `json:"bus,omitempty" yaml:"bus"`

	// MaxEntries bounds what is kept in this process: entries, or the total weight when the cache has a
	// [WithWeigher]. Negative: no bound. Defaults to 100,000.
	MaxEntries int `json:"max_entries,omitempty" yaml:"max_entries"`

	// LocalTTL bounds how long rueidis-aside keeps a value in this process without asking Redis again.
	// Defaults to one minute.
	LocalTTL time.Duration `json:"local_ttl,omitempty" yaml:"local_ttl"`

	// ReapInterval is how often expired entries are removed that nobody asks for; they are gone within
	// two intervals. Negative: never, an expired entry then stays, unseen, until it is replaced, deleted or
	// evicted. Defaults to 2 seconds.
	ReapInterval time.Duration `json:"reap_interval,omitempty" yaml:"reap_interval"`

	// FetchTimeout bounds a fetch. Its context ends then, and its callers get [ErrFetchTimeout] even if
	// the fetch ignores that. Negative: no bound. Defaults to 30 seconds.
	FetchTimeout time.Duration `json:"fetch_timeout,omitempty" yaml:"fetch_timeout"`

	// OpTimeout bounds what a caller waits for Redis on top of its fetch, a day at most. Defaults to 500
	// milliseconds.
	OpTimeout time.Duration `json:"op_timeout,omitempty" yaml:"op_timeout"`

	// LeaseTTL is how long rueidis-aside lets the other processes wait for one that has died while it
	// was fetching. Defaults to 2 seconds.
	LeaseTTL time.Duration `json:"lease_ttl,omitempty" yaml:"lease_ttl"`

	// LeaseWait is how long rueidis-aside waits for the fetch of another process, from when that began. After
	// that it fetches too, and keeps what it gets unless the key was written meanwhile. Defaults to twice
	// LeaseTTL.
	LeaseWait time.Duration `json:"lease_wait,omitempty" yaml:"lease_wait"`

	// NegativeTTL is how long an answer "not found" is remembered (see [ErrNotFound] and [WithNotFound]).
	// Defaults to zero: not at all.
	NegativeTTL time.Duration `json:"negative_ttl,omitempty" yaml:"negative_ttl"`

	// StaleFor is how long past its ttl a value is still returned while one caller refreshes it in the
	// background. Defaults to zero: not at all.
	StaleFor time.Duration `json:"stale_for,omitempty" yaml:"stale_for"`

	// StaleIfError is how long past its ttl a value is still returned when fetching a new one fails.
	// Defaults to zero: not at all.
	StaleIfError time.Duration `json:"stale_if_error,omitempty" yaml:"stale_if_error"`

	// RefreshAhead is the fraction of its ttl after which a value is refreshed in the background by the
	// next caller, 0.8 say. Where processes share values, each is due a little earlier, at random
	// and by about what the fetch takes, so that mostly one of them refreshes for all. From 0 to 1. Defaults to
	// zero: never.
	RefreshAhead float64 `json:"refresh_ahead,omitempty" yaml:"refresh_ahead"`

	// SoftTimeout is how long a caller waits for a fetch when there is a stale value (within StaleFor or
	// StaleIfError) to return in its place; the fetch goes on. Defaults to zero: until it ends.
	SoftTimeout time.Duration `json:"soft_timeout,omitempty" yaml:"soft_timeout"`

	// Jitter shortens each ttl by a random part of up to this fraction, so that what was stored together
	// does not expire together. From 0 to 1. Defaults to zero: ttls are exact.
	Jitter float64 `json:"jitter,omitempty" yaml:"jitter"`

	// ErrorCooldown is how long after a failed fetch its error, wrapped, is given to further callers of the
	// key instead of asking the source again; callers with a stale value to go on with get that. A write of the
	// key ends it. Negative: not at all. Defaults to zero: one second for callers with a stale value (StaleFor,
	// StaleIfError, RefreshAhead) after a fetch for such callers, and not at all for others.
	ErrorCooldown time.Duration `json:"error_cooldown,omitempty" yaml:"error_cooldown"`

	// ChangeTimeout is how long a [Change] may be open. What it has declared is removed then, and may be stored again and served, so
	// that one that is never ended does not keep keys out of the cache. Negative: forever. Defaults to zero: 5 minutes.
	ChangeTimeout time.Duration `json:"change_timeout,omitempty" yaml:"change_timeout"`

	// Settle is how long after a removal of a key the replicas of the source may be behind: fetches of the key are told by [Settling]
	// that it was removed, and what they return is kept until that time is over. Give it to all processes. From a
	// millisecond to a minute. Defaults to zero: not at all.
	Settle time.Duration `json:"settle,omitempty" yaml:"settle"`

	// MaxFetches bounds the fetches that run at once, of all caches of a backend in this process; a fetch of several keys
	// counts once, and one that is asked for by another takes no place of its own. A caller over the limit gets a value
	// within StaleIfError, if there is one, or waits as long as FetchQueue. Defaults to zero: no bound.
	MaxFetches int `json:"max_fetches,omitempty" yaml:"max_fetches"`

	// FetchQueue is how long a fetch over MaxFetches waits for a place before its callers get [ErrOverloaded]; they get it at
	// once if their own deadlines are expected to come first. It is no part of FetchTimeout. Defaults to zero: no wait.
	FetchQueue time.Duration `json:"fetch_queue,omitempty" yaml:"fetch_queue"`

	// MaxValueBytes bounds a value in Redis, before it is sent and before it is decoded: what the codec
	// makes of it, without the header before that. Defaults to 16 MiB.
	MaxValueBytes int `json:"max_value_bytes,omitempty" yaml:"max_value_bytes"`
}

// RedisConfig says how to reach Redis: by URL, or by Addrs and the rest. A field that the URL has too
// wins over the URL.
type RedisConfig struct {
	// URL is redis://user:password@host:port/db, rediss:// for TLS, or unix:///path.
	URL string `json:"url,omitempty" yaml:"url"`

	// Addrs are host:port pairs, or the path of one unix socket. Several are the seeds of a cluster, or
	// the sentinels if SentinelMaster is set. Defaults to 127.0.0.1:6379.
	Addrs []string `json:"addrs,omitempty" yaml:"addrs"`

	// Username and Password authenticate. Config's own printed forms leave the password out.
	Username string `json:"username,omitempty" yaml:"username"`
	Password string `json:"password,omitempty" yaml:"password"`

	// DB is the database's number. Defaults to 0.
	DB int `json:"db,omitempty" yaml:"db"`

	// TLS turns TLS on, with the system's certificate authorities. For anything else give a tls.Config
	// through [WithRueidisOption]. Defaults to off.
	TLS bool `json:"tls,omitempty" yaml:"tls"`

	// RESP is the version of Redis' protocol. 2 is for a proxy that knows no HELLO: none is sent then, and no
	// CLIENT command. The backend rueidis-aside needs 3. Defaults to zero: 3, or 2 with the backend rueidis and a
	// single address if there is no HELLO, which is found out.
	RESP int `json:"resp,omitempty" yaml:"resp"`

	// SentinelMaster is the name of the master set to ask the sentinels at Addrs for. Defaults to "",
	// no sentinel.
	SentinelMaster string `json:"sentinel_master,omitempty" yaml:"sentinel_master"`

	// Cluster says that Addrs, even if there is only one, are nodes of a Redis Cluster. Defaults to
	// true for several addresses without a SentinelMaster.
	Cluster bool `json:"cluster,omitempty" yaml:"cluster"`
}

// withDefaults returns c with each zero field that has a default set to it.
func (c Config) withDefaults() Config {
	setDefault(&c.Backend, BackendMemory)
	setDefault(&c.Prefix, "cache")
	setDefault(&c.Name, "default")
	setDefault(&c.MaxEntries, 100_000)
	setDefault(&c.LocalTTL, time.Minute)
	setDefault(&c.ReapInterval, 2*time.Second)
	setDefault(&c.FetchTimeout, 30*time.Second)
	setDefault(&c.OpTimeout, 500*time.Millisecond)
	setDefault(&c.LeaseTTL, 2*time.Second)
	setDefault(&c.LeaseWait, min(c.LeaseTTL, NoExpiry/2)*2)
	setDefault(&c.MaxValueBytes, 16<<20)
	return c
}

func setDefault[V comparable](field *V, value V) {
	var zero V
	if *field == zero {
		*field = value
	}
}

// maxOpTimeout leaves room to add to it.
const maxOpTimeout = 24 * time.Hour

// resolve returns c with its defaults, or the error that names the first field with a bad value.
func (c Config) resolve() (Config, error) {
	c = c.withDefaults()
	c.OpTimeout = min(c.OpTimeout, maxOpTimeout)
	switch c.Backend {
	case BackendMemory, BackendRueidis, BackendRueidisAside, BackendNoop:
	default:
		return c, fieldError("Backend", quote(c.Backend), `"memory", "rueidis", "rueidis-aside", "noop"`)
	}
	if err := checkName("Prefix", c.Prefix); err != nil {
		return c, err
	}
	if err := checkName("Name", c.Name); err != nil {
		return c, err
	}
	if err := c.Redis.checkAddrs(); err != nil {
		return c, err
	}
	if err := c.checkRESP(); err != nil {
		return c, err
	}
	if err := c.checkBus(); err != nil {
		return c, err
	}
	return c, c.checkNumbers()
}

func (c Config) checkBus() error {
	if c.Bus == "" {
		return nil
	}
	if _, err := parseRedisURL(c.Bus); err != nil {
		return fieldError("Bus", quote(redactURL(c.Bus)), "redis://[user:password@]host:port[/db], rediss:// for TLS, unix:///path")
	}
	return nil
}

// busRedis returns how to reach the bus, if there is one.
func (c Config) busRedis(o options) (r RedisConfig, ok bool, err error) {
	switch {
	case c.Backend != BackendMemory || c.Bus == "" && o.bus == nil:
		return r, false, nil
	case o.bus == nil:
		return RedisConfig{URL: c.Bus}, true, nil
	case c.Bus != "":
		return r, false, fieldError("Bus", quote(redactURL(c.Bus)), "none together with WithBus")
	}
	return *o.bus, true, o.bus.checkAddrs()
}

func (r RedisConfig) checkAddrs() error {
	for _, address := range r.Addrs {
		switch {
		case address == "":
			return fieldError("Redis.Addrs", "with an empty address", "host:port, or the path of a unix socket")
		case strings.Contains(address, ","):
			return fieldError("Redis.Addrs", "with a comma within an address", "one address an element")
		case address[0] != '/' && strings.Contains(address, "@"):
			return fieldError("Redis.Addrs", "with a user", "host:port; for a user there are Username and Password")
		}
	}
	return nil
}

func (c Config) checkRESP() error {
	switch {
	case c.Redis.RESP != 0 && c.Redis.RESP != 2:
		return fieldError("Redis.RESP", c.Redis.RESP, "2, or zero to find out")
	case c.Redis.RESP == 2 && c.Backend == BackendRueidisAside:
		return fieldError("Redis.RESP", c.Redis.RESP, "zero with the backend rueidis-aside, which needs the client tracking of RESP3; without it use the backend rueidis")
	}
	return nil
}

// maxNameBytes keeps a key with its prefix and name well below Redis' own limits.
const maxNameBytes = 1 << 10

func checkName(field, name string) error {
	if strings.Contains(name, ":") || len(name) > maxNameBytes || !utf8.ValidString(name) {
		return fieldError(field, quote(name), "no colon, valid UTF-8, at most 1024 bytes")
	}
	return nil
}

func (c Config) checkNumbers() error {
	for _, f := range []struct {
		name  string
		value time.Duration
	}{
		{"LocalTTL", c.LocalTTL},
		{"OpTimeout", c.OpTimeout},
		{"LeaseTTL", c.LeaseTTL},
		{"LeaseWait", c.LeaseWait},
		{"NegativeTTL", c.NegativeTTL},
		{"StaleFor", c.StaleFor},
		{"StaleIfError", c.StaleIfError},
		{"SoftTimeout", c.SoftTimeout},
		{"FetchQueue", c.FetchQueue},
	} {
		if f.value < 0 {
			return fieldError(f.name, f.value, "zero for the default, or more")
		}
	}
	if c.Settle != 0 && (c.Settle < time.Millisecond || c.Settle > maxSettle) {
		return fieldError("Settle", c.Settle, "zero for none, or from 1ms to "+maxSettle.String())
	}
	if c.LeaseTTL < minLeaseTTL {
		return fieldError("LeaseTTL", c.LeaseTTL, "at least "+minLeaseTTL.String())
	}
	if !(c.RefreshAhead >= 0 && c.RefreshAhead <= 1) { // written so that NaN fails
		return fieldError("RefreshAhead", c.RefreshAhead, "a fraction from 0 to 1")
	}
	if !(c.Jitter >= 0 && c.Jitter <= 1) {
		return fieldError("Jitter", c.Jitter, "a fraction from 0 to 1")
	}
	if c.MaxValueBytes < 0 {
		return fieldError("MaxValueBytes", c.MaxValueBytes, "zero for the default, or more")
	}
	if c.MaxFetches < 0 {
		return fieldError("MaxFetches", c.MaxFetches, "zero for no bound, or more")
	}
	if c.FetchQueue > 0 && c.MaxFetches == 0 {
		return fieldError("FetchQueue", c.FetchQueue, "zero without MaxFetches, which it waits for")
	}
	if c.Redis.DB < 0 {
		return fieldError("Redis.DB", c.Redis.DB, "zero or more")
	}
	return nil
}

// minLeaseTTL leaves a renewal, sent before half of it is over, the time to arrive.
const minLeaseTTL = 30 * time.Millisecond

// LogValue lets a Config be logged without its password.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// GoString keeps the password out of %#v too.
func (c Config) GoString() string { return "cacheaside.Config(" + c.String() + ")" }

// String is [Config.String] for the Redis part alone.
func (r RedisConfig) String() string { return Config{Backend: BackendRueidis, Redis: r}.String() }

// LogValue lets a RedisConfig be logged without its password.
func (r RedisConfig) LogValue() slog.Value { return slog.StringValue(r.String()) }

// MarshalText returns [RedisConfig.String]: without passwords, on purpose.
func (r RedisConfig) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// GoString keeps the password out of %#v too.
func (r RedisConfig) GoString() string { return "cacheaside.RedisConfig(" + r.String() + ")" }
