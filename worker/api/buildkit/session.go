package buildkit

import (
	"context"
	"net"
	"sync"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc/metadata"
)

// Session implements the service: what goes over the stream is one connection, on which the daemon is the client.
func (s *Server) Session(stream controlapi.Control_SessionServer) error {
	return s.perform(stream.Context(), "Session", func(ctx context.Context) error {
		md, _ := metadata.FromIncomingContext(ctx)
		conn := newTunnel(stream)
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
		return s.opt.Sessions.Serve(ctx, conn, md)
	})
}

// maxChunk is how many bytes one message of a tunnel has at most.
const maxChunk = 1 << 20

// A tunnel is a connection through a stream of messages. The stream belongs to the call: it ends when that returns, and
// so do reads that wait for it, which is why Close need not wake them up by itself. One goroutine may read and one write.
type tunnel struct {
	stream controlapi.Control_SessionServer

	in   chan []byte // from the receiver; closed at the end of the stream
	rest []byte      // of the message that is being read
	err  error       // why in was closed

	sending sync.Mutex // guards Send of stream

	once   sync.Once
	closed chan struct{}
}

func newTunnel(stream controlapi.Control_SessionServer) *tunnel {
	t := &tunnel{stream: stream, in: make(chan []byte), closed: make(chan struct{})}
	// The receiver ends with the stream, which ends with the call; gRPC has no way to end it sooner.
	go t.receive()
	return t
}

func (t *tunnel) receive() {
	defer close(t.in)
	for {
		m, err := t.stream.Recv()
		if err != nil {
			t.err = err
			return
		}
		select {
		case t.in <- m.GetData():
		case <-t.closed:
			t.err = net.ErrClosed
			return
		}
	}
}

// Read implements net.Conn.
func (t *tunnel) Read(p []byte) (int, error) {
	for len(t.rest) == 0 {
		select {
		case m, ok := <-t.in:
			if !ok {
				return 0, t.err
			}
			t.rest = m
		case <-t.closed:
			return 0, net.ErrClosed
		}
	}
	n := copy(p, t.rest)
	t.rest = t.rest[n:]
	return n, nil
}

// Write implements net.Conn.
func (t *tunnel) Write(p []byte) (int, error) {
	t.sending.Lock()
	defer t.sending.Unlock()
	n := 0
	for {
		select {
		case <-t.closed:
			return n, net.ErrClosed
		default:
		}
		chunk := p[n:min(len(p), n+maxChunk)]
		if err := t.stream.Send(&controlapi.BytesMessage{Data: chunk}); err != nil {
			return n, err
		}
		if n += len(chunk); n == len(p) {
			return n, nil
		}
	}
}

// Close implements net.Conn. It is idempotent.
func (t *tunnel) Close() error {
	t.once.Do(func() { close(t.closed) })
	return nil
}

// LocalAddr implements net.Conn.
func (t *tunnel) LocalAddr() net.Addr { return tunnelAddr{} }

// RemoteAddr implements net.Conn.
func (t *tunnel) RemoteAddr() net.Addr { return tunnelAddr{} }

// SetDeadline implements net.Conn. Like the two below it has no effect: gRPC's client bounds its calls itself, and what
// waits here ends with the call.
func (t *tunnel) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (t *tunnel) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn.
func (t *tunnel) SetWriteDeadline(time.Time) error { return nil }

// tunnelAddr is the address of both ends.
type tunnelAddr struct{}

func (tunnelAddr) Network() string { return "grpc" }
func (tunnelAddr) String() string  { return "session" }
