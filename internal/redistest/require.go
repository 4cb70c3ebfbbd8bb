package redistest

import (
	"os"
	"os/exec"
	"testing"
)

// install says how to get what is missing.
const install = "redis-server not found; install redis-server 6.0 or newer, or say by REDIS_SERVER where it is, " +
	"with `apt-get install redis-server` (Debian, Ubuntu), `apk add redis` (Alpine), " +
	"`dnf install redis` (Fedora) or `brew install redis` (macOS)"

// places are looked at in turn after PATH, which in editors and minimal containers is often incomplete.
var places = []string{
	"/usr/bin/redis-server",
	"/usr/local/bin/redis-server",
	"/opt/homebrew/bin/redis-server",
	"/home/linuxbrew/.linuxbrew/bin/redis-server",
}

// Require skips the test, loudly, if there is no redis-server. If the environment variable CI or
// CACHEASIDE_REQUIRE_REDIS is not empty it fails the test instead, so that a build that is meant to test
// the Redis backends can't pass without having done so.
func Require(t testing.TB) {
	t.Helper()
	if _, ok := Path(); ok {
		return
	}
	if os.Getenv("CI") != "" || os.Getenv("CACHEASIDE_REQUIRE_REDIS") != "" {
		t.Fatal("redistest: " + install)
	}
	t.Skip("SKIPPED, NOT TESTED: " + install)
}

// binaryVariable names the environment variable that says which redis-server to start, a path or a name: that
// of another version, or valkey-server.
const binaryVariable = "REDIS_SERVER"

// Path returns where redis-server is, and whether there is one.
func Path() (string, bool) {
	if name := os.Getenv(binaryVariable); name != "" {
		path, err := exec.LookPath(name)
		return path, err == nil
	}
	if path, err := exec.LookPath("redis-server"); err == nil {
		return path, true
	}
	for _, path := range places {
		if path, err := exec.LookPath(path); err == nil {
			return path, true
		}
	}
	return "", false
}
