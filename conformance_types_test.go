package cacheaside

import (
	"fmt"
	"reflect"
	"time"

	"github.com/stretchr/testify/require"
)

func init() {
	onRedis := func(r rig) bool { return r.remote }
	promises = append(promises,
		promise{"fingerprint", "only what JSON sees of a type tells stored values apart", onRedis, checkJSONShapes},
		promise{"fingerprint", "a schema version tells stored values apart, and nothing else does", onRedis, checkSchemaVersion},
	)
}

// deploys stores a value by one release and has it read by the next, whose type is another. nil: it is a miss.
// Both are pointers: caches of pointers share their code, where each other type costs seconds to compile.
func deploys[Old, New any](e *env, what string, old Old, want New, opts ...Option) {
	e.Helper()
	named := func(cfg *Config) { cfg.Name = "deploys" }
	before, err := Open[Old](e.Context(), e.with(named), opts...)
	require.NoError(e, err, what)
	require.NoError(e, before.Set(e.Context(), what, old, time.Minute), what)
	require.NoError(e, before.Close())
	after, err := Open[New](e.Context(), e.with(named), opts...)
	require.NoError(e, err, what)
	defer func() { require.NoError(e, after.Close()) }()
	got, err := after.Get(e.Context(), what)
	if reflect.ValueOf(want).IsNil() {
		require.ErrorIs(e, err, ErrMiss, what)
		return
	}
	require.NoError(e, err, what)
	require.Equal(e, want, got, what)
}

func (e *env) with(change func(*Config)) Config {
	cfg := e.config
	change(&cfg)
	return cfg
}

func checkJSONShapes(e *env) {
	type user struct {
		ID   int
		Name string
	}
	type renamed struct {
		Name string
		ID   int64 `validate:"required" db:"id"`
	}
	type mail struct {
		ID   int
		Name string `json:"mail"`
	}
	deploys(e, "renamed, reordered, with tags of others", &user{1, "n"}, &renamed{ID: 1, Name: "n"})
	pointer := &user{1, "n"}
	deploys(e, "a pointer", &pointer, &user{1, "n"})
	deploys[*user, *mail](e, "another name in JSON", &user{1, "n"}, nil)
}

func checkSchemaVersion(e *env) {
	type user struct{ Name string }
	type grown struct {
		Name string
		Age  int
	}
	deploys(e, "another shape", &user{"n"}, &grown{Name: "n"}, WithSchemaVersion(7))
	c := open[*user](e, nil, WithSchemaVersion(0))
	require.NoError(e, c.Set(e.Context(), key, &user{"n"}, time.Minute))
	require.NoError(e, c.Close())
	for i, opts := range [][]Option{{WithSchemaVersion(1)}, nil} {
		c := open[*user](e, nil, opts...)
		_, err := c.Get(e.Context(), key)
		require.ErrorIs(e, err, ErrMiss, fmt.Sprint(i))
		require.NoError(e, c.Close())
	}
	c = open[*user](e, nil, WithSchemaVersion(0))
	got, err := c.Get(e.Context(), key)
	require.NoError(e, err)
	require.Equal(e, &user{"n"}, got)
}
