package cacheaside

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/assert/yaml"
	"github.com/stretchr/testify/require"
)

// full has every field set, to what is not its default.
var full = Config{
	Backend: BackendRueidis,
	Redis: RedisConfig{
		URL:            "redis://user:url-secret@host:6379/1",
		Addrs:          []string{"host1:6379", "[::1]:6380"},
		Username:       "us er",
		Password:       "config-secret&?#%",
		DB:             3,
		TLS:            true,
		RESP:           2,
		SentinelMaster: "main",
		Cluster:        true,
	},
	Prefix:        "app +&=ü",
	Name:          "users",
	Bus:           "redis://user:bus-secret@host:6379/2",
	MaxEntries:    -1,
	LocalTTL:      90 * time.Second,
	ReapInterval:  -time.Second,
	FetchTimeout:  -1,
	OpTimeout:     time.Second,
	LeaseTTL:      3 * time.Second,
	LeaseWait:     7 * time.Second,
	NegativeTTL:   time.Millisecond,
	StaleFor:      time.Hour,
	StaleIfError:  24 * time.Hour,
	RefreshAhead:  0.8,
	SoftTimeout:   time.Microsecond,
	Jitter:        0.1,
	ErrorCooldown: 5 * time.Second,
	MaxFetches:    50,
	FetchQueue:    200 * time.Millisecond,
	ChangeTimeout: time.Minute,
	Settle:        2 * time.Second,
	MaxValueBytes: 1 << 20,
}

// withoutSecrets is what is left of c when it has been printed and read again.
func withoutSecrets(c Config) Config {
	if c.Redis.Password != "" {
		c.Redis.Password = redacted
	}
	c.Redis.URL = strings.ReplaceAll(c.Redis.URL, "url-secret", redacted)
	c.Bus = strings.ReplaceAll(c.Bus, "bus-secret", redacted)
	return c
}

func TestEveryFieldHasAParameterOfItsName(t *testing.T) {
	snake := func(name string) string {
		name = strings.NewReplacer("TTL", "Ttl", "URL", "Url", "DB", "Db", "TLS", "Tls", "RESP", "Resp").Replace(name)
		var b strings.Builder
		for i, r := range name {
			if unicode.IsUpper(r) && i > 0 {
				b.WriteByte('_')
			}
			b.WriteRune(unicode.ToLower(r))
		}
		return b.String()
	}
	var names []string
	var c Config
	check := func(parameter string, field reflect.StructField, v reflect.Value) {
		names = append(names, parameter)
		f, ok := findField(parameter)
		require.True(t, ok, parameter)
		require.Equal(t, v.Addr().Pointer(), reflect.ValueOf(f.place(&c)).Pointer(), "%s sets its field", parameter)
		tag, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		require.Equal(t, snake(field.Name), tag)
		require.Equal(t, tag, field.Tag.Get("yaml"))
	}
	for i, field := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
		if field.Name != "Redis" {
			check(snake(field.Name), field, reflect.ValueOf(&c).Elem().Field(i))
		}
	}
	for i, field := range reflect.VisibleFields(reflect.TypeFor[RedisConfig]()) {
		parameter := snake(field.Name)
		if field.Name == "URL" {
			parameter = "redis"
		}
		check(parameter, field, reflect.ValueOf(&c.Redis).Elem().Field(i))
	}
	require.Len(t, configFields, len(names), "no parameter is without a field")
	full := reflect.ValueOf(full)
	for i := range full.NumField() {
		require.False(t, full.Field(i).IsZero(), "the tests below set every field")
	}
}

func TestConfigIsReadBackFromItsString(t *testing.T) {
	for _, c := range []Config{
		full,
		{Backend: BackendMemory},
		{Backend: BackendNoop, Name: "n"},
		{Backend: BackendMemory, MaxEntries: 5, Jitter: 1},
		{Backend: BackendRueidis, Redis: RedisConfig{Addrs: []string{"/run/redis.sock"}}},
		{Backend: BackendRueidis, Redis: RedisConfig{URL: "unix:///run/redis.sock"}},
	} {
		read, err := ParseConfig(c.String())
		require.NoError(t, err, c)
		require.Equal(t, withoutSecrets(c), read)
		require.Equal(t, c.String(), read.String())
	}
	require.Equal(t, "memory://", Config{}.String())
}

