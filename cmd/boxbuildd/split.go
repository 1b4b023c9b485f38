package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"
)

// preface is how a client that speaks HTTP/2 from the first byte begins.
const preface = "PRI * HTTP/2.0"

// sniffTimeout is how long a client may take for its first bytes.
const sniffTimeout = 30 * time.Second

// A splitter tells the connections of all sockets apart by their first bytes: HTTP/2, which is gRPC, and all else, which
// is HTTP/1.1. Each kind has a listener of its own.
type splitter struct {
	endpoints []*endpoint
	presence  *presence
	log       *slog.Logger
	grpc      *branch
	http      *branch
	sniffers  sync.WaitGroup

	mu       sync.Mutex          // guards what is below
	sniffing map[*guest]struct{} // nil once the splitter has ended
}

func newSplitter(es []*endpoint, p *presence, log *slog.Logger) *splitter {
	done := make(chan struct{})
	s := &splitter{endpoints: es, presence: p, log: log, sniffing: map[*guest]struct{}{}}
	var once sync.Once
	end := func() error {
		once.Do(func() {
			close(done)
			s.hangUp()
		})
		return nil
	}
	s.grpc = &branch{conns: make(chan net.Conn), done: done, end: end, addr: es[0].Addr()}
	s.http = &branch{conns: make(chan net.Conn), done: done, end: end, addr: es[0].Addr()}
	return s
}

// hangUp closes the connections of clients that have not said what they speak.
func (s *splitter) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for g := range s.sniffing {
		_ = g.SetDeadline(time.Unix(1, 0)) // who reads from it closes it
	}
	s.sniffing = nil
}

// listening notes whose first bytes are waited for; false if the splitter has ended.
func (s *splitter) listening(g *guest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sniffing == nil {
		return false
	}
	s.sniffing[g] = struct{}{}
	return true
}

func (s *splitter) heard(g *guest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sniffing, g)
}

// run accepts connections until all sockets are closed. It returns once no connection is between a socket and a branch.
func (s *splitter) run() error {
	defer s.sniffers.Wait()
	var accepting sync.WaitGroup
	for _, e := range s.endpoints {
		accepting.Go(func() { s.accept(e) })
	}
	accepting.Wait()
	return nil
}

// accept accepts the connections of one socket until it is closed.
func (s *splitter) accept(e *endpoint) {
	for {
		conn, err := e.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
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
		g := &guest{Conn: conn, exit: s.presence.leave}
		s.sniffers.Go(func() {
			_ = g.SetDeadline(time.Now().Add(sniffTimeout)) // an error shows in the read
			if !s.listening(g) {
				_ = g.Close()
				return
			}
			defer s.heard(g)
			s.sniff(e, g)
		})
	}
}

// sniff hands the connection to the branch for what it speaks.
func (s *splitter) sniff(e *endpoint, g *guest) {
	var conn net.Conn = g
	trust := e.trust
	if e.tls != nil {
		secure := tls.Server(g, e.tls)
		if err := secure.Handshake(); err != nil {
			s.log.Info("refusing a connection", "from", g.RemoteAddr(), "reason", err)
			_ = g.Close()
			return
		}
		conn = secure
		if len(secure.ConnectionState().VerifiedChains) > 0 {
			trust = certified
		}
	}
	head := make([]byte, 0, len(preface))
	for len(head) < len(preface) && bytes.HasPrefix([]byte(preface), head) {
		n, err := conn.Read(head[len(head):cap(head)])
		head = head[:len(head)+n]
		if err != nil {
			_ = conn.Close() // it went away or never spoke
			return
		}
	}
	s.heard(g)
	_ = g.SetDeadline(time.Time{}) // an error shows in the next read
	to := s.http
	if string(head) == preface {
		to = s.grpc
	}
	select {
	case to.conns <- &sniffed{Conn: conn, guest: g, head: head, trust: trust}:
	case <-to.done:
		_ = conn.Close()
	}
}

// A sniffed connection reads what was read from it once more.
type sniffed struct {
	net.Conn        // the guest, or TLS on it
	guest    *guest // the connection itself
	head     []byte
	trust    trust
}

// Read implements net.Conn.
func (c *sniffed) Read(p []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(p, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// Close implements net.Conn. With TLS it says goodbye first, which does not wait for the client.
func (c *sniffed) Close() error {
	err := c.Conn.Close()
	_ = c.guest.Close() // TLS has closed it, unless it could not say goodbye
	return err
}

// CloseWrite says that no more will be written. The other side may go on writing.
func (c *sniffed) CloseWrite() error {
	conn := c.Conn // TLS has a word of its own for it
	if conn == net.Conn(c.guest) {
		conn = c.guest.Conn
	}
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

// upgrade hands a connection over that was one of HTTP/1.1 and speaks HTTP/2 from now on. first is what has been read of
// that.
func (s *splitter) upgrade(conn net.Conn, first []byte) {
	c, ok := conn.(*sniffed)
	if !ok {
		_ = conn.Close() // it is none of the splitter's
		return
	}
	next := &sniffed{Conn: c.Conn, guest: c.guest, trust: c.trust, head: append(bytes.Clone(first), c.head...)}
	select {
	case s.grpc.conns <- next:
	case <-s.grpc.done:
		_ = next.Close()
	}
}

// SyscallConn implements syscall.Conn, so that the user at the other end can be asked for.
func (c *sniffed) SyscallConn() (syscall.RawConn, error) {
	sc, ok := c.guest.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return sc.SyscallConn()
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
