package native_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/api/native"
	"github.com/boxbuild/boxbuild/worker/history"
)

// A work is a worker.Builder that is a function.
type work func(ctx context.Context, req *worker.BuildRequest, send func(solver.Event)) (*worker.BuildResult, error)

func (f work) Build(ctx context.Context, req *worker.BuildRequest, send func(solver.Event)) (*worker.BuildResult, error) {
	return f(ctx, req, send)
}

// A step is an operation for tests.
type step string

func (s step) WriteKey(h *solver.Hasher) { h.Version("step", 1); h.Str("text", string(s)) }
func (s step) String() string            { return string(s) }

// serveHistory serves a builder whose builds are recorded, and returns a client of it.
func serveHistory(t *testing.T, b worker.Builder) boxbuildv1.BuildsClient {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	store, err := history.Open(history.Options{
		Dir: t.TempDir(), Log: quiet, Errors: map[string]func(error) []byte{native.ErrorForm: native.EncodeError},
	})
	if err != nil {
		t.Fatal(err)
	}
	services := native.New(native.Options{
		Builder: store.Wrap(b), Platform: op.Platform{OS: "linux", Architecture: "amd64"}, History: store, Log: quiet,
	})
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(native.GRPCOptions(quiet)...)
	services.Register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		services.Drain()
		if err := services.Wait(context.Background()); err != nil {
			t.Error(err)
		}
		server.Stop()
		if err := errors.Join(<-served, store.Close()); err != nil {
			t.Error(err)
		}
	})
	return boxbuildv1.NewBuildsClient(conn)
}

// begin begins a build and returns its ID, and what hangs up.
func begin(t *testing.T, c boxbuildv1.BuildsClient, detach bool) (string, context.CancelFunc) {
	t.Helper()
	ctx, hangUp := context.WithCancel(t.Context())
	stream, err := c.Build(ctx)
	if err != nil {
		t.Fatal(err)
	}
	start := &boxbuildv1.BuildRequest{Frontend: &boxbuildv1.Frontend{Dockerfile: &boxbuildv1.Frontend_Text{Text: []byte("x")}}, Detach: detach}
	if err := stream.Send(&boxbuildv1.BuildInput{Input: &boxbuildv1.BuildInput_Start{Start: start}}); err != nil {
		t.Fatal(err)
	}
	out, err := stream.Recv()
	if err != nil || out.GetAccepted() == nil {
		t.Fatalf("got %v, %v", out, err)
	}
	return out.GetAccepted().GetId(), hangUp
}

// follow watches a build to its end, and returns its output and how it ended.
func follow(t *testing.T, c boxbuildv1.BuildsClient, req *boxbuildv1.WatchRequest) (string, *boxbuildv1.BuildFinished) {
	t.Helper()
	stream, err := c.Watch(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	var finished *boxbuildv1.BuildFinished
	var sequence uint64
	for {
		out, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return text.String(), finished
		}
		if err != nil {
			t.Fatal(err)
		}
		if sequence++; out.GetSequence() != sequence {
			t.Errorf("output %d has number %d", sequence, out.GetSequence())
		}
		text.Write(out.GetEvent().GetLog().GetData())
		if f := out.GetFinished(); f != nil {
			finished = f
		}
	}
}

// A detached build goes on when its client has left; what it asks of the client then fails by name. Any other build ends
// with its client.
func TestDetached(t *testing.T) {
	release, ended := make(chan struct{}), make(chan error, 1)
	c := serveHistory(t, work(func(ctx context.Context, req *worker.BuildRequest, send func(solver.Event)) (*worker.BuildResult, error) {
		v := solver.NewVertex(step("RUN x"), nil, solver.Meta{})
		send(solver.Event{Kind: solver.Logged, Vertex: v, Stream: 1, Data: []byte("before ")})
		select {
		case <-release:
		case <-ctx.Done():
			ended <- context.Cause(ctx)
			return nil, ctx.Err()
		}
		send(solver.Event{Kind: solver.Logged, Vertex: v, Stream: 1, Data: []byte("after")})
		_, err := req.Session.Secret(ctx, "s")
		ended <- err
		return nil, &executor.ExitError{Args: []string{"x"}, Exit: executor.Exit{Code: 3}}
	}))
	_, hangUp := begin(t, c, false)
	hangUp()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("attached: %v", err)
	}
	id, hangUp := begin(t, c, true)
	hangUp()
	// The daemon has seen that the client is gone when its questions fail.
	close(release)
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "secret s: the build is detached, and its client has left") {
		t.Errorf("detached: %v", err)
	}
	text, finished := follow(t, c, &boxbuildv1.WatchRequest{Build: id[:6], Follow: true})
	if text != "before after" {
		t.Errorf("the output is %q", text)
	}
	e := finished.GetError()
	if e.GetKind() != boxbuildv1.ErrorKind_ERROR_KIND_STEP || e.GetStep().GetExitCode() != 3 {
		t.Errorf("it ended with %v", finished)
	}
}

