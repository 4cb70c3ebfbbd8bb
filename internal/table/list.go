package table

// A list is a ring of nodes through a root that is not an entry. The newest is root.next, the oldest
// root.prev. The root is a node of its own so that the size of a list does not depend on V.
type list[V any] struct {
	root   *node[V]
	count  int
	weight int64
}

func (l *list[V]) init() {
	l.root = new(node[V])
	l.root.prev, l.root.next = l.root, l.root
	l.count, l.weight = 0, 0
}

// oldest returns the node that is next to go. The list must not be empty.
func (l *list[V]) oldest() *node[V] { return l.root.prev }

func (l *list[V]) push(n *node[V]) {
	n.prev, n.next = l.root, l.root.next
	n.prev.next, n.next.prev = n, n
	l.count++
	l.weight += n.weight()
}

// remove takes n, which must be in the list, out of it. It leaves no pointers in n, through which an entry
// that a reader still holds would keep its former neighbours alive.
func (l *list[V]) remove(n *node[V]) {
	n.prev.next, n.next.prev = n.next, n.prev
	n.prev, n.next = nil, nil
	l.count--
	l.weight -= n.weight()
}

// renew moves n, which must be in the list, from the old end to the new one.
func (l *list[V]) renew(n *node[V]) {
	n.prev.next, n.next.prev = n.next, n.prev
	n.prev, n.next = l.root, l.root.next
	n.prev.next, n.next.prev = n, n
}

// replace puts n in the place of old, which must be in the list.
func (l *list[V]) replace(old, n *node[V]) {
	n.prev, n.next = old.prev, old.next
	n.prev.next, n.next.prev = n, n
	old.prev, old.next = nil, nil
	l.weight += n.weight() - old.weight()
}
