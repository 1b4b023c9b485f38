package main

import (
	"net"
	"sync"
	"time"
)

// presence knows whether a client is there. It is safe for concurrent use.
type presence struct {
	mu   sync.Mutex // guards all below
	open int
	last time.Time // when open became 0
	gone bool      // nobody is let in any more
}

// enter counts a connection in; false if nobody is let in.
func (p *presence) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return false
	}
	p.open++
	return true
}

func (p *presence) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open--
	p.last = time.Now()
}

// count returns how many are there.
func (p *presence) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open
}

// shut lets nobody in any more, if nobody is there and nobody was since then.
func (p *presence) shut(then time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open > 0 || p.last.After(then) {
		return false
	}
	p.gone = true
	return true
}

// since returns when the last client left; false if one is there.
func (p *presence) since() (time.Time, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last, p.open == 0
}

// A guest is a connection that is counted.
type guest struct {
	net.Conn
	once sync.Once
	exit func()
}

// Close implements net.Conn.
func (g *guest) Close() error {
	err := g.Conn.Close()
	g.once.Do(g.exit)
	return err
}
