package cacheaside

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// configField is one parameter of the one-line form and the place in a Config that it sets: a *string,
// *[]string, *int, *bool, *float64 or *time.Duration.
type configField struct {
	name  string
	place func(*Config) any
}

// configFields is the one list of parameters; parsing, printing and error texts all read it. Its order
// is the order in which String prints them.
var configFields = []configField{
	{"backend", func(c *Config) any { return &c.Backend }},
	{"redis", func(c *Config) any { return &c.Redis.URL }},
	{"addrs", func(c *Config) any { return &c.Redis.Addrs }},
	{"username", func(c *Config) any { return &c.Redis.Username }},
	{"password", func(c *Config) any { return &c.Redis.Password }},
	{"db", func(c *Config) any { return &c.Redis.DB }},
	{"tls", func(c *Config) any { return &c.Redis.TLS }},
	{"resp", func(c *Config) any { return &c.Redis.RESP }},
	{"sentinel_master", func(c *Config) any { return &c.Redis.SentinelMaster }},
	{"cluster", func(c *Config) any { return &c.Redis.Cluster }},
	{"prefix", func(c *Config) any { return &c.Prefix }},
	{"name", func(c *Config) any { return &c.Name }},
	{"bus", func(c *Config) any { return &c.Bus }},
	{"max_entries", func(c *Config) any { return &c.MaxEntries }},
	{"local_ttl", func(c *Config) any { return &c.LocalTTL }},
	{"reap_interval", func(c *Config) any { return &c.ReapInterval }},
	{"fetch_timeout", func(c *Config) any { return &c.FetchTimeout }},
	{"op_timeout", func(c *Config) any { return &c.OpTimeout }},
	{"lease_ttl", func(c *Config) any { return &c.LeaseTTL }},
	{"lease_wait", func(c *Config) any { return &c.LeaseWait }},
	{"negative_ttl", func(c *Config) any { return &c.NegativeTTL }},
	{"stale_for", func(c *Config) any { return &c.StaleFor }},
	{"stale_if_error", func(c *Config) any { return &c.StaleIfError }},
	{"refresh_ahead", func(c *Config) any { return &c.RefreshAhead }},
	{"soft_timeout", func(c *Config) any { return &c.SoftTimeout }},
	{"jitter", func(c *Config) any { return &c.Jitter }},
	{"error_cooldown", func(c *Config) any { return &c.ErrorCooldown }},
	{"change_timeout", func(c *Config) any { return &c.ChangeTimeout }},
	{"settle", func(c *Config) any { return &c.Settle }},
	{"max_fetches", func(c *Config) any { return &c.MaxFetches }},
	{"fetch_queue", func(c *Config) any { return &c.FetchQueue }},
	{"max_value_bytes", func(c *Config) any { return &c.MaxValueBytes }},
}

// redacted stands in a printed Config where a password was, as in [net/url.URL.Redacted].
const redacted = "xxxxx"

