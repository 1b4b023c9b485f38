package workertest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/frontend/dockerfile"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// inspect answers a call other than a build: what is asked about is a real Dockerfile, so the real frontend answers, from
// the client's directories and the fake's images.
func (p *performance) inspect(ctx context.Context) (*worker.BuildResult, error) {
	req := p.req.Frontend
	req.Default = op.Platform{OS: "linux", Architecture: "amd64"}
	doc, err := frontend.Inspect(ctx, dockerfile.New(), p.req.Call, &req, inspectEnv{p})
	if err != nil {
		return nil, err
	}
	return &worker.BuildResult{Report: doc}, nil
}

// inspectEnv is the frontend.Env of an inspection.
type inspectEnv struct{ p *performance }

// Pin implements frontend.Env. An image is pinned to a digest that means nothing if it is there.
func (e inspectEnv) Pin(_ context.Context, src op.Source) (op.Source, error) {
	switch s := src.(type) {
	case *op.Local:
		pinned := *s
		pinned.Root = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
		return &pinned, nil
	case *op.Image:
		if _, err := e.p.builder.Images.find(s.Ref); err != nil {
			return nil, fmt.Errorf("%s: not found", s.Ref)
		}
		pinned := *s
		pinned.Digest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
		return &pinned, nil
	}
	return nil, fmt.Errorf("%s cannot be pinned here", src)
}

// ImageConfig implements frontend.Env.
func (e inspectEnv) ImageConfig(_ context.Context, img *op.Image) (*frontend.ImageConfig, error) {
	found, err := e.p.builder.Images.find(img.Ref)
	if err != nil {
		return nil, err
	}
	config := found.Config
	config.OS, config.Architecture = "linux", "amd64"
	return &config, nil
}

// ReadFile implements frontend.Env.
func (e inspectEnv) ReadFile(ctx context.Context, in solver.Input, path string) ([]byte, error) {
	local, ok := in.Vertex.Op().(*op.Local)
	if !ok {
		return nil, errors.New("only the client's directories can be read here")
	}
	text, err := e.p.file(ctx, local.Name, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fs.ErrNotExist
	}
	return text, err
}

// Step implements frontend.Env.
func (e inspectEnv) Step(ctx context.Context, _ string, fn func(ctx context.Context) error) error {
	return fn(ctx)
}

// Warn implements frontend.Env.
func (e inspectEnv) Warn(solver.Warning) {}
