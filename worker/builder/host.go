package builder

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/proto"

	"github.com/boxbuild/boxbuild/frontend/llb"
	codec "github.com/boxbuild/boxbuild/proto/llb"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run"
)

var _ run.Host = (*env)(nil)

// OpenBlob implements run.Host.
func (e *env) OpenBlob(ctx context.Context, b *op.Blob) (io.ReadCloser, error) {
	if !b.Layout {
		return e.b.deps.Transfer.OpenBlob(ctx, b)
	}
	files, err := e.layout(ctx, &op.OCILayout{Ref: b.Ref, Digest: b.Digest, Store: b.Store, Session: b.Session})
	if err != nil {
		return nil, err
	}
	return files.Open(ctx, "blobs/"+b.Digest.Algorithm().String()+"/"+b.Digest.Encoded())
}

// maxNesting is how deep definitions may lie in the results of others.
const maxNesting = 16

type depthKey struct{}

// Nest implements run.Host. What the definition asks for needs the same grants as the build's own steps.
func (e *env) Nest(ctx context.Context, definition []byte) (solver.Result, error) {
	depth, _ := ctx.Value(depthKey{}).(int)
	if depth >= maxNesting {
		return "", fmt.Errorf("solving a nested definition: %d lie in one another", depth)
	}
	ctx = context.WithValue(ctx, depthKey{}, depth+1)
	def := &pb.Definition{}
	if err := proto.Unmarshal(definition, def); err != nil {
		return "", fmt.Errorf("decoding a nested definition: %w", err)
	}
	root, err := llb.Load(ctx, def, e)
	if err != nil {
		return "", err
	}
	if root == nil {
		return run.ResultOf(""), nil
	}
	with, err := e.b.admit([]solver.Input{*root}, e.grants)
	if err != nil {
		return "", err
	}
	targets := codec.Replace([]solver.Input{*root}, with)
	if err := e.b.empty(targets); err != nil {
		return "", err
	}
	out, err := e.b.deps.Solver.Solve(ctx, &solver.Build{ID: e.id + "/" + rand.Text(), Targets: targets, Events: e.em.emit})
	if err != nil {
		return "", err
	}
	if len(out) != 1 {
		return "", errors.New("solving a nested definition: it has no result")
	}
	return out[0], nil
}
