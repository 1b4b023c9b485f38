package builder_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/executortest"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/frontend/dockerfile"
	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/blob"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/snapshot/overlay"
	"github.com/boxbuild/boxbuild/snapshot/store"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/cachedb"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/builder"
	"github.com/boxbuild/boxbuild/worker/images"
	"github.com/boxbuild/boxbuild/worker/transfer"
)

// Modes of files that tests make do not depend on who runs the tests.
func init() { syscall.Umask(0o022) }

// A rig is a builder on a real store and a registry of the test's, whose processes are the Go function shell.
type rig struct {
	t        *testing.T
	builder  *builder.Builder
	move     *transfer.Service
	images   *images.Service
	store    *image.Store
	leases   *lease.Manager
	exec     *executortest.Fake
	registry *registrytest.Registry
	host     string // of the registry
	context  string // a directory
	blobs    *blob.Store
	synced   func() // called before snapshots are synced; may be nil
}

// A syncer tells the rig when snapshots are synced.
type syncer struct {
	*overlay.Snapshotter
	r *rig
}

func (s *syncer) Sync(ctx context.Context, ids ...snapshot.ID) error {
	if s.r.synced != nil {
		s.r.synced()
	}
	return s.Snapshotter.Sync(ctx, ids...)
}

var amd64 = op.Platform{OS: "linux", Architecture: "amd64"}

// shell understands "write FILE TEXT", "say TEXT", "exit N" and "wait FILE", which waits until the file exists on the
// host.
func shell(ctx context.Context, p *executortest.Proc) int {
	words := strings.Fields(p.Process.Args[len(p.Process.Args)-1])
	switch words[0] {
	case "write":
		if err := os.WriteFile(filepath.Join(p.Root, words[1]), []byte(strings.Join(words[2:], " ")), 0o644); err != nil {
			fmt.Fprintln(p.Stderr, err)
			return 1
		}
	case "say":
		fmt.Fprintln(p.Stdout, strings.Join(words[1:], " "))
	case "exit":
		return int(words[1][0] - '0')
	case "wait":
		for ctx.Err() == nil {
			if _, err := os.Stat(words[1]); err == nil {
				return 0
			}
			time.Sleep(time.Millisecond)
		}
		return 137
	}
	return 0
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	r := &rig{t: t}
	over, err := overlay.Open(t.Context(), filepath.Join(dir, "snapshots"), store.Options{})
	must(err)
	t.Cleanup(func() { must(over.Close()) })
	snaps := &syncer{over, r}
	blobs, err := blob.Open(dir)
	must(err)
	meta, err := bbolt.Open(filepath.Join(dir, "meta.db"), 0o600, nil)
	must(err)
	t.Cleanup(func() { must(meta.Close()) })
	imgs, err := image.Open(meta)
	must(err)
	derived, err := bbolt.Open(filepath.Join(dir, "derived.db"), 0o600, nil)
	must(err)
	t.Cleanup(func() { must(derived.Close()) })
	layers, err := images.NewLayers(images.Stores{Snapshots: snaps, Blobs: blobs, Images: imgs, Cache: derived})
	must(err)
	t.Cleanup(layers.Close)
	cache, err := cachedb.Open(filepath.Join(dir, "cache.db"))
	must(err)
	t.Cleanup(func() { must(cache.Close()) })
	client, err := registry.New(registry.Options{Retry: registry.RetryPolicy{Base: time.Millisecond}})
	must(err)
	t.Cleanup(func() { must(client.Close()) })

	r.store, r.blobs, r.context = imgs, blobs, t.TempDir()
	r.exec, r.registry = executortest.NewFake(shell), registrytest.New(registrytest.Behaviour{})
	r.leases = lease.New(append(layers.Sources(), builder.Records(cache))...)
	r.host = registrytest.Start(t, r.registry)
	r.move = transfer.New(transfer.Deps{
		Client: client, Images: imgs, Blobs: blobs, Layers: layers, Leases: r.leases, Platform: amd64,
	})
	r.images = images.New(images.Deps{Layers: layers, Leases: r.leases, Transfer: r.move, Platform: amd64})
	runner := run.New(run.Deps{
		Snapshots: snaps, Executor: r.exec, Images: r.move, DiffIDs: layers.DiffIDs,
		CacheDir: filepath.Join(dir, "cachemounts"), RecentDir: filepath.Join(dir, "copies"),
	})
	r.builder = builder.New(builder.Deps{
		Solver: solver.New(runner, cache, solver.Options{}), Runner: runner, Frontend: dockerfile.New(), Images: r.move,
		Store: imgs, Snapshots: snaps, Layers: layers, Leases: r.leases, Transfer: r.move, Platform: amd64,
	})
	return r
}

