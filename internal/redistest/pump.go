package redistest

import (
	"net"
	"time"
)

// pumpBytes is the most that is read, delayed and passed on at once.
const pumpBytes = 64 << 10

// turnBytes is the most that is passed on in one turn when connections share a limited rate; and no more than passes
// in ten milliseconds.
const turnBytes = 16 << 10

// pump passes on what comes from one side of a link to the other, until the link is closed. It closes the
// link at the end of the stream, but not in a black hole, where that is lost like anything else.
func (p *Proxy) pump(l *link, from, to net.Conn, replies bool) {
	buffer := make([]byte, pumpBytes)
	for {
		n, err := from.Read(buffer)
		if err != nil && p.swallow(l) {
			return
		}
		if err != nil || !p.pass(l, to, buffer[:n], replies) {
			p.drop(l)
			return
		}
	}
}

// pass sends a piece on as the present faults have it, and reports whether the link is to stay.
func (p *Proxy) pass(l *link, to net.Conn, piece []byte, replies bool) bool {
	if replies && !p.wait(l) {
		return false
	}
	if p.swallow(l) {
		return true
	}
	cut := false
	if replies {
		piece, cut = p.cut(piece)
	}
	for len(piece) > 0 {
		n, wait := p.turn(len(piece), replies)
		turn := piece[:n]
		if !l.sleep(wait) {
			return false
		}
		if _, err := to.Write(turn); err != nil {
			return false
		}
		piece = piece[n:]
	}
	return !cut
}

// turn says how many of n bytes pass next, and in how long. They come after those that were let in before.
func (p *Proxy) turn(n int, replies bool) (int, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	rate, busy, now := p.rate[0], &p.busy[0], time.Now()
	if replies {
		rate, busy = p.rate[1], &p.busy[1]
	}
	if rate <= 0 {
		return n, 0
	}
	n = min(n, turnBytes, max(rate/100, 1))
	if busy.Before(now) {
		*busy = now
	}
	*busy = busy.Add(time.Duration(n) * time.Second / time.Duration(rate))
	return n, busy.Sub(now)
}

// wait holds a reply back, and reports whether the link is still open then.
func (p *Proxy) wait(l *link) bool {
	p.mu.Lock()
	delay := p.delay
	p.mu.Unlock()
	return l.sleep(delay)
}

// sleep waits, and reports whether the link is still open then.
func (l *link) sleep(delay time.Duration) bool {
	if delay <= 0 {
		return true
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.done:
		return false
	}
}

// swallow reports whether what just came is to be lost, and remembers that it was. Nothing that comes
// after a loss is passed on, as the link is about to be closed.
func (p *Proxy) swallow(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.lossy = l.lossy || p.blackHole
	return l.lossy
}

// cut returns how much of a reply is to pass, and whether the link is to be closed after it.
func (p *Proxy) cut(piece []byte) ([]byte, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.cutAfter < 0:
		return piece, false
	case len(piece) < p.cutAfter:
		p.cutAfter -= len(piece)
		return piece, false
	default:
		piece = piece[:p.cutAfter]
		p.cutAfter = -1
		return piece, true
	}
}
