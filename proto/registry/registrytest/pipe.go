package registrytest

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// pipeBuffer is how many bytes wait in one direction of a connection before a writer has to. net.Pipe has none, and a
// TLS client that refuses a certificate would wait there for a server that waits for it.
const pipeBuffer = 64 << 10

// newPipe returns the two ends of a connection.
func newPipe(addr string) (here, there net.Conn) {
	a, b := newStream(), newStream()
	return &pipeConn{in: a, out: b, addr: pipeAddr(addr)}, &pipeConn{in: b, out: a, addr: pipeAddr(addr)}
}

// A stream is one direction of a connection.
type stream struct {
	mu       sync.Mutex // guards all
	cond     *sync.Cond // told of every change
	buf      bytes.Buffer
	finished bool // the writer has closed
	deaf     bool // the reader has closed
	read     deadline
	write    deadline
}

func newStream() *stream {
	s := &stream{}
	s.cond = sync.NewCond(&s.mu)
	return s
}

// A deadline is one of net.Conn.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// set changes a deadline of s and wakes who waits with it.
func (s *stream) set(d *deadline, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	d.at, d.timer = at, nil
	if wait := time.Until(at); !at.IsZero() && wait > 0 {
		d.timer = time.AfterFunc(wait, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.cond.Broadcast()
		})
	}
	s.cond.Broadcast()
}

func (s *stream) take(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.deaf:
			return 0, net.ErrClosed
		case s.read.passed():
			return 0, os.ErrDeadlineExceeded
		case s.buf.Len() > 0:
			n, _ := s.buf.Read(p)
			s.cond.Broadcast()
			return n, nil
		case s.finished:
			return 0, io.EOF
		}
		s.cond.Wait()
	}
}

func (s *stream) put(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(p) > 0 {
		switch {
		case s.finished:
			return n, net.ErrClosed
		case s.deaf:
			return n, syscall.EPIPE
		case s.write.passed():
			return n, os.ErrDeadlineExceeded
		case s.buf.Len() < pipeBuffer:
			k := min(len(p), pipeBuffer-s.buf.Len())
			s.buf.Write(p[:k])
			n, p = n+k, p[k:]
			s.cond.Broadcast()
		default:
			s.cond.Wait()
		}
	}
	return n, nil
}

// A pipeConn is one end of a connection.
type pipeConn struct {
	in, out *stream
	addr    pipeAddr
}

// Read implements net.Conn.
func (c *pipeConn) Read(p []byte) (int, error) { return c.in.take(p) }

// Write implements net.Conn.
func (c *pipeConn) Write(p []byte) (int, error) { return c.out.put(p) }

// Close implements net.Conn.
func (c *pipeConn) Close() error {
	c.in.set(&c.in.read, time.Time{})
	c.out.set(&c.out.write, time.Time{})
	c.in.mu.Lock()
	c.in.deaf = true
	c.in.mu.Unlock()
	c.in.cond.Broadcast()
	c.out.mu.Lock()
	c.out.finished = true
	c.out.mu.Unlock()
	c.out.cond.Broadcast()
	return nil
}

// LocalAddr implements net.Conn.
func (c *pipeConn) LocalAddr() net.Addr { return c.addr }

// RemoteAddr implements net.Conn.
func (c *pipeConn) RemoteAddr() net.Addr { return c.addr }

// SetDeadline implements net.Conn.
func (c *pipeConn) SetDeadline(t time.Time) error {
	c.in.set(&c.in.read, t)
	c.out.set(&c.out.write, t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *pipeConn) SetReadDeadline(t time.Time) error {
	c.in.set(&c.in.read, t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *pipeConn) SetWriteDeadline(t time.Time) error {
	c.out.set(&c.out.write, t)
	return nil
}