// file writes a file of the context.
func (r *rig) file(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.context, name), []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// Directory implements worker.Sources.
func (r *rig) Directory(context.Context, string) (filesync.Source, error) {
	return filesync.Dir(r.context, filesync.Options{})
}

// A record is what a build told.
type record struct {
	mu     sync.Mutex
	log    strings.Builder
	states map[string]string // by vertex name
}

func (r *record) event(e solver.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.states == nil {
		r.states = make(map[string]string)
	}
	switch e.Kind {
	case solver.Logged:
		r.log.Write(e.Data)
	case solver.Cached:
		r.states[e.Vertex.Name()] = "cached"
	case solver.Done:
		r.states[e.Vertex.Name()] = "done"
	default:
	}
}

func (r *rig) build(text string, change ...func(*worker.BuildRequest)) (*worker.BuildResult, *record, error) {
	req := &worker.BuildRequest{
		Frontend: frontend.Request{
			Text: []byte(strings.ReplaceAll(text, "HOST", r.host)), Context: &op.Local{Name: "context"},
		},
		Sources: r, Tags: []string{"app:1"},
	}
	for _, f := range change {
		f(req)
	}
	rec := &record{}
	res, err := r.builder.Build(r.t.Context(), req, rec.event)
	return res, rec, err
}

// layer is a tar with one file in it.
func layer(t *testing.T, name, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(w, text)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func config(t *testing.T, layers ...[]byte) []byte {
	t.Helper()
	img := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	img.RootFS.Type = "layers"
	img.Config.Env = []string{"PATH=/bin", "BASE=1"}
	for _, l := range layers {
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, digest.FromBytes(l))
		img.History = append(img.History, ocispec.History{CreatedBy: "base"})
	}
	b, err := json.Marshal(img)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// base puts an image with a shell into the registry.
func (r *rig) base(name string) (manifest string) {
	l := layer(r.t, "sh", "a shell")
	d, _ := r.registry.PutImage(name, "latest", config(r.t, l), l)
	return d
}

const plain = `FROM HOST/base
COPY a /a
SHELL ["/sh", "-c"]
RUN write out hello
`

// TestBuild checks the whole way: pull, copy, run, assemble; that a second build does nothing, needs no registry and has
// the same image; and that a changed file runs again what depends on it, and no more.
func TestBuild(t *testing.T) {
	r := newRig(t)
	r.base("base")
	r.file("a", "one")
	first, _, err := r.build(plain)
	if err != nil {
		t.Fatal(err)
	}
	img, err := r.store.Get("docker.io/library/app:1", nil)
	if err != nil || img.ID != first.Images[0].ID {
		t.Fatalf("the store has %v, %v", img, err)
	}
	var c frontend.ImageConfig
	if err := json.Unmarshal(img.Config, &c); err != nil {
		t.Fatal(err)
	}
	var by []string
	for _, h := range c.History {
		by = append(by, fmt.Sprintf("%s %t", h.CreatedBy, h.EmptyLayer))
	}
	want := []string{
		"base false", "COPY a /a # buildkit false", "SHELL [/sh -c] true", "RUN /sh -c write out hello # buildkit false",
	}
	if !slices.Equal(by, want) {
		t.Errorf("history %q, want %q", by, want)
	}
	if len(c.RootFS.DiffIDs) != 3 || len(img.Layers) != 3 {
		t.Errorf("%d diff IDs and %d layers, want 3", len(c.RootFS.DiffIDs), len(img.Layers))
	}

	r.registry.Fail(registrytest.Fault{Status: 500})
	second, rec, err := r.build(plain)
	if err != nil {
		t.Fatal(err)
	}
	if second.Images[0].ID != first.Images[0].ID {
		t.Errorf("the second build made %s, the first %s", second.Images[0].ID, first.Images[0].ID)
	}
	if n := len(r.exec.Started()); n != 1 {
		t.Errorf("%d processes in two equal builds, want 1", n)
	}
	for name, state := range rec.states {
		if strings.HasPrefix(name, "[1/") || strings.HasPrefix(name, "[2/") || strings.HasPrefix(name, "[3/") {
			want := "cached"
			if strings.Contains(name, "FROM") { // an image that is there has been looked for
				want = "done"
			}
			if state != want {
				t.Errorf("%s is %s, want %s", name, state, want)
			}
		}
	}
	if len(rec.states) < 4 {
		t.Errorf("told of %v only: steps that a hit made unnecessary are missing", rec.states)
	}

	r.file("a", "two")
	third, _, err := r.build(plain)
	if err != nil {
		t.Fatal(err)
	}
	if third.Images[0].ID == first.Images[0].ID || len(r.exec.Started()) != 2 {
		t.Errorf("a changed file changed nothing: %d processes", len(r.exec.Started()))
	}
}

// TestCutOff checks that a stage which ran again but came out the same invalidates nothing that copies from it.
func TestCutOff(t *testing.T) {
	r := newRig(t)
	r.base("base")
	text := `FROM HOST/base AS one
SHELL ["/sh", "-c"]
COPY a /a
RUN write out same
FROM HOST/base
SHELL ["/sh", "-c"]
COPY --from=one /out /out
RUN write last step
`
	r.file("a", "one")
	if _, _, err := r.build(text); err != nil {
		t.Fatal(err)
	}
	r.file("a", "two")
	if _, _, err := r.build(text); err != nil {
		t.Fatal(err)
	}
	if n := len(r.exec.Started()); n != 3 {
		t.Errorf("%d processes, want 3: the last step of the second build has the same input", n)
	}
}

// TestFailure checks that a failed step is reported with the lines that it comes from.
func TestFailure(t *testing.T) {
	r := newRig(t)
	r.base("base")
	_, _, err := r.build("FROM HOST/base\nSHELL [\"/sh\", \"-c\"]\nRUN exit 7\n")
	var src *frontend.SourceError
	var exit *executor.ExitError
	if !errors.As(err, &src) || !errors.As(err, &exit) {
		t.Fatalf("got %v, want a source error of an exit", err)
	}
	if exit.Exit.Code != 7 || len(src.Ranges) != 1 || src.Ranges[0].Start != 3 || !strings.Contains(src.Quote(), ">>> RUN exit 7") {
		t.Errorf("code %d, ranges %v, quote:\n%s", exit.Exit.Code, src.Ranges, src.Quote())
	}
	if names := r.leases.Leases(); len(names) > 0 {
		t.Errorf("leases are left: %v", names)
	}
}

// TestTwoAtOnce checks that two builds of the same file at the same time run each step once.
func TestTwoAtOnce(t *testing.T) {
	r := newRig(t)
	r.base("base")
	gate := filepath.Join(t.TempDir(), "gate")
	text := "FROM HOST/base\nSHELL [\"/sh\", \"-c\"]\nRUN wait " + gate + "\nRUN write out x\n"
	ids := make(chan digest.Digest, 2)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			res, _, err := r.build(text)
			if err != nil {
				t.Error(err)
				ids <- ""
				return
			}
			ids <- res.Images[0].ID
		})
	}
	for len(r.leases.Leases()) < 2 || len(r.exec.Started()) < 1 {
		time.Sleep(time.Millisecond)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if a, b := <-ids, <-ids; a != b {
		t.Errorf("images %s and %s, want one", a, b)
	}
	if n := len(r.exec.Started()); n != 2 {
		t.Errorf("%d processes, want 2", n)
	}
}

