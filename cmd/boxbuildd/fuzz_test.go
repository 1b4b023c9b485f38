package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client/llb"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"

	_ "github.com/containerd/containerd/api/services/content/v1" // services that the daemon has
	_ "go.opentelemetry.io/proto/otlp/collector/trace/v1"
)

// A world is a whole daemon in this process, with real snapshots and real sandboxes, and a client's connection to it.
type world struct {
	conn *grpc.ClientConn
	base string // what there is around the root: every directory on the way to it has a canary and nothing else
	root string
	busy int // goroutines of a daemon at rest
	log  said
}

// said is the log of a daemon. It is safe for concurrent use.
type said struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *said) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.buf.Reset()
	return s.buf.String()
}

// depth is how many directories there are above the root that nobody may touch.
const depth = 5

// newWorld starts a daemon. It needs what the tests of whole programs need.
func newWorld(f *testing.F) *world {
	f.Helper()
	bin, bases := os.Getenv("BOXBUILD_BIN"), os.Getenv("BOXBUILD_BASES")
	if os.Getuid() != 0 || bin == "" || bases == "" {
		f.Skip("needs root, BOXBUILD_BIN and BOXBUILD_BASES; `make test` sets them")
	}
	base, err := os.MkdirTemp("", "fz") // a socket's path has at most 107 bytes
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := os.RemoveAll(base); err != nil {
			f.Error(err)
		}
	})
	w := &world{base: base, root: filepath.Join(base, strings.Repeat("d/", depth), "r")}
	for dir := filepath.Dir(w.root); len(dir) >= len(base); dir = filepath.Dir(dir) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			f.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "canary"), []byte("canary"), 0o644); err != nil {
			f.Fatal(err)
		}
	}
	// No request of this process leaves the machine.
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		f.Setenv(name, "http://127.0.0.1:1")
	}
	s := w.serve(f, filepath.Join(bin, "boxshim"))
	f.Cleanup(func() {
		_ = w.conn.Close()
		if err := s.stop(); err != nil {
			f.Error(err)
		}
		if err := s.close(); err != nil {
			f.Error(err)
		}
	})
	w.load(f)
	w.warm(f)
	return w
}

// serve starts the daemon, as serve of the program does, and connects to it.
func (w *world) serve(f *testing.F, shim string) *server {
	f.Helper()
	flags := pflag.NewFlagSet("boxbuildd", pflag.ContinueOnError)
	env := config.OSEnv()
	env.Lookup = func(string) (string, bool) { return "", false }
	cfg := config.NewDaemon(flags, env)
	addr := "unix://" + filepath.Join(w.root, "s")
	if err := flags.Parse([]string{"--root", w.root, "--addr", addr}); err != nil {
		f.Fatal(err)
	}
	if err := cfg.Load(flags); err != nil {
		f.Fatal(err)
	}
	cfg.Shim = shim
	cfg.Registries = map[string]config.Registry{"docker.io": {Mirrors: []string{"127.0.0.1:1"}}}
	unix.Umask(0o022)
	if err := makeRoot(cfg.Root); err != nil {
		f.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(&w.log, nil))
	d, err := newWorker(context.Background(), cfg, log)
	if err != nil {
		f.Fatal(err)
	}
	s := &server{cfg: cfg, daemon: d, log: log, presence: &presence{last: time.Now()}, ended: make(chan error, 3)}
	if s.endpoints, err = listenAll(cfg, env, log); err != nil {
		f.Fatal(err)
	}
	s.start()
	if w.conn, err = grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		f.Fatal(err)
	}
	return s
}

