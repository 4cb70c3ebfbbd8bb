package answers_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
)

// requireMisfit requires that opening fails, and says this.
func requireMisfit(t *testing.T, cfg cacheaside.Config, says string) {
	t.Helper()
	c, err := cacheaside.Open[string](t.Context(), cfg)
	if err == nil {
		require.NoError(t, c.Close())
	}
	require.ErrorIs(t, err, cacheaside.ErrInvalidConfig)
	require.ErrorContains(t, err, says)
	require.NotContains(t, err.Error(), "with args beginning with")
}

func TestTheNodeOfAClusterIsToldAtTheStart(t *testing.T) {
	redistest.Require(t)
	for nodes := 1; nodes <= 2; nodes++ {
		cluster := redistest.StartCluster(t, nodes)
		onBothBackends(t, func(t *testing.T, backend string) {
			for _, node := range cluster.Nodes() {
				requireMisfit(t, config(t, backend+"://"+node.Addr()), "cluster=true")
			}
			open(t, config(t, cluster.URL(backend)))
		})
	}
}

func TestASentinelIsToldAtTheStart(t *testing.T) {
	redistest.Require(t)
	sentinel := redistest.StartSentinel(t)
	onBothBackends(t, func(t *testing.T, backend string) {
		requireMisfit(t, config(t, backend+"://"+sentinel.Addr()), "sentinel_master")
	})
}

func TestAServerWithoutACommandIsToldAtTheStart(t *testing.T) {
	onBothBackends(t, func(t *testing.T, backend string) {
		for _, command := range []string{"GET", "SET", "DEL", "MGET", "EVAL", "EVALSHA"} {
			server := redistest.Start(t, redistest.Args("--rename-command", command, ""))
			cfg := config(t, server.URL(backend))
			if backend == cacheaside.BackendRueidis && strings.HasPrefix(command, "EVAL") {
				open(t, cfg)
				continue
			}
			requireMisfit(t, cfg, "does not know "+command)
		}
	})
}

// The replies are those of the versions named, word for word.
func TestRefusalsAreUnderstoodInTheWordsOfAllVersions(t *testing.T) {
	for _, c := range []struct {
		name, command, reply string
		says                 string
	}{
		{"Redis 6.0, no permission", "SET", "-NOPERM this user has no permissions to run the 'set' command or its subcommand", "may not call SET"},
		{"Redis 6.2, no key", "SET", "-NOPERM this user has no permissions to access one of the keys used as arguments", "may not call SET"},
		{"Redis 7.0, no permission", "SET", "-NOPERM this user has no permissions to run the 'set' command", "may not call SET"},
		{"Redis 7.2, Valkey, no permission", "SET", "-NOPERM User app has no permissions to run the 'set' command", "may not call SET"},
		{"Redis 7.0, Valkey, no key", "GET", "-NOPERM No permissions to access a key", "may not call GET"},
		{"Redis 6.0, no such command", "EVAL", "-ERR unknown command `EVAL`, with args beginning with: `return 0`, `1`, `cache:`, ", "does not know EVAL"},
		{"Redis 7.0, Valkey, no such command", "MGET", "-ERR unknown command 'MGET', with args beginning with: 'cache:' ", "does not know MGET"},
		{"Redis 7.0, in a script", "EVAL", "-ERR The user executing the script can't run this command or subcommand script: 5e9, on @user_script:3.", "may not call EVAL"},
		{"Redis 7.2, Valkey, in a script", "EVAL", "-ERR ACL failure in script: User app has no permissions to run the 'pttl' command script: 5e9, on @user_script:3.", "may not call EVAL"},
		{"a cluster, another node's slot", "GET", "-MOVED 1234 127.0.0.1:7001", "cluster=true"},
		{"a cluster, several slots", "MGET", "-CROSSSLOT Keys in request don't hash to the same slot", "cluster=true"},
		{"a proxy", "EVAL", "-ERR unsupported command 'EVAL'", "does not know EVAL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := startFake(t, func(command []string) string {
				if strings.EqualFold(command[0], c.command) {
					return c.reply
				}
				return ""
			})
			requireMisfit(t, config(t, cacheaside.BackendRueidisAside+"://"+server.addr()), c.says)
		})
	}
}