// TestForeignDiffIDs checks that an image which claims another one's layers is refused (CVE-2026-93318), and that what
// was built from the true one is not used for it.
func TestForeignDiffIDs(t *testing.T) {
	r := newRig(t)
	r.base("base")
	if _, _, err := r.build("FROM HOST/base\n"); err != nil {
		t.Fatal(err)
	}
	truth, lie := layer(t, "sh", "a shell"), layer(t, "sh", "another one")
	r.registry.PutImage("liar", "latest", config(t, truth), lie)
	_, _, err := r.build("FROM HOST/liar\n", func(q *worker.BuildRequest) { q.Tags = []string{"liar:1"} })
	if err == nil {
		t.Fatal("an image whose layers are not what its configuration says was taken")
	}
	if _, err := r.store.Get("docker.io/library/liar:1", nil); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("the store has an image of it: %v", err)
	}
}

// TestDigestOfAnotherRepository checks that a digest counts only where a registry has it: that the store knows it under
// another name says nothing.
func TestDigestOfAnotherRepository(t *testing.T) {
	r := newRig(t)
	d := r.base("base")
	if _, _, err := r.build("FROM HOST/base@" + d + "\n"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.build("FROM HOST/evil@" + d + "\n"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("got %v, want not found", err)
	}
}

// TestPush checks that a pushed image is what was built, that a second push uploads nothing, and that layers which the
// registry has in another repository are mounted.
func TestPush(t *testing.T) {
	r := newRig(t)
	r.base("base")
	r.file("a", "one")
	push := func(q *worker.BuildRequest) {
		q.Tags = []string{r.host + "/app:1"}
		q.Outputs = []worker.Output{{Type: worker.OutputImage, Push: true}}
	}
	r.registry.Forget()
	res, _, err := r.build(plain, push)
	if err != nil {
		t.Fatal(err)
	}
	_, raw, ok := r.registry.Manifest("app", "1")
	if !ok {
		t.Fatal("the registry has no manifest")
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	if m.Config.Digest != res.Images[0].ID || len(m.Layers) != 3 {
		t.Errorf("config %s with %d layers, want %s with 3", m.Config.Digest, len(m.Layers), res.Images[0].ID)
	}
	if got := res.Metadata["containerimage.digest"]; got != string(digest.FromBytes(raw)) {
		t.Errorf("metadata says %s", got)
	}
	if _, ok := r.registry.Blob("app", string(m.Layers[0].Digest)); !ok {
		t.Error("the base's layer is not in the repository")
	}
	r.registry.Forget()
	if _, _, err := r.build(plain, push); err != nil {
		t.Fatal(err)
	}
	if n := r.registry.Uploads(); n != 0 {
		t.Errorf("the second push left %d uploads", n)
	}
	for _, q := range r.registry.Requests() {
		if q.Method == "POST" || q.Method == "PATCH" {
			t.Errorf("the second push asked for %s %s", q.Method, q.Path)
		}
	}
}

// TestOutputs checks that what is wrong with an output is said before anything is built.
func TestOutputs(t *testing.T) {
	r := newRig(t)
	for _, tt := range []struct {
		out  worker.Output
		tags []string
		want string
	}{
		{worker.Output{Type: "odd"}, nil, "unknown type"},
		{worker.Output{Type: worker.OutputLocal}, nil, "no destination"},
		{worker.Output{Type: worker.OutputImage, Dest: worker.Dest{Dir: "/x"}}, nil, "it has no destination"},
		{worker.Output{Type: worker.OutputImage, Push: true}, nil, "a tag is needed"},
		{worker.Output{Type: worker.OutputImage, Attrs: map[string]string{"nonsense": "1"}}, nil, `unknown attribute "nonsense"`},
		{worker.Output{Type: worker.OutputImage, Attrs: map[string]string{"compression": "lzma"}}, nil, "none of gzip"},
		{worker.Output{Type: worker.OutputImage, Attrs: map[string]string{"push": "maybe"}}, nil, "neither true nor false"},
		{worker.Output{Type: worker.OutputImage}, []string{"not a name"}, "invalid tag"},
	} {
		_, _, err := r.build("FROM scratch\n", func(q *worker.BuildRequest) { q.Tags, q.Outputs = tt.tags, []worker.Output{tt.out} })
		var use *frontend.UsageError
		if !errors.As(err, &use) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: got %v, want %q", tt.out, err, tt.want)
		}
	}
	if n := len(r.exec.Started()); n > 0 {
		t.Errorf("%d processes", n)
	}
}

type buffer struct {
	bytes.Buffer
	closed bool
}

func (b *buffer) Close() error { b.closed = true; return nil }

// TestFiles checks the outputs that are files: a tar, a directory, and archives.
func TestFiles(t *testing.T) {
	r := newRig(t)
	r.base("base")
	r.file("a", "one")
	dir := t.TempDir()
	var tarball, docker buffer
	_, _, err := r.build(plain, func(q *worker.BuildRequest) {
		q.Outputs = []worker.Output{
			{Type: worker.OutputLocal, Dest: worker.Dest{Dir: dir}},
			{Type: worker.OutputTar, Dest: worker.Dest{Stream: &tarball}},
			{Type: worker.OutputDocker, Dest: worker.Dest{Stream: &docker}},
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"a": "one", "out": "hello", "sh": "a shell"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); string(got) != want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
	if names := tarNames(t, &tarball.Buffer); !slices.Contains(names, "out") || !tarball.closed {
		t.Errorf("the tar has %q, closed: %t", names, tarball.closed)
	}
	if names := tarNames(t, &docker.Buffer); !slices.Contains(names, "manifest.json") || !slices.Contains(names, "index.json") {
		t.Errorf("the docker archive has %q", names)
	}
}

func tarNames(t *testing.T, r io.Reader) []string {
	t.Helper()
	var names []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, strings.TrimPrefix(h.Name, "./"))
	}
}

// A directory is a worker.Sources with that directory of the machine under every name.
type directory string

// Directory implements worker.Sources.
func (d directory) Directory(context.Context, string) (filesync.Source, error) {
	return filesync.Dir(string(d), filesync.Options{})
}