func TestAConfigIsPrintedAsOneWouldWriteIt(t *testing.T) {
	for text, want := range map[string]string{
		"memory://?max_entries=5&stale_for=60s":                    "memory://?max_entries=5&stale_for=1m",
		"rueidis://user:secret@host:6379/2?prefix=app&name=users":  "rueidis://user:xxxxx@host:6379/2?prefix=app&name=users",
		"rueidis://:secret@host:6379":                              "rueidis://:xxxxx@host:6379",
		"rueidis://a%40b:s%2Fe%3A@[::1]:6379/0":                    "rueidis://a%40b:xxxxx@[::1]:6379",
		"rueidis-aside://host1:6379,host2:6379?cluster=true":       "rueidis-aside://host1:6379,host2:6379?cluster=true",
		"rueidis:///run/redis.sock?db=1&username=user":             "rueidis://?addrs=%2Frun%2Fredis.sock&username=user&db=1",
		"rueidis://?redis=redis%3A%2F%2Fu%3Ap%40h%3A1":             "rueidis://?redis=redis%3A%2F%2Fu%3Axxxxx%40h%3A1",
		"memory://?stale_for=1h&fetch_timeout=1h10m&op_timeout=1s": "memory://?fetch_timeout=1h10m&op_timeout=1s&stale_for=1h",
		"memory://?stale_for=1h0m5s&negative_ttl=10m":              "memory://?negative_ttl=10m&stale_for=1h0m5s",
	} {
		c, err := ParseConfig(text)
		require.NoError(t, err, text)
		require.Equal(t, want, c.String())
	}
}

func TestParseConfigReadsLocations(t *testing.T) {
	redis := func(r RedisConfig) Config { return Config{Backend: BackendRueidis, Redis: r} }
	for text, want := range map[string]Config{
		"memory://":  {Backend: BackendMemory},
		"noop://":    {Backend: BackendNoop},
		"memory://?": {Backend: BackendMemory},
		"memory://?max_entries=100000&stale_for=1m": {Backend: BackendMemory, MaxEntries: 100_000, StaleFor: time.Minute},
		"memory://?backend=memory":                  {Backend: BackendMemory},
		"memory://?name=a%23b+c":                    {Backend: BackendMemory, Name: "a#b c"},
		"rueidis://":                                redis(RedisConfig{}),
		"rueidis://host":                            redis(RedisConfig{Addrs: []string{"host"}}),
		"rueidis://host:6379/":                      redis(RedisConfig{Addrs: []string{"host:6379"}}),
		"rueidis://host:6379/7":                     redis(RedisConfig{Addrs: []string{"host:6379"}, DB: 7}),
		"rueidis://[::1]:6379":                      redis(RedisConfig{Addrs: []string{"[::1]:6379"}}),
		"rueidis:///2":                              redis(RedisConfig{DB: 2}),
		"rueidis://a:1,b:2?cluster=1":               redis(RedisConfig{Addrs: []string{"a:1", "b:2"}, Cluster: true}),
		"rueidis://u@host":                          redis(RedisConfig{Addrs: []string{"host"}, Username: "u"}),
		"rueidis://:p@host":                         redis(RedisConfig{Addrs: []string{"host"}, Password: "p"}),
		"rueidis://u%40x:p%2F%3A@host":              redis(RedisConfig{Addrs: []string{"host"}, Username: "u@x", Password: "p/:"}),
		"rueidis://u:a@b:c@host:1":                  redis(RedisConfig{Addrs: []string{"host:1"}, Username: "u", Password: "a@b:c"}),
		"rueidis:///run/re%20dis.sock?db=1":         redis(RedisConfig{Addrs: []string{"/run/re dis.sock"}, DB: 1}),
		"rueidis://u:p@/run/redis.sock":             redis(RedisConfig{Addrs: []string{"/run/redis.sock"}, Username: "u", Password: "p"}),
		"rueidis://?redis=redis%3A%2F%2Fh%3A1%2F2":  redis(RedisConfig{URL: "redis://h:1/2"}),
	} {
		c, err := ParseConfig(text)
		require.NoError(t, err, text)
		require.Equal(t, want, c, text)
	}
}

