package dockerfile

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// A slowEnv takes a second for each pin and counts how many there are at once.
type slowEnv struct {
	*fakeEnv
	now, most atomic.Int32
}

func (e *slowEnv) Pin(ctx context.Context, src op.Source) (op.Source, error) {
	e.most.Store(max(e.most.Load(), e.now.Add(1)))
	defer e.now.Add(-1)
	time.Sleep(time.Second)
	return e.fakeEnv.Pin(ctx, src)
}

// TestParallel checks that what does not depend on an answer is not waited for: first comes the definition, then all images
// and .dockerignore take as long as one of them, then comes the context.
func TestParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := dockerfileCase(t, `FROM a AS a
RUN x
FROM b AS b
RUN x
FROM c
COPY --from=a x y
COPY --from=b x y
COPY --from=d x y
COPY z /
`)
		env := &slowEnv{fakeEnv: c.env}
		start := time.Now()
		if _, err := New().Translate(t.Context(), c.req, env); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("took %v, want 3s", took)
		}
		if got := env.most.Load(); got != 5 {
			t.Errorf("%d pins at once, want 5", got)
		}
	})
}

// TestPins checks how much is asked: nothing twice, and no context that nothing is read from.
func TestPins(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       int
	}{
		{"no context", "FROM busybox\nRUN x\n", 2},
		{"context", "FROM busybox\nCOPY a b\nCOPY c d\n", 4},
		{"same image", "FROM busybox AS a\nRUN x\nFROM busybox\nCOPY --from=a x y\nCOPY --from=busybox x y\n", 2},
		{"scratch", "FROM scratch\nCOPY a b\n", 3},
		{"not needed", "FROM other AS a\nCOPY x y\nFROM busybox\nRUN x\n", 2},
		{"a mount of the context", "FROM busybox\nRUN --mount=target=/m x\n", 4},
	} {
		tc := dockerfileCase(t, c.text)
		if _, err := tc.translate(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if tc.env.pins != c.want {
			t.Errorf("%s: %d pins, want %d: %v", c.name, tc.env.pins, c.want, tc.env.steps)
		}
	}
}

// TestUnchanged checks that an unchanged request has the same keys, that an ignored or unnamed file changes none, and
// that a file which is read does.
func TestUnchanged(t *testing.T) {
	recipe := func(change func(files map[string]string)) string {
		c := dockerfileCase(t, "FROM busybox\nCOPY a /\nCOPY dir /dir\n")
		files := c.env.dirs["context"]
		files["a"], files["dir/x"], files["dir/y.tmp"], files["other"] = "1", "2", "3", "4"
		files[ignoreName] = "*.md\n**/*.tmp\n"
		if change != nil {
			change(files)
		}
		out, err := c.translate()
		if err != nil {
			t.Fatal(err)
		}
		return out.Images[0].Root.Vertex.Recipe().String()
	}
	base := recipe(nil)
	for name, want := range map[string]bool{"": true, "other": true, "dir/y.tmp": true, "README.md": true, "a": false, "dir/x": false, "dir/new": false} {
		got := recipe(func(files map[string]string) {
			if name != "" {
				files[name] = "changed"
			}
		})
		if (got == base) != want {
			t.Errorf("after a change of %q: equal keys: %v, want %v", name, got == base, want)
		}
	}
}

// TestText checks a Dockerfile that comes with the request, with and without a context.
func TestText(t *testing.T) {
	c := dockerfileCase(t, "")
	c.req.Dockerfile, c.req.Text = nil, []byte("FROM busybox\nCOPY a /\n")
	if _, err := c.translate(); err != nil {
		t.Errorf("with a context: %v", err)
	}
	c.req.Context = nil
	_, err := c.translate()
	var se *frontend.SourceError
	if !errors.As(err, &se) || !errors.Is(err, errNoContext) || se.Ranges[0] != (solver.Range{Start: 2, End: 2}) {
		t.Errorf("without a context: %v", err)
	}
	c.req.Text = []byte("FROM busybox\nRUN x\n")
	if _, err := c.translate(); err != nil {
		t.Errorf("without a context and a need of it: %v", err)
	}
	c.req.Text = nil
	var ue *frontend.UsageError
	if _, err := c.translate(); !errors.As(err, &ue) {
		t.Errorf("with nothing: %v", err)
	}
	c.req.Text = []byte{}
	if _, err := c.translate(); err == nil || !strings.Contains(err.Error(), "the Dockerfile cannot be empty") {
		t.Errorf("with an empty text: %v", err)
	}
}

