package builder

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

var _ frontend.Resolver = (*env)(nil)

// ResolveImage implements frontend.Resolver.
func (e *env) ResolveImage(ctx context.Context, src op.Source) (*frontend.ImageMeta, error) {
	pinned, err := e.Pin(ctx, src)
	if err != nil {
		return nil, err
	}
	img, ok := pinned.(*op.Image)
	if !ok {
		return nil, fmt.Errorf("resolving %s: it is no image", src)
	}
	m := &frontend.ImageMeta{Pinned: img, Digest: img.Digest}
	switch s := src.(type) {
	case *op.OCILayout:
		m.Digest = s.Digest
	case *op.Image:
		if m.Digest = s.Digest; m.Digest == "" {
			m.Digest = e.b.deps.Transfer.Whole(ctx, img)
		}
	}
	m.Config, err = e.b.deps.Images.Config(ctx, img)
	return m, err
}

// Attestations implements frontend.Resolver.
func (e *env) Attestations(ctx context.Context, img *frontend.ImageMeta, predicates []string) (*frontend.AttestationChain, error) {
	chain, err := e.b.deps.Transfer.Attestations(ctx, img.Pinned, img.Digest, predicates)
	if err != nil {
		return nil, fmt.Errorf("looking for attestations of %s: %w", img.Pinned.Ref, err)
	}
	return chain, nil
}

// ResolveGit implements frontend.Resolver.
func (e *env) ResolveGit(ctx context.Context, src *op.Git, objects bool) (*frontend.GitMeta, error) {
	allowed, err := e.Allowed(ctx, src)
	if err != nil {
		return nil, err
	}
	src, ok := allowed.(*op.Git)
	if !ok {
		return nil, fmt.Errorf("resolving %s: it is no repository", allowed)
	}
	m, err := e.gitMeta(ctx, src)
	if err != nil {
		return nil, err
	}
	out := &frontend.GitMeta{Ref: m.Ref, Checksum: m.Hash}
	if m.Commit != m.Hash {
		out.CommitChecksum = m.Commit
	}
	if !objects {
		return out, nil
	}
	have, err := e.b.deps.Runner.GitObjects(ctx, src, m)
	if err != nil {
		return nil, err
	}
	out.Commit, out.Tag = have.Commit, have.Tag
	return out, nil
}

// ResolveHTTP implements frontend.Resolver.
func (e *env) ResolveHTTP(ctx context.Context, src *op.HTTP, sum *frontend.SumRequest) (*frontend.HTTPMeta, error) {
	pinned, err := e.Pin(ctx, src)
	if err != nil {
		return nil, err
	}
	h, ok := pinned.(*op.HTTP)
	if !ok {
		return nil, fmt.Errorf("resolving %s: it is no file", src)
	}
	m := &frontend.HTTPMeta{Digest: h.Digest, Filename: h.Name, Modified: h.Modified}
	if sum != nil {
		m.Sum, err = e.sum(ctx, h, sum)
	}
	return m, err
}

// sum returns the sum of what was fetched and a suffix.
func (e *env) sum(ctx context.Context, h *op.HTTP, req *frontend.SumRequest) (digest.Digest, error) {
	if !req.Algorithm.Available() {
		return "", fmt.Errorf("computing the sum of %s: unknown algorithm %q", h, req.Algorithm)
	}
	tree, done, err := e.tree(ctx, solver.Input{Vertex: solver.NewVertex(h, nil, solver.Meta{Name: h.String(), Internal: true})})
	if err != nil {
		return "", err
	}
	defer done()
	f, err := tree.Open(ctx, "/"+h.Name)
	if err != nil {
		return "", err
	}
	d := req.Algorithm.Digester()
	_, err = io.Copy(d.Hash(), f)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	_, _ = d.Hash().Write(req.Suffix) // a hash's never fails
	return d.Digest(), nil
}