func TestAnOpTimeoutWithoutEndLeavesRoomToAddToIt(t *testing.T) {
	c, err := Config{OpTimeout: NoExpiry}.resolve()
	require.NoError(t, err)
	require.Equal(t, 24*time.Hour, c.OpTimeout)
}

func TestZeroConfigMeansTheDefaults(t *testing.T) {
	c, err := Config{}.resolve()
	require.NoError(t, err)
	require.Equal(t, Config{
		Backend:       BackendMemory,
		Prefix:        "cache",
		Name:          "default",
		MaxEntries:    100_000,
		LocalTTL:      time.Minute,
		ReapInterval:  2 * time.Second,
		FetchTimeout:  30 * time.Second,
		OpTimeout:     500 * time.Millisecond,
		LeaseTTL:      2 * time.Second,
		LeaseWait:     4 * time.Second,
		MaxValueBytes: 16 << 20,
	}, c)
	again, err := c.resolve()
	require.NoError(t, err)
	require.Equal(t, c, again)
	for _, f := range configFields { // a parameter of zero is as good as none
		text := map[string]string{"backend": BackendMemory, "tls": "false", "cluster": "false", "addrs": "", "redis": ""}[f.name]
		if _, isText := f.place(&c).(*string); !isText && text == "" && f.name != "addrs" {
			text = "0"
		}
		parsed, err := ParseConfig("memory://?" + f.name + "=" + text)
		require.NoError(t, err, f.name)
		resolved, err := parsed.resolve()
		require.NoError(t, err)
		require.Equal(t, c, resolved, f.name)
	}
}

