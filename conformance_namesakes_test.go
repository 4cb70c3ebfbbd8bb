package cacheaside

import (
	"context"
	"slices"
	"time"

	"github.com/stretchr/testify/require"
)

func init() {
	onRedis := func(r rig) bool { return r.remote }
	promises = append(promises,
		promise{"G9", "a process reads at once what it has written by another backend", onRedis, checkNamesakes},
		promise{"G9", "a fetch is void when its key is written by another backend of the process", onRedis, checkNamesakesVoidFlights},
		promise{"G9", "a cache that is closed is no longer told of writes", onRedis, checkClosedNamesakes},
	)
}

// sameProcess puts the caches that get it into one process.
func sameProcess() Option {
	p := newProcess()
	return func(o *options) { o.process = p }
}

// eachWrite gives write every way to write key, each with what look-ups must find then: -1 for nothing.
func eachWrite(c *Client[int], write func(what string, want int, do func(ctx context.Context) error)) {
	write("Set", 1, func(ctx context.Context) error { return c.Set(ctx, key, 1, time.Minute) })
	write("SetMany", 2, func(ctx context.Context) error { return c.SetMany(ctx, map[string]int{key: 2}, time.Minute) })
	write("Delete", -1, func(ctx context.Context) error { return c.Delete(ctx, key) })
	write("DeleteMany", -1, func(ctx context.Context) error { return c.DeleteMany(ctx, []string{key}) })
	write("Clear", -1, c.Clear)
	write("Mutate", -1, func(ctx context.Context) error {
		return c.Mutate(ctx, []string{key}, func(context.Context) error { return nil })
	})
}

func checkNamesakes(e *env) {
	together := sameProcess()
	reader := open[int](e, nil, together)
	changes := 0
	for _, backend := range slices.Compact([]string{BackendRueidis, e.config.Backend}) { // what aside may, rueidis may
		writer := open[int](e, func(cfg *Config) { cfg.Backend = backend }, together)
		for i := range 60 {
			eachWrite(writer, func(what string, want int, do func(context.Context) error) {
				require.NoError(e, writer.Set(e.Context(), key, 100+i, time.Minute))
				v, err := reader.Get(e.Context(), key) // and keeps a near copy
				require.NoError(e, err, what)
				require.Equal(e, 100+i, v, what)
				require.NoError(e, do(e.Context()), what)
				changes++
				v, err = reader.Get(e.Context(), key)
				if want < 0 {
					require.ErrorIs(e, err, ErrMiss, what)
					return
				}
				require.NoError(e, err, what)
				require.Equal(e, want, v, what)
			})
		}
		require.NoError(e, writer.Close())
	}
	if e.config.Backend == BackendRueidisAside {
		e.settle(func() bool { return reader.Stats().Invalidations > 0 }, "the changes are counted, as those by other processes are")
	}
	require.LessOrEqual(e, reader.Stats().Invalidations, uint64(2*changes), "each once")
}

func checkNamesakesVoidFlights(e *env) {
	together := sameProcess()
	writer, reader := open[int](e, nil, together), open[int](e, nil, together)
	eachWrite(writer, func(what string, want int, do func(context.Context) error) {
		require.NoError(e, writer.Delete(e.Context(), key))
		source := serve(7)
		release := source.hold()
		defer release()
		discarded := reader.Stats().Discarded
		waiting := askMany(e, 1, reader, key, source)[0]
		require.NoError(e, do(e.Context()), what)
		if want < 0 {
			v, err := reader.GetWithFetch(e.Context(), key, time.Minute, serve(8).fetch)
			require.NoError(e, err, what)
			require.Equal(e, 8, v, "no look-up joins a fetch from before "+what)
			want = 8
		}
		release()
		first := <-waiting
		require.NoError(e, first.err, what)
		require.Equal(e, 7, first.value, "it is returned to its own caller")
		e.settle(func() bool { return reader.Stats().Discarded > discarded }, what+": the fill was discarded")
		for _, c := range []*Client[int]{reader, writer} {
			v, err := c.Get(e.Context(), key)
			require.NoError(e, err, what)
			require.Equal(e, want, v, what)
		}
	})
}

func checkClosedNamesakes(e *env) {
	p := newProcess()
	together := func(o *options) { o.process = p }
	one := open[int](e, nil, together)
	two := open[int](e, nil, together)
	other := open[int](e, func(cfg *Config) { cfg.Name = "other" }, together)
	require.Len(e, one.namesakes.members(), 2)
	require.Len(e, other.namesakes.members(), 1)
	require.NoError(e, two.Close())
	require.Len(e, one.namesakes.members(), 1)
	require.NoError(e, one.Set(e.Context(), key, 1, time.Minute))
	require.NoError(e, one.Close())
	require.NoError(e, other.Close())
	require.Empty(e, p.open)
}
