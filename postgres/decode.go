package postgres

import (
	"fmt"

	"github.com/jackc/pglogrepl"

	"github.com/cacheaside/cacheaside"
)

// news is a piece of the log, as it is told.
type news struct {
	refs     []cacheaside.Ref
	xids     []uint32 // of the transactions that refs come from
	lost     error    // changes were missed, behind refs
	position uint64   // all up to here is told with this, if it is not 0
}

// decoder makes news of the log's messages, in their order.
type decoder struct {
	slot      string
	tables    map[uint32]table
	relations map[uint32]*pglogrepl.RelationMessageV2
	xid       uint32 // of the transaction that is being read
}

// decode returns the news in a message. There are none most often.
func (d *decoder) decode(data []byte) (news, error) {
	message, err := pglogrepl.ParseV2(data, false)
	if err != nil {
		return news{}, fmt.Errorf("a message of the log: %w", err)
	}
	switch m := message.(type) {
	case *pglogrepl.RelationMessageV2:
		d.relations[m.RelationID] = m
	case *pglogrepl.InsertMessageV2:
		return d.row(Insert, m.RelationID, nil, m.Tuple)
	case *pglogrepl.UpdateMessageV2:
		return d.row(Update, m.RelationID, oldTuple(m.OldTupleType, m.OldTuple), m.NewTuple)
	case *pglogrepl.DeleteMessageV2:
		return d.row(Delete, m.RelationID, oldTuple(m.OldTupleType, m.OldTuple), nil)
	case *pglogrepl.TruncateMessageV2:
		return d.truncate(m)
	case *pglogrepl.LogicalDecodingMessageV2:
		return d.message(m), nil
	case *pglogrepl.BeginMessage:
		d.xid = m.Xid
	case *pglogrepl.CommitMessage:
		return news{position: uint64(m.TransactionEndLSN)}, nil
	}
	return news{}, nil
}

// message decodes a message of Emit, or of a feed.
func (d *decoder) message(m *pglogrepl.LogicalDecodingMessageV2) news {
	switch {
	case m.Prefix == refsPrefix:
		refs, err := decodeRefs(m.Content)
		return news{refs: refs, lost: err}
	case m.Prefix == lostPrefix && string(m.Content) == d.slot:
		return news{lost: errSlotIsNew}
	}
	return news{}
}

// oldRow is a tuple of a row as it was; whole says that it has all columns, in place of those of
// the replica identity.
type oldRow struct {
	tuple *pglogrepl.TupleData
	whole bool
}

func oldTuple(kind uint8, tuple *pglogrepl.TupleData) *oldRow {
	if tuple == nil {
		return &oldRow{}
	}
	return &oldRow{tuple, kind == pglogrepl.UpdateMessageTupleTypeOld}
}

// row tells of the row as it was, if the operation has one, and as it is.
func (d *decoder) row(op Op, id uint32, old *oldRow, now *pglogrepl.TupleData) (n news, err error) {
	t, ok := d.tables[id]
	if !ok {
		return news{}, nil // the publication tells of more tables than this feed looks at
	}
	r, ok := d.relations[id]
	if !ok {
		return news{}, fmt.Errorf("the log tells of the table %s before it describes it", t.name)
	}
	row := Row{Table: r.Namespace + "." + r.RelationName, Op: op}
	if old != nil {
		row.Old, row.columns = true, oldColumns(r, old, now)
		n.refs, n.lost = row.tell(t.refs)
	}
	if now != nil && n.lost == nil {
		row.Old, row.columns = false, newColumns(r, old, now)
		refs, lost := row.tell(t.refs)
		n.refs, n.lost = append(n.refs, refs...), lost
	}
	return n, nil
}

// identityFull is REPLICA IDENTITY FULL.
const identityFull = 'f'

// oldColumns reads a row as it was. An UPDATE that has not changed the replica identity does not
// say it again: then those columns are as in the row that is.
func oldColumns(r *pglogrepl.RelationMessageV2, old *oldRow, now *pglogrepl.TupleData) []column {
	tuple := old.tuple
	if tuple == nil && r.ReplicaIdentity != identityFull {
		tuple = now
	}
	columns := make([]column, len(r.Columns))
	for i, c := range r.Columns {
		columns[i] = column{name: c.Name}
		if isKey := c.Flags&1 != 0; tuple != nil && (isKey || old.whole) {
			columns[i] = read(c.Name, tuple, i)
		}
	}
	return columns
}

// newColumns reads a row as it is. A large value that has not changed stands in the row as it was,
// if that is whole.
func newColumns(r *pglogrepl.RelationMessageV2, old *oldRow, now *pglogrepl.TupleData) []column {
	columns := make([]column, len(r.Columns))
	for i, c := range r.Columns {
		columns[i] = read(c.Name, now, i)
		if !columns[i].known && old != nil && old.whole {
			columns[i] = read(c.Name, old.tuple, i)
		}
	}
	return columns
}

func read(name string, tuple *pglogrepl.TupleData, i int) column {
	if i >= len(tuple.Columns) {
		return column{name: name}
	}
	switch c := tuple.Columns[i]; c.DataType {
	case pglogrepl.TupleDataTypeText:
		return column{name: name, text: string(c.Data), known: true}
	case pglogrepl.TupleDataTypeNull:
		return column{name: name, known: true, null: true}
	}
	return column{name: name} // unchanged, and large
}

// truncate tells of each table that was emptied.
func (d *decoder) truncate(m *pglogrepl.TruncateMessageV2) (all news, err error) {
	for _, id := range m.RelationIDs {
		t, ok := d.tables[id]
		if !ok {
			continue
		}
		r, ok := d.relations[id]
		if !ok {
			return news{}, fmt.Errorf("the log tells of the table %s before it describes it", t.name)
		}
		row := Row{Table: r.Namespace + "." + r.RelationName, Op: Truncate}
		refs, lost := row.tell(t.refs)
		all.refs = append(all.refs, refs...)
		if lost != nil {
			all.lost = lost
		}
	}
	return all, nil
}
