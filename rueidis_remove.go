package cacheaside

import (
	"context"
	"time"

	"github.com/redis/rueidis"
)

// removal is what a key is removed by: DEL, or the SET of a marker.
type removal struct {
	marker string // "": none is left
	lasts  int64  // milliseconds
}

// removal is that of a key that leaves a marker, if it lays one, or of what stands in the place of the marker of s, which stands
// again for the rest of its time.
func (r *remote[T]) removal(s *settling, lays bool) removal {
	switch {
	case s != nil:
		return r.form.rest(s)
	case lays:
		return removal{newMarker(time.Now().UnixMilli(), r.settle), max(1, r.settle.Milliseconds())}
	}
	return removal{}
}

// rest is the marker of s, to be laid again; none if that is nil.
func (f *form[T]) rest(s *settling) removal {
	if s == nil {
		return removal{}
	}
	lasts, _ := f.millisecondsLeft(&entry[T]{}, s)
	return removal{newMarker(f.clock.unixMilli(s.since), time.Duration(s.until-s.since)), lasts}
}

func (o *op) removes(redisKey string, by removal) rueidis.Completed {
	if by.marker == "" {
		return o.B().Del().Key(redisKey).Build()
	}
	return o.B().Set().Key(redisKey).Value(by.marker).PxMilliseconds(by.lasts).Build()
}

// isFull reports whether Redis has refused a marker for want of memory. A removal needs none.
func (r removal) isFull(err error) bool { return r.marker != "" && replyCode(err) == "OOM" }

func (r *remote[T]) delete(ctx context.Context, key string) error {
	return r.remove(ctx, key, nil, r.settle > 0)
}

// remove removes key; for s and lays see removal.
func (r *remote[T]) remove(ctx context.Context, key string, s *settling, lays bool) error {
	k := r.redisKey(key)
	return r.conn.write(ctx, true, k, 0, r.open(func(o *op) error {
		by := r.removal(s, lays)
		err := o.Do(o.ctx, o.removes(k, by)).Error()
		if by.isFull(err) {
			err = o.Do(o.ctx, o.removes(k, removal{})).Error()
		}
		return err
	}))
}

// deleteBatch returns the keys that it could not delete, and the last reason.
func (r *remote[T]) deleteBatch(o *op, keys []string) (failed []string, err error) {
	failed, err = r.removeBatch(o, keys, r.settle > 0)
	if err != nil && r.settle > 0 && replyCode(err) == "OOM" {
		failed, err = r.removeBatch(o, failed, false)
	}
	return failed, err
}

func (r *remote[T]) removeBatch(o *op, keys []string, lays bool) (failed []string, err error) {
	commands := make(rueidis.Commands, len(keys))
	for i, key := range keys {
		commands[i] = o.removes(r.redisKey(key), r.removal(nil, lays))
	}
	for i, reply := range o.DoMulti(o.ctx, commands...) {
		if refused := reply.Error(); refused != nil {
			failed, err = append(failed, keys[i]), refused
		}
	}
	return failed, err
}