// load puts the base image into the store, if it is not there.
func (w *world) load(t testing.TB) {
	t.Helper()
	ctx := context.Background()
	images := boxbuildv1.NewImagesClient(w.conn)
	if _, err := images.Inspect(ctx, &boxbuildv1.InspectRequest{Ref: "busybox"}); err == nil {
		return
	}
	tar, err := os.ReadFile(filepath.Join(os.Getenv("BOXBUILD_BASES"), "busybox.tar"))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := images.Import(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.Send(&boxbuildv1.ImportInput{Input: &boxbuildv1.ImportInput_Start{Start: &boxbuildv1.ImportOptions{Name: "busybox"}}})
	for len(tar) > 0 {
		n := min(len(tar), 1<<20)
		_ = stream.Send(&boxbuildv1.ImportInput{Input: &boxbuildv1.ImportInput_Data{Data: tar[:n]}})
		tar = tar[n:]
	}
	if _, err := stream.CloseAndRecv(); err != nil {
		t.Fatal(err)
	}
}

// warm does once what is done the first time only, and counts the goroutines.
func (w *world) warm(f *testing.F) {
	f.Helper()
	ctx := context.Background()
	def, err := llb.Image("busybox").Run(llb.Shlex("true")).Marshal(ctx, llb.LinuxAmd64)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := controlapi.NewControlClient(w.conn).Solve(ctx, &controlapi.SolveRequest{Ref: "warm", Definition: def.ToPB()}); err != nil {
		f.Fatal(err)
	}
	least := runtime.NumGoroutine()
	for range 100 { // some are on their way out
		time.Sleep(time.Millisecond)
		least = min(least, runtime.NumGoroutine())
	}
	w.busy = least
}

// slack is how many goroutines more than at first a daemon may have at rest: those of what it holds ready, such as network
// namespaces and connections.
const slack = 24

// check says what is wrong with the daemon after calls that have ended.
func (w *world) check(t *testing.T) {
	t.Helper()
	if log := w.log.take(); strings.Contains(log, "panic") {
		t.Errorf("the daemon says %.4000s", log)
	}
	for begin := time.Now(); runtime.NumGoroutine() > w.busy+slack; time.Sleep(time.Millisecond) {
		if time.Since(begin) > 20*time.Second {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d at first:\n%s", runtime.NumGoroutine(), w.busy, stacks[:runtime.Stack(stacks, true)])
		}
	}
	want := []string{"canary", "d"}
	for dir := w.base; dir != w.root; dir = filepath.Join(dir, want[1]) {
		if filepath.Dir(w.root) == dir {
			want[1] = "r"
		}
		list, err := os.ReadDir(dir)
		text, err2 := os.ReadFile(filepath.Join(dir, "canary"))
		if err != nil || err2 != nil || len(list) != 2 || list[0].Name() != want[0] || list[1].Name() != want[1] || string(text) != "canary" {
			t.Fatalf("outside the root, in %s, there are %v, %v, %v", dir, list, err, err2)
		}
	}
}

// filler returns one that knows what there is here.
func (w *world) filler(data []byte) *filler {
	up := strings.Repeat("../", 12)
	return &filler{data: data, words: []string{
		"", "x", "busybox", "docker.io/library/busybox:latest", "..", "../x", up + w.base, up + w.base + "/canary", w.base, w.base + "/new",
		w.base + "/d/canary", "\x00", "\uFFFD", "sha256:" + strings.Repeat("0", 64), "sha256:" + strings.Repeat("g", 64), "sha256:../../x",
		"dockerfile.v0", "gateway.v0", "image", "oci", "tar", "local", "docker", "registry", "inline", "cacheonly", "name", "push", "true", "false",
		"dest", "source", "context", "dockerfile", "filename", "target", "platform", "multi-platform", "docker-image://busybox", "local://context",
		"local://dockerfile", "git://127.0.0.1:1/x", "https://127.0.0.1:1/x.git#a:b", "http://127.0.0.1:1/x", "http://buildkit-session/1",
		"oci-layout://x@sha256:" + strings.Repeat("0", 64), "linux", "amd64", "arm64", "linux/amd64", "linux/arm64", "linux/amd64,linux/arm64",
		"9999999999999999999", "-1", "0", "1", "type==", "status==error,ref~=(", strings.Repeat("long", 1000), strings.Repeat("../", 3000),
		"/bin/sh", "sh", "-c", "echo x > /a", "sleep 0.05", "cat", "/", "/a", "/b", "/bin", "b*", "root", "1000:1000", "network.host",
		"build-arg:x", "context:x", "cache-imports", "attest:provenance", "attest:sbom", "requestid", "frontend.outline", "frontend.lint",
		"docker-image", "local.sharedkeyhint", "local.includepattern", "local.followpaths", `["a"]`, `["../x"]`, "http.filename", "git.keepgitdir",
		"oci.session", "image.resolvemode", "exporter-md-x", "containerimage.config", "{}", "null", "moby.buildkit.dockerfile.v0", "self",
	}}
}

// callTime is how long a client waits for an answer, at most: some calls wait for what does not come. A build takes less.
const callTime = 150 * time.Millisecond

// call calls a method of a service as f says, and takes the words of the answers.
func (w *world) call(ctx context.Context, f *filler, service protoreflect.ServiceDescriptor) {
	m := service.Methods().Get(f.below(service.Methods().Len()))
	ctx, cancel := context.WithTimeout(ctx, 5*time.Millisecond+callTime*time.Duration(f.next())/255)
	defer cancel()
	sd := &grpc.StreamDesc{ClientStreams: m.IsStreamingClient(), ServerStreams: m.IsStreamingServer()}
	stream, err := w.conn.NewStream(ctx, sd, fmt.Sprintf("/%s/%s", service.FullName(), m.Name()))
	if err != nil {
		return
	}
	n := 1
	if m.IsStreamingClient() {
		n = f.below(8)
	}
	for range n {
		in := dynamicpb.NewMessage(m.Input())
		f.message(in, 5)
		if stream.SendMsg(in) != nil {
			break
		}
	}
	_ = stream.CloseSend() // the answer says what was wrong
	for range 1000 {
		out := dynamicpb.NewMessage(m.Output())
		if stream.RecvMsg(out) != nil {
			return
		}
		f.harvest(out)
	}
}

// service returns the description of a service.
func service(t testing.TB, name protoreflect.FullName) protoreflect.ServiceDescriptor {
	t.Helper()
	desc, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return desc.(protoreflect.ServiceDescriptor) //nolint:forcetypeassert // a test that names no service fails
}

// fuzzService calls a service, some methods one after the other, with messages of any fields. Each call ends, whatever it
// asked for, the daemon lives on at rest, and nothing outside its root has been touched.
func fuzzService(f *testing.F, name protoreflect.FullName) {
	w := newWorld(f)
	svc := service(f, name)
	for i := range 24 {
		f.Add(noise(i))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fill := w.filler(data)
		for range 1 + fill.below(4) {
			w.call(t.Context(), fill, svc)
		}
		w.load(t)
		w.check(t)
	})
}