// TestNoDockerfile checks the error for a Dockerfile that is not there: it names the one that was asked for.
func TestNoDockerfile(t *testing.T) {
	c := dockerfileCase(t, "FROM busybox\n")
	c.req.Filename = "sub/Dockerfile"
	_, err := c.translate()
	want := "failed to read dockerfile: open sub/Dockerfile: no such file or directory"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// A brokenEnv fails at one thing.
type brokenEnv struct {
	*fakeEnv
	at string
}

var errBroken = errors.New("broken")

func (e *brokenEnv) Step(ctx context.Context, name string, fn func(context.Context) error) error {
	if strings.Contains(name, e.at) {
		return errBroken
	}
	return e.fakeEnv.Step(ctx, name, fn)
}

func (e *brokenEnv) ImageConfig(ctx context.Context, img *op.Image) (*frontend.ImageConfig, error) {
	if e.at == "config" {
		return nil, errBroken
	}
	return e.fakeEnv.ImageConfig(ctx, img)
}

func (e *brokenEnv) ReadFile(ctx context.Context, in solver.Input, name string) ([]byte, error) {
	if e.at == "read "+name {
		return nil, errBroken
	}
	return e.fakeEnv.ReadFile(ctx, in, name)
}

func (e *brokenEnv) ReadHead(ctx context.Context, in solver.Input, name string, n int) ([]byte, error) {
	text, err := e.ReadFile(ctx, in, name)
	return text[:min(n, len(text))], err
}

// TestBroken checks that a failure of the builder, at whatever it is asked, comes out as it is and stops the rest.
func TestBroken(t *testing.T) {
	for _, at := range []string{
		"load build definition", "load .dockerignore", "load metadata", "load build context", "config",
		"read Dockerfile", "read .dockerignore", "read Dockerfile.dockerignore",
	} {
		c := dockerfileCase(t, "FROM busybox\nCOPY a b\n")
		_, err := New().Translate(t.Context(), c.req, &brokenEnv{fakeEnv: c.env, at: at})
		if !errors.Is(err, errBroken) {
			t.Errorf("%s: got %v", at, err)
		}
		if errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: taken for a file that is not there", at)
		}
	}
}

// TestConcurrent checks that one Frontend serves many at once, and that a request is not changed.
func TestConcurrent(t *testing.T) {
	front := New()
	c := readCase(t, "testdata/graph/platforms.txtar")
	before := *c.req
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			env := &fakeEnv{dirs: c.env.dirs, images: c.env.images}
			if _, err := front.Translate(context.Background(), c.req, env); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if diff := cmp.Diff(before, *c.req); diff != "" {
		t.Errorf("the request was changed:\n%s", diff)
	}
}

// TestRequest checks that what the request says of processes reaches them, and what is not theirs does not.
func TestRequest(t *testing.T) {
	c := dockerfileCase(t, "FROM busybox\nRUN x\n")
	r := c.req
	r.Network, r.Hostname, r.ShmSize, r.CgroupParent = op.NetworkNone, "host", 1<<20, "parent"
	r.ExtraHosts = []op.HostIP{{Host: "a", IP: "1.2.3.4"}}
	r.Ulimits = []op.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}}
	r.Limits = op.ExecLimits{Memory: 1 << 30}
	r.Labels = map[string]string{"a": "b"}
	out, err := c.translate()
	if err != nil {
		t.Fatal(err)
	}
	e := out.Images[0].Root.Vertex.Op().(*op.Exec)
	want := op.ExecMeta{
		Args: []string{"/bin/sh", "-c", "x"}, Env: []string{"PATH=/bin"}, Cwd: "/", Hostname: "host",
		ExtraHosts: r.ExtraHosts, ShmSize: 1 << 20, Ulimits: r.Ulimits, CgroupParent: "parent", RemoveStubs: true,
	}
	if diff := cmp.Diff(want, e.Meta); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if e.Network != op.NetworkNone || e.Limits != r.Limits {
		t.Errorf("network %v, limits %+v", e.Network, e.Limits)
	}
	if got := out.Images[0].Config.Config.Labels; got["a"] != "b" || len(got) != 1 {
		t.Errorf("labels %v", got)
	}
}

