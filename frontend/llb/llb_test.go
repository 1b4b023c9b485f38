package llb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/frontend"
	codec "github.com/boxbuild/boxbuild/proto/llb"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

var amd64 = op.Platform{OS: "linux", Architecture: "amd64"}

// A world is an Env that pins what it is asked for, except for what it has not.
type world struct {
	missing string // part of the name of a source that there is not

	mu    sync.Mutex
	asked []op.Source
	steps []string
	// wait, if set, is what each pin waits for.
	wait func()
}

func (w *world) Pin(_ context.Context, src op.Source) (op.Source, error) {
	w.mu.Lock()
	w.asked = append(w.asked, src)
	w.mu.Unlock()
	if w.wait != nil {
		w.wait()
	}
	if w.missing != "" && strings.Contains(src.String(), w.missing) {
		return nil, fmt.Errorf("%s: not found", src)
	}
	if _, img := src.(*op.Image); src.Pinned() && !img {
		return src, nil
	}
	switch s := src.(type) {
	case *op.Image:
		c := *s
		if c.Digest == "" {
			c.Digest, c.Tagged = digest.FromString(c.Ref), true
		}
		return &c, nil
	case *op.Local:
		c := *s
		c.Root = "ab"
		return &c, nil
	case *op.Git:
		c := *s
		if c.Commit = strings.Repeat("d", 40); c.FetchByCommit {
			c.Commit = c.Checksum
		}
		return &c, nil
	case *op.HTTP:
		c := *s
		if c.Digest = c.Checksum; c.Digest == "" {
			c.Digest = digest.FromString(c.URL)
		}
		c.Name = "x"
		return &c, nil
	}
	return nil, fmt.Errorf("%T", src)
}

func (w *world) Step(ctx context.Context, name string, fn func(ctx context.Context) error) error {
	w.mu.Lock()
	w.steps = append(w.steps, name)
	w.mu.Unlock()
	return fn(ctx)
}

func (*world) ImageConfig(context.Context, *op.Image) (*frontend.ImageConfig, error) {
	return nil, errors.New("nobody should ask for a configuration")
}

func (*world) ReadFile(context.Context, solver.Input, string) ([]byte, error) {
	return nil, errors.New("nobody should read a file")
}
func (*world) Warn(solver.Warning) {}

var _ frontend.Env = (*world)(nil)

// definition returns what BuildKit's client makes of a state.
func definition(t *testing.T, st llb.State) *pb.Definition {
	t.Helper()
	def, err := st.Marshal(t.Context(), llb.LinuxAmd64)
	if err != nil {
		t.Fatal(err)
	}
	return def.ToPB()
}

func translate(t *testing.T, f *Frontend, env frontend.Env) (*frontend.Output, error) {
	t.Helper()
	return f.Translate(t.Context(), &frontend.Request{Default: amd64}, env)
}

var dockerfile = llb.NewSourceMap(nil, "Dockerfile", "Dockerfile", []byte("FROM a\nCOPY . .\nRUN x\n"))

func at(line int32) llb.ConstraintsOpt {
	return dockerfile.Location([]*pb.Range{{Start: &pb.Position{Line: line}, End: &pb.Position{Line: line}}})
}

// TestTranslate checks that a definition becomes an image whose sources are all pinned, with the configuration that
// BuildKit gives one without.
func TestTranslate(t *testing.T) {
	st := llb.Image("busybox", at(1)).File(llb.Copy(llb.Local("context"), "/", "/"), at(2)).
		Run(llb.Shlex("x"), llb.AddMount("/src", llb.Git("https://h/p", "main")), llb.AddMount("/f", llb.HTTP("https://h/f")), at(3)).Root()
	w, def := &world{}, definition(t, st)
	out, err := translate(t, New(def), w)
	if err != nil {
		t.Fatal(err)
	}
	img := out.Images[0]
	if out.Multi || len(out.Images) != 1 || img.Platform.Architecture != "amd64" || img.Raw != nil {
		t.Errorf("got %+v", out)
	}
	if c := img.Config; c.OS != "linux" || c.Architecture != "amd64" || c.Config.WorkingDir != "/" || len(c.Config.Env) != 1 ||
		c.Config.Env[0] != "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" || c.RootFS.Type != "layers" {
		t.Errorf("the configuration is %+v", img.Config)
	}
	sources := codec.Claims(*img.Root)
	for _, v := range sources {
		if !v.Op().(op.Source).Pinned() {
			t.Errorf("%s is not pinned", v.Name())
		}
	}
	if len(sources) != 4 || len(w.asked) != 4 {
		t.Errorf("%d sources, %d were pinned", len(sources), len(w.asked))
	}
	if out.File != "Dockerfile" || string(out.Text) != "FROM a\nCOPY . .\nRUN x\n" || img.Root.Vertex.Meta().Source[0] != (solver.Range{Start: 3, End: 3}) {
		t.Errorf("the file is %q: %q, at %v", out.File, out.Text, img.Root.Vertex.Meta().Source)
	}
	slices.Sort(w.steps)
	want := []string{
		"docker-image://docker.io/library/busybox:latest", "git://h/p#main", "https://h/f", "local://context",
	}
	if !slices.Equal(w.steps, want) {
		t.Errorf("the steps are %q", w.steps)
	}
	// A client's name of a step stays what it was, pinned or not.
	g, err := codec.Decode(def)
	if err != nil || codec.Digest(img.Root.Vertex) != codec.Digest(g.Root.Vertex) {
		t.Errorf("the root has got another digest: %v", err)
	}
}

