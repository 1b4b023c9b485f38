package buildkit

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/bksession"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// A translator is a builder that has the frontend translate, and builds nothing.
type translator struct{}

func (translator) Build(ctx context.Context, req *worker.BuildRequest, _ func(solver.Event)) (*worker.BuildResult, error) {
	if req.Use != nil {
		if _, err := req.Use.Translate(ctx, &req.Frontend, blind{}); err != nil {
			return nil, err
		}
	}
	return &worker.BuildResult{Metadata: map[string]string{"containerimage.digest": "x", "frontend.y": "z"}}, nil
}

// blind is an Env that finds nothing.
type blind struct{}

func (blind) Pin(context.Context, op.Source) (op.Source, error) { return nil, fs.ErrNotExist }
func (blind) ImageConfig(context.Context, *op.Image) (*frontend.ImageConfig, error) {
	return nil, fs.ErrNotExist
}

func (blind) ReadFile(context.Context, solver.Input, string) ([]byte, error) {
	return nil, fs.ErrNotExist
}

func (blind) Step(ctx context.Context, _ string, fn func(context.Context) error) error {
	return fn(ctx)
}
func (blind) Warn(solver.Warning) {}

// quiet returns a server whose sessions do not come, and that fails the test when a handler panics.
func quiet(t testing.TB) *Server {
	return New(Options{
		Builder: translator{}, Sessions: bksession.New(bksession.Options{Wait: time.Nanosecond}),
		Platform: op.Platform{OS: "linux", Architecture: "amd64"},
		Log:      slog.New(slog.NewTextHandler(failing{t}, nil)),
	})
}

// failing fails a test with what is logged.
type failing struct{ t testing.TB }

func (f failing) Write(p []byte) (int, error) {
	f.t.Errorf("logged: %s", p)
	return len(p), nil
}

// FuzzSolve checks that no request is a crash: what a client sends is refused or becomes a build.
func FuzzSolve(f *testing.F) {
	add := func(m *controlapi.SolveRequest) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	add(&controlapi.SolveRequest{Ref: "r", Frontend: "dockerfile.v0", FrontendAttrs: map[string]string{"platform": "linux/arm64"}})
	add(&controlapi.SolveRequest{Definition: &pb.Definition{Def: [][]byte{{1}}}, SourcePolicy: &spb.Policy{Rules: []*spb.Rule{{}}}})
	add(&controlapi.SolveRequest{Exporters: []*controlapi.Exporter{{Type: "image", Attrs: map[string]string{"name": "x"}}, nil}})
	add(&controlapi.SolveRequest{Cache: &controlapi.CacheOptions{Exports: []*controlapi.CacheOptionsEntry{nil, {}}, Imports: []*controlapi.CacheOptionsEntry{nil}}})
	f.Fuzz(func(t *testing.T, data []byte) {
		in := &controlapi.SolveRequest{}
		if proto.Unmarshal(data, in) != nil {
			return
		}
		_, _ = quiet(t).Solve(t.Context(), in)
	})
}

// TestRandom does the same with requests that have every field, filled at random.
func TestRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	words := []string{
		"", "x", "dockerfile.v0", "gateway.v0", "image", "oci", "docker", "tar", "local", "registry", "inline", "name", "tar", "false", "true",
		"platform", "linux/amd64,linux/arm64", "attest:sbom", "attest:provenance", "requestid", "frontend.lint", "frontend.subrequests.describe",
		"source", "context", "git@h:x", "http://buildkit-session/1", "build-arg:SOURCE_DATE_EPOCH", "1", "network.host", "device=a,alias=b",
		"annotation[linux].x", "cache-imports", "[null]", "multi-platform", "\xff", strings.Repeat("long", 1000),
	}
	word := func() string { return words[r.IntN(len(words))] }
	attrs := func() map[string]string {
		m := map[string]string{}
		for range r.IntN(5) {
			m[word()] = word()
		}
		return m
	}
	entries := func() (out []*controlapi.CacheOptionsEntry) {
		for range r.IntN(3) {
			out = append(out, &controlapi.CacheOptionsEntry{Type: word(), Attrs: attrs()})
		}
		return append(out, nil)[:r.IntN(len(out)+1)]
	}
	for range 5000 {
		in := &controlapi.SolveRequest{
			Ref: word(), Frontend: word(), FrontendAttrs: attrs(), ExporterDeprecated: word(), ExporterAttrsDeprecated: attrs(),
			Entitlements: []string{word()}, Internal: r.IntN(2) == 0, EnableSessionExporter: r.IntN(2) == 0,
			CompatibilityVersion: []int64{0, 30, 7}[r.IntN(3)], ProxyNetwork: r.IntN(9) == 0,
			Cache: &controlapi.CacheOptions{
				ExportRefDeprecated: word(), ImportRefsDeprecated: []string{word()}, Exports: entries(), Imports: entries(),
			},
		}
		if r.IntN(3) == 0 {
			in.Definition = &pb.Definition{Def: [][]byte{[]byte(word()), nil}, Metadata: map[string]*pb.OpMetadata{word(): nil}}
		}
		if r.IntN(3) == 0 {
			in.SourcePolicy = &spb.Policy{Rules: []*spb.Rule{nil, {Selector: &spb.Selector{Identifier: word()}}}[r.IntN(2):]}
		}
		for range r.IntN(3) {
			in.Exporters = append(in.Exporters, &controlapi.Exporter{Type: word(), Attrs: attrs()})
		}
		resp, err := quiet(t).Solve(t.Context(), in)
		if (resp == nil) == (err == nil) {
			t.Fatalf("%s: got %v and %v", protojson.Format(in), resp, err)
		}
	}
}

