package postgres

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The log has a commit before others can see it: the server writes the one, waits for synchronous
// standbys, and then ends the transaction. A fetch that began after the telling could still read
// the old row, and it would be kept.

const (
	// The pause before a snapshot is looked at again grows from one to the other.
	minVisiblePause = 200 * time.Microsecond
	maxVisiblePause = 20 * time.Millisecond
)

// awaitVisible returns when transactions that have committed can be seen by all that begins from
// now on.
func (s *session) awaitVisible(ctx context.Context, xids []uint32) error {
	for pause := minVisiblePause; len(xids) > 0; pause = min(2*pause, maxVisiblePause) {
		now, err := s.snapshot(ctx)
		if err != nil {
			return err
		}
		xids = slices.DeleteFunc(xids, now.sees)
		if len(xids) > 0 && !sleep(ctx, pause) {
			return ctx.Err()
		}
	}
	return nil
}

// snapshot tells which transactions have ended.
type snapshot struct {
	min, max uint64   // all before min have, and none from max on
	running  []uint64 // of those between
}

func (s *session) snapshot(ctx context.Context) (now snapshot, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	var text string
	if err := s.ask(ctx, "SELECT pg_current_snapshot()::text", nil, &text); err != nil {
		return now, err
	}
	return parseSnapshot(text)
}

// parseSnapshot reads xmin:xmax:xip,xip.
func parseSnapshot(text string) (now snapshot, err error) {
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return now, fmt.Errorf("a snapshot is %q, wanted: three parts", text)
	}
	numbers := parts[:2:2]
	if parts[2] != "" {
		numbers = append(numbers, strings.Split(parts[2], ",")...)
	}
	all := make([]uint64, len(numbers))
	for i, number := range numbers {
		if all[i], err = strconv.ParseUint(number, 10, 64); err != nil {
			return now, fmt.Errorf("a snapshot is %q: %w", text, err)
		}
	}
	return snapshot{all[0], all[1], all[2:]}, nil
}

// sees reports whether a transaction has ended. The log has the lower half of its number: it is one
// of the last two thousand million.
func (n snapshot) sees(xid uint32) bool {
	whole := n.max + uint64(int64(int32(xid-uint32(n.max))))
	return whole < n.min || whole < n.max && !slices.Contains(n.running, whole)
}