// TestTogether checks that sources are pinned at the same time, and equal ones once.
func TestTogether(t *testing.T) {
	var states []llb.State
	for i := range 20 {
		states = append(states, llb.Image(fmt.Sprintf("img%d", i)), llb.Image("same"))
	}
	def := definition(t, llb.Merge(states))
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		w := &world{wait: func() { <-gate }}
		done := make(chan error)
		go func() {
			_, err := Load(context.Background(), def, w)
			done <- err
		}()
		synctest.Wait()
		if n := len(w.asked); n != 21 {
			t.Errorf("%d sources were asked for at once, want 21", n)
		}
		close(gate)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestIndex checks several definitions, one of which is of nothing, and configurations that the client has written.
func TestIndex(t *testing.T) {
	arm := op.Platform{OS: "linux", Architecture: "arm64"}
	raw := []byte(`{"os":"linux"}`)
	out, err := translate(t, NewIndex(Image{Definition: definition(t, llb.Image("a")), Platform: arm, Config: raw}, Image{}), &world{})
	if err != nil {
		t.Fatal(err)
	}
	if !out.Multi || len(out.Images) != 2 || out.Images[0].Platform.Architecture != "arm64" || string(out.Images[0].Raw) != string(raw) {
		t.Errorf("got %+v", out)
	}
	if out.Images[1].Root != nil || out.Images[1].Platform.Architecture != "amd64" || len(out.Targets()) != 1 {
		t.Errorf("the image of nothing is %+v", out.Images[1])
	}
}

// TestLocated checks that errors say where in the user's file they come from, and keep what they are.
func TestLocated(t *testing.T) {
	bad := definition(t, llb.Image("a").Run(llb.Shlex("x"), at(3)).Root())
	for name, m := range bad.Metadata {
		if len(bad.Source.Locations[name].GetLocations()) > 0 {
			m.Caps["new.thing"] = true
		}
	}
	for _, tt := range []struct {
		name string
		def  *pb.Definition
		line int
		want string
	}{
		{"a missing image", definition(t, llb.Image("gone", at(2)).File(llb.Mkdir("/x", 0o755), at(3))), 2, "not found"},
		{"an unknown capability", bad, 3, "unknown API capability new.thing"},
	} {
		_, err := translate(t, New(tt.def), &world{missing: "gone"})
		var src *frontend.SourceError
		if !errors.As(err, &src) || src.Ranges[0].Start != tt.line || src.File != "Dockerfile" || len(src.Text) == 0 {
			t.Errorf("%s: the error is %v", tt.name, err)
			continue
		}
		if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: the error is %v, want %q", tt.name, err, tt.want)
		}
	}
	_, err := translate(t, New(bad), &world{})
	var c *codec.CapError
	if !errors.As(err, &c) || c.ID != "new.thing" {
		t.Errorf("the capability is not in %v", err)
	}
	if _, err := translate(t, New(definition(t, llb.Image("gone"))), &world{missing: "gone"}); err == nil || errors.As(err, new(*frontend.SourceError)) {
		t.Errorf("without a place the error is %v", err)
	}
}

// A stepping is a world that shows sources where the client looks for them.
type stepping struct{ *world }

func (w *stepping) SourceStep(ctx context.Context, v *solver.Vertex, _ digest.Digest, _ string, fn func(ctx context.Context) error) error {
	return w.Step(ctx, v.Name(), fn)
}

// TestFailedSource checks that the error of a source which is not there names its vertex as the client does.
func TestFailedSource(t *testing.T) {
	def := definition(t, llb.HTTP("http://example.com/none"))
	_, err := translate(t, New(def), &stepping{&world{missing: "none"}})
	var failed *solver.VertexError
	if !errors.As(err, &failed) {
		t.Fatalf("got %v", err)
	}
	want := digest.FromBytes(def.Def[0])
	if got, _ := codec.Decoded(failed.Vertex); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestDistrust checks what a definition claims and is not believed: which tree a directory is, and that something with a
// signature has been verified. What the claim names is what has to be found, where it names bytes.
func TestDistrust(t *testing.T) {
	sig, commit, sum := &op.GitSignature{PublicKeys: "K"}, strings.Repeat("c", 40), digest.FromString("x")
	for _, tt := range []struct {
		name string
		src  op.Source
		want func(asked op.Source) bool
	}{
		{"a directory", &op.Local{Name: "context", Root: "ee"}, func(s op.Source) bool { return s.(*op.Local).Root == "" }},
		{"a commit", &op.Git{Remote: "https://h/p", Commit: commit}, func(s op.Source) bool { return s.(*op.Git).Commit == commit }},
		{"a signed commit", &op.Git{Remote: "https://h/p", Commit: commit, Signature: sig}, func(s op.Source) bool {
			g := s.(*op.Git)
			return g.Commit == "" && g.Checksum == commit && g.FetchByCommit && g.Signature != nil
		}},
		{"a file", &op.HTTP{URL: "https://h/p", Digest: sum, Name: "n"}, func(s op.Source) bool { return s.(*op.HTTP).Digest == sum }},
		{"a signed file", &op.HTTP{URL: "https://h/p", Digest: sum, Name: "n", Signature: &op.HTTPSignature{PublicKeys: "K", Signature: "S"}}, func(s op.Source) bool {
			h := s.(*op.HTTP)
			return h.Digest == "" && h.Checksum == sum
		}},
	} {
		def, err := codec.Encode(&solver.Input{Vertex: solver.NewVertex(tt.src, nil, solver.Meta{})}, codec.Options{})
		if err != nil {
			t.Fatal(err)
		}
		w := &world{}
		root, err := Load(t.Context(), def, w)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if len(w.asked) != 1 || !tt.want(w.asked[0]) {
			t.Errorf("%s: asked for %+v", tt.name, w.asked)
		}
		if !root.Vertex.Op().(op.Source).Pinned() {
			t.Errorf("%s: it is not pinned", tt.name)
		}
	}
}
