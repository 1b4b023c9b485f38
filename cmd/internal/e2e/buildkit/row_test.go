package buildkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errEnough is why a client gives up.
var errEnough = errors.New("enough")

// round builds once in each way: to its end, to an error, and until the client goes.
func (d *daemon) round(i int) {
	d.t.Helper()
	ctx := d.t.Context()
	var s sink
	opt := opts(d.t, map[string]string{
		"Dockerfile": "FROM busybox\nARG N\nCOPY own /\nRUN --mount=type=secret,id=s cat /run/secrets/s /own > /result; echo told\n",
		"own":        fmt.Sprint(i),
	})
	opt.FrontendAttrs["build-arg:N"] = fmt.Sprint(i)
	opt.Session = []session.Attachable{secretsprovider.FromMap(map[string][]byte{"s": []byte("secret")})}
	opt.Exports = []client.ExportEntry{s.to(client.ExporterTar, nil)}
	d.must(opt)
	if got, want := readTar(d.t, &s.Buffer)["result"], fmt.Sprintf("secret%d", i); got != want {
		d.t.Fatalf("round %d: got %q, want %q", i, got, want)
	}
	if _, _, err := d.define(shell(llb.Image("busybox"), fmt.Sprintf("exit %d", 1+i%99)), client.SolveOpt{}); err == nil {
		d.t.Fatal("a step that fails is no error")
	}
	_, _, err := d.direct(ctx, client.SolveOpt{}, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		ref, err := solved(ctx, c, shell(llb.Image("busybox"), fmt.Sprintf("echo %d > /x", i)), false)
		if err != nil {
			return nil, err
		}
		ctr, err := c.NewContainer(ctx, gateway.NewContainerRequest{Mounts: []gateway.Mount{{Dest: "/", Ref: ref, MountType: pb.MountType_BIND}}})
		if err != nil {
			return nil, err
		}
		if out, err := inContainer(ctx, ctr, gateway.StartRequest{Args: []string{"cat", "/x"}}); err != nil || out != fmt.Sprintf("%d\n", i) {
			return nil, fmt.Errorf("got %q, %w", out, err)
		}
		if i%2 == 0 {
			return nil, errEnough // and the container is not released
		}
		return gateway.NewResult(), ctr.Release(ctx)
	})
	if err != nil && i%2 != 0 || err == nil && i%2 == 0 {
		d.t.Fatalf("round %d: %v", i, err)
	}
	away, leave := context.WithCancelCause(ctx)
	ch := make(chan *client.SolveStatus)
	go func() {
		for s := range ch {
			if len(s.Logs) > 0 {
				leave(errEnough)
			}
		}
	}()
	gone := opts(d.t, map[string]string{"Dockerfile": fmt.Sprintf("FROM busybox\nRUN echo %d; sleep 81234\n", i)})
	if _, err := d.c.Solve(away, nil, gone, ch); err == nil {
		d.t.Fatal("a build that was left has a result")
	}
	// A build that never was, which somebody listens to for a moment.
	short, cancel := context.WithCancel(ctx)
	if st, err := d.c.ControlClient().Status(short, &controlapi.StatusRequest{Ref: fmt.Sprint("none", i)}); err == nil {
		if _, err := st.Header(); err != nil {
			d.t.Error(err)
		}
		cancel()
		if _, err := st.Recv(); status.Code(err) != codes.Canceled {
			d.t.Errorf("got %v", err)
		}
	}
	cancel()
}

// TestRow checks that a daemon is after many builds in a row what it was after a few: in goroutines, files, mounts, and
// in the memory that is in use.
func TestRow(t *testing.T) {
	n := many(t, 24)
	d := observed(t, "--config", historyOf(t, 4)) // a history that is full is not growth
	d.load()
	for i := range 8 {
		d.round(i)
	}
	was, heap := d.state(), d.heap()
	t.Logf("after 8 rounds: %.1f MiB, the heap %d KiB", d.anonymous(), heap)
	for i := range n {
		d.round(8 + i)
		if os.Getenv("LOAD_BUILDS") != "" && i%25 == 24 {
			t.Logf("after %d: %.1f MiB, the heap %d KiB", 8+i+1, d.anonymous(), d.heap())
		}
	}
	d.restful(was)
	grown := d.heap()
	t.Logf("after %d rounds: %.1f MiB, the heap %d KiB", 8+n, d.anonymous(), grown)
	// Up to 60 KiB a round are what is remembered of the trees, until that is 40,000 entries: about 100 rounds. The first
	// figure depends on what the collector has come to.
	const filled = 14 << 10 // with all that is remembered
	if per := (grown - heap) / n; per > 100 && grown > filled {
		t.Errorf("the heap has grown from %d KiB to %d in %d rounds: %d KiB each", heap, grown, n, per)
	}
	d.keep("heap?gc=1")
}

// historyOf writes a configuration with which the daemon remembers n builds, and returns its path.
func historyOf(t *testing.T, n int) string {
	t.Helper()
	path := t.TempDir() + "/boxbuildd.toml"
	if err := os.WriteFile(path, fmt.Appendf(nil, "[history]\nmaxEntries = %d\n", n), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