// What the script replies that asks for permissions depends on what commands reply in it: a fake cannot run it.
// A server can, and be made to refuse what the words of another version would say.
func TestARefusalInsideAScriptIsToldAtTheStart(t *testing.T) {
	redistest.Require(t)
	server := redistest.Start(t, redistest.User("app", ">"+secret, "~*", "&*", "+@all"))
	for _, command := range []string{"type", "strlen", "getrange", "pttl", "pexpire"} {
		server.Must("ACL", "SETUSER", "app", "-"+command)
		requireMisfit(t, config(t, server.URL(cacheaside.BackendRueidisAside)), "may not call "+strings.ToUpper(command))
		server.Must("ACL", "SETUSER", "app", "+"+command)
	}
	for _, command := range []string{"TYPE", "PTTL"} { // "Unknown Redis command called from script", where another version says it in other words
		without := redistest.Start(t, redistest.Args("--rename-command", command, ""))
		requireMisfit(t, config(t, without.URL(cacheaside.BackendRueidisAside)), "may not call "+command)
	}
}

func TestATroubleThatPassesIsNoMisfit(t *testing.T) {
	onBothBackends(t, func(t *testing.T, backend string) {
		server := redistest.Start(t)
		for _, trouble := range []struct{ on, off func() }{
			{func() { server.ReadOnly(true) }, func() { server.ReadOnly(false) }},
			{server.FillMemory, server.FreeMemory},
		} {
			trouble.on()
			c := open(t, config(t, server.URL(backend)))
			require.Error(t, c.Health(t.Context()))
			trouble.off()
			require.Eventually(t, func() bool { return c.Health(t.Context()) == nil }, healing, 10*time.Millisecond)
		}
	})
}

func TestHealthAsksForWhatAFillNeeds(t *testing.T) {
	redistest.Require(t)
	server := redistest.Start(t, redistest.User("app", ">"+secret, "~*", "&*", "+@all"))
	c := open(t, config(t, server.URL(cacheaside.BackendRueidisAside)))
	require.NoError(t, c.Health(t.Context()))
	for _, command := range []string{"get", "set", "eval", "evalsha", "getrange", "pexpire"} {
		server.Must("ACL", "SETUSER", "app", "-"+command)
		err := c.Health(t.Context())
		require.ErrorIs(t, err, cacheaside.ErrUnavailable, command)
		require.ErrorContains(t, err, "NOPERM")
		server.Must("ACL", "SETUSER", "app", "+"+command)
		require.NoError(t, c.Health(t.Context()), command)
	}
	require.Zero(t, server.Must("DBSIZE"), "asking changes nothing")
}

func TestARefusalInAHandshakeIsNoAnswerInTheWordsOfAllVersions(t *testing.T) {
	for _, reply := range []string{
		"-WRONGPASS invalid username-password pair or user is disabled.",
		"-WRONGPASS invalid username-password pair",
		"-ERR max number of clients reached",
		"-ERR max number of clients + cluster connections reached",
		"-DENIED Redis is running in protected mode because protected mode is enabled",
		"-ERR a proxy's own words for a client that it does not know",
	} {
		t.Run(reply, func(t *testing.T) {
			onBothBackends(t, func(t *testing.T, backend string) {
				refuses := make(chan struct{})
				server := startFake(t, func(command []string) string {
					select {
					case <-refuses:
						if command[0] == "HELLO" {
							return reply
						}
					default:
					}
					return ""
				})
				proxy := redistest.NewProxy(t, server.addr())
				seen := newWatcher()
				c := open(t, config(t, backend+"://"+proxy.Addr()), cacheaside.WithObserver(seen))
				before := server.accepted.Load()
				underLoad(t, c, func() {
					close(refuses)
					proxy.CutAll()
					time.Sleep(2 * time.Second)
				})
				require.Less(t, server.accepted.Load()-before, int64(stormy))
				require.Zero(t, seen.count(cacheaside.EventBackendUp))
				require.ErrorContains(t, c.Health(t.Context()), strings.TrimPrefix(reply[1:], "ERR "))
			})
		})
	}
}
