package table

// A record is the policy's side of an entry. The node points to it by number, and it leads back by the hash,
// through the table: so a node has no pointers to other nodes, which replacing a value would have to mend
// and the garbage collector to follow. Everything here is guarded by the shard's lock.
type record struct {
	hash       uint32
	prev, next uint32 // the neighbours in the queue; next also links the records that are free
}

// The first records are not those of entries.
const (
	noRecord uint32 = iota
	windowRoot
	mainRoot
	firstRecord
)

const (
	chunkBits = 9
	chunkSize = 1 << chunkBits
)

// records are kept in chunks, so that having more of them never means copying those that there are.
type records struct {
	chunks []*[chunkSize]record
	free   uint32 // the last one that was given back
	unused uint32 // all from here on were never in use
}

func (r *records) init() {
	*r = records{unused: firstRecord}
	r.chunks = append(r.chunks, new([chunkSize]record))
}

func (r *records) at(i uint32) *record { return &r.chunks[i>>chunkBits][i&(chunkSize-1)] }

// take returns the number of a record for an entry with this hash.
func (r *records) take(hash uint32) uint32 {
	i := r.free
	if i != noRecord {
		r.free = r.at(i).next
	} else {
		i = r.unused
		r.unused++
		if int(i>>chunkBits) == len(r.chunks) {
			r.chunks = append(r.chunks, new([chunkSize]record))
		}
	}
	r.at(i).hash = hash
	return i
}

func (r *records) give(i uint32) {
	r.at(i).next = r.free
	r.free = i
}

// A queue is a ring of records through a root that is not an entry's. The newest is next to the root, the
// oldest before it.
type queue struct {
	records *records
	root    uint32
	count   int
	weight  int64
}

func (q *queue) init(r *records, root uint32) {
	*q = queue{records: r, root: root}
	*r.at(root) = record{prev: root, next: root}
}

// oldest returns the record that is next to go. The queue must not be empty.
func (q *queue) oldest() uint32 { return q.records.at(q.root).prev }

func (q *queue) push(i uint32, weight int64) {
	q.link(i)
	q.count++
	q.weight += weight
}

// remove takes i, which must be in the queue, out of it.
func (q *queue) remove(i uint32, weight int64) {
	q.unlink(i)
	q.count--
	q.weight -= weight
}

// renew moves i, which must be in the queue, from the old end to the new one.
func (q *queue) renew(i uint32) {
	q.unlink(i)
	q.link(i)
}

func (q *queue) link(i uint32) {
	root, r := q.records.at(q.root), q.records.at(i)
	r.prev, r.next = q.root, root.next
	q.records.at(root.next).prev = i
	root.next = i
}

func (q *queue) unlink(i uint32) {
	r := q.records.at(i)
	q.records.at(r.prev).next = r.next
	q.records.at(r.next).prev = r.prev
}
