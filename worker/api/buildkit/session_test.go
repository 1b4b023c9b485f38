package buildkit

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/session/grpchijack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
)

// An echo is a Control service whose sessions send back what they get.
type echo struct {
	controlapi.UnimplementedControlServer
	ended chan error
}

func (e *echo) Session(stream controlapi.Control_SessionServer) error {
	conn := newTunnel(stream)
	defer conn.Close()
	_, err := io.Copy(conn, conn)
	e.ended <- err
	return err
}

// TestTunnel checks that a connection through a stream carries all bytes in order, whatever their number, and that the
// end of one side is the end of the other.
func TestTunnel(t *testing.T) {
	l := bufconn.Listen(1 << 16)
	srv := grpc.NewServer()
	e := &echo{ended: make(chan error, 1)}
	controlapi.RegisterControlServer(srv, e)
	serving := make(chan error, 1)
	go func() { serving <- srv.Serve(l) }()
	cc, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cc.Close()
		srv.Stop()
		<-serving
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	conn, err := grpchijack.Dialer(controlapi.NewControlClient(cc))(ctx, "h2c", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 5<<20+3)
	for i := range want {
		want[i] = byte(i * i >> 8)
	}
	wrote := make(chan error, 1)
	go func() {
		for p := want; len(p) > 0; {
			n := min(len(p), 1<<19+1) // BuildKit's client sends what it is given as one message
			if _, err := conn.Write(p[:n]); err != nil {
				wrote <- err
				return
			}
			p = p[n:]
		}
		wrote <- nil
	}()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("what came back differs, %v", err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-e.ended; err == nil {
		t.Error("the other side ended as if all were said")
	}
}

// TestTunnelClosed checks that what waits for a closed tunnel returns.
func TestTunnelClosed(t *testing.T) {
	tun := &tunnel{in: make(chan []byte), closed: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		_, err := tun.Read(make([]byte, 1))
		done <- err
	}()
	for range 2 {
		if err := tun.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("reading: %v", err)
	}
	if _, err := tun.Write([]byte{1}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("writing: %v", err)
	}
}
