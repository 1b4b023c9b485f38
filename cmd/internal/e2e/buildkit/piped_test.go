package buildkit

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
)

// TestPipedProcesses checks that processes of a container can be joined by pipes: BuildKit's client, which reads one message
// after the other, and waits for one's output to be taken, comes to know of the next one that takes it.
func TestPipedProcesses(t *testing.T) {
	d := start(t)
	d.load()
	_, _, err := d.direct(t.Context(), client.SolveOpt{}, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		base, err := solved(ctx, c, llb.Image("busybox"), false)
		if err != nil {
			return nil, err
		}
		for range 20 {
			ctr, err := c.NewContainer(ctx, gateway.NewContainerRequest{Mounts: []gateway.Mount{{Dest: "/", Ref: base, MountType: pb.MountType_BIND}}})
			if err != nil {
				return nil, err
			}
			out, err := piped(ctx, ctr, "testing", 3)
			if err != nil || out != "testing" {
				return nil, fmt.Errorf("got %q, %w", out, err)
			}
			if err := ctr.Release(ctx); err != nil {
				return nil, err
			}
		}
		return gateway.NewResult(), nil
	})
	if err != nil {
		t.Error(err)
	}
}

// piped has text go through n processes of a container, and one more by which it lives.
func piped(ctx context.Context, ctr gateway.Container, text string, n int) (string, error) {
	first, last := io.Pipe()
	defer last.Close()
	if _, err := ctr.Start(ctx, gateway.StartRequest{Args: []string{"cat"}, Stdin: first}); err != nil {
		return "", err
	}
	in := io.NopCloser(strings.NewReader(text))
	var out bytes.Buffer
	var writers []*io.PipeWriter
	var all []gateway.ContainerProcess
	for i := range n {
		req := gateway.StartRequest{Args: []string{"cat"}, Stdin: in, Stdout: nopCloser{&out}}
		if i < n-1 {
			r, w := io.Pipe()
			in, req.Stdout = r, w
			writers = append(writers, w)
		}
		p, err := ctr.Start(ctx, req)
		if err != nil {
			return "", err
		}
		all = append(all, p)
	}
	for i, p := range all {
		if err := p.Wait(); err != nil {
			return "", err
		}
		if i < len(writers) {
			writers[i].Close()
		}
	}
	return out.String(), nil
}
