package builder

import (
	"archive/tar"
	"context"
	"io"
	"time"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

var _ frontend.Dater = (*env)(nil)

// SourceTime implements frontend.Dater.
func (e *env) SourceTime(ctx context.Context, src op.Source) (*time.Time, error) {
	switch s := src.(type) {
	case *op.Git:
		t, err := e.b.deps.Runner.GitTime(ctx, s)
		if err != nil {
			return nil, err
		}
		return &t, nil
	case *op.HTTP:
		if !s.Modified.IsZero() {
			return &s.Modified, nil
		}
		return e.youngest(ctx, s)
	}
	return nil, nil
}

// youngest returns the time of the regular file in an archive that was modified last; nil if there is none, or what was
// fetched is no archive.
func (e *env) youngest(ctx context.Context, s *op.HTTP) (*time.Time, error) {
	tree, done, err := e.tree(ctx, solver.Input{Vertex: solver.NewVertex(s, nil, solver.Meta{Name: s.String()})})
	if err != nil {
		return nil, err
	}
	defer done()
	f, err := tree.Open(ctx, "/"+s.Name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return youngestIn(ctx, f), nil
}

// youngestIn is youngest for the content of a file.
func youngestIn(ctx context.Context, r io.Reader) *time.Time {
	dec, err := layer.Open(ctx, r, layer.Limits{})
	if err != nil {
		return nil
	}
	defer dec.Close()
	var out *time.Time
	for tr := tar.NewReader(dec); ; {
		hdr, err := tr.Next()
		if err == io.EOF {
			return out
		}
		if err != nil || ctx.Err() != nil {
			return nil // it is no archive, or a broken one, which whoever unpacks it will say
		}
		if hdr.FileInfo().Mode().IsRegular() && (out == nil || hdr.ModTime.After(*out)) {
			t := hdr.ModTime.UTC()
			out = &t
		}
	}
}
