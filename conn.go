package cacheaside

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// conn is the one connection to Redis of all caches of a backend, with a second one for what takes long (see
// second). It never keeps a caller waiting for longer than OpTimeout: each operation runs under a deadline, and none
// is begun while the connection is known to be down; a probe in the background brings it back. operation.go has what
// operations use of it.
type conn struct {
	cfg      Config
	option   rueidis.ClientOption
	timeouts *opTimeouts
	dial     dialFunc // for what is not the client's; see dialApart
	wires    wires
	node            // of all servers together, where there are several
	nodes    *nodes // nil without a cluster
	second   second
	part     atomic.Int64 // how many keys are looked up at once, see lookUpInParts
	role     role

	client   atomic.Pointer[rueidis.Client] // nil until it could be made
	making   sync.Mutex                     // held while it is being made
	closing  atomic.Bool
	teaching atomic.Bool  // a script is being sent; see scripts.go
	taught   atomic.Int64 // when that was begun last, in unix nanoseconds
	redialed atomic.Int64 // when the connections were given up last, in unix nanoseconds; see redial
	doubt    atomic.Bool  // whether there is a proxy still; see lookAgain

	checkOnce sync.Once
	checkName string        // what the keys of unusedKey have in common; random, so that they are no cache's
	checks    atomic.Uint64 // how often unusedKey has been asked
}

// newConn returns a connection that has not been tried. near makes the store of tracked reads; it is nil
// for a backend that has no near cache.
func newConn(cfg Config, o options, near rueidis.NewCacheStoreFn, events func(Event)) (*conn, error) {
	option, err := clientOption(cfg.Redis)
	if err != nil {
		return nil, err
	}
	option.NewCacheStoreFn = near
	option.DisableCache = near == nil
	option.ClientTrackingOptions = trackEverything
	for _, change := range o.rueidis {
		change.(func(*rueidis.ClientOption))(&option)
	}
	completeClientOption(&option)
	if near != nil {
		if err := checkTracking(&option); err != nil {
			return nil, err
		}
	}
	// The client's own retry would wait behind somebody else's dial, without regard to the caller's context,
	// and use the memory of a command again that a dead connection may still be writing. conn.attempt is ours.
	option.DisableRetry = true
	n := &conn{cfg: cfg, option: option, timeouts: newOpTimeouts(cfg.OpTimeout)}
	n.prepare(&n.node)
	n.line.lost = n.lost
	n.breaker = newBreaker(n.probe, events)
	n.breaker.brief = cfg.OpTimeout / 8
	n.wires.underWay = n.load.underWay.Load
	n.wires.plain.Store(option.AlwaysRESP2 && n.mayBePlain())
	n.dial = dialer(&option)
	lineOf := func(string) *line { return &n.line }
	if n.isCluster() {
		n.nodes = &nodes{conn: n, events: events, byAddr: make(map[string]*node), down: make(map[*node]bool)}
		lineOf = func(addr string) *line { return &n.nodes.at(addr).line }
	}
	n.option.DialCtxFn = n.wires.watch(n.dial, lineOf)
	if option.AuthCredentialsFn != nil {
		n.option.AuthCredentialsFn = n.wires.credentials(option.AuthCredentialsFn)
	}
	if moves := &n.option.ClusterOption.MaxMovedRedirections; *moves <= 0 || *moves > maxRedirections {
		*moves = maxRedirections
	}
	n.openSecond(n.dial)
	return n, nil
}

// prepare makes a node ready but for its breaker.
func (n *conn) prepare(at *node) {
	at.load.slots = make(chan struct{}, maxLeft)
	at.line.patience, at.line.piece = patienceOf(&n.option), readPiece
	at.line.buffer = cmp.Or(n.option.ReadBufferEachConn, rueidis.DefaultReadBuffer)
}

// pingPatience is how long the client's PING may wait behind a value. The wires notice what is silent, see watchdog.
const pingPatience = time.Minute

// patienceOf is how long a connection may be silent that the client was configured to ask for its life, or zero.
func patienceOf(o *rueidis.ClientOption) time.Duration {
	if o.ConnWriteTimeout <= 0 || o.Dialer.KeepAlive <= 0 {
		return 0
	}
	return o.Dialer.KeepAlive + o.ConnWriteTimeout
}

// maxRedirections is how often a command follows MOVED and ASK. Nodes that disagree for good would send it to
// and fro without end.
const maxRedirections = 3

var errConnectionLost = errors.New("connection lost")

// lost is called when a connection closes. In a cluster that says nothing about the other nodes.
func (n *conn) lost() {
	if n.option.ForceSingleClient && n.client.Load() != nil && !n.closing.Load() {
		n.doubt.Store(n.isPlain() && !n.option.AlwaysRESP2)
		n.breaker.trip(errConnectionLost)
	}
}

// contactPatience is far more than the client itself takes to find out that a server does not answer.
const contactPatience = 10 * time.Second

