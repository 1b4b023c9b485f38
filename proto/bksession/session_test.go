package bksession

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	bk "github.com/moby/buildkit/session"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// headersOf are what a client says when it opens a session.
func headersOf(id string, methods ...string) map[string][]string {
	return map[string][]string{"X-Docker-Expose-Session-Uuid": {id}, headerName: {"test"}, headerSharedKey: {"very secret"}, headerMethod: methods}
}

// Get waits for a session that comes later.
func TestGetWaits(t *testing.T) {
	m := New(patient(t))
	s, err := bk.NewSession(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := m.Get(context.Background(), "frontend:"+s.ID())
		got <- err
	}()
	ours, theirs := socketpair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.Serve(context.Background(), ours, headersOf(s.ID()))
	}()
	if err := <-got; err != nil {
		t.Error(err)
	}
	_ = theirs.Close()
	<-done
}

// Get gives up after a while, or with its context, and says which session it was.
func TestGetFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Options{})
		begin := time.Now()
		_, err := m.Get(context.Background(), "nobody")
		if !errors.Is(err, ErrNoSession) || !strings.Contains(err.Error(), "nobody") {
			t.Errorf("error %v, want ErrNoSession", err)
		}
		if took := time.Since(begin); took != DefaultWait {
			t.Errorf("it took %s, want %s", took, DefaultWait)
		}
		reason := errors.New("the build was cancelled")
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(reason)
		if _, err := m.Get(ctx, "nobody"); !errors.Is(err, reason) {
			t.Errorf("error %v, want %v", err, reason)
		}
	})
}

// A second session with the ID of one that is there is refused, and the first goes on. Then the ID is free again.
func TestDuplicate(t *testing.T) {
	m := New(patient(t))
	s, c := open(t, m, "")
	ours, theirs := socketpair(t)
	defer theirs.Close()
	if err := m.Serve(context.Background(), ours, headersOf(s.ID())); !errors.Is(err, ErrExists) {
		t.Errorf("error %v, want ErrExists", err)
	}
	if _, err := ours.Write([]byte{0}); err == nil {
		t.Error("the connection that was refused is still open")
	}
	if err := s.Context().Err(); err != nil {
		t.Errorf("the first session has ended: %v", err)
	}
	c.gone()
	c.wg.Wait()
	if n := m.Sessions(); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

// A session cannot be opened under a name that is none.
func TestBadIDs(t *testing.T) {
	for _, id := range []string{"", "a:b", strings.Repeat("x", maxID+1), "a\x1bb"} {
		ours, theirs := socketpair(t)
		if err := New(Options{}).Serve(context.Background(), ours, headersOf(id)); err == nil {
			t.Errorf("ID %q was accepted", id)
		}
		_ = theirs.Close()
	}
}

// When the client goes, the session's context ends with a cause that names the session, what is under way fails with that
// cause, Serve returns without an error, and whoever asks for the session later learns what became of it.
func TestClientGoes(t *testing.T) {
	m := New(patient(t))
	s, c := open(t, m, "very secret")
	ctx, cancel := s.Bind(context.Background())
	defer cancel()
	c.gone()
	<-ctx.Done()
	var lost *LostError
	if err := context.Cause(ctx); !errors.As(err, &lost) || lost.ID != s.ID() || lost.Why != nil {
		t.Errorf("cause %v, want a *LostError", err)
	}
	c.wg.Wait()
	if c.err != nil {
		t.Errorf("Serve: %v", c.err)
	}
	_, err := m.Get(context.Background(), s.ID())
	if !errors.As(err, &lost) {
		t.Errorf("Get: error %v, want a *LostError", err)
	}
	if err := s.FinalizeExport(context.Background(), nil); err != nil {
		t.Errorf("a call that the client does not offer: %v", err)
	}
}

// The daemon's own end of a session has the daemon's reason.
func TestServeCancelled(t *testing.T) {
	m := New(patient(t))
	ours, theirs := socketpair(t)
	defer theirs.Close()
	ctx, cancel := context.WithCancelCause(context.Background())
	reason := errors.New("the daemon is being stopped")
	served := make(chan error, 1)
	go func() { served <- m.Serve(ctx, ours, headersOf("x")) }()
	s, err := m.Get(context.Background(), "x")
	if err != nil {
		t.Fatal(err)
	}
	cancel(reason)
	if err := <-served; !errors.Is(err, reason) {
		t.Errorf("Serve: %v, want %v", err, reason)
	}
	var lost *LostError
	if err := context.Cause(s.Context()); !errors.Is(err, reason) || !errors.As(err, &lost) || lost.ID != "x" {
		t.Errorf("cause %v, want a *LostError for %v", err, reason)
	}
	lost = nil
	if _, err := m.Get(context.Background(), "x"); !errors.As(err, &lost) || !errors.Is(err, reason) {
		t.Errorf("Get: error %v, want a *LostError for %v", err, reason)
	}
}

// Who asks for a session that has ended and is still being cleared away learns that at once, and does not wait for another.
func TestGetEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Options{})
		ours, theirs := net.Pipe()
		defer theirs.Close()
		s, err := m.open(context.Background(), ours, headersOf("x"))
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		s.end(nil)
		var lost *LostError
		if _, err := m.Get(context.Background(), "x"); !errors.As(err, &lost) || time.Since(begin) != 0 {
			t.Errorf("error %v after %s, want a *LostError at once", err, time.Since(begin))
		}
		if err := errors.Join(s.cc.Close(), ours.Close()); err != nil {
			t.Error(err)
		}
	})
}

