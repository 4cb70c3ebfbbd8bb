package cacheaside

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// WithRueidisOption changes the options of the rueidis client before it is made: TLS certificates, a
// dialer, credentials that rotate. It may be given several times.
func WithRueidisOption(change func(*rueidis.ClientOption)) Option {
	return func(o *options) {
		if change == nil {
			o.fail("WithRueidisOption", "a function")
			return
		}
		o.rueidis = append(o.rueidis, change)
	}
}

// conn is the one connection to Redis of all caches of a backend. It never keeps a caller waiting for
// longer than OpTimeout: each operation runs under a deadline, and none is begun while the connection is
// known to be down; a probe in the background brings it back.
type conn struct {
	cfg      Config
	option   rueidis.ClientOption
	timeouts *opTimeouts
	breaker  *breaker

	wires wires

	client  atomic.Pointer[rueidis.Client] // nil until it could be made
	making  sync.Mutex                     // held while it is being made
	closing atomic.Bool
}

// The defaults of the client, each for a reason.
const (
	// maxFlushDelay gives concurrent callers the time to share a write.
	maxFlushDelay = 20 * time.Microsecond

	// dialTimeout and writeTimeout bound what a dead server can keep waiting; keepAlive is after how long
	// without a reply the client asks for one. Together they are the time to detect a silent server, which
	// bounds how long a near cache may be stale: about two seconds.
	dialTimeout  = time.Second
	writeTimeout = time.Second
	keepAlive    = 500 * time.Millisecond
)

// newConn returns a connection that has not been tried. near makes the store of tracked reads; it is nil
// for a backend that has no near cache.
func newConn(cfg Config, o options, near rueidis.NewCacheStoreFn, events func(Event)) (*conn, error) {
	option, err := clientOption(cfg.Redis)
	if err != nil {
		return nil, err
	}
	option.NewCacheStoreFn = near
	option.DisableCache = near == nil
	for _, change := range o.rueidis {
		change.(func(*rueidis.ClientOption))(&option)
	}
	if near != nil && (option.DisableCache || option.AlwaysRESP2) {
		return nil, fieldError("WithRueidisOption", "DisableCache or AlwaysRESP2", "neither with the backend rueidis-aside, which lives by RESP3 client tracking")
	}
	n := &conn{cfg: cfg, option: option, timeouts: newOpTimeouts(cfg.OpTimeout)}
	n.breaker = newBreaker(n.probe, events)
	n.option.DialCtxFn = n.wires.watch(option.DialCtxFn, n.lost)
	return n, nil
}

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
		o.InitAddress = []string{"127.0.0.1:6379"}
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
	if r.SentinelMaster != "" {
		o.Sentinel.MasterSet = r.SentinelMaster
		o.Sentinel.TopologyRefreshInterval = 5 * time.Second
	}
	isCluster := r.Cluster || len(o.InitAddress) > 1 && o.Sentinel.MasterSet == ""
	if isCluster && o.SelectDB != 0 {
		return o, fieldError("Redis.DB", o.SelectDB, "0 with a cluster")
	}
	o.ForceSingleClient = !isCluster && o.Sentinel.MasterSet == ""
	setClientDefaults(&o)
	return o, nil
}

func setClientDefaults(o *rueidis.ClientOption) {
	o.AlwaysPipelining = true // otherwise the deadline of one caller closes the connection for all
	o.PipelineMultiplex = -1  // one connection, so that there is one order of replies and invalidations
	o.MaxFlushDelay = maxFlushDelay
	setDefault(&o.ConnWriteTimeout, writeTimeout)
	setDefault(&o.Dialer.Timeout, dialTimeout)
	setDefault(&o.Dialer.KeepAlive, keepAlive)
	o.Sentinel.Dialer = o.Dialer
	// One retry at once, for a connection that was closed since the last command. More would only make a
	// caller wait, without an end if it has no deadline.
	o.RetryDelay = func(attempts int, _ rueidis.Completed, _ error) time.Duration {
		if attempts > 1 {
			return -1
		}
		return 0
	}
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
	known := []string{"addr", "client_name", "db", "dial_timeout", "master_set", "protocol", "write_timeout"}
	for name := range u.Query() {
		if !slices.Contains(known, name) {
			return o, fieldError("parameter of Redis.URL", quote(name), strings.Join(known, ", "))
		}
	}
	return o, nil
}

var errConnectionLost = errors.New("connection lost")

// lost is called when a connection closes. In a cluster that says nothing about the other nodes.
func (n *conn) lost() {
	if n.option.ForceSingleClient && n.client.Load() != nil && !n.closing.Load() {
		n.breaker.trip(errConnectionLost)
	}
}

// connect makes the client. It returns an error only for what waiting does not heal: Redis refused us, or
// lacks what the backend needs. If Redis is down, or does not answer before ctx ends, the connection is
// degraded, and heals in the background.
func (n *conn) connect(ctx context.Context) error {
	made := make(chan error, 1)
	go func() { made <- n.makeClient() }() // ends within the dial timeout of each address
	select {
	case err := <-made:
		if err != nil && hopeless(err) {
			n.close()
			if errors.Is(err, rueidis.ErrNoCache) {
				return fmt.Errorf("%w: the backend rueidis-aside needs Redis 6 or newer with RESP3, "+
					"and a user that may call CLIENT TRACKING; without them use rueidis: %w", ErrInvalidConfig, err)
			}
			return fmt.Errorf("cacheaside: connecting to Redis: %w", err)
		}
		if err != nil {
			n.breaker.trip(err)
		}
		return nil
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) {
			n.close()
			return ctx.Err()
		}
		n.breaker.trip(ctx.Err())
		return nil
	}
}

