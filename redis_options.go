package cacheaside

import (
	"crypto/tls"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// WithRueidisOption changes the options of the rueidis client before it is made: TLS certificates, a
// dialer, credentials that rotate. It may be given several times. What is set for the client holds for
// its connections to sentinels too, but for their own TLSConfig and fields of their Dialer that are set.
func WithRueidisOption(change func(*rueidis.ClientOption)) Option {
	return func(o *options) {
		if change == nil {
			o.fail("WithRueidisOption", "a function")
			return
		}
		o.rueidis = append(o.rueidis, change)
	}
}

// The defaults of the client, each for a reason.
const (
	// dialTimeout and writeTimeout bound what a dead server can keep waiting; keepAlive is after how long
	// without a reply the client asks for one. Together they are the time to detect a silent server: about two
	// seconds. How long a near cache may be stale does not depend on them; see beats.
	dialTimeout  = time.Second
	writeTimeout = time.Second
	keepAlive    = 500 * time.Millisecond

	defaultPort = "6379"
)

// clientOption translates the configuration, with our defaults.
func clientOption(r RedisConfig) (rueidis.ClientOption, error) {
	o, err := parseRedisURL(r.URL)
	if err != nil {
		return o, err
	}
	if len(r.Addrs) > 0 {
		o.InitAddress = slices.Clone(r.Addrs)
	}
	if len(o.InitAddress) == 0 {
		o.InitAddress = []string{net.JoinHostPort("127.0.0.1", defaultPort)}
	}
	for i, a := range o.InitAddress {
		if o.InitAddress[i], err = address(a); err != nil {
			return o, err
		}
	}
	if r.Username != "" {
		o.Username = r.Username
	}
	if r.Password != "" {
		o.Password = r.Password
	}
	if r.DB != 0 {
		o.SelectDB = r.DB
	}
	if r.TLS && o.TLSConfig == nil {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if r.RESP == 2 {
		o.AlwaysRESP2 = true
	}
	if r.SentinelMaster != "" {
		o.Sentinel.MasterSet = r.SentinelMaster
	}
	isSentinel := o.Sentinel.MasterSet != ""
	isCluster := r.Cluster || len(o.InitAddress) > 1 && !isSentinel
	switch {
	case isCluster && isSentinel:
		return o, fieldError("Redis.Cluster", true, "false with a SentinelMaster")
	case isCluster && o.SelectDB != 0:
		return o, fieldError("Redis.DB", o.SelectDB, "0 with a cluster")
	}
	o.ForceSingleClient = !isCluster && !isSentinel
	setClientDefaults(&o)
	return o, nil
}

func setClientDefaults(o *rueidis.ClientOption) {
	o.AlwaysPipelining = true // otherwise the deadline of one caller closes the connection for all
	o.PipelineMultiplex = -1  // one connection, so that there is one order of replies and invalidations
	// MaxFlushDelay stays off: it makes a batch of what 256 callers send, but a sleep of any length takes a
	// millisecond in a process that has nothing else to do, which four callers have paid for each call.
	setDefault(&o.ConnWriteTimeout, writeTimeout)
	setDialerDefaults(&o.Dialer)
}

func setDialerDefaults(d *net.Dialer) {
	setDefault(&d.Timeout, dialTimeout)
	setDefault(&d.KeepAlive, keepAlive)
}

// completeClientOption is called when the user's functions have changed o: a dialer made anew gets the
// defaults, and sentinels are reached as Redis is, but for what was set for them.
func completeClientOption(o *rueidis.ClientOption) {
	setDialerDefaults(&o.Dialer)
	if o.Sentinel.MasterSet == "" {
		return
	}
	if o.Sentinel.TLSConfig == nil {
		o.Sentinel.TLSConfig = o.TLSConfig
	}
	o.Sentinel.Dialer = overlaid(o.Dialer, o.Sentinel.Dialer)
	setDefault(&o.Sentinel.TopologyRefreshInterval, 5*time.Second) // a failover whose message was lost is noticed too
}

// overlaid returns d with the fields that are set in by.
func overlaid(d, by net.Dialer) net.Dialer {
	to, from := reflect.ValueOf(&d).Elem(), reflect.ValueOf(by)
	for i := range from.NumField() {
		if to.Field(i).CanSet() && !from.Field(i).IsZero() {
			to.Field(i).Set(from.Field(i))
		}
	}
	return d
}

// address checks a host:port or the path of a unix socket, and adds the default port.
func address(s string) (string, error) {
	if strings.HasPrefix(s, "/") {
		return s, nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil && !strings.Contains(s, ":") || strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		host, port, err = strings.Trim(s, "[]"), defaultPort, nil
	}
	if _, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil {
		return "", fieldError("address of Redis", quote(redactURL(s)), "host:port, or the path of a unix socket")
	}
	return net.JoinHostPort(host, port), nil
}

// parseRedisURL reads Redis.URL. It says nothing of a bad one that could hold the password.
func parseRedisURL(s string) (rueidis.ClientOption, error) {
	if s == "" {
		return rueidis.ClientOption{}, nil
	}
	const allowed = "redis://[user:password@]host:port[/db], rediss:// for TLS, unix:///path"
	o, err := rueidis.ParseURL(s)
	if err != nil {
		return o, fieldError("Redis.URL", quote(redactURL(s)), allowed)
	}
	u, err := url.Parse(s)
	if err != nil {
		return o, fieldError("Redis.URL", quote(redactURL(s)), allowed)
	}
	if u.Scheme == "unix" && (u.Host != "" || !strings.HasPrefix(u.Path, "/")) {
		return o, fieldError("Redis.URL", quote(redactURL(s)), allowed)
	}
	o.DialCtxFn = nil // that of a unix socket knows no TLS, and no addresses that win over the URL
	if o.TLSConfig != nil {
		o.TLSConfig.ServerName = "" // each connection checks the name that it dials, which may be another node's
	}
	known := []string{"addr", "client_name", "db", "dial_timeout", "master_set", "protocol", "write_timeout"}
	for name := range u.Query() {
		if !slices.Contains(known, name) {
			return o, fieldError("parameter of Redis.URL", quote(name), strings.Join(known, ", "))
		}
	}
	return o, nil
}