// badConfigs are texts that ParseConfig refuses, with what the error must name.
var badConfigs = []struct {
	text  string
	names []string
}{
	{"", []string{"://"}},
	{"memory", []string{"://"}},
	{"://", []string{"://"}},
	{"memcached://", []string{"Backend", `"memcached"`, `"memory", "rueidis", "rueidis-aside", "noop"`}},
	{"Memory://", []string{"Backend", `"Memory"`}},
	{"redis://host", []string{"Backend", `"redis"`}},
	{"memory://?backend=noop", []string{"backend", `"noop"`, `"memory"`}},
	{"memory://host", []string{"location"}},
	{"noop:///1", []string{"location"}},
	{"memory://?#x", []string{"fragment", "%23"}},
	{"memory://?max_size=1", []string{"parameter", `"max_size"`, "max_entries", "stale_for"}},
	{"memory://?MaxEntries=1", []string{"parameter", `"MaxEntries"`}},
	{"memory://?=1", []string{"parameter", `""`}},
	{"memory://?jitter=0.1&jitter=0.1", []string{"jitter", "2 times", "once"}},
	{"memory://?max_entries=many", []string{"max_entries", `"many"`, "a whole number"}},
	{"memory://?max_entries=1.5", []string{"max_entries", `"1.5"`, "a whole number"}},
	{"memory://?max_entries=99999999999999999999", []string{"max_entries", "a whole number"}},
	{"memory://?max_entries=", []string{"max_entries", `""`}},
	{"memory://?max_entries=1;name=x", []string{"after ?"}},
	{"memory://?name=%zz", []string{"after ?", "percent-encoded"}},
	{"memory://?stale_for=1", []string{"stale_for", `"1"`, `"1m30s"`}},
	{"memory://?stale_for=soon", []string{"stale_for", `"soon"`, `"1m30s"`}},
	{"memory://?stale_for=-1s", []string{"StaleFor", "-1s", "zero"}},
	{"memory://?stale_if_error=-1s", []string{"StaleIfError", "-1s"}},
	{"memory://?negative_ttl=-1ns", []string{"NegativeTTL", "-1ns"}},
	{"memory://?soft_timeout=-1s", []string{"SoftTimeout", "-1s"}},
	{"memory://?local_ttl=-1s", []string{"LocalTTL", "-1s"}},
	{"memory://?op_timeout=-1s", []string{"OpTimeout", "-1s"}},
	{"memory://?lease_ttl=-1s", []string{"LeaseTTL", "-1s"}},
	{"memory://?lease_ttl=1ms", []string{"LeaseTTL", "1ms", "30ms"}},
	{"memory://?jitter=-0.1", []string{"Jitter", "-0.1", "from 0 to 1"}},
	{"memory://?jitter=1.1", []string{"Jitter", "1.1", "from 0 to 1"}},
	{"memory://?jitter=NaN", []string{"Jitter", "NaN", "from 0 to 1"}},
	{"memory://?jitter=Inf", []string{"Jitter", "Inf"}},
	{"memory://?jitter=much", []string{"jitter", `"much"`, "a number"}},
	{"memory://?refresh_ahead=-1", []string{"RefreshAhead", "-1", "from 0 to 1"}},
	{"memory://?refresh_ahead=80", []string{"RefreshAhead", "80", "from 0 to 1"}},
	{"memory://?refresh_ahead=NaN", []string{"RefreshAhead", "NaN"}},
	{"memory://?max_value_bytes=-1", []string{"MaxValueBytes", "-1"}},
	{"memory://?max_fetches=-1", []string{"MaxFetches", "-1"}},
	{"memory://?max_fetches=1&fetch_queue=-1s", []string{"FetchQueue", "-1s"}},
	{"memory://?fetch_queue=1s", []string{"FetchQueue", "1s", "MaxFetches"}},
	{"memory://?prefix=a:b", []string{"Prefix", `"a:b"`, "no colon"}},
	{"memory://?name=:", []string{"Name", `":"`, "no colon"}},
	{"memory://?name=caf%E9", []string{"Name", `"caf\xe9"`, "UTF-8"}}, // no metric could be labelled with it
	{"memory://?name=" + strings.Repeat("n", 1025), []string{"Name", "nnn…", "1024"}},
	{"rueidis://host/x", []string{"Redis.DB", `"x"`, "a number"}},
	{"rueidis://host/-1", []string{"Redis.DB", "-1"}},
	{"rueidis://host/1/2", []string{"Redis.DB", `"1/2"`}},
	{"rueidis://host?db=one", []string{"db", `"one"`}},
	{"rueidis://host?tls=maybe", []string{"tls", `"maybe"`, "true or false"}},
	{"rueidis://host?cluster=2", []string{"cluster", `"2"`}},
	{"rueidis:///run/%zz", []string{"location", "unix socket"}},
	{"rueidis://a:1,,b:1", []string{"Redis.Addrs", "empty"}},
	{"rueidis:///run/a,b.sock", []string{"Redis.Addrs", "comma"}},
	{"rueidis://?addrs=u:p@host:1", []string{"Redis.Addrs", "Username"}},

	// The password is hunter2 in each of these, in one piece or two, written as it must not be.
	{"rueidis://user:hunter2%zz@host", []string{"percent-encoded"}},
	{"rueidis://user:hunter2@host/x", []string{"Redis.DB", `"x"`}},
	{"rueidis://user:hun/ter2@host:6379/0", []string{"Redis.DB"}},
	{"rueidis://user:hun/hunter2@host:6379/0", []string{"Redis.DB"}},
	{"rueidis://user:1?hunter2@host:6379/0", []string{"parameter"}},
	{"rueidis://user:1?name=hunter2@host:6379/0", []string{"Name"}},
	{"rueidis://user:hunter2@host:1#2@x", []string{"fragment"}},
	{"rueidis://user:hunter2@host?tls=hunter2@x", []string{"tls"}},
	{"rueidis://user:hunter2@host?" + strings.Repeat("x", 70) + "hunter2@", []string{"parameter"}},
	{"user:hunter2@host", []string{"://"}},
	{"rueidis:user:hunter2@host://", []string{"Backend"}},
	{"memory://user:hunter2@host", []string{"location"}},
	{"rueidis://?password=hunter2&jitter=2", []string{"Jitter"}},
	{"rueidis://?password=hunter2&password=hunter2", []string{"password"}},
}

