package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/workertest"
)

// serveTest serves the fake worker and returns a connection to it.
func serveTest(t *testing.T) (*server, *grpc.ClientConn) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	cfg := &config.Daemon{Root: t.TempDir()}
	dir := t.TempDir()
	cfg.Addrs = []string{"unix://" + filepath.Join(dir, "s"), "tcp://127.0.0.1:0"}
	images := &workertest.Images{}
	b := &workertest.Builder{Images: images}
	s := &server{
		cfg: cfg, log: log, presence: &presence{}, ended: make(chan error, 3),
		daemon: &daemon{Builder: b, Gate: newGate(b), Images: images, Close: func() error { return nil }},
	}
	var err error
	if s.endpoints, err = listenAll(cfg, config.OSEnv(), log); err != nil {
		t.Fatal(err)
	}
	s.start()
	t.Cleanup(func() {
		if err := errors.Join(s.stop(), s.close()); err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, "s"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return s, conn
}

// Tools that know nothing of the services find out what is there, and how the daemon does.
func TestHealthAndReflection(t *testing.T) {
	s, conn := serveTest(t)
	check := func() healthv1.HealthCheckResponse_ServingStatus {
		resp, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetStatus()
	}
	if got := check(); got != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("it is %v", got)
	}
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{},
	}); err != nil {
		t.Fatal(err)
	}
	list, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, svc := range list.GetListServicesResponse().GetService() {
		names = append(names, svc.GetName())
	}
	if all := strings.Join(names, " "); !strings.Contains(all, "boxbuild.v1.Builds") || !strings.Contains(all, "grpc.health.v1.Health") {
		t.Errorf("there are %v", names)
	}
	s.health.Shutdown()
	if got := check(); got != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("a daemon that goes down is %v", got)
	}
}

// A method is found by its exact path, or not at all: what decides by the path of a call cannot be led past.
func TestPaths(t *testing.T) {
	s, _ := serveTest(t)
	for path, want := range map[string]string{
		"/boxbuild.v1.System/Ping": "0", "boxbuild.v1.System/Ping": "12", "//boxbuild.v1.System/Ping": "12",
		"/boxbuild.v1.system/ping": "12", "/boxbuild.v1.System%2fPing": "12", "/boxbuild.v1.System/Ping/": "12", "/": "12", "": "12",
	} {
		if got := rawCall(t, s.endpoints[1].Addr().String(), path); got != want && (want == "0" || got == "0") {
			t.Errorf("%q: status %s, want %s", path, got, want)
		}
	}
}

// rawCall calls a method with a path of any form and returns the status of gRPC, or of HTTP, or why there is none.
func rawCall(t *testing.T, addr, path string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(conn, conn)
	var block strings.Builder
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":authority", "x"}, {":path", path}, {"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		if err := enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(
		f.WriteSettings(), f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block.String()), EndHeaders: true}),
		f.WriteData(1, true, make([]byte, 5)),
	); err != nil {
		return err.Error()
	}
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return err.Error()
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			for _, h := range frame.Fields {
				if h.Name == "grpc-status" || h.Name == ":status" && h.Value != "200" {
					return h.Value
				}
			}
		case *http2.RSTStreamFrame:
			return frame.ErrCode.String()
		}
	}
}

// A panic in a handler is the error of that call, and the daemon goes on; so with one in a build.
func TestPanic(t *testing.T) {
	_, conn := serveTest(t)
	stream, err := boxbuildv1.NewBuildsClient(conn).Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&boxbuildv1.BuildInput{Input: &boxbuildv1.BuildInput_Start{Start: &boxbuildv1.BuildRequest{
		Frontend: &boxbuildv1.Frontend{Dockerfile: &boxbuildv1.Frontend_Text{Text: []byte("FROM scratch\nRUN panic\n")}},
	}}}); err != nil {
		t.Fatal(err)
	}
	failed := false
	for {
		out, err := stream.Recv()
		if err != nil {
			break
		}
		failed = failed || out.GetFinished().GetError() != nil
	}
	if !failed {
		t.Error("the build did not fail")
	}
	if _, err := boxbuildv1.NewSystemClient(conn).Ping(t.Context(), &boxbuildv1.PingRequest{}); err != nil {
		t.Errorf("the daemon is gone: %v", err)
	}
}

// Many builds share one connection.
func TestManyStreams(t *testing.T) {
	s, conn := serveTest(t)
	const builds = 200
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range builds {
		stream, err := boxbuildv1.NewBuildsClient(conn).Build(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&boxbuildv1.BuildInput{Input: &boxbuildv1.BuildInput_Start{Start: &boxbuildv1.BuildRequest{
			Frontend: &boxbuildv1.Frontend{Dockerfile: &boxbuildv1.Frontend_Text{Text: []byte("FROM scratch\nRUN sleep\n")}},
		}}}); err != nil {
			t.Fatal(err)
		}
		for { // until it sleeps
			out, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(fmt.Sprint(out), "sleeping") {
				break
			}
		}
	}
	if n := s.daemon.Gate.shut(); n != builds {
		t.Errorf("%d builds run", n)
	}
	cancel()
	if err := s.daemon.Gate.wait(t.Context()); err != nil {
		t.Error(err)
	}
}

// A daemon that goes down is UNAVAILABLE, whichever service says so.
func TestUnavailable(t *testing.T) {
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{nil, codes.OK},
		{fmt.Errorf("building: %w", worker.ErrDraining), codes.Unavailable},
		{errors.New("x"), codes.Unknown},
		{status.Error(codes.NotFound, "x"), codes.NotFound},
	} {
		if got := status.Code(unavailable(c.err)); got != c.want {
			t.Errorf("%v: got %v, want %v", c.err, got, c.want)
		}
	}
}

// A client that says nothing holds up nobody, the end of the daemon included.
func TestSilentClients(t *testing.T) {
	s, conn := serveTest(t)
	var silent []net.Conn
	for i := range 20 {
		c, err := net.Dial("tcp", s.endpoints[1].Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, c)
		if i%2 == 0 {
			if _, err := io.WriteString(c, preface[:i/2]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := boxbuildv1.NewSystemClient(conn).Ping(t.Context(), &boxbuildv1.PingRequest{}); err != nil {
		t.Error(err)
	}
	begin := time.Now()
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if d := time.Since(begin); d >= sniffTimeout { // which is what they would be waited for
		t.Errorf("it took %v to stop: the silent clients were waited for", d)
	}
	for _, c := range silent {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the daemon has said something")
		}
		_ = c.Close()
	}
}
