package cacheaside

import (
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
)

// Caches with the same prefix and name on one Redis read, delete and clear each other's values. Between
// processes that is the purpose; within one process it is mostly two caches whose names were forgotten, so this
// file knows which caches are open.

// keyspace is where the values of a cache are in Redis.
type keyspace struct{ redis, prefix, name string }

// ownName says how to be alone.
const ownName = "a name of its own for each cache, as in rueidis://host:6379?name=users"

// nameClaim is what an open cache makes of its keyspace.
type nameClaim struct {
	values      reflect.Type
	fingerprint uint32
	named       bool // by the configuration or by New, and not by default
	scoped      bool // its keys have scopes
}

// nameClaims are those of the open caches of this process. Nothing else is locked while mu is held.
var nameClaims = struct {
	mu sync.Mutex
	at map[keyspace][]*nameClaim
}{at: make(map[keyspace][]*nameClaim)}

// claimName notes that c is open, until c.unclaim is called. It returns an error if another open cache has the
// keyspace for values of another type, unless both were given the name and can read each other's values.
func (c *Client[T]) claimName(conn *conn, named bool, fingerprint uint32) error {
	at := keyspace{conn.place(), c.cfg.Prefix, c.cfg.Name}
	mine := &nameClaim{reflect.TypeFor[T](), fingerprint, named, c.opts.scope != nil}
	others, err := at.take(mine)
	if err != nil {
		return err
	}
	c.unclaim = func() { at.leave(mine) }
	byDefault := func(other *nameClaim) bool { return !other.named || !named }
	if len(others) == 1 && byDefault(others[0]) { // later ones would say the same again
		c.warnOfDefaultName()
	}
	return nil
}

// place tells one Redis from another, as far as the configuration does.
func (n *conn) place() string {
	o := &n.option
	return fmt.Sprintf("%s/%d/%s", slices.Sorted(slices.Values(o.InitAddress)), o.SelectDB, o.Sentinel.MasterSet)
}

func (at keyspace) take(mine *nameClaim) (others []*nameClaim, err error) {
	nameClaims.mu.Lock()
	defer nameClaims.mu.Unlock()
	others = nameClaims.at[at]
	for _, other := range others {
		if mine.scoped != other.scoped {
			return nil, fieldError("Name", fmt.Sprintf("%q, as of an open cache on the same Redis, of which one has scopes and one has none", at.name), "WithScope for both, or "+ownName)
		}
		if mine.disturbs(other) {
			return nil, fieldError("Name", fmt.Sprintf("%q, as of an open cache of %v on the same Redis", at.name, other.values), ownName)
		}
	}
	nameClaims.at[at] = append(slices.Clip(others), mine)
	return others, nil
}

// disturbs reports whether two caches cannot have meant to share their values.
func (c *nameClaim) disturbs(other *nameClaim) bool {
	return c.values != other.values && (!c.named || !other.named || c.fingerprint != other.fingerprint)
}

func (at keyspace) leave(mine *nameClaim) {
	nameClaims.mu.Lock()
	defer nameClaims.mu.Unlock()
	rest := slices.DeleteFunc(slices.Clone(nameClaims.at[at]), func(other *nameClaim) bool { return other == mine })
	if nameClaims.at[at] = rest; len(rest) == 0 {
		delete(nameClaims.at, at)
	}
}

// warnOfDefaultName goes to the process' own log if the cache has none: values of two caches get mixed.
func (c *Client[T]) warnOfDefaultName() {
	warn := func(logger *slog.Logger) {
		logger.Warn("cacheaside: two open caches of one type share their values by the default name, wanted: "+ownName,
			"cache", c.cfg.Name, "type", reflect.TypeFor[T]().String())
	}
	if c.opts.logger == nil {
		warn(slog.Default())
		return
	}
	c.watchers.log(warn)
}