// TestAnswer checks which keys a response has.
func TestAnswer(t *testing.T) {
	for kind, want := range map[string]int{"": 1, "cacheonly": 1, "image": 2} {
		in := &controlapi.SolveRequest{Ref: "answer" + kind, Frontend: "dockerfile.v0"}
		if kind != "" {
			in.Exporters = []*controlapi.Exporter{{Type: kind}}
		}
		resp, err := quiet(t).Solve(t.Context(), in)
		if err != nil || len(resp.GetExporterResponse()) != want {
			t.Errorf("%q: got %v, %v, want %d keys", kind, resp, err, want)
		}
	}
}

// TestModernise checks that what old clients send is read as what it is today.
func TestModernise(t *testing.T) {
	in := &controlapi.SolveRequest{
		ExporterDeprecated: "image", ExporterAttrsDeprecated: map[string]string{"name": "x"},
		Cache: &controlapi.CacheOptions{
			ExportRefDeprecated: "r/e", ExportAttrsDeprecated: map[string]string{"mode": "max"}, ImportRefsDeprecated: []string{"r/i"},
		},
	}
	modernise(in)
	want := &controlapi.SolveRequest{
		Exporters: []*controlapi.Exporter{{Type: "image", Attrs: map[string]string{"name": "x"}}},
		Cache: &controlapi.CacheOptions{
			Exports: []*controlapi.CacheOptionsEntry{{Type: "registry", Attrs: map[string]string{"mode": "max", "ref": "r/e"}}},
			Imports: []*controlapi.CacheOptionsEntry{{Type: "registry", Attrs: map[string]string{"ref": "r/i"}}},
		},
	}
	if !proto.Equal(in, want) {
		t.Errorf("got %v", in)
	}
}

// TestDistinct checks which cache exports are the same.
func TestDistinct(t *testing.T) {
	e := func(kind string, kv ...string) *controlapi.CacheOptionsEntry {
		m := map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i]] = kv[i+1]
		}
		return &controlapi.CacheOptionsEntry{Type: kind, Attrs: m}
	}
	for _, c := range []struct {
		in   []*controlapi.CacheOptionsEntry
		left int // -1 for an error
	}{
		{nil, 0},
		{[]*controlapi.CacheOptionsEntry{e("inline"), e("inline", "a", "b"), nil}, 1},
		{[]*controlapi.CacheOptionsEntry{e("registry", "ref", "a"), e("registry", "ref", "b")}, 2},
		{[]*controlapi.CacheOptionsEntry{e("registry", "ref", "a"), e("registry", "ref", "a", "mode", "max")}, -1},
		{[]*controlapi.CacheOptionsEntry{e("local", "dest", "a"), e("local", "dest", "a", "mode", "max")}, 2},
		{[]*controlapi.CacheOptionsEntry{e("gha"), e("gha")}, -1},
	} {
		out, err := distinct(c.in)
		var use *frontend.UsageError
		if bad := c.left < 0; bad != errors.As(err, &use) || !bad && len(out) != c.left {
			t.Errorf("%v: got %v, %v", c.in, out, err)
		}
	}
}
