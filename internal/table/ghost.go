package table

// Ghosts are keys that were dropped lately, by their hashes. A place holds one; a newer one takes it over.
type ghosts struct {
	places []ghost
	count  int
	now    uint32 // how many were ever put
}

// A ghost is the hash of a key, with its lowest bit set since 0 means none, and when it was put.
type ghost struct {
	hash uint32
	born uint32
}

func (g *ghosts) init(places int) {
	g.places = make([]ghost, places)
	g.count = 0
}

func (g *ghosts) put(hash uint32) {
	p := g.place(hash)
	if p.hash == 0 {
		g.count++
	}
	*p = ghost{hash | 1, g.now}
	g.now++
}

// take removes the ghost of a key if there is one, and returns how many others have been put since.
func (g *ghosts) take(hash uint32) (age int, ok bool) {
	p := g.place(hash)
	if p.hash != hash|1 {
		return 0, false
	}
	p.hash = 0
	g.count--
	return int(g.now - p.born - 1), true
}

func (g *ghosts) place(hash uint32) *ghost {
	return &g.places[mix(hash|1)>>32*uint64(len(g.places))>>32]
}