func TestBadConfigsAreNamed(t *testing.T) {
	for _, bad := range badConfigs {
		c, err := ParseConfig(bad.text)
		require.ErrorIs(t, err, ErrInvalidConfig, bad.text)
		require.Equal(t, Config{}, c, "%s: nothing is half read", bad.text)
		for _, name := range bad.names {
			require.ErrorContains(t, err, name, bad.text)
		}
		require.ErrorContains(t, err, "allowed", bad.text)
		for _, piece := range []string{"hunter2", "ter2"} {
			require.NotContains(t, err.Error(), piece, bad.text)
		}
	}
}

func TestConstructorsRefuseBadConfigs(t *testing.T) {
	for _, c := range []Config{
		{Backend: "memcached"},
		{Jitter: -0.1},
		{Jitter: math.NaN()},
		{RefreshAhead: 1.01},
		{NegativeTTL: -1},
		{StaleFor: math.MinInt64},
		{LeaseTTL: 1},
		{MaxValueBytes: -1},
		{Name: "a:b"},
		{Prefix: ":"},
		{Redis: RedisConfig{DB: -1}},
		{Redis: RedisConfig{Addrs: []string{"user:hunter2@host:6379"}}},
	} {
		_, err := Open[int](context.Background(), c)
		require.ErrorIs(t, err, ErrInvalidConfig, c)
		_, err = Connect(context.Background(), c)
		require.ErrorIs(t, err, ErrInvalidConfig, c)
		if c.Backend == "" {
			_, err = NewMemory[int](c)
			require.ErrorIs(t, err, ErrInvalidConfig, c)
		}
		require.NotContains(t, err.Error(), "hunter2")
	}
	for _, backend := range []string{BackendRueidis, BackendRueidisAside, BackendNoop, "memcached"} {
		_, err := NewMemory[int](Config{Backend: backend})
		require.ErrorIs(t, err, ErrInvalidConfig, "NewMemory makes no %s", backend)
		require.ErrorContains(t, err, backend)
	}
	_, err := NewRueidis[int](context.Background(), Config{Backend: BackendMemory})
	require.ErrorIs(t, err, ErrInvalidConfig)
	_, err = NewRueidisAside[int](context.Background(), Config{Backend: BackendRueidis})
	require.ErrorIs(t, err, ErrInvalidConfig)
}

func TestBadRedisURLsAreNamedWithoutThePassword(t *testing.T) {
	for _, url := range []string{
		"http://user:hunter2@host",
		"redis://user:hunter2@host:port",
		"redis://user:hunter2@host:6379/x",
		"redis://user:hunter2%zz@host",
		"redis://user:hun/hunter2@host",
		"redis://user:hunter2@host:6379?unknown=1",
		"://user:hunter2@host",
		"user:hunter2@host",
		"redis://user:hunter2@host:6379/1/2",
	} {
		_, err := Open[int](context.Background(), Config{Backend: BackendRueidis, Redis: RedisConfig{URL: url}})
		require.ErrorIs(t, err, ErrInvalidConfig, url)
		require.ErrorContains(t, err, "Redis.URL", url)
		require.ErrorContains(t, err, "allowed", url)
		require.NotContains(t, err.Error(), "hunter2")
	}
	_, err := Open[int](context.Background(), Config{
		Backend: BackendRueidis,
		Redis:   RedisConfig{Addrs: []string{"a:1", "b:1"}, DB: 1},
	})
	require.ErrorIs(t, err, ErrInvalidConfig)
	require.ErrorContains(t, err, "Redis.DB")
	require.ErrorContains(t, err, "cluster")
}

