package buildkit

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/tonistiigi/fsutil"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// A trap is a client's directory in which something happens when a file has been read half.
type trap struct {
	fsutil.FS
	once   *sync.Once
	spring func()
}

// Open implements fsutil.FS.
func (t *trap) Open(name string) (io.ReadCloser, error) {
	f, err := t.FS.Open(name)
	if err != nil || name != "big" {
		return f, err
	}
	b, err := io.ReadAll(f)
	_ = f.Close()
	half := len(b) / 2
	return io.NopCloser(io.MultiReader(bytes.NewReader(b[:half]), springs{t}, bytes.NewReader(b[half:]))), err
}

// Walk implements fsutil.FS.
func (t *trap) Walk(ctx context.Context, target string, fn fs.WalkDirFunc) error {
	return t.FS.Walk(ctx, target, fn)
}

type springs struct{ *trap }

// Read implements io.Reader.
func (s springs) Read([]byte) (int, error) {
	s.once.Do(s.spring)
	return 0, io.EOF
}

// own connects another client, which a test can cut off.
func (d *daemon) own(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.New(context.Background(), d.addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// sleeps is a build whose step sleeps and then writes.
func (d *daemon) sleeps(t *testing.T, seconds string) client.SolveOpt {
	t.Helper()
	opt := opts(t, map[string]string{
		"Dockerfile": "FROM busybox\nCOPY big /\nRUN sleep " + seconds + "; dd if=/dev/urandom of=/out bs=64k count=16\n",
		"big":        string(noise(6, 4<<20)),
	})
	return opt
}

// TestTwoFaults lets two things go wrong at once. The build ends and the history says why, nothing of it is left, and the
// same build succeeds when nothing goes wrong.
func TestTwoFaults(t *testing.T) {
	small := newDisk(t, 64)
	d := observedIn(t, small.path)
	d.load()
	reg := registrytest.New(registrytest.Behaviour{})
	addr := registrytest.Start(t, reg)
	putLayers(t, reg, "app", layer(t, "file", noise(1, 4<<20)))
	stall := func(kind registrytest.Kind) registrytest.Fault {
		return registrytest.Fault{Kind: kind, StallAfter: 1000}
	}
	asked := func(kind registrytest.Kind, method string) bool { return reg.Count(method, kind) > 0 }
	pulls := func(t *testing.T) client.SolveOpt { return pushes(t, addr+"/app:1", addr+"/out:1") }
	sends := func(t *testing.T) client.SolveOpt {
		return opts(t, map[string]string{"Dockerfile": "FROM busybox\nCOPY big /\n", "big": string(noise(7, 8<<20))})
	}
	trapped := func(t *testing.T, spring func()) client.SolveOpt {
		opt := sends(t)
		opt.LocalMounts["context"] = &trap{opt.LocalMounts["context"], new(sync.Once), spring}
		return opt
	}
	for name, c := range map[string]struct {
		again func(t *testing.T) client.SolveOpt
		// fail makes the build, with a client of its own, and both faults. What it returns may be nil: prunes, for one,
		// do no harm to builds that run.
		fail  func(t *testing.T, c *client.Client, ref string) error
		works bool
	}{
		"the client goes while the registry stalls": {pulls, func(t *testing.T, c *client.Client, ref string) error {
			reg.Fail(stall(registrytest.Blob))
			go func() {
				until(t, "the blob is asked for", func() bool { return asked(registrytest.Blob, "GET") })
				_ = c.Close()
			}()
			return solveAs(t, c, pulls(t), ref)
		}, false},
		"the client goes while a push is tried again": {pulls, func(t *testing.T, c *client.Client, ref string) error {
			reg.Fail(registrytest.Fault{Kind: registrytest.Upload, Status: 503, RetryAfter: "30"})
			go func() {
				until(t, "the upload is asked for", func() bool { return asked(registrytest.Upload, "POST") })
				_ = c.Close()
			}()
			return solveAs(t, c, pulls(t), ref)
		}, false},
		"the disk is full while the registry cuts": {pulls, func(t *testing.T, c *client.Client, ref string) error {
			small.fill(1 << 20)
			reg.Fail(registrytest.Fault{Kind: registrytest.Blob, CutAfter: 700_000})
			return solveAs(t, c, pulls(t), ref)
		}, false},
		"the disk is full while the client goes": {sends, func(t *testing.T, c *client.Client, ref string) error {
			return solveAs(t, c, trapped(t, func() {
				small.fill(0)
				_ = c.Close()
			}), ref)
		}, false},
		"the disk is full while everything is pruned": {sends, func(t *testing.T, c *client.Client, ref string) error {
			return solveAs(t, c, trapped(t, func() {
				small.fill(0)
				_ = d.c.Prune(t.Context(), nil, client.PruneAll) // it may not be able to record what it did
			}), ref)
		}, false},
		"the context is sent while everything is pruned": {sends, func(t *testing.T, c *client.Client, ref string) error {
			return solveAs(t, c, trapped(t, func() {
				if err := d.c.Prune(t.Context(), nil, client.PruneAll); err != nil {
					t.Error(err)
				}
			}), ref)
		}, true},
		"a step runs while everything is pruned, and the one who prunes goes": {
			func(t *testing.T) client.SolveOpt { return d.sleeps(t, "0.1") },
			func(t *testing.T, c *client.Client, ref string) error {
				step := d.seconds("1")
				go func() {
					until(t, "the step runs", func() bool { return running(step) })
					for range 20 {
						ctx, cancel := context.WithTimeout(t.Context(), 3*time.Millisecond)
						_ = d.c.Prune(ctx, nil, client.PruneAll) // it is cancelled in the middle
						cancel()
					}
					wake(t, step)
				}()
				return solveAs(t, c, d.sleeps(t, step), ref)
			}, true,
		},
		"what runs the steps is killed while the client goes": {
			func(t *testing.T) client.SolveOpt { return d.sleeps(t, "0.2") },
			func(t *testing.T, c *client.Client, ref string) error {
				step := d.seconds("2")
				go func() {
					until(t, "the step runs", func() bool { return running(step) })
					_ = c.Close()
					if pid := d.shim(); pid > 0 {
						_ = syscall.Kill(pid, syscall.SIGKILL)
					}
				}()
				return solveAs(t, c, d.sleeps(t, step), ref)
			}, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			d.t = t
			defer func() { d.t = t }()
			d.load()
			d.must(opts(t, map[string]string{"Dockerfile": "FROM busybox\nRUN true\n"}))
			was := d.state().partly()
			reg.Forget()
			ref := "two" + strings.ReplaceAll(name, " ", "-")
			err := c.fail(t, d.own(t), ref)
			if (err == nil) != c.works {
				t.Errorf("the build ends with %v", err)
			}
			reg.Heal()
			small.clear()
			if why, _ := d.why(ref); (why == "") != c.works || strings.Contains(why, "does not end") {
				t.Errorf("the history says %q", why)
			}
			d.restful(was)
			d.load()
			d.must(c.again(t))
			if err := d.c.Prune(t.Context(), nil, client.PruneAll); err != nil {
				t.Error(err)
			}
		})
	}
}

// solveAs builds with a client of its own.
func solveAs(t *testing.T, c *client.Client, opt client.SolveOpt, ref string) error {
	t.Helper()
	opt.Ref = ref
	_, err := c.Solve(t.Context(), nil, opt, drained())
	return err
}

// shim is the process that starts the daemon's sandboxes.
func (d *daemon) shim() int {
	d.t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", d.cmd.Process.Pid))
	if err != nil {
		d.t.Fatal(err)
	}
	for _, f := range files {
		children, _ := os.ReadFile(f) // the thread may have ended
		for pid := range strings.FieldsSeq(string(children)) {
			args, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			if n, err := strconv.Atoi(pid); err == nil && strings.Contains(string(args), "\x00pool\x00") {
				return n
			}
		}
	}
	d.t.Error("the daemon has no boxshim")
	return 0
}