// connect makes the client. It returns an error only for what waiting does not heal: Redis refused us, or
// lacks what the backend needs. If Redis is down, or does not answer before ctx ends, the connection is
// degraded, and heals in the background; also if a function of the user's takes longer than contactPatience to
// dial, or to find out the credentials.
func (n *conn) connect(ctx context.Context) error {
	made := make(chan error, 1)
	go func() { made <- n.firstContact() }() // close waits for it
	select {
	case err := <-made:
		if err != nil && hopeless(err) {
			n.close()
			return n.explain(err)
		}
		if err != nil {
			n.breaker.trip(err)
		}
		return nil
	case <-time.After(contactPatience):
		n.breaker.trip(context.DeadlineExceeded)
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
	c, err := rueidis.NewClient(n.clientOption())
	if c == nil {
		return err
	}
	n.client.Store(&c)
	if n.nodes != nil && err == nil {
		n.nodes.learn(context.Background(), c.Nodes())
	}
	if n.closing.Load() {
		c.Close()
	}
	return err
}

// clientOption is how clients are made. The PING of the client may stand behind a value for long.
func (n *conn) clientOption() rueidis.ClientOption {
	option := n.option
	option.ConnWriteTimeout = max(option.ConnWriteTimeout, pingPatience)
	if n.isPlain() {
		return plainOption(option)
	}
	return option
}

// probe asks whether Redis answers. If it is not brisk it has a time of its own, longer than an
// operation's: if connecting takes longer than those, nothing else would ever bring the connection back.
func (n *conn) probe(ctx context.Context, brisk bool) error {
	limit := n.cfg.OpTimeout
	if !brisk {
		limit += dialTimeout + writeTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	n.lookAgain(ctx)
	err := n.reach(ctx)
	if err != nil {
		if err = n.fallBack(ctx, err); err == nil {
			err = n.reach(ctx)
		}
	}
	if n.isLate(err, n.cfg.OpTimeout) {
		return nil // it stands behind what flows
	}
	re, ok := rueidis.IsRedisErr(err)
	if ok && wantsMaster(re) {
		n.redial()
	}
	if ok && !notServing(re) && !refusesConnection(re) && n.wires.isConnected() {
		return nil // any other reply is an answer, even "no permission"; but in a handshake it ends the connection
	}
	return err
}

// isLate reports whether err says that an answer did not come in time while something large is passing: then there is
// no outage.
func (at *node) isLate(err error, opTimeout time.Duration) bool {
	return hasEnded(err) && at.line.flowing(min(opTimeout/2, time.Second))
}

// redialEvery is the shortest time from one redial to the next.
const redialEvery = time.Second

// redial gives up the connections to a server that has become a replica, so that the next operation dials anew:
// the name that was dialed may be another server's now. In a cluster the client itself finds the master.
func (n *conn) redial() {
	if !n.option.ForceSingleClient && n.option.Sentinel.MasterSet == "" {
		return
	}
	now := time.Now().UnixNano()
	if last := n.redialed.Load(); now-last >= int64(redialEvery) && n.redialed.CompareAndSwap(last, now) {
		n.wires.drop()
	}
}

// hasEnded reports whether err is that of a context.
func hasEnded(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// reach asks whether there is an answer, of a client that it makes unless there is one.
func (n *conn) reach(ctx context.Context) error {
	if err := n.makeClient(); err != nil {
		return err
	}
	c := n.client.Load()
	if c == nil {
		return rueidis.ErrClosing
	}
	if n.nodes != nil {
		return n.nodes.askAny(ctx, *c)
	}
	err := n.askFor(ctx, *c)
	if isLost(err) && !isRefused(err) { // it may have gone by the connection that was lost; now there is another one, if there can be
		err = n.askFor(ctx, *c)
	}
	return err
}

func (n *conn) askFor(ctx context.Context, c rueidis.Client) error {
	err := leavable{Client: c}.Do(ctx, n.pingCommand(c.B())).Error()
	if rueidis.IsRedisNil(err) {
		return nil
	}
	return err
}

// pingCommand is a command that has an answer from any server. A proxy may not know PING.
func (n *conn) pingCommand(b rueidis.Builder) rueidis.Completed {
	if n.isPlain() {
		return b.Get().Key(n.plainKey()).Build()
	}
	return b.Ping().Build()
}

// beat sends a beat for near copies (see beats), and returns when it is answered, or the connection is lost.
func (n *conn) beat(redisKey string) { n.beatBy(n.client.Load(), redisKey) }

func (n *conn) beatBy(c *rueidis.Client, redisKey string) {
	if c == nil || n.closing.Load() {
		return
	}
	n.checkRole(time.Now())
	(*c).DoCache(context.Background(), (*c).B().Strlen().Key(redisKey).Cache().ToStaticTTL().Pin(), beatEvery)
}

// closePatience is how long Close lets operations under way end by themselves.
const closePatience = 400 * time.Millisecond

// close closes the client. Operations that are still under way after closePatience fail.
func (n *conn) close() {
	if n.closing.Swap(true) {
		return
	}
	n.breaker.stop()
	if n.nodes != nil {
		defer n.nodes.stop()()
	}
	closed := make(chan struct{})
	go func() { // ends when the connections are closed at the latest
		defer close(closed)
		n.making.Lock()
		defer n.making.Unlock()
		var closing sync.WaitGroup
		closing.Go(n.second.close)
		if c := n.client.Load(); c != nil {
			(*c).Close()
		}
		closing.Wait()
	}()
	patience := closePatience
	if n.client.Load() == nil {
		patience = 0 // it is being made: nothing is under way
	}
	select {
	case <-closed:
	case <-time.After(patience):
	}
	n.wires.close()
	<-closed
	n.breaker.probing.Wait()
}

// hopeless reports whether err will not go away by waiting: wrong credentials, a missing permission, a
// database or a master set that is not there, TLS that does not fit, or a server that cannot track.
func hopeless(err error) bool {
	if re, ok := rueidis.IsRedisErr(err); ok {
		return !notServing(re) && !re.IsClusterDown() && !re.IsTryAgain()
	}
	var certificate *tls.CertificateVerificationError
	return errors.Is(err, rueidis.ErrNoCache) || rueidis.IsRedisNil(err) || errors.Is(err, errSpeaksTLS) ||
		errors.Is(err, errSpeaksPlain) || errors.Is(err, errHangsUp) || errors.As(err, &certificate)
}