func TestPrintedConfigsHideThePassword(t *testing.T) {
	withUser := full
	withUser.Redis.Addrs = []string{"user:addr-secret@host:1"}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("config", "c", withUser)
	text, err := withUser.MarshalText()
	require.NoError(t, err)
	asJSON, err := json.Marshal(map[string]any{"cache": withUser})
	require.NoError(t, err)
	var redisLog strings.Builder
	slog.New(slog.NewJSONHandler(&redisLog, nil)).Info("config", "redis", withUser.Redis)
	redisJSON, err := json.Marshal(withUser.Redis)
	require.NoError(t, err)
	all := []string{
		log.String(), string(text), string(asJSON), withUser.String(),
		redisLog.String(), string(redisJSON), withUser.Redis.String(),
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		all = append(all, fmt.Sprintf(verb, withUser), fmt.Sprintf(verb, &withUser), fmt.Sprintf(verb, withUser.Redis), fmt.Sprintf(verb, &withUser.Redis))
	}
	for _, printed := range all {
		require.NotContains(t, printed, "secret")
		require.Contains(t, printed, redacted)
	}
	require.Equal(t, "config-secret&?#%", withUser.Redis.Password, "printing changes nothing")
	require.Equal(t, "user:addr-secret@host:1", withUser.Redis.Addrs[0])
	for text, want := range map[string]string{
		"":                            "",
		"redis://host":                "redis://host",
		"redis://user@host":           "redis://user@host",
		"redis://user:p@host":         "redis://user:xxxxx@host",
		"redis://:p@host":             "redis://:xxxxx@host",
		"redis://user:p@p:p/@host":    "redis://user:xxxxx@host",
		"user:p@host":                 "user:xxxxx@host",
		"redis://user:p%zz@host/x y ": "redis://user:xxxxx@host/x y ",
	} {
		require.Equal(t, want, redactURL(text))
	}
}

// written is full in the forms of a file; the parts of Redis have a place of their own there.
const written = `{
	"backend": "rueidis",
	"redis": {"url": "redis://user:url-secret@host:6379/1", "addrs": ["host1:6379", "[::1]:6380"], "username": "us er",
		"password": "config-secret&?#%", "db": 3, "tls": true, "resp": 2, "sentinel_master": "main", "cluster": true},
	"prefix": "app +&=ü", "name": "users", "max_entries": -1, "local_ttl": "1m30s", "reap_interval": "-1s",
	"fetch_timeout": "-1ns", "op_timeout": "1s", "lease_ttl": "3s", "lease_wait": "7s", "negative_ttl": "1ms", "stale_for": "1h",
	"stale_if_error": "24h", "refresh_ahead": 0.8, "soft_timeout": "1us", "jitter": 0.1, "error_cooldown": "5s",
	"bus": "redis://user:bus-secret@host:6379/2", "change_timeout": "1m", "settle": "2s", "max_fetches": 50, "fetch_queue": "200ms",
	"max_value_bytes": 1048576
}`