// makeClient makes the client unless there is one. A single node's client is made even if the node is
// down; it connects later by itself. For a cluster or sentinels, the probe calls makeClient again.
func (n *conn) makeClient() error {
	n.making.Lock()
	defer n.making.Unlock()
	if n.client.Load() != nil || n.closing.Load() {
		return nil
	}
	c, err := rueidis.NewClient(n.option)
	if c == nil {
		return err
	}
	n.client.Store(&c)
	if n.closing.Load() {
		c.Close()
	}
	return err
}

// hopeless reports whether err will not go away by waiting: wrong credentials, a missing permission, a
// database that is not there, TLS that does not fit, or a server that cannot track.
func hopeless(err error) bool {
	if re, ok := rueidis.IsRedisErr(err); ok {
		return !re.IsLoading() && !re.IsClusterDown() && !re.IsTryAgain() && !strings.HasPrefix(re.Error(), "MASTERDOWN") && !strings.HasPrefix(re.Error(), "BUSY")
	}
	var header tls.RecordHeaderError
	var certificate *tls.CertificateVerificationError
	return errors.Is(err, rueidis.ErrNoCache) || errors.As(err, &header) || errors.As(err, &certificate)
}

// probe asks whether Redis answers. It has a time of its own, longer than an operation's: if connecting
// takes longer than those, nothing else would ever bring the connection back.
func (n *conn) probe(ctx context.Context) error {
	if err := n.makeClient(); err != nil {
		return err
	}
	c := n.client.Load()
	if c == nil {
		return rueidis.ErrClosing
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout+writeTimeout+n.cfg.OpTimeout)
	defer cancel()
	err := (*c).Do(ctx, (*c).B().Ping().Build()).Error()
	if re, ok := rueidis.IsRedisErr(err); ok && !re.IsLoading() {
		return nil // any other reply is an answer, even "no permission"
	}
	return err
}

// op is one operation under way.
type op struct {
	rueidis.Client
	ctx    context.Context // ends at OpTimeout, or with the caller's
	cancel context.CancelFunc
	caller context.Context
	begun  time.Time
}

// suspectAfter is how long a caller must have waited in vain, until its own context ended, for the
// connection to be probed: callers with short deadlines must not go on waiting for a server that is gone.
const suspectAfter = 50 * time.Millisecond

// begin begins an operation for the caller with this context; end must follow unless it returns an error.
// With patient, it waits for a connection that is being restored, as far as OpTimeout allows.
func (n *conn) begin(ctx context.Context, patient bool) (op, error) {
	if n.breaker.isDown() {
		if err := n.breaker.wait(ctx, patient, n.cfg.OpTimeout); err != nil {
			return op{}, err
		}
	}
	c := n.client.Load()
	if c == nil {
		return op{}, unavailable(errConnectionLost)
	}
	o := op{Client: *c, caller: ctx, begun: time.Now()}
	o.ctx, o.cancel = n.timeouts.bound(ctx, o.begun)
	return o, nil
}

// end ends an operation with the error that it got. The caller's context counts first; a reply that is an
// error is an answer, and anything else means that the connection is to be probed before it is used again.
func (n *conn) end(o *op, err error) error {
	if o.cancel != nil {
		o.cancel()
	}
	if err == nil || rueidis.IsRedisNil(err) {
		return nil
	}
	if gone := o.callerGone(err); gone != nil {
		if time.Since(o.begun) > suspectAfter {
			n.breaker.trip(err)
		}
		return gone
	}
	if n.closing.Load() {
		return ErrClosed
	}
	if _, ok := rueidis.IsRedisErr(err); !ok && !rueidis.IsParseErr(err) {
		n.breaker.trip(err)
	}
	return unavailable(err)
}

// callerGone returns the error of the caller's context if that, and not the backend, explains err.
func (o *op) callerGone(err error) error {
	if gone := o.caller.Err(); gone != nil {
		return gone
	}
	deadline, ok := o.caller.Deadline()
	if ok && errors.Is(err, context.DeadlineExceeded) && !time.Now().Before(deadline) {
		return context.DeadlineExceeded // the timer of the caller's context is a little late
	}
	return nil
}

// ping is Health: the truth, waiting if the connection is being probed just now.
func (n *conn) ping(ctx context.Context) error {
	o, err := n.begin(ctx, true)
	if err != nil {
		return err
	}
	return n.end(&o, o.Do(o.ctx, o.B().Ping().Build()).Error())
}

// closePatience is how long Close lets operations under way end by themselves.
const closePatience = 500 * time.Millisecond

// close closes the client. Operations that are still under way after closePatience fail.
func (n *conn) close() {
	if n.closing.Swap(true) {
		return
	}
	probing := n.breaker.stop()
	closed := make(chan struct{})
	go func() { // ends when the connections are closed at the latest
		defer close(closed)
		if c := n.client.Load(); c != nil {
			(*c).Close()
		}
	}()
	select {
	case <-closed:
	case <-time.After(closePatience):
	}
	n.wires.close()
	<-closed
	if probing != nil {
		<-probing
	}
}
