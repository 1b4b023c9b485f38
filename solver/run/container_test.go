package run_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run"
)

// TestContainer checks that processes run one by one in a container, that its files can be looked at as they are but lead
// nowhere else, and that its end leaves nothing: no draft, and the cache mount free for others.
func TestContainer(t *testing.T) {
	r := newRig(t)
	base, _ := r.run(r.busybox())
	ctx := lease.With(t.Context(), r.lease)
	x := &op.Exec{Mounts: []op.ExecMount{
		{Dest: "/", Input: 0, Output: op.NoOutput},
		{Dest: "/cache", Input: op.NoInput, Output: op.NoOutput, Type: op.MountCache, Cache: op.CacheMount{ID: "c", Sharing: op.SharingLocked}},
		{Dest: "/tmp", Input: op.NoInput, Output: op.NoOutput, Type: op.MountTmpfs},
		{Dest: "/none", Input: op.NoInput, Output: op.NoOutput, ReadOnly: true},
	}}
	x.Meta.Cwd = "/"
	c, err := r.runner.NewContainer(ctx, x, []solver.Result{base})
	if err != nil {
		t.Fatal(err)
	}
	process := func(script string) (executor.Exit, string) {
		t.Helper()
		var out bytes.Buffer
		p, err := c.Start(ctx, &run.ContainerProcess{
			Meta: op.ExecMeta{Args: []string{"/bin/sh", "-c", script}, Cwd: "/"}, IO: executor.IO{Stdout: &out, Stderr: &out},
		})
		if err != nil {
			t.Fatal(err)
		}
		exit, err := p.Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return exit, out.String()
	}
	var first bytes.Buffer
	stdin, feed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	defer stdin.Close()
	if _, err := c.Start(ctx, &run.ContainerProcess{Meta: op.ExecMeta{Args: []string{"cat"}, Cwd: "/"}, IO: executor.IO{Stdin: stdin, Stdout: &first}}); err != nil {
		t.Fatal(err)
	}
	if exit, out := process("echo made > /made; ln -s /proc/self/environ /link; echo x > /cache/x; exit 3"); exit.Code != 3 || out != "" {
		t.Errorf("got %+v, %q", exit, out)
	}
	if _, out := process("cat /made"); out != "made\n" {
		t.Errorf("the next process sees %q", out)
	}
	root, err := c.Mount(0)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := root.ReadFile("made"); err != nil || string(data) != "made\n" {
		t.Errorf("from outside: %q, %v", data, err)
	}
	if data, err := root.ReadFile("link"); err == nil {
		t.Errorf("a link leads out of the container to %q", data)
	}
	root.Close()
	if _, out := process("ls -A /none; touch /none/x 2>/dev/null || echo refused"); out != "refused\n" {
		t.Errorf("a read-only mount of nothing: %q", out)
	}
	if root, err = c.Mount(3); err != nil {
		t.Fatal(err)
	}
	if entries, err := fs.ReadDir(root.FS(), "."); err != nil || len(entries) > 0 {
		t.Errorf("from outside, a mount of nothing has %v, %v", entries, err)
	}
	root.Close()
	for _, i := range []int{-1, 2, 4} {
		if root, err := c.Mount(i); err == nil {
			t.Errorf("mount %d is opened", i)
			root.Close()
		}
	}
	_, err = c.Start(ctx, &run.ContainerProcess{Meta: op.ExecMeta{Args: []string{"/no/such"}, Cwd: "/"}})
	var start *executor.StartError
	if !errors.As(err, &start) || start.Code != 127 {
		t.Errorf("a command that there is not: %v", err)
	}
	for range 2 {
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Start(ctx, &run.ContainerProcess{Meta: op.ExecMeta{Args: []string{"true"}}}); !errors.Is(err, run.ErrContainerClosed) {
		t.Errorf("starting afterwards: %v", err)
	}
	if _, err := c.Mount(0); !errors.Is(err, run.ErrContainerClosed) {
		t.Errorf("looking afterwards: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(r.dir, "snapshots", "new-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left are %s, %v", strings.Join(left, " "), err)
	}
	again, err := r.runner.NewContainer(ctx, x, []solver.Result{base}) // its cache mount is locked, if it is in use
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(ctx); err != nil {
		t.Error(err)
	}
	if _, err := r.runner.NewContainer(ctx, x, []solver.Result{"snapshot:gone"}); !errors.Is(err, solver.ErrMiss) {
		t.Errorf("a result that is gone: %v", err)
	}
}
