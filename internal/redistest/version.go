package redistest

import (
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// A version is that of a redis-server: major and minor number. Valkey's are those of the Redis that it goes on
// from, and later.
type version struct{ major, minor int }

// versions are those of the programs that have been asked, by path.
var versions sync.Map

// versionOf asks a program for its version, "Redis server v=7.0.15 sha=..." or "Valkey server v=8.0.1 sha=...".
func versionOf(binary string) (version, error) {
	if v, ok := versions.Load(binary); ok {
		return v.(version), nil
	}
	output, err := exec.Command(binary, "--version").Output()
	if err != nil {
		return version{}, fmt.Errorf("%s --version: %w", binary, err)
	}
	v, err := parseVersion(string(output))
	if err != nil {
		return version{}, fmt.Errorf("%s --version: %w", binary, err)
	}
	versions.Store(binary, v)
	return v, nil
}

func parseVersion(text string) (v version, err error) {
	_, number, found := strings.Cut(text, " v=")
	major, rest, dotted := strings.Cut(number, ".")
	minor, _, _ := strings.Cut(rest, ".")
	if v.major, err = strconv.Atoi(major); !found || !dotted || err != nil {
		return v, fmt.Errorf("no version in %q", text)
	}
	if v.minor, err = strconv.Atoi(minor); err != nil {
		return v, fmt.Errorf("no version in %q", text)
	}
	return v, nil
}

func (v version) isAtLeast(major, minor int) bool {
	return v.major > major || v.major == major && v.minor >= minor
}

// arguments are those that older servers do not take, and do not need: they allow DEBUG, and end at once.
func (v version) arguments() []string {
	if !v.isAtLeast(7, 0) {
		return nil
	}
	return []string{"--shutdown-timeout", "0", "--enable-debug-command", "yes"}
}

// rules returns the rules of a user without those that the server does not know. Version 6.0 has none for
// channels.
func (v version) rules(rules []string) []string {
	if v.isAtLeast(6, 2) {
		return rules
	}
	return slices.DeleteFunc(slices.Clone(rules), func(rule string) bool {
		return strings.HasPrefix(rule, "&") || rule == "resetchannels" || rule == "allchannels"
	})
}

// busPort returns on which port nodes talk to each other: the one that is wanted, or, before version 7.0, where
// that cannot be chosen, the client's port and 10000. It must be free, and no more than 65535.
func (v version) busPort(port, wanted int) int {
	if v.isAtLeast(7, 0) {
		return wanted
	}
	return port + 10000
}

// clusterArguments say on which port nodes talk to each other.
func (v version) clusterArguments(port int) []string {
	if !v.isAtLeast(7, 0) {
		return nil
	}
	return []string{"--cluster-port", strconv.Itoa(port)}
}
