package redistest

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestVersionsAreRead(t *testing.T) {
	for text, want := range map[string]version{
		"Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64 build=1":    {6, 0},
		"Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=6ed1": {7, 0},
		"Valkey server v=8.1.3 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=9":    {8, 1},
	} {
		v, err := parseVersion(text)
		require.NoError(t, err)
		require.Equal(t, want, v)
	}
	for _, text := range []string{"", "redis", "Redis server v=", "Redis server v=7", "Redis server v=seven.0"} {
		_, err := parseVersion(text)
		require.Error(t, err, text)
	}
}

func TestOlderServersAreGivenWhatTheyKnow(t *testing.T) {
	rules := []string{">secret", "resetchannels", "~*", "&*", "+@all"}
	old := version{6, 0}
	require.Empty(t, old.arguments())
	require.Empty(t, old.clusterArguments(17000))
	require.Equal(t, []string{">secret", "~*", "+@all"}, old.rules(rules))
	require.Equal(t, 17000, old.busPort(7000, 8000))
	require.Equal(t, 8000, version{7, 0}.busPort(7000, 8000))
	require.Empty(t, version{6, 2}.arguments())
	require.Equal(t, rules, version{6, 2}.rules(rules))
	require.NotEmpty(t, version{7, 0}.arguments())
	require.Equal(t, []string{"--cluster-port", "17000"}, version{8, 1}.clusterArguments(17000))
}

func TestTheServerToStartMayBeNamed(t *testing.T) {
	t.Setenv(binaryVariable, "/nowhere/redis-server")
	_, ok := Path()
	require.False(t, ok, "another one is not taken in its place")
	program, err := os.Executable()
	require.NoError(t, err)
	t.Setenv(binaryVariable, program)
	path, ok := Path()
	require.True(t, ok)
	require.Equal(t, program, path)
}