// ParseConfig reads the one-line form of a Config: the backend as the scheme, for Redis the user, the
// hosts (separated by commas) and the database as in any Redis URL, and every field of Config as a query
// parameter named after it in snake case:
//
//	memory://?max_entries=100000&stale_for=1m
//	rueidis://user:password@host:6379/0?prefix=app&name=users
//	rueidis-aside://host1:6379,host2:6379?cluster=true
//	rueidis:///run/redis/redis.sock?db=1
//
// Spaces and line ends around it are left out, so that it may come from a file. An unknown or repeated
// parameter, a value that cannot be read, and a control character anywhere else are errors matching
// [ErrInvalidConfig]. No error text contains the password.
func ParseConfig(s string) (Config, error) {
	var c Config
	s = strings.TrimSpace(s)
	if at := strings.IndexFunc(s, unicode.IsControl); at >= 0 {
		return c, fmt.Errorf("%w: control character %#02x at byte %d, allowed: none; write %%%02X in a value", ErrInvalidConfig, s[at], at, s[at])
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || scheme == "" {
		return c, fmt.Errorf("%w: no backend before a \"://\", allowed: backend://[user:password@host:port/db][?parameters]", ErrInvalidConfig)
	}
	c.Backend = scheme
	if fragment := strings.IndexByte(rest, '#'); fragment >= 0 {
		return Config{}, fieldError("fragment", quote("#…"), "none; write # in a value as %23")
	}
	rest, query, _ := strings.Cut(rest, "?")
	if err := c.parseLocation(rest); err != nil {
		return Config{}, err
	}
	if err := c.parseQuery(query); err != nil {
		return Config{}, err
	}
	if c.Backend != scheme {
		return Config{}, fieldError("backend", quote(c.Backend), "the scheme's, "+quote(scheme))
	}
	if _, err := c.resolve(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// parseLocation reads [user[:password]@][host[:port][,…]][/db] or /path/of/a.sock. It does not use
// url.Parse, which takes one host only and quotes its input, password and all, in its errors.
func (c *Config) parseLocation(s string) error {
	authority, path, _ := strings.Cut(s, "/")
	if c.Backend == BackendMemory || c.Backend == BackendNoop {
		if authority != "" || path != "" {
			return fieldError("location", "given", "nothing between :// and ? for backend "+quote(c.Backend))
		}
		return nil
	}
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		if err := c.parseUser(authority[:at]); err != nil {
			return err
		}
		authority = authority[at+1:]
	}
	if authority != "" {
		c.Redis.Addrs = strings.Split(authority, ",")
	}
	switch db, err := strconv.Atoi(path); {
	case path == "":
	case err == nil:
		c.Redis.DB = db
	case authority == "":
		socket, err := url.PathUnescape("/" + path)
		if err != nil {
			return fieldError("location", quote(path), "a database number or the path of a unix socket")
		}
		c.Redis.Addrs = []string{socket}
	default:
		return fieldError("Redis.DB", quote(path), "a number")
	}
	return nil
}

func (c *Config) parseUser(s string) error {
	name, password, _ := strings.Cut(s, ":")
	var err1, err2 error
	c.Redis.Username, err1 = url.PathUnescape(name)
	c.Redis.Password, err2 = url.PathUnescape(password)
	if err1 != nil || err2 != nil {
		return fmt.Errorf("%w: user or password is not percent-encoded correctly, allowed: %% only as in %%25", ErrInvalidConfig)
	}
	return nil
}

func (c *Config) parseQuery(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return fmt.Errorf("%w: the part after ? cannot be read, allowed: name=value&name=value, percent-encoded", ErrInvalidConfig)
	}
	for name, given := range values {
		f, ok := findField(name)
		switch {
		case !ok:
			return fieldError("parameter", quote(name), fieldNames())
		case len(given) > 1:
			return fieldError(name, fmt.Sprintf("given %d times", len(given)), "once")
		}
		if err := parseField(f.place(c), given[0]); err != nil {
			return fieldError(name, quote(given[0]), err.Error())
		}
	}
	return nil
}

func findField(name string) (configField, bool) {
	for _, f := range configFields {
		if f.name == name {
			return f, true
		}
	}
	return configField{}, false
}

func fieldNames() string {
	names := make([]string, len(configFields))
	for i, f := range configFields {
		names[i] = f.name
	}
	return strings.Join(names, ", ")
}

// parseField sets *place from its text; the error says what is allowed.
func parseField(place any, text string) (err error) {
	switch p := place.(type) {
	case *string:
		*p = text
	case *[]string:
		if *p = nil; text != "" {
			*p = strings.Split(text, ",")
		}
	case *int:
		if *p, err = strconv.Atoi(text); err != nil {
			return errors.New("a whole number")
		}
	case *bool:
		if *p, err = strconv.ParseBool(text); err != nil {
			return errors.New("true or false")
		}
	case *float64:
		if *p, err = strconv.ParseFloat(text, 64); err != nil {
			return errors.New("a number")
		}
	case *time.Duration:
		if *p, err = time.ParseDuration(text); err != nil {
			return errors.New(`a duration such as "1m30s"`)
		}
	default:
		panic(fmt.Sprintf("cacheaside: no parser for a field of type %T", place))
	}
	return nil
}

// formatField is the inverse of parseField; it returns "" for a zero value.
func formatField(place any) string {
	switch p := place.(type) {
	case *string:
		return *p
	case *[]string:
		return strings.Join(*p, ",")
	case *int:
		return nonZero(*p, strconv.Itoa)
	case *bool:
		return nonZero(*p, strconv.FormatBool)
	case *float64:
		return nonZero(*p, func(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) })
	case *time.Duration:
		return nonZero(*p, shortDuration)
	default:
		panic(fmt.Sprintf("cacheaside: no printer for a field of type %T", place))
	}
}

