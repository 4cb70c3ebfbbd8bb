package cacheaside

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"

	"github.com/redis/rueidis"
)

// What goes wrong when a program first reaches Redis is most often a mistake in its configuration. This
// file finds out which, so that it is told at the start, and not as a cache that never holds anything.

var (
	errSpeaksTLS   = errors.New("the server speaks TLS, which is not configured (Redis.TLS, or a rediss:// URL)")
	errHangsUp     = errors.New("the server, or a proxy before it, hangs up at")
	errSpeaksPlain = errors.New("TLS is configured (Redis.TLS, or a rediss:// URL), but the server does not speak it")
)

// firstContact makes the client, and looks for the reason if Redis does not answer properly.
func (n *conn) firstContact() error {
	err := n.greet()
	if err == nil || hopeless(err) || errors.Is(err, syscall.ECONNREFUSED) || n.closing.Load() {
		return err
	}
	if _, ok := rueidis.IsRedisErr(err); ok {
		return err
	}
	for _, address := range n.option.InitAddress {
		if mismatch := n.mismatch(address); mismatch != nil {
			return fmt.Errorf("%s: %w", address, mismatch)
		}
	}
	return cmp.Or(n.hangsUpAt(err), err)
}

// mismatch looks whether a server speaks TLS and we do not, or the other way round. It sends nothing that
// is secret.
func (n *conn) mismatch(address string) error {
	ctx, cancel := n.wires.bound(context.Background(), dialTimeout)
	defer cancel()
	dialer, config := n.option.Dialer, n.option.TLSConfig
	if n.option.Sentinel.MasterSet != "" { // the addresses are sentinels
		dialer, config = n.option.Sentinel.Dialer, n.option.Sentinel.TLSConfig
	}
	c, err := n.dialApart(ctx, address, dialer, nil)
	if err != nil {
		return nil // it is down, then
	}
	if config != nil {
		if greets(c) {
			return errSpeaksPlain
		}
		return nil
	}
	// Nothing is sent but the handshake, so that it does not matter who the server is.
	err = tls.Client(c, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(ctx) //nolint:gosec // see above
	var alert tls.AlertError
	if err == nil || errors.As(err, &alert) {
		return errSpeaksTLS
	}
	return nil
}

// dialApart dials a connection that is not the client's. It is closed when ctx ends.
func (n *conn) dialApart(ctx context.Context, address string, dialer net.Dialer, config *tls.Config) (net.Conn, error) {
	c, err := n.dial(ctx, address, &dialer, named(config, address))
	if err == nil {
		context.AfterFunc(ctx, func() { _ = c.Close() }) // all that it was for is done, or given up
	}
	return c, err
}

// hangsUpAt returns an error if what is there is welcoming, and hangs up at what the configuration has the client
// begin with: a proxy does that when it does not know a command.
func (n *conn) hangsUpAt(err error) error {
	var commands []string
	if n.option.Username != "" || n.option.Password != "" {
		commands = append(commands, "AUTH (Redis.Username, Redis.Password)")
	}
	if n.option.SelectDB != 0 {
		commands = append(commands, "SELECT (Redis.DB)")
	}
	if len(commands) == 0 || !n.isPlain() || !hangsUp(err) || !serves(n.exchange(context.Background(), n.getCommand())[0]) {
		return nil
	}
	return fmt.Errorf("%w %s: %w", errHangsUp, strings.Join(commands, " or "), err)
}

// greets reports whether a server answers a PING in the clear, be it by an error.
func greets(c net.Conn) bool {
	if _, err := c.Write([]byte("PING\r\n")); err != nil {
		return false
	}
	first := make([]byte, 1)
	n, _ := c.Read(first)
	return n == 1 && (first[0] == '+' || first[0] == '-')
}

// explain says what a hopeless error means.
func (n *conn) explain(err error) error {
	re, ok := rueidis.IsRedisErr(err)
	text := err.Error()
	switch {
	case errors.Is(err, rueidis.ErrNoCache):
		said, _, _ := strings.Cut(text, rueidis.ErrNoCache.Error()) // advice to who builds the client, and that are we
		said = cmp.Or(strings.TrimSpace(said), "the server does not speak RESP3")
		return fmt.Errorf("%w: the backend rueidis-aside needs Redis 6 or newer with RESP3, and a user that may call CLIENT TRACKING; "+
			"without them use rueidis: %w", ErrInvalidConfig, &shortened{said, err})
	case errors.Is(err, errSpeaksTLS), errors.Is(err, errSpeaksPlain), errors.Is(err, errHangsUp):
		return fmt.Errorf("%w: %w", ErrInvalidConfig, err)
	case strings.Contains(text, "DB index is out of range"), strings.Contains(text, "SELECT is not allowed"):
		return fmt.Errorf("%w: Redis.DB is %d: %w", ErrInvalidConfig, n.option.SelectDB, err)
	case n.option.SelectDB != 0 && ok && isUnknownCommand(re) && containsAny(strings.ToLower(text), "'select'", "`select`"):
		return fmt.Errorf("%w: Redis.DB is %d, but the server, or a proxy before it, does not know SELECT: %w", ErrInvalidConfig, n.option.SelectDB, withoutArguments(re))
	case strings.HasPrefix(text, "WRONGPASS"):
		user := n.option.Username
		if user == "" {
			user = defaultUser
		}
		return fmt.Errorf("%w: Redis does not know user %q with this password: %w", ErrInvalidConfig, user, err)
	case strings.HasPrefix(text, "NOAUTH") && n.option.Sentinel.MasterSet != "":
		return fmt.Errorf("%w: Redis, or a sentinel, wants a password, and none is configured (that of sentinels is given by WithRueidisOption): %w", ErrInvalidConfig, err)
	case strings.HasPrefix(text, "NOAUTH"):
		return fmt.Errorf("%w: Redis wants a password, and none is configured: %w", ErrInvalidConfig, err)
	case strings.Contains(text, "cluster support disabled"):
		return fmt.Errorf("%w: Redis.Cluster is set, or Redis.Addrs has several addresses, but what is there is no cluster: %w", ErrInvalidConfig, err)
	case containsAny(strings.ToLower(text), "unknown command 'sentinel'", "unknown command `sentinel`"):
		return fmt.Errorf("%w: Redis.SentinelMaster is set, but what is at Redis.Addrs is no sentinel: %w", ErrInvalidConfig, err)
	case rueidis.IsRedisNil(err), strings.Contains(text, "No such master"):
		return fmt.Errorf("%w: Redis.SentinelMaster is %q, which the sentinels do not know", ErrInvalidConfig, n.option.Sentinel.MasterSet)
	}
	return fmt.Errorf("cacheaside: connecting to Redis: %w", err)
}

// need is a command that a backend sends, and how to find out whether it may, without changing anything:
// key is one that nobody uses.
type need struct {
	what  string
	build func(b rueidis.Builder, key string) rueidis.Completed
}

// needs of every backend that keeps values in Redis.
var needs = []need{
	{"GET", func(b rueidis.Builder, key string) rueidis.Completed { return b.Get().Key(key).Build() }},
	{"SET", func(b rueidis.Builder, key string) rueidis.Completed {
		return b.Set().Key(key).Value("").Xx().PxMilliseconds(1).Build()
	}},
	{"DEL", func(b rueidis.Builder, key string) rueidis.Completed { return b.Del().Key(key).Build() }},
	{"MGET", func(b rueidis.Builder, key string) rueidis.Completed { return b.Mget().Key(key).Build() }},
}

// needsOfBus are what a memory backend with a bus sends.
var needsOfBus = []need{
	needs[0],
	{"EVALSHA", func(b rueidis.Builder, key string) rueidis.Completed {
		return b.Evalsha().Sha1(unknownScript).Numkeys(1).Key(key).Build()
	}},
	{"PUBLISH", func(b rueidis.Builder, key string) rueidis.Completed {
		return b.Publish().Channel(key).Message("").Build()
	}},
}

// unknownScript is the hash of none.
const unknownScript = "0000000000000000000000000000000000000000"

// needsOfAside are what rueidis-aside sends besides; CLIENT TRACKING has been asked for by then.
var needsOfAside = append(needs[:len(needs):len(needs)], []need{
	{"EVALSHA", func(b rueidis.Builder, key string) rueidis.Completed {
		return b.Evalsha().Sha1(unknownScript).Numkeys(1).Key(key).Build()
	}},
	{"EVAL, or in a script TYPE, STRLEN, GETRANGE, PTTL or PEXPIRE,", func(b rueidis.Builder, key string) rueidis.Completed {
		return b.Eval().Script(checkScript).Numkeys(1).Key(key).Build()
	}},
}...)

// checkScript calls what the scripts of rueidis-aside call, on a key that is not there, and says what of it
// is refused.
//
// The words of a refusal change from version to version, so what is no refusal is told apart: that the server
// is a replica, or cannot write at present. PEXPIRE, the only write, may get that.
const checkScript = `
for _, c in ipairs({{'TYPE'}, {'STRLEN'}, {'GETRANGE', 0, 31}, {'PTTL'}, {'PEXPIRE', 1}}) do
  local r = redis.pcall(c[1], KEYS[1], unpack(c, 2))
  local err = type(r) == 'table' and r.err
  if err then
    for _, code in ipairs({'READONLY', 'MISCONF', 'NOREPLICAS', 'OOM', 'MASTERDOWN', 'LOADING', 'CLUSTERDOWN', 'TRYAGAIN'}) do
      if string.find(err, code, 1, true) then err = nil; break end
    end
  end
  if err then return redis.error_reply('NOPERM a script may not call ' .. c[1]) end
end
return 0`

// healthKeys is how many keys a connection asks for to see whether Redis serves a cache. Redis remembers each
// of them for as long as it tracks what the connection reads, so they must be few; but in a cluster they
// must meet several nodes.
const healthKeys = 16

// unusedKey returns a key that begins with prefix and that no cache uses, each of healthKeys in turn.
func (n *conn) unusedKey(prefix string) string {
	n.checkOnce.Do(func() { n.checkName = "cacheaside-check-" + rand.Text() + "-" })
	return prefix + n.checkName + strconv.FormatUint(n.checks.Add(1)%healthKeys, 10)
}

// permitted asks Redis whether this user may do what is needed with keys that begin with prefix, and returns
// the refusal. It changes nothing. That Redis does not answer before ctx ends, or cannot do it at present, is no
// refusal.
func (n *conn) permitted(ctx context.Context, prefix string, needs []need) error {
	o, err := n.begin(ctx, false, "")
	if err != nil {
		return nil
	}
	if n.option.ForceSingleClient {
		needs = append(needs[:len(needs):len(needs)], needOfNoCluster(n.unusedKey(prefix)))
	}
	key := n.unusedKey(prefix)
	commands := make(rueidis.Commands, len(needs))
	for i, need := range needs {
		commands[i] = need.build(o.B(), key)
	}
	for i, reply := range o.DoMulti(o.ctx, commands...) {
		err = reply.Error()
		if refusal := n.misfit(err, needs[i].what, prefix); refusal != nil {
			_ = n.end(&o, nil) // nil
			return refusal
		}
	}
	_ = n.end(&o, err) // that the connection was lost shows with the next operation too
	return nil
}

// needOfNoCluster finds out that a server is the node of a cluster: such a node refuses keys of several slots
// first of all, whichever slots are its own. The other key is of another slot, as good as always.
func needOfNoCluster(other string) need {
	return need{"MGET", func(b rueidis.Builder, key string) rueidis.Completed { return b.Mget().Key(key, other).Build() }}
}

// misfit says what a reply means that is the same for as long as the configuration is, of us or of Redis.
func (n *conn) misfit(err error, command, prefix string) error {
	re, ok := rueidis.IsRedisErr(err)
	switch {
	case !ok:
		return nil
	case isRefusal(re):
		return fmt.Errorf("%w: the user of Redis may not call %s on keys %s*: %w", ErrInvalidConfig, command, prefix, withoutArguments(re))
	case isUnknownCommand(re):
		return fmt.Errorf("%w: what is at Redis.Addrs does not know %s: it is a server or a proxy that lacks what the backend %s needs, "+
			"or a sentinel, which needs Redis.SentinelMaster (sentinel_master=...): %w", ErrInvalidConfig, command, n.cfg.Backend, withoutArguments(re))
	case isClusterReply(re) && n.option.ForceSingleClient:
		return fmt.Errorf("%w: what is at Redis.Addrs is a node of a cluster, which needs Redis.Cluster (cluster=true): %w", ErrInvalidConfig, re)
	}
	return nil
}

// isRefusal reports whether a reply says that the user may not do this.
func isRefusal(err error) bool {
	re, ok := rueidis.IsRedisErr(err)
	return ok && containsAny(re.Error(), "NOPERM", "ACL failure in script", "The user executing the script can't")
}

// ping is Health of a backend: whether Redis answers. It waits if the connection is being probed just now.
func (n *conn) ping(ctx context.Context) error {
	return n.attempt(ctx, true, "", func(o *op) error {
		err := o.Do(o.ctx, n.pingCommand(o.B())).Error()
		if isRefusal(err) {
			return nil // an answer
		}
		return err
	})
}

// works is Health of a cache: whether Redis does what a look-up and a fill of keys that begin with prefix need. It
// writes nothing: SET with XX on a key that is not there has all it takes to be refused for want of memory, of
// a disk, of a master or of a permission.
func (n *conn) works(ctx context.Context, prefix string, needs []need) error {
	key := n.unusedKey(prefix)
	return n.attempt(ctx, true, key, func(o *op) error {
		commands := make(rueidis.Commands, len(needs))
		for i, need := range needs {
			commands[i] = need.build(o.B(), key)
		}
		for _, reply := range o.DoMulti(o.ctx, commands...) {
			err := reply.Error()
			re, isReply := rueidis.IsRedisErr(err)
			if err != nil && !rueidis.IsRedisNil(err) && (!isReply || !re.IsNoScript()) {
				return err
			}
		}
		return nil
	})
}