func TestConfigIsReadFromFilesAndTheEnvironment(t *testing.T) {
	var fromJSON, fromYAML, fromEnv Config
	require.NoError(t, json.Unmarshal([]byte(written), &fromJSON))
	require.Equal(t, full, fromJSON)
	require.NoError(t, yaml.Unmarshal([]byte(written), &fromYAML), "JSON is YAML")
	require.Equal(t, full, fromYAML)
	require.NoError(t, fromEnv.UnmarshalText([]byte(full.String())))
	require.Equal(t, withoutSecrets(full), fromEnv)

	var zero Config
	require.NoError(t, json.Unmarshal([]byte(`{"stale_for": 0, "reap_interval": "-1s"}`), &zero), "zero needs no unit")
	require.Equal(t, Config{ReapInterval: -time.Second}, zero)

	for range 20 {
		var twice Config
		require.NoError(t, json.Unmarshal([]byte(`{"backend": "rueidis", "db": 2, "redis": {"db": 1, "username": "a"}, "username": "b"}`), &twice))
		require.Equal(t, RedisConfig{DB: 2, Username: "b"}, twice.Redis, "in any order")
	}

	var service struct{ Cache Config }
	require.NoError(t, json.Unmarshal([]byte(`{"Cache": "memory://?stale_for=1m"}`), &service))
	require.Equal(t, Config{Backend: BackendMemory, StaleFor: time.Minute}, service.Cache)
	require.NoError(t, yaml.Unmarshal([]byte("cache: memory://?stale_for=2m"), &service))
	require.Equal(t, Config{Backend: BackendMemory, StaleFor: 2 * time.Minute}, service.Cache)
	require.NoError(t, yaml.Unmarshal([]byte("cache:\n  stale_for: 3m\n  redis:\n    db: 1"), &service))
	require.Equal(t, 3*time.Minute, service.Cache.StaleFor)
	require.Equal(t, 1, service.Cache.Redis.DB)

	again, err := json.Marshal(service)
	require.NoError(t, err)
	before := service.Cache
	require.NoError(t, json.Unmarshal(again, &service))
	require.Equal(t, before, service.Cache)
	require.NoError(t, json.Unmarshal([]byte(`{"Cache": null}`), &service), "null changes nothing, as everywhere")
	require.Equal(t, before, service.Cache)
}

func TestBadFilesAreNamed(t *testing.T) {
	for text, names := range map[string][]string{
		`{"max_size": 1}`:                          {`"max_size"`, "max_entries"},
		`{"stale_for": "soon"}`:                    {"stale_for", `"soon"`, "1m30s"},
		`{"stale_for": true}`:                      {"stale_for", "true", "1m30s"},
		`{"op_timeout": 500}`:                      {"op_timeout", `"500"`, "1m30s"},
		`{"reap_interval": -1}`:                    {"reap_interval", `"-1"`, "1m30s"},
		`{"stale_for": "-1s"}`:                     {"StaleFor", "-1s"},
		`{"max_entries": "many"}`:                  {"max_entries", "int"},
		`{"jitter": 2}`:                            {"Jitter", "2"},
		`{"jitter": "0.5"}`:                        {"jitter", "float64"},
		`{"backend": "memcached"}`:                 {"Backend", `"memcached"`},
		`{"redis": {"password": 7, "db": 1}}`:      {"redis"},
		`{"redis": {"pasword": "hunter2"}}`:        {"redis", "pasword"},
		`{"redis": {"addrs": ["u:hunter2@h:1"]}}`:  {"Redis.Addrs"},
		`{"password": "hunter2", "jitter": 2}`:     {"Jitter"},
		`[1]`:                                      {"invalid configuration"},
		`"memcached://"`:                           {"Backend", `"memcached"`},
		`"rueidis://u:hunter2@h/x?stale_for=soon"`: {"Redis.DB"},
	} {
		c := Config{Name: "before"}
		err := json.Unmarshal([]byte(text), &c)
		require.ErrorIs(t, err, ErrInvalidConfig, text)
		for _, name := range names {
			require.ErrorContains(t, err, name, text)
		}
		require.NotContains(t, err.Error(), "hunter2", text)
	}
	var c Config
	require.Error(t, json.Unmarshal([]byte(`{"jitter": `), &c))
	require.ErrorIs(t, c.UnmarshalJSON([]byte(`{"jitter": `)), ErrInvalidConfig)
	require.ErrorIs(t, c.UnmarshalText([]byte("nonsense")), ErrInvalidConfig)
	require.True(t, errors.Is(c.UnmarshalJSON([]byte("")), ErrInvalidConfig) || errors.Is(c.UnmarshalJSON(nil), io.EOF))
}