// silent is a client's health service that answers as long as ok says so.
type silent struct {
	grpc_health_v1.UnimplementedHealthServer
	answers chan struct{} // one for each check that is to be answered
}

func (h *silent) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	select {
	case <-h.answers:
		return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serveHealth serves on one end of a pipe until the returned function is called.
func serveHealth(h grpc_health_v1.HealthServer) (conn net.Conn, stop func()) {
	ours, theirs := net.Pipe()
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, h)
	done := make(chan struct{})
	go func() {
		defer close(done)
		(&http2.Server{}).ServeConn(theirs, &http2.ServeConnOpts{Handler: server})
	}()
	return ours, func() {
		_ = theirs.Close()
		server.Stop()
		<-done
	}
}

// bubble is synctest.Test for what serves HTTP/2, whose server keeps channels for use by whoever comes next: those of the
// bubble's may not be used outside.
func bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	defer func() {
		runtime.GC() // twice, as what is kept survives the first time
		runtime.GC()
	}()
	synctest.Test(t, f)
}

// A client that does not answer two health checks in a row is lost after at most twice interval and timeout; one that
// misses one, but answers the next, is not.
func TestHealth(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := &silent{answers: make(chan struct{}, 1)}
		conn, stop := serveHealth(h)
		defer stop()
		m := New(Options{})
		served := make(chan error, 1)
		go func() { served <- m.Serve(t.Context(), conn, headersOf("x")) }()
		s, err := m.Get(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(21 * time.Second) // the first check fails after 20 s
		h.answers <- struct{}{}      // and the second does not
		time.Sleep(5 * time.Second)
		if s.Context().Err() != nil {
			t.Fatalf("one failure has ended the session: %v", context.Cause(s.Context()))
		}
		begin := time.Now()
		<-s.Context().Done()
		if took := time.Since(begin); took > 45*time.Second {
			t.Errorf("it took %s", took)
		}
		err = context.Cause(s.Context())
		if want := "the client's session test (x) was lost: no answer to health checks"; !strings.HasPrefix(err.Error(), want) {
			t.Errorf("cause %q, want %q…", err, want)
		}
		if err := <-served; !errors.Is(err, errNoAnswer) {
			t.Errorf("Serve: %v", err)
		}
	})
}

// A client that answers is never lost.
func TestHealthy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		conn, stop := serveHealth(health.NewServer())
		m := New(Options{})
		served := make(chan error, 1)
		go func() { served <- m.Serve(t.Context(), conn, headersOf("x")) }()
		s, err := m.Get(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if s.Context().Err() != nil {
			t.Errorf("the session has ended: %v", context.Cause(s.Context()))
		}
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// farewell counts the bytes that are written to a connection after the other side has closed it.
type farewell struct {
	net.Conn
	closed atomic.Bool
	late   atomic.Int64
}

func (f *farewell) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	if err != nil {
		f.closed.Store(true)
	}
	return n, err
}

func (f *farewell) Write(b []byte) (int, error) {
	if f.closed.Load() {
		f.late.Add(int64(len(b)))
	}
	return f.Conn.Write(b)
}

// Nothing is said to a client that has closed its side: BuildKit's would read it as frames, and complain to the user.
func TestNoFarewell(t *testing.T) {
	for range 20 {
		m := New(patient(t))
		conn, stop := serveHealth(health.NewServer())
		f := &farewell{Conn: conn}
		served := make(chan error, 1)
		go func() { served <- m.Serve(context.Background(), f, headersOf("x")) }()
		s, err := m.Get(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := grpc_health_v1.NewHealthClient(s.Conn()).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
			t.Fatal(err)
		}
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if n := f.late.Load(); n > 0 {
			t.Errorf("%d bytes were sent to a client that has gone", n)
		}
	}
}

// counting is a health service that counts its answers.
type counting struct {
	grpc_health_v1.UnimplementedHealthServer
	answered atomic.Int64
}

func (c *counting) Check(context.Context, *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	c.answered.Add(1)
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

// A session that Get returns has answered already, so that its connection is set up whatever the build does next.
func TestGetReady(t *testing.T) {
	h := &counting{}
	conn, stop := serveHealth(h)
	m := New(patient(t))
	served := make(chan error, 1)
	go func() { served <- m.Serve(context.Background(), conn, headersOf("x")) }()
	if _, err := m.Get(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if h.answered.Load() == 0 {
		t.Error("Get has returned a session that has not answered yet")
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
