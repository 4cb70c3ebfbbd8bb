package postgres

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestASnapshotSeesWhatHasEnded(t *testing.T) {
	t.Parallel()
	now, err := parseSnapshot("100:110:100,105")
	require.NoError(t, err)
	for xid, wanted := range map[uint32]bool{99: true, 100: false, 101: true, 105: false, 109: true, 110: false, 111: false} {
		require.Equal(t, wanted, now.sees(xid), xid)
	}
	now, err = parseSnapshot("4294967290:4294967300:4294967299") // beyond 32 bits, as 4
	require.NoError(t, err)
	for xid, wanted := range map[uint32]bool{1<<32 - 7: true, 1<<32 - 1: true, 2: true, 3: false, 4: false, 5: false} {
		require.Equal(t, wanted, now.sees(xid), xid)
	}
	for _, bad := range []string{"", "1:2", "1:2:x", "a:b:"} {
		_, err := parseSnapshot(bad)
		require.ErrorContains(t, err, "a snapshot is")
	}
}
