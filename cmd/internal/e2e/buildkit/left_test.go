package buildkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
)

// snapshots are those that the daemon has.
func (d *daemon) snapshots() []string {
	d.t.Helper()
	list, err := os.ReadDir(filepath.Join(d.root, "snapshots"))
	if err != nil {
		d.t.Fatal(err)
	}
	var out []string
	for _, e := range list {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out
}

// mounted runs a command in busybox with what an ID stands for at /m, or in that itself if root is set.
func mounted(ctx context.Context, c gateway.Client, id string, root bool, args ...string) (string, error) {
	req := gateway.NewContainerRequest{Mounts: []gateway.Mount{{Dest: "/", ResultID: id, MountType: pb.MountType_BIND}}}
	if !root {
		ref, err := solved(ctx, c, llb.Image("busybox"), false)
		if err != nil {
			return "", err
		}
		req.Mounts = []gateway.Mount{
			{Dest: "/", Ref: ref, MountType: pb.MountType_BIND},
			{Dest: "/m", ResultID: id, MountType: pb.MountType_BIND},
		}
	}
	ctr, err := c.NewContainer(ctx, req)
	if err != nil {
		return "", err
	}
	defer ctr.Release(ctx)
	return inContainer(ctx, ctr, gateway.StartRequest{Args: args, Cwd: "/"})
}

// TestDirectLeft checks that a client which directs a build can look at what a failed step has left, at each of its mounts,
// and at what it began with; that a Dockerfile's steps and file operations have the same; and that all of it is gone when
// the build is over.
func TestDirectLeft(t *testing.T) {
	d := start(t)
	d.load()
	var kept []string // what the first of two builds has left for the next
	for range 2 {
		d.lookAtLeft(t)
		switch now := d.snapshots(); {
		case kept == nil:
			kept = now
		case !slices.Equal(kept, now):
			t.Errorf("the snapshots are %q, were %q", now, kept)
		}
	}
}

// lookAtLeft is one build of TestDirectLeft.
func (d *daemon) lookAtLeft(t *testing.T) {
	before := d.snapshots()
	failure := func(err error) *errdefs.Solve {
		t.Helper()
		var se *errdefs.SolveError
		if !errors.As(err, &se) {
			t.Errorf("%v does not say what can be looked at", err)
			return &errdefs.Solve{}
		}
		return se.Solve
	}
	opt := opts(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo boom; echo file > /left; exit 42\n"})
	opt.Frontend = ""
	_, _, err := d.direct(t.Context(), opt, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		type look struct {
			id   string
			root bool
			args []string
			want string
		}
		expect := func(what string, looks ...look) {
			t.Helper()
			for _, l := range looks {
				if got, err := mounted(ctx, c, l.id, l.root, l.args...); got != l.want {
					t.Errorf("%s: %q has %q, %v, want %q", what, l.args, got, err, l.want)
				}
			}
		}
		run := llb.Image("busybox").Run(llb.Args([]string{"sh", "-c", "echo left > /left; rm /bin/vi; echo o > /o/out; echo s > /s/scrap; exit 42"}))
		run.AddMount("/o", llb.Scratch().File(llb.Mkfile("/had", 0o644, []byte("had\n"))))
		run.AddMount("/s", llb.Scratch(), llb.ForceNoOutput)
		run.AddMount("/r", llb.Scratch().File(llb.Mkfile("/read", 0o644, []byte("read\n"))), llb.Readonly)
		_, err := solved(ctx, c, run.Root(), true)
		se := failure(err)
		at := map[string]int{}
		for i, m := range se.GetOp().GetExec().GetMounts() {
			at[m.GetDest()] = i
		}
		mount, input := se.GetMountIDs(), se.GetInputIDs()
		if len(mount) != 4 || len(input) != 4 {
			return nil, fmt.Errorf("there are %q and %q", mount, input)
		}
		expect("a process",
			look{mount[at["/"]], true, []string{"sh", "-c", "cat /left; ls /bin/vi"}, "left\n"},
			look{input[at["/"]], true, []string{"sh", "-c", "cat /left; ls /bin/vi"}, "/bin/vi\n"},
			look{mount[at["/o"]], false, []string{"sh", "-c", "cat /m/had /m/out"}, "had\no\n"},
			look{mount[at["/s"]], false, []string{"cat", "/m/scrap"}, "s\n"},
			look{mount[at["/r"]], false, []string{"cat", "/m/read"}, "read\n"},
		)
		_, err = c.Solve(ctx, gateway.SolveRequest{Frontend: "dockerfile.v0", Evaluate: true})
		if se = failure(err); len(se.GetMountIDs()) != 1 {
			return nil, fmt.Errorf("a RUN: %v", se)
		}
		expect("a RUN", look{se.GetMountIDs()[0], true, []string{"cat", "/left"}, "file\n"})
		if src := errdefs.Sources(err); len(src) != 1 || src[0].Ranges[0].Start.Line != 2 {
			t.Errorf("a RUN has the places %v", src)
		}
		made := llb.Image("busybox").File(llb.Mkfile("/one", 0o644, []byte("one\n")).Rm("/nothing/like/that").Mkfile("/two", 0o644, nil))
		_, err = solved(ctx, c, made, true)
		se = failure(err)
		if len(se.GetMountIDs()) != 3 || len(se.GetInputIDs()) != 1 || se.GetMountIDs()[0] != "" || se.GetFile().GetIndex() != 1 {
			return nil, fmt.Errorf("a file operation: %v", se)
		}
		expect("a file operation", look{se.GetMountIDs()[1], true, []string{"sh", "-c", "cat /one; ls /two"}, "one\n"},
			look{se.GetInputIDs()[0], true, []string{"sh", "-c", "ls /one; ls /bin/vi"}, "/bin/vi\n"})
		if _, err := mounted(ctx, c, "nothing", true, "true"); err == nil {
			t.Error("an ID that nobody has is mounted")
		}
		if n := len(d.snapshots()); n <= len(before) {
			t.Errorf("%d snapshots are there while the build lasts, %d were before", n, len(before))
		}
		return nil, errors.New("seen enough")
	})
	if err == nil || !strings.Contains(err.Error(), "seen enough") {
		t.Errorf("the build ended with %v", err)
	}
}

// TestLeftOfActions checks that what an action of a failed file operation has made that the failed action reads can be looked
// at like what that one has left.
func TestLeftOfActions(t *testing.T) {
	d := start(t)
	d.load()
	_, _, err := d.direct(t.Context(), client.SolveOpt{}, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		from := llb.Mkdir("/foo", 0o700).Mkfile("/foo/bar", 0o600, []byte("bar\n")).WithState(llb.Scratch())
		_, err := solved(ctx, c, llb.Image("busybox").File(llb.Copy(from, "/foo/bar", "/not/there")), true)
		var se *errdefs.SolveError
		if !errors.As(err, &se) {
			return nil, err
		}
		failed, actions := int(se.GetFile().GetIndex()), se.GetOp().GetFile().GetActions()
		if len(actions) != 3 || failed != 2 || len(se.GetMountIDs()) != 3 {
			return nil, fmt.Errorf("told is %v", se.Solve)
		}
		second := int(actions[failed].GetSecondaryInput()) - len(se.GetInputIDs())
		for i, args := range map[int][]string{second: {"cat", "/m/foo/bar"}, failed: {"ls", "/m/bin/vi"}} {
			if got, err := mounted(ctx, c, se.GetMountIDs()[i], false, args...); err != nil {
				t.Errorf("what action %d has made: %q, %v", i, got, err)
			}
		}
		return gateway.NewResult(), nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestLeftOfMount checks that a step whose read-only mount lacks the path that is to be mounted is told to have failed for the
// content of that input, which can be looked at.
func TestLeftOfMount(t *testing.T) {
	d := start(t)
	d.load()
	_, _, err := d.direct(t.Context(), client.SolveOpt{}, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		has := llb.Scratch().File(llb.Mkdir("/found", 0o700).Mkfile("/found/data", 0o600, []byte("data")))
		run := llb.Image("busybox").Run(llb.Args([]string{"true"}), llb.AddMount("/src", has, llb.SourcePath("/notfound"), llb.Readonly))
		_, err := solved(ctx, c, run.Root(), true)
		var se *errdefs.SolveError
		if !errors.As(err, &se) {
			return nil, err
		}
		if _, ok := se.GetSubject().(*errdefs.Solve_Cache); !ok || se.GetOp().GetExec() == nil || len(se.GetInputIDs()) != 1 || len(se.GetMountIDs()) != 0 {
			return nil, fmt.Errorf("told is %v", se.Solve)
		}
		if got, err := mounted(ctx, c, se.GetInputIDs()[0], false, "cat", "/m/found/data"); got != "data" {
			t.Errorf("the input has %q, %v", got, err)
		}
		return gateway.NewResult(), nil
	})
	if err != nil {
		t.Error(err)
	}
}
