package run_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/netns"
	"github.com/boxbuild/boxbuild/executor/shim"
	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/proto/git"
	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/snapshot/overlay"
	"github.com/boxbuild/boxbuild/snapshot/store"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/cachedb"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run"
	"github.com/boxbuild/boxbuild/solver/session"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// Modes of files that tests make do not depend on who runs the tests.
func init() { syscall.Umask(0o022) }

// A rig is a solver with the real runner: overlayfs, sandboxes, a network.
type rig struct {
	t      testing.TB
	solver *solver.Solver
	runner *run.Runner
	snaps  *overlay.Snapshotter
	leases *lease.Manager
	lease  *lease.Lease
	dir    string // of the store

	mu      sync.Mutex
	log     strings.Builder
	runs    map[string]int  // by name, how often a vertex was run
	session session.Session // of what is solved; nil for none
	host    run.Host        // likewise
	lists   map[snapshot.ID]listing
	tars    map[snapshot.ID][]byte
	pulls   map[string]snapshot.ID // by the digests of the layers
	devices someDevices
}

var (
	shimOnce   sync.Once
	shimBinary string
	shimErr    error
)

// boxshim builds the sandbox program once, unless the environment says where one is.
func boxshim(t testing.TB) string {
	t.Helper()
	shimOnce.Do(func() {
		if dir := os.Getenv("BOXBUILD_BIN"); dir != "" {
			shimBinary = filepath.Join(dir, "boxshim")
			return
		}
		dir, err := os.MkdirTemp("", "boxshim")
		if err != nil {
			shimErr = err
			return
		}
		shimBinary = filepath.Join(dir, "boxshim")
		cmd := exec.Command("go", "build", "-tags", "seccomp netgo osusergo", "-trimpath",
			"-ldflags", `-s -w -linkmode external -extldflags "-static"`, "-o", shimBinary, "github.com/boxbuild/boxbuild/cmd/boxshim")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			shimErr = fmt.Errorf("building boxshim: %w: %s", err, out)
		}
	})
	if shimErr != nil {
		t.Fatal(shimErr)
	}
	return shimBinary
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shimBinary != "" && os.Getenv("BOXBUILD_BIN") == "" {
		_ = os.RemoveAll(filepath.Dir(shimBinary))
	}
	os.Exit(code)
}

// hostResolvConf is what a rig's host has in /etc/resolv.conf.
const hostResolvConf = "nameserver 192.0.2.53\n"

func newRig(t testing.TB) *rig {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	ctx := context.Background()
	dir := t.TempDir()
	snaps, err := overlay.Open(ctx, filepath.Join(dir, "snapshots"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := snaps.Close(); err != nil {
			t.Error(err)
		}
	})
	id := fmt.Sprintf("%08x", os.Getpid())
	pool, err := netns.New(netns.Options{ID: id})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	})
	ex, err := shim.Start(ctx, shim.Options{
		Binary: boxshim(t), Dir: dir, CgroupParent: "/boxbuild-test-" + id, Network: pool, Log: os.Stderr,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ex.Close(); err != nil {
			t.Error(err)
		}
	})
	repos, err := git.New(git.Options{Dir: filepath.Join(dir, "git")})
	if err != nil {
		t.Fatal(err)
	}
	leases := lease.New(lease.Snapshots(snaps))
	r := &rig{
		t: t, snaps: snaps, dir: dir, leases: leases, lease: leases.Acquire("test"), runs: map[string]int{},
		lists: map[snapshot.ID]listing{"": {}}, tars: map[snapshot.ID][]byte{}, pulls: map[string]snapshot.ID{},
	}
	r.runner = run.New(run.Deps{
		Snapshots: snaps, Executor: ex,
		CacheDir: filepath.Join(dir, "cache"), RecentDir: filepath.Join(dir, "recent"),
		SocketDir: filepath.Join(dir, "sockets"), Devices: &r.devices, Git: repos,
		ResolvConf: pool.ResolvConf, HostResolvConf: func() ([]byte, error) { return []byte(hostResolvConf), nil },
	})
	cache, err := cachedb.Open(filepath.Join(dir, "cache.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cache.Close(); err != nil {
			t.Error(err)
		}
	})
	r.solver = solver.New(r.runner, cache, solver.Options{})
	return r
}

// local is a vertex for a directory of the machine.
func (r *rig) local(dir string) *solver.Vertex {
	r.t.Helper()
	src, err := filesync.Dir(dir, filesync.Options{})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { src.Close() })
	tree, err := src.Tree(r.t.Context(), filesync.Selection{})
	if err != nil {
		r.t.Fatal(err)
	}
	root := tree.(treehash.Rooted).Root().String()
	r.t.Cleanup(r.runner.AddTree(lease.With(r.t.Context(), r.lease), root, tree))
	return solver.NewVertex(&op.Local{Name: "context", Root: root}, nil, solver.Meta{Name: "context"})
}

