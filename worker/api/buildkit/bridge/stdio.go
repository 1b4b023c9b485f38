package bridge

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	pb "github.com/moby/buildkit/frontend/gateway/pb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/boxbuild/boxbuild/frontend"
)

// maxMessage is how large a message of a frontend may be, in bytes, as with BuildKit.
const maxMessage = 16 << 20

// serveStdio serves c on the standard input and output of a process that is to be started. end ends the conversation, and
// then the server.
func serveStdio(c *conversation, p *frontend.ProcessSpec) (end func()) {
	in, out := newHalf(), newHalf()
	p.Stdin, p.Stdout = in.r, out.w
	conn := &stdioConn{r: out.r, w: in.w, closed: make(chan struct{})}
	srv := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage), grpc.WaitForHandlers(true),
		grpc.UnaryInterceptor(c.b.guardUnary), grpc.StreamInterceptor(c.b.guardStream),
	)
	healthpb.RegisterHealthServer(srv, health.NewServer())
	pb.RegisterLLBBridgeServer(srv, c)
	var served sync.WaitGroup
	served.Go(func() { _ = srv.Serve(&single{conn: conn, done: conn.closed}) })
	return func() {
		c.end()
		conn.Close()
		srv.Stop()
		served.Wait()
	}
}

// guardUnary and guardStream make a panic the error of one call, as the daemon's own server does: no program from an image ends
// the daemon.
func (b *Bridge) guardUnary(
	ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (resp any, err error) {
	defer b.recovered(info.FullMethod, &err)
	return handler(ctx, req)
}

func (b *Bridge) guardStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer b.recovered(info.FullMethod, &err)
	return handler(srv, stream)
}

func (b *Bridge) recovered(method string, err *error) {
	if r := recover(); r != nil {
		b.opt.Log.Error("handler panicked", "method", method, "panic", r, "stack", string(debug.Stack()))
		*err = status.Error(codes.Internal, fmt.Sprintf("internal error in %s: %v", method, r))
	}
}

// A half is one direction of a connection.
type half struct {
	r *io.PipeReader
	w *io.PipeWriter
}

func newHalf() half {
	r, w := io.Pipe()
	return half{r, w}
}

// A stdioConn is a connection over the pipes of a process. It has no deadlines.
type stdioConn struct {
	r      *io.PipeReader
	w      *io.PipeWriter
	once   sync.Once
	closed chan struct{}
}

func (c *stdioConn) Read(p []byte) (int, error)  { return c.r.Read(p) }
func (c *stdioConn) Write(p []byte) (int, error) { return c.w.Write(p) }

// Close ends both directions: the process reads the end of its input, and what it still writes is an error of its own.
func (c *stdioConn) Close() error {
	c.once.Do(func() {
		_ = c.w.Close()                   // never fails
		_ = c.r.CloseWithError(errClosed) // never fails
		close(c.closed)
	})
	return nil
}

func (c *stdioConn) LocalAddr() net.Addr              { return stdioAddr{} }
func (c *stdioConn) RemoteAddr() net.Addr             { return stdioAddr{} }
func (c *stdioConn) SetDeadline(time.Time) error      { return nil }
func (c *stdioConn) SetReadDeadline(time.Time) error  { return nil }
func (c *stdioConn) SetWriteDeadline(time.Time) error { return nil }

type stdioAddr struct{}

func (stdioAddr) Network() string { return "pipe" }
func (stdioAddr) String() string  { return "stdio" }

// A single is a listener that has one connection.
type single struct {
	mu   sync.Mutex
	conn net.Conn // guarded by mu; nil once it has been accepted
	done <-chan struct{}
}

func (s *single) Accept() (net.Conn, error) {
	s.mu.Lock()
	c := s.conn
	s.conn = nil
	s.mu.Unlock()
	if c != nil {
		return c, nil
	}
	<-s.done
	return nil, net.ErrClosed
}

func (s *single) Close() error   { return nil }
func (s *single) Addr() net.Addr { return stdioAddr{} }

// A tail keeps the end of what a program says, to explain its failure with.
type tail struct {
	mu sync.Mutex
	b  []byte // guarded by mu
}

// maxTail is how much a tail keeps at most, in bytes.
const maxTail = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if len(t.b) > maxTail {
		t.b = append([]byte(nil), t.b[len(t.b)-maxTail:]...)
	}
	return len(p), nil
}

// explain is the error for a program that has ended with other than 0.
func (t *tail) explain(name string, code int, err error) error {
	t.mu.Lock()
	text := strings.TrimSpace(string(t.b))
	t.mu.Unlock()
	if err == nil {
		err = fmt.Errorf("exit code: %d", code)
	}
	if text == "" {
		return fmt.Errorf("frontend %s did not complete successfully: %w", name, err)
	}
	return fmt.Errorf("frontend %s did not complete successfully: %w: %s", name, err, text)
}