// noise is an input with all there is.
func noise(i int) []byte {
	b := make([]byte, 600)
	_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(b) // it has no error
	return b
}

func FuzzControl(f *testing.F) { fuzzService(f, "moby.buildkit.v1.Control") }
func FuzzBuilds(f *testing.F)  { fuzzService(f, "boxbuild.v1.Builds") }
func FuzzImages(f *testing.F)  { fuzzService(f, "boxbuild.v1.Images") }
func FuzzSystem(f *testing.F)  { fuzzService(f, "boxbuild.v1.System") }
func FuzzContent(f *testing.F) { fuzzService(f, "containerd.services.content.v1.Content") }
func FuzzTraces(f *testing.F) {
	fuzzService(f, "opentelemetry.proto.collector.trace.v1.TraceService")
}
func FuzzHealth(f *testing.F)     { fuzzService(f, "grpc.health.v1.Health") }
func FuzzReflection(f *testing.F) { fuzzService(f, "grpc.reflection.v1.ServerReflection") }

// FuzzBridge directs a build as its client, with calls of any fields: the results, files and containers of a build that
// runs. It ends like any other.
func FuzzBridge(f *testing.F) {
	w := newWorld(f)
	svc := service(f, "moby.buildkit.v1.frontend.LLBBridge")
	for i := range 24 {
		f.Add(noise(i))
	}
	n := 0
	f.Fuzz(func(t *testing.T, data []byte) {
		fill := w.filler(data)
		n++
		id := fmt.Sprint("bridge", n)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := controlapi.NewControlClient(w.conn).Solve(ctx, &controlapi.SolveRequest{Ref: id})
			ended <- err
		}()
		with := metadata.AppendToOutgoingContext(ctx, "buildkit-controlapi-buildid", id)
		// Something that there is to be asked about.
		def, err := llb.Image("busybox").Run(llb.Shlex("true")).Marshal(ctx, llb.LinuxAmd64)
		if err != nil {
			t.Fatal(err)
		}
		solved, err := gatewayapi.NewLLBBridgeClient(w.conn).Solve(with, &gatewayapi.SolveRequest{
			Definition: def.ToPB(), AllowResultReturn: true, AllowResultArrayRef: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		fill.harvest(solved.ProtoReflect())
		for range 1 + fill.below(6) {
			w.call(with, fill, svc)
		}
		cancel()
		<-ended
		w.load(t)
		w.check(t)
	})
}