// busybox is a vertex with the busybox root file system.
func (r *rig) busybox() *solver.Vertex {
	r.t.Helper()
	data, err := os.ReadFile(filepath.Join(os.Getenv("BOXBUILD_BASES"), "busybox.tar"))
	if err != nil {
		r.t.Skip("no base images: run `make bases` and set BOXBUILD_BASES")
	}
	dir := r.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "busybox.tar"), data, 0o644); err != nil {
		r.t.Fatal(err)
	}
	return solver.NewVertex(&op.File{Actions: []op.FileAction{{
		Input: op.NoInput, Second: 0, Output: 0,
		Copy: &op.Copy{Src: "/busybox.tar", Dst: "/", Unpack: true, MkdirDst: true},
	}}}, []solver.Input{{Vertex: r.local(dir), Select: &solver.Selector{Paths: []string{"/busybox.tar"}}}}, solver.Meta{Name: "busybox"})
}

// sh is a vertex that runs a script on the root file system of base.
func sh(base *solver.Vertex, script string, more ...op.ExecMount) *solver.Vertex {
	return shWith(base, nil, script, more...)
}

// shWith is sh with more inputs, which the mounts count from 1.
func shWith(base *solver.Vertex, inputs []*solver.Vertex, script string, more ...op.ExecMount) *solver.Vertex {
	in := []solver.Input{{Vertex: base}}
	for _, v := range inputs {
		in = append(in, solver.Input{Vertex: v})
	}
	return solver.NewVertex(&op.Exec{
		Meta:    op.ExecMeta{Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin"}, Cwd: "/", RemoveStubs: true},
		Mounts:  append([]op.ExecMount{{Input: 0, Dest: "/", Output: 0}}, more...),
		Network: op.NetworkNone,
	}, in, solver.Meta{Name: script})
}

func (r *rig) solve(ctx context.Context, v *solver.Vertex) (solver.Result, error) {
	ctx = lease.With(ctx, r.lease)
	if r.session != nil {
		ctx = session.With(ctx, r.session)
	}
	if r.host != nil {
		ctx = run.WithHost(ctx, r.host)
	}
	out, err := r.solver.Solve(ctx, &solver.Build{
		ID: v.Recipe().Short(), Targets: []solver.Input{{Vertex: v}},
		Events: func(e solver.Event) {
			r.mu.Lock()
			defer r.mu.Unlock()
			switch e.Kind {
			case solver.Logged:
				r.log.Write(e.Data)
			case solver.Done:
				r.runs[e.Vertex.Name()]++
			default:
			}
		},
	})
	if err != nil {
		return "", err
	}
	return out[0], nil
}

// run solves v, which must succeed, and returns its result and what the log has gained.
func (r *rig) run(v *solver.Vertex) (solver.Result, string) {
	r.t.Helper()
	r.mu.Lock()
	had := r.log.Len()
	r.mu.Unlock()
	res, err := r.solve(r.t.Context(), v)
	if err != nil {
		r.t.Fatalf("%s: %v\n%s", v.Name(), err, r.log.String())
	}
	return res, r.log.String()[had:]
}

// TestRun checks that a process sees its root and that what it writes becomes the result.
func TestRun(t *testing.T) {
	r := newRig(t)
	v := sh(sh(r.busybox(), "echo hello > /greeting; echo said"), "cat /greeting")
	if _, err := r.solve(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if got, want := r.log.String(), "said\nhello\n"; got != want {
		t.Errorf("log %q, want %q", got, want)
	}
	var exit *executor.ExitError
	_, err := r.solve(t.Context(), sh(r.busybox(), "exit 7"))
	if !errors.As(err, &exit) || exit.Exit.Code != 7 {
		t.Errorf("got %v, want exit code 7", err)
	}
}

// BenchmarkRun measures a RUN that does nothing, with everything that belongs to it.
func BenchmarkRun(b *testing.B) {
	r := newRig(b)
	base := r.busybox()
	if _, err := r.solve(b.Context(), base); err != nil {
		b.Fatal(err)
	}
	v := base
	b.ResetTimer()
	for i := range b.N {
		if i%100 == 0 {
			v = base
		}
		v = sh(v, fmt.Sprintf("true %d", i))
		if _, err := r.solve(b.Context(), v); err != nil {
			b.Fatal(err)
		}
	}
}

// TestMerge checks that the layers of the second input are laid over the first: files are added, what is of the same
// name is replaced, and a symlink to a directory is not followed.
func TestMerge(t *testing.T) {
	r := newRig(t)
	base := sh(r.busybox(), "mkdir -p /real /old; ln -s real /link; echo kept > /old/a; echo old > /old/b")
	dir := r.t.TempDir()
	for name, text := range map[string]string{"old/b": "new", "link/c": "c"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files := solver.NewVertex(&op.File{Actions: []op.FileAction{{
		Input: op.NoInput, Second: 0, Output: 0,
		Copy: &op.Copy{Src: "/", Dst: "/", DirContents: true, MkdirDst: true},
	}}}, []solver.Input{{Vertex: r.local(dir), Select: &solver.Selector{Paths: []string{"/"}}}}, solver.Meta{Name: "files"})
	merged := solver.NewVertex(&op.Merge{}, []solver.Input{{Vertex: base}, {Vertex: files}}, solver.Meta{Name: "merge"})
	if _, err := r.solve(t.Context(), sh(merged, "cat /old/a /old/b /link/c; ls /real; test -L /link || echo replaced")); err != nil {
		t.Fatal(err)
	}
	if got, want := r.log.String(), "kept\nnew\nc\nreplaced\n"; got != want {
		t.Errorf("log %q, want %q", got, want)
	}
}
