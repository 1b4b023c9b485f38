package buildkit

import (
	"context"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
)

// TestVanish checks that of a client which leaves in the middle of directing a build nothing stays: no process, no
// half-written snapshot. It leaves by closing its connection, as a kill does.
func TestVanish(t *testing.T) {
	d := start(t)
	d.load()
	marker := d.seconds("7")
	busybox := func(ctx context.Context, c gateway.Client) gateway.Reference {
		ref, err := solved(ctx, c, llb.Image("busybox"), false)
		if err != nil {
			t.Error(err)
			return nil
		}
		return ref
	}
	container := func(ctx context.Context, c gateway.Client) gateway.Container {
		ctr, err := c.NewContainer(ctx, gateway.NewContainerRequest{Mounts: []gateway.Mount{{Dest: "/", Ref: busybox(ctx, c), MountType: pb.MountType_BIND}}})
		if err != nil {
			t.Error(err)
		}
		return ctr
	}
	process := func(ctx context.Context, ctr gateway.Container) {
		r, w := io.Pipe()
		if _, err := ctr.Start(ctx, gateway.StartRequest{Args: []string{"sh", "-c", "echo ready; sleep " + marker}, Stdout: w}); err != nil {
			t.Error(err)
			return
		}
		wait(r, "ready")
	}
	for name, phase := range map[string]func(ctx context.Context, c gateway.Client, leave func()){
		"at once":    func(_ context.Context, _ gateway.Client, leave func()) { leave() },
		"with a ref": func(ctx context.Context, c gateway.Client, leave func()) { busybox(ctx, c); leave() },
		"prepared":   func(ctx context.Context, c gateway.Client, leave func()) { container(ctx, c); leave() },
		"in a run":   func(ctx context.Context, c gateway.Client, leave func()) { process(ctx, container(ctx, c)); leave() },
		"in two runs": func(ctx context.Context, c gateway.Client, leave func()) {
			ctr := container(ctx, c)
			process(ctx, ctr)
			process(ctx, ctr)
			process(ctx, container(ctx, c))
			leave()
		},
		"in a step": func(ctx context.Context, c gateway.Client, leave func()) {
			go func() {
				for !running(marker) {
					time.Sleep(5 * time.Millisecond)
				}
				leave()
			}()
			_, err := solved(ctx, c, shell(llb.Image("busybox"), "sleep "+marker), true)
			if err == nil {
				t.Error("the step has a result")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			own, err := client.New(context.Background(), d.addr())
			if err != nil {
				t.Fatal(err)
			}
			_, err = own.Build(t.Context(), client.SolveOpt{}, "boxbuild", func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
				phase(ctx, c, func() { _ = own.Close() })
				return gateway.NewResult(), nil
			}, nil)
			if err == nil {
				t.Error("the build has a result")
			}
			if err := d.settled(marker); err != nil {
				t.Error(err)
			}
		})
	}
	// The daemon is none the worse for it.
	if _, _, err := d.direct(t.Context(), client.SolveOpt{}, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		ctr := container(ctx, c)
		if out, err := inContainer(ctx, ctr, gateway.StartRequest{Args: []string{"echo", "well"}}); err != nil || out != "well\n" {
			t.Errorf("got %q, %v", out, err)
		}
		return gateway.NewResult(), nil // the container is left for the daemon to end
	}); err != nil {
		t.Error(err)
	}
	// Builds end a little after their clients.
	var left []string
	if !comes(func() bool {
		var err error
		if left, err = filepath.Glob(filepath.Join(d.root, "snapshots", "new-*")); err != nil {
			t.Fatal(err)
		}
		return len(left) == 0
	}) {
		t.Errorf("drafts are left: %q", left)
	}
}

// TestStuck checks that a client which does not read what a process writes cannot keep its build from being cancelled.
func TestStuck(t *testing.T) {
	d := start(t)
	d.load()
	marker := d.seconds("8")
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	defer r.Close() // lets the client's own goroutines end
	_, err := d.c.Build(ctx, client.SolveOpt{}, "boxbuild", func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		base, err := solved(ctx, c, llb.Image("busybox"), false)
		if err != nil {
			return nil, err
		}
		ctr, err := c.NewContainer(ctx, gateway.NewContainerRequest{Mounts: []gateway.Mount{{Dest: "/", Ref: base, MountType: pb.MountType_BIND}}})
		if err != nil {
			return nil, err
		}
		if _, err := ctr.Start(ctx, gateway.StartRequest{Args: []string{"sh", "-c", "yes; sleep " + marker}, Stdout: w}); err != nil {
			return nil, err
		}
		if _, err := io.CopyN(io.Discard, r, 1<<20); err != nil {
			return nil, err
		}
		cancel()
		return nil, context.Cause(ctx)
	}, nil)
	if err == nil {
		t.Error("the build has a result")
	}
	if err := d.settled(marker); err != nil {
		t.Error(err)
	}
}
