// Package away answers the DNS queries of containers while no daemon is there, with the daemon's sockets and from the
// descriptions of the containers' networks that it has left: nobody comes, nobody changes his name meanwhile. Package names
// is the daemon's own server, and has the same answers. This one is small, since boxshim links it.
//
// A Server's goroutines end with Close, which waits for them.
package away

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/boxbuild/boxbuild/worker/network/names/book"
)

const (
	// maxQueries bounds the queries of a container that are under way, and its connections.
	maxQueries = 100
	// patience is how long a connection may say nothing.
	patience = 8 * time.Second
)

// Config says what a container's server answers.
type Config struct {
	// Dir has the descriptions; Container is whose.
	Dir, Container string
	// Ask says that what no container is called is asked outside: Servers or, without any, those of the file ResolvConf.
	Ask        bool         `json:",omitempty"`
	Servers    []netip.Addr `json:",omitempty"`
	ResolvConf string       `json:",omitempty"`
}

// A Server answers.
type Server struct {
	cfg   Config
	book  book.Book
	pc    net.PacketConn
	ln    net.Listener
	slots chan struct{}
	work  sync.WaitGroup
	ctx   context.Context //nolint:containedctx // ends queries when the server is closed
	end   context.CancelFunc
}

// Serve begins to answer what comes to the sockets, which it takes over. It does not wait.
func Serve(cfg Config, pc net.PacketConn, ln net.Listener) *Server {
	s := &Server{cfg: cfg, pc: pc, ln: ln, slots: make(chan struct{}, maxQueries)}
	s.ctx, s.end = context.WithCancel(context.Background())
	s.work.Go(func() {
		s.book = read(cfg.Dir, cfg.Container)
		s.work.Go(s.connections)
		s.datagrams()
	})
	return s
}

// Close ends all queries, and closes the sockets.
func (s *Server) Close() {
	s.end()
	_ = s.pc.Close()
	_ = s.ln.Close()
	s.work.Wait()
}

func (s *Server) datagrams() {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := s.pc.ReadFrom(buf)
		if err != nil {
			if s.pause() {
				continue
			}
			return
		}
		query := append([]byte(nil), buf[:n]...)
		if !s.take() {
			continue // it asks again
		}
		s.work.Go(func() {
			defer s.give()
			if a := s.answer(query, false); a != nil {
				_, _ = s.pc.WriteTo(a, from) // whoever asked may be gone
			}
		})
	}
}

func (s *Server) connections() {
	for {
		c, err := s.ln.Accept()
		if err != nil {
			if s.pause() {
				continue
			}
			return
		}
		if !s.take() {
			_ = c.Close()
			continue
		}
		s.work.Go(func() {
			defer s.give()
			s.converse(c)
		})
	}
}

// converse answers the queries of a connection, one after the other.
func (s *Server) converse(c net.Conn) {
	defer c.Close()
	defer context.AfterFunc(s.ctx, func() { _ = c.Close() })()
	for {
		_ = c.SetDeadline(time.Now().Add(patience))
		query, err := readMessage(c)
		if err != nil {
			return
		}
		a := s.answer(query, true)
		if a == nil || writeMessage(c, a) != nil {
			return
		}
	}
}

func readMessage(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeMessage(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}

// pause waits a little after an error, as when descriptors are short; false if the server is closed.
func (s *Server) pause() bool {
	select {
	case <-time.After(100 * time.Millisecond):
		return true
	case <-s.ctx.Done():
		return false
	}
}

func (s *Server) take() bool {
	select {
	case s.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s *Server) give() { <-s.slots }