// TestPull checks where a request has tags looked up: --pull goes past the store.
func TestPull(t *testing.T) {
	for _, tc := range []struct {
		pull, local bool
		want        op.ResolveMode
	}{
		{false, false, op.ResolveDefault}, {true, false, op.ResolveForcePull}, {false, true, op.ResolvePreferLocal},
	} {
		c := dockerfileCase(t, "FROM busybox\n")
		c.req.Pull, c.req.PreferLocal = tc.pull, tc.local
		out, err := c.translate()
		if err != nil {
			t.Fatal(err)
		}
		if got := out.Images[0].Base.Resolve; got != tc.want {
			t.Errorf("pull %v, local %v: got %v, want %v", tc.pull, tc.local, got, tc.want)
		}
	}
}

// TestNamedContexts checks which names a context is found under, and that one for the platform goes first.
func TestNamedContexts(t *testing.T) {
	for _, c := range []struct{ key, base, want string }{
		{"alpine", "alpine", "replaced"},
		{"alpine", "docker.io/library/alpine:latest", "replaced"},
		{"docker.io/library/alpine:latest", "alpine", "replaced"},
		{"alpine:3", "alpine", "alpine"},
		{"alpine:3", "alpine:3", "replaced"},
		{"alpine::linux/amd64", "alpine", "replaced"},
		{"alpine::linux/arm64", "alpine", "alpine"},
		{"ALPINE", "alpine", "alpine"},
		{"scratch", "alpine", "alpine"},
	} {
		tc := dockerfileCase(t, "FROM "+c.base+"\nRUN x\n")
		tc.req.Contexts[c.key] = "docker-image://replaced"
		out, err := tc.translate()
		if err != nil {
			t.Errorf("%s for %s: %v", c.key, c.base, err)
			continue
		}
		if got := out.Images[0].Base.Ref; !strings.Contains(got, "/"+c.want+":") {
			t.Errorf("%s for %s: base is %s", c.key, c.base, got)
		}
	}
}

// TestNamedContextErrors checks contexts that cannot be used, and that one which nothing needs is not looked at.
func TestNamedContextErrors(t *testing.T) {
	for value, want := range map[string]string{
		"nonsense":           "invalid context specifier nonsense for base",
		"ftp://x":            "unsupported context source ftp for base",
		"docker-image://!":   "failed to parse stage name",
		"local:absent":       `directory "absent": not found`,
		"docker-image://not": "docker.io/library/not:latest: not found",
	} {
		c := dockerfileCase(t, "FROM base\n")
		c.env.images = map[string]string{"docker.io/library/busybox:latest": c.env.images["*"]}
		c.req.Contexts["base"] = value
		if _, err := c.translate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", value, err, want)
		}
		c = dockerfileCase(t, "FROM busybox\nRUN x\n")
		c.req.Contexts["base"] = value
		if _, err := c.translate(); err != nil {
			t.Errorf("%s, though not needed: %v", value, err)
		}
	}
}

// TestBuildKitArgs checks the arguments that are meant for the builder.
func TestBuildKitArgs(t *testing.T) {
	c := dockerfileCase(t, "FROM busybox\nRUN x\n")
	c.req.Hostname = "other"
	c.req.BuildArgs["BUILDKIT_SANDBOX_HOSTNAME"] = "host"
	out, err := c.translate()
	if err != nil {
		t.Fatal(err)
	}
	if got := out.Images[0].Root.Vertex.Op().(*op.Exec).Meta.Hostname; got != "host" {
		t.Errorf("host name %q", got)
	}
	for name, value := range map[string]string{
		"BUILDKIT_DISABLE_FILEOP": "1", "BUILDKIT_MULTI_PLATFORM": "maybe", "SOURCE_DATE_EPOCH": "yesterday",
		"BUILDKIT_SYNTAX": "other/thing", "BUILDKIT_DOCKERFILE_CHECK": "what=ever",
	} {
		c := dockerfileCase(t, "FROM busybox\n")
		c.req.BuildArgs[name] = value
		if _, err := c.translate(); err == nil {
			t.Errorf("%s=%s is accepted", name, value)
		}
	}
}

// TestCheckArgument checks that what is wrong with the argument is said of it, and of no line.
func TestCheckArgument(t *testing.T) {
	c := dockerfileCase(t, "# check=skip=all\nFROM busybox\n")
	c.req.BuildArgs["BUILDKIT_DOCKERFILE_CHECK"] = "bad"
	_, err := c.translate()
	var ue *frontend.UsageError
	want := `failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK: invalid check option "bad"`
	if !errors.As(err, &ue) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestCanceled checks that a translation ends with its context.
func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errBroken)
	c := dockerfileCase(t, "FROM scratch\nENV A=b\n")
	if _, err := New().Translate(ctx, c.req, c.env); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
}