func nonZero[V comparable](v V, format func(V) string) string {
	var zero V
	if v == zero {
		return ""
	}
	return format(v)
}

// shortDuration is d without the zeros that [time.Duration.String] ends with: 1m for 1m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// String returns the one-line form that [ParseConfig] reads, with what differs from the zero value, and
// with xxxxx for every password.
func (c Config) String() string {
	if c.Redis.Password != "" {
		c.Redis.Password = redacted
	}
	c.Redis.URL, c.Bus = redactURL(c.Redis.URL), redactURL(c.Bus)
	c.Redis.Addrs = slices.Clone(c.Redis.Addrs)
	for i, address := range c.Redis.Addrs {
		if !strings.HasPrefix(address, "/") { // the path of a socket has no user part
			c.Redis.Addrs[i] = redactURL(address)
		}
	}
	setDefault(&c.Backend, BackendMemory)
	var b strings.Builder
	b.WriteString(c.Backend + "://" + c.takeLocation())
	separator := byte('?')
	for _, f := range configFields[1:] {
		if text := formatField(f.place(&c)); text != "" {
			b.WriteByte(separator)
			b.WriteString(f.name + "=" + url.QueryEscape(text))
			separator = '&'
		}
	}
	return b.String()
}

// takeLocation returns what String writes between :// and ?, and clears the fields that stand in it. Whatever a
// location cannot hold remains a parameter.
func (c *Config) takeLocation() string {
	r := &c.Redis
	inProcess := c.Backend == BackendMemory || c.Backend == BackendNoop
	if inProcess || r.URL != "" || len(r.Addrs) == 0 || slices.ContainsFunc(r.Addrs, func(a string) bool { return !plainHost(a) }) {
		return ""
	}
	location := strings.Join(r.Addrs, ",")
	switch {
	case r.Password != "":
		location = url.UserPassword(r.Username, r.Password).String() + "@" + location
	case r.Username != "":
		location = url.User(r.Username).String() + "@" + location
	}
	if r.DB != 0 {
		location += "/" + strconv.Itoa(r.DB)
	}
	r.Addrs, r.Username, r.Password, r.DB = nil, "", "", 0
	return location
}

// plainHost reports whether an address is made of nothing but what a host and a port are.
func plainHost(address string) bool {
	return address != "" && strings.Trim(address, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:[]") == ""
}

// redactURL hides what stands between the first colon of a URL's user part and its last @. It works on
// text, since a URL that does not parse must not be printed whole either.
func redactURL(s string) string {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		scheme, rest = "", s
	} else {
		scheme += "://"
	}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		if user, _, hasPassword := strings.Cut(rest[:at], ":"); hasPassword {
			return scheme + user + ":" + redacted + rest[at:]
		}
	}
	return s
}

// quote shows a value from outside in an error, shortened. What stands before an @ is hidden: a user part
// that is not percent-encoded may come apart anywhere, and leave a piece of the password in any value.
func quote(s string) string {
	const most = 64
	if at := strings.LastIndexByte(s, '@'); at >= 0 {
		s = redacted + s[at:]
	}
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strconv.Quote(s)
}
