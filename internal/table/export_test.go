package table

// NewSharded is [New] with a given number of shards, a power of two that is at most the capacity, so that
// a test can have several of them without many entries.
func NewSharded[V any](o Options[V], shards int64) *Map[V] { return newMap(o, shards) }
