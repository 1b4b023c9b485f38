package main

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

// preface is how a client that speaks HTTP/2 from the first byte begins.
const preface = "PRI * HTTP/2.0"

// sniffTimeout is how long a client may take for its first bytes.
const sniffTimeout = 30 * time.Second

// A splitter tells the connections of one socket apart by their first bytes: HTTP/2, which is gRPC, and all else, which
// is HTTP/1.1. Each kind has a listener of its own.
type splitter struct {
	socket   *socket
	presence *presence
	log      *slog.Logger
	grpc     *branch
	http     *branch
	sniffers sync.WaitGroup
}

func newSplitter(s *socket, p *presence, log *slog.Logger) *splitter {
	done := make(chan struct{})
	var once sync.Once
	end := func() error {
		once.Do(func() { close(done) })
		return nil
	}
	return &splitter{
		socket: s, presence: p, log: log,
		grpc: &branch{conns: make(chan net.Conn), done: done, end: end, addr: s.Addr()},
		http: &branch{conns: make(chan net.Conn), done: done, end: end, addr: s.Addr()},
	}
}

// run accepts connections until the socket is closed. It returns once no connection is between the socket and a branch.
func (s *splitter) run() error {
	defer s.sniffers.Wait()
	for {
		conn, err := s.socket.AcceptUnix()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			// Out of descriptors or memory: what runs goes on, and gives them back.
			s.log.Warn("accepting a connection", "error", err)
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if !s.presence.enter() {
			_ = conn.Close() // its client finds the next daemon
			continue
		}
		g := &guest{UnixConn: conn, exit: s.presence.leave}
		s.sniffers.Go(func() { s.sniff(g) })
	}
}

// sniff hands the connection to the branch for what it speaks.
func (s *splitter) sniff(g *guest) {
	_ = g.SetReadDeadline(time.Now().Add(sniffTimeout)) // an error shows in the read
	head := make([]byte, 0, len(preface))
	for len(head) < len(preface) && bytes.HasPrefix([]byte(preface), head) {
		n, err := g.Read(head[len(head):cap(head)])
		head = head[:len(head)+n]
		if err != nil {
			_ = g.Close() // it went away or never spoke
			return
		}
	}
	_ = g.SetReadDeadline(time.Time{}) // an error shows in the next read
	to := s.http
	if string(head) == preface {
		to = s.grpc
	}
	select {
	case to.conns <- &sniffed{guest: g, head: head}:
	case <-to.done:
		_ = g.Close()
	}
}

// A sniffed connection reads what was read from it once more.
type sniffed struct {
	*guest
	head []byte
}

// Read implements net.Conn.
func (c *sniffed) Read(p []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(p, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.guest.Read(p)
}

// A branch is the listener for one kind of connections.
type branch struct {
	conns chan net.Conn
	done  chan struct{}
	end   func() error
	addr  net.Addr
}

// Accept implements net.Listener.
func (b *branch) Accept() (net.Conn, error) {
	select {
	case c := <-b.conns:
		return c, nil
	case <-b.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. It ends both branches.
func (b *branch) Close() error { return b.end() }

// Addr implements net.Listener.
func (b *branch) Addr() net.Addr { return b.addr }
