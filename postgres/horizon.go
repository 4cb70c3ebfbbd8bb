package postgres

import "time"

// aliveAge is how old the moment may be as of which nothing was missed for a feed to say that it is
// alive. With the two seconds after which a silent feed is lost, nothing older than three is
// trusted.
const aliveAge = time.Second

// horizon knows up to when changes have been told. At some moment the server's log had reached a
// mark, so when all up to that mark has been told, all that had been committed at that moment has.
// It is used by one goroutine.
type horizon struct {
	marks []mark
	asOf  time.Time
	took  time.Duration // from the moment to the telling
}

type mark struct {
	position uint64
	at       time.Time
}

// add notes that the log had reached a position, at the latest when the server was asked.
func (h *horizon) add(position uint64, asked time.Time) {
	h.marks = append(h.marks, mark{position, asked})
}

// reach drops the marks up to a position. It returns the newest moment as of which all has been
// told, if there is a newer one.
func (h *horizon) reach(position uint64) (asOf time.Time, ok bool) {
	n := 0
	for n < len(h.marks) && h.marks[n].position <= position {
		n++
	}
	if n == 0 {
		return time.Time{}, false
	}
	h.asOf = h.marks[n-1].at
	h.took = time.Since(h.asOf)
	h.marks = h.marks[n:]
	return h.asOf, true
}

// lag is how far behind the telling is.
func (h *horizon) lag() time.Duration {
	if len(h.marks) > 0 {
		return max(h.took, time.Since(h.marks[0].at))
	}
	return h.took
}

// waiting returns the position that is waited for, and since when; 0 if none is.
func (h *horizon) waiting() (position uint64, since time.Time) {
	if len(h.marks) == 0 {
		return 0, time.Time{}
	}
	return h.marks[0].position, h.marks[0].at
}