func TestBadYAMLIsNamed(t *testing.T) {
	for text, names := range map[string][]string{
		"op_timeout: 500":              {"op_timeout", `"500"`, "1m30s"},
		"stale_for: 1.5":               {"stale_for", `"1.5"`},
		"stale_for: soon":              {"stale_for", `"soon"`},
		"max_size: 1":                  {`"max_size"`, "max_entries"},
		"jitter: 2":                    {"Jitter", "2"},
		"- 1":                          {"invalid configuration"},
		"memcached://":                 {"Backend", `"memcached"`},
		"max_entries: many":            {"max_entries", "many"},
		"redis: {password: [hunter2]}": {"redis"},
	} {
		c := Config{Name: "before"}
		err := yaml.Unmarshal([]byte(text), &c)
		require.Error(t, err, text)
		require.NotContains(t, err.Error(), "hunter2", text)
		require.Equal(t, Config{Name: "before"}, c, text)
		if text != "max_entries: many" && text != "redis: {password: [hunter2]}" {
			for _, name := range names {
				require.ErrorContains(t, err, name, text)
			}
		}
	}
	var c Config
	require.NoError(t, yaml.Unmarshal([]byte("name:\nredis:\n  password: 12345"), &c))
	require.Equal(t, Config{Redis: RedisConfig{Password: "12345"}}, c)
}

func TestTheOneLineFormMayComeFromAFile(t *testing.T) {
	for _, around := range []string{"%s\n", "%s\r\n", " \t%s ", "\n\n%s\n\n"} {
		c, err := ParseConfig(fmt.Sprintf(around, "memory://?stale_for=1m"))
		require.NoError(t, err)
		require.Equal(t, Config{Backend: BackendMemory, StaleFor: time.Minute}, c)
	}
	for _, bad := range []string{"memory://\n?name=a", "memory://?name=a\x00b", "rueidis://user:hunter2\n@host:1"} {
		_, err := ParseConfig(bad)
		require.ErrorIs(t, err, ErrInvalidConfig)
		require.ErrorContains(t, err, "control character")
		require.NotContains(t, err.Error(), "hunter2")
	}
	_, err := ParseConfig("memory://?name=a\nb")
	require.ErrorContains(t, err, "0x0a at byte 16")
	c, err := ParseConfig("memory://?name=a%0Ab")
	require.NoError(t, err)
	require.Equal(t, "a\nb", c.Name)
}

func TestARedisConfigIsReadAsItIsWritten(t *testing.T) {
	for _, r := range []RedisConfig{{}, full.Redis, {Addrs: []string{"h1:1", "h2:2"}, Cluster: true}, {Addrs: []string{"/run/redis.sock"}, DB: 2}} {
		text, err := json.Marshal(r)
		require.NoError(t, err)
		var again RedisConfig
		require.NoError(t, json.Unmarshal(text, &again), string(text))
		require.Equal(t, withoutSecrets(Config{Redis: r}).Redis.String(), again.String())
		var held struct{ Redis *RedisConfig }
		require.NoError(t, json.Unmarshal([]byte(`{"Redis": `+string(text)+`}`), &held))
		require.Equal(t, again, *held.Redis)
	}
	var r RedisConfig
	require.NoError(t, json.Unmarshal([]byte(`{"db": 3, "password": "p"}`), &r))
	require.Equal(t, RedisConfig{DB: 3, Password: "p"}, r)
	require.NoError(t, json.Unmarshal([]byte(`null`), &r))
	for _, bad := range []string{`"memory://"`, `"rueidis://h:1?stale_for=1m"`, `"h:1"`, `{"pasword": "p"}`, `7`} {
		require.Error(t, json.Unmarshal([]byte(bad), &r), bad)
	}
}

func TestAFieldOfAnUnknownTypeIsABugOfOurs(t *testing.T) {
	require.Panics(t, func() { _ = parseField(new(complex128), "1") })
	require.Panics(t, func() { _ = formatField(new(complex128)) })
}