// A build that runs can be listed, watched up to now, and cancelled, but not removed; one that has ended can be removed.
func TestBuilds(t *testing.T) {
	c := serveHistory(t, work(func(ctx context.Context, _ *worker.BuildRequest, send func(solver.Event)) (*worker.BuildResult, error) {
		v := solver.NewVertex(step("RUN x"), nil, solver.Meta{})
		w := solver.NewVertex(step("RUN y"), nil, solver.Meta{})
		send(solver.Event{Kind: solver.Logged, Vertex: v, Data: []byte("one")})
		send(solver.Event{Kind: solver.Logged, Vertex: w, Data: []byte("two")})
		<-ctx.Done()
		return nil, ctx.Err()
	}))
	id, hangUp := begin(t, c, true)
	defer hangUp()
	for text := ""; text != "two"; { // it may not have come so far
		var finished *boxbuildv1.BuildFinished
		if text, finished = follow(t, c, &boxbuildv1.WatchRequest{Build: id, Vertices: []uint32{2}}); finished != nil {
			t.Fatalf("it has ended: %v", finished)
		}
	}
	list, err := c.ListBuilds(t.Context(), &boxbuildv1.ListBuildsRequest{})
	if err != nil || len(list.GetBuilds()) != 1 || list.GetBuilds()[0].GetStatus() != "running" {
		t.Fatalf("got %v, %v", list, err)
	}
	remove := &boxbuildv1.UpdateBuildRequest{Builds: []string{id}, Action: &boxbuildv1.UpdateBuildRequest_Remove{Remove: true}}
	if _, err := c.UpdateBuild(t.Context(), remove); boxbuildv1.KindOf(err) != boxbuildv1.ErrorKind_ERROR_KIND_CONFLICT {
		t.Errorf("removing it: %v", err)
	}
	cancel := &boxbuildv1.UpdateBuildRequest{Builds: []string{id}, Action: &boxbuildv1.UpdateBuildRequest_Cancel{Cancel: true}}
	if _, err := c.UpdateBuild(t.Context(), cancel); err != nil {
		t.Fatal(err)
	}
	_, finished := follow(t, c, &boxbuildv1.WatchRequest{Build: id, Follow: true})
	if finished.GetError().GetKind() != boxbuildv1.ErrorKind_ERROR_KIND_CANCELED {
		t.Errorf("got %v", finished)
	}
	rec, err := c.InspectBuild(t.Context(), &boxbuildv1.InspectBuildRequest{Build: id})
	if err != nil || rec.GetStatus() != "canceled" || rec.GetFrontend() != "dockerfile.v0" || rec.GetTotalSteps() != 2 {
		t.Errorf("got %v, %v", rec, err)
	}
	if _, err := c.UpdateBuild(t.Context(), remove); err != nil {
		t.Fatal(err)
	}
	stream, err := c.Watch(t.Context(), &boxbuildv1.WatchRequest{Build: id})
	if err == nil {
		_, err = stream.Recv()
	}
	if boxbuildv1.KindOf(err) != boxbuildv1.ErrorKind_ERROR_KIND_NOT_FOUND {
		t.Errorf("watching what is gone: %v", err)
	}
	if _, err := c.UpdateBuild(t.Context(), &boxbuildv1.UpdateBuildRequest{Builds: []string{id}}); err == nil {
		t.Error("an update without an action is taken")
	}
}

// What a request asked for is recorded in BuildKit's words.
func TestOrigin(t *testing.T) {
	got := make(chan worker.Origin, 1)
	c := serveHistory(t, work(func(_ context.Context, req *worker.BuildRequest, _ func(solver.Event)) (*worker.BuildResult, error) {
		got <- req.Origin
		return &worker.BuildResult{}, nil
	}))
	stream, err := c.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	start := &boxbuildv1.BuildRequest{
		Frontend: &boxbuildv1.Frontend{
			Context:   &boxbuildv1.Frontend_ContextUrl{ContextUrl: "https://example.com/r.git"},
			Filename:  "f",
			Target:    "t",
			BuildArgs: map[string]string{"A": "1"}, Labels: map[string]string{"l": "v"}, NoCache: true, Pull: true, Network: "none",
			Platforms: []*boxbuildv1.Platform{{Os: "linux", Architecture: "arm", Variant: "v7"}, {Os: "linux", Architecture: "amd64"}},
			ShmSize:   5, ExtraHosts: []*boxbuildv1.HostIP{{Host: "h", Ip: "1.2.3.4"}},
			Ulimits: []*boxbuildv1.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}}, Limits: &boxbuildv1.Limits{Memory: 9},
		},
		Tags: []string{"x", "y"}, Outputs: []*boxbuildv1.Output{{Type: "image", Push: true}},
	}
	if err := stream.Send(&boxbuildv1.BuildInput{Input: &boxbuildv1.BuildInput_Start{Start: start}}); err != nil {
		t.Fatal(err)
	}
	o := <-got
	want := map[string]string{
		"context": "https://example.com/r.git", "filename": "f", "target": "t", "build-arg:A": "1", "label:l": "v", "no-cache": "",
		"image-resolve-mode": "pull", "force-network-mode": "none", "platform": "linux/arm/v7,linux/amd64", "shm-size": "5",
		"add-hosts": "h=1.2.3.4", "ulimit": "nofile=1:2", "memory": "9",
	}
	for k, v := range want {
		if have, ok := o.Attrs[k]; !ok || have != v {
			t.Errorf("%s: got %q, want %q", k, have, v)
		}
	}
	if len(o.Attrs) != len(want) {
		t.Errorf("got %v, want %v", o.Attrs, want)
	}
	if out := o.Outputs[0]; out.Type != "image" || out.Attrs["push"] != "true" || out.Attrs["name"] != "x,y" {
		t.Errorf("got %v", o.Outputs)
	}
}
