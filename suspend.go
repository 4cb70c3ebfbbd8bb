package cacheaside

import "context"

// What stands here lets a backend's feeds decide what a cache of it may keep.

// dropKeys removes keys from this process, and voids fetches of them.
func (c *Client[T]) dropKeys(keys []string) {
	for _, key := range keys {
		w, _ := c.fence(context.Background(), key, false) // the context does not end, so there is no error
		c.dropAliases(key)
		c.markers.lay(key)
		c.store.dropNear(key)
		c.unfence(key, w)
	}
}

// dropAll is dropKeys for every key.
func (c *Client[T]) dropAll() {
	_ = c.flights.fenceAll(context.Background()) // nil: the context does not end
	c.dropAliases()
	c.store.dropAllNear()
	c.flights.unfenceAll()
}

// suspend makes the cache count as empty: lookups fetch, and nothing of that is kept. resume ends it; what was fetched or
// set until then does not count.
func (c *Client[T]) suspend() {
	c.repeats.suspend()
	c.dropAliases()
	c.store.suspend()
}

func (c *Client[T]) resume() {
	c.store.resume()
	c.repeats.resume()
}

func (c *Client[T]) clearLater() { c.repeats.addAll() }
