package bksession

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc/metadata"
)

// A MessageStream is the server's side of Control.Session: the client's connection, in messages.
type MessageStream interface {
	Context() context.Context
	SendMsg(m any) error
	RecvMsg(m any) error
}

// ServeStream is Serve for a session that comes over Control.Session. The headers are those of the call.
func (m *Manager) ServeStream(stream MessageStream) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	return m.Serve(stream.Context(), newStreamConn(stream), md)
}

// streamConn makes a connection of a stream of messages. A read that waits for the client ends when the call does, which
// Close cannot bring about by itself; so a goroutine reads, which the end of the call ends.
type streamConn struct {
	stream MessageStream
	r      *io.PipeReader
	done   chan struct{} // closed when the goroutine has ended
}

func newStreamConn(stream MessageStream) *streamConn {
	r, w := io.Pipe()
	c := &streamConn{stream: stream, r: r, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		var m controlapi.BytesMessage
		for {
			m.Data = m.Data[:0]
			if err := stream.RecvMsg(&m); err != nil {
				w.CloseWithError(err)
				return
			}
			if _, err := w.Write(m.Data); err != nil {
				return
			}
		}
	}()
	return c
}

func (c *streamConn) Read(b []byte) (int, error) { return c.r.Read(b) }

// Write sends b as one message; gRPC gives buffers of up to 32 KiB or one frame.
func (c *streamConn) Write(b []byte) (int, error) {
	if err := c.stream.SendMsg(&controlapi.BytesMessage{Data: b}); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close ends reads. What waits for the client to send ends when the call returns, which it does next.
func (c *streamConn) Close() error { return c.r.CloseWithError(net.ErrClosed) }

type streamAddr struct{}

func (streamAddr) Network() string { return "grpc" }
func (streamAddr) String() string  { return "session" }

func (c *streamConn) LocalAddr() net.Addr  { return streamAddr{} }
func (c *streamConn) RemoteAddr() net.Addr { return streamAddr{} }

var errNoDeadline = errors.New("deadlines are not supported")

func (c *streamConn) SetDeadline(time.Time) error      { return errNoDeadline }
func (c *streamConn) SetReadDeadline(time.Time) error  { return errNoDeadline }
func (c *streamConn) SetWriteDeadline(time.Time) error { return errNoDeadline }
