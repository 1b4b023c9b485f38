package builder

import (
	"context"
	"fmt"
	"io"

	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/worker"
)

// pinLayout takes an image of a client's OCI layout into the store.
func (e *env) pinLayout(ctx context.Context, s *op.OCILayout) (op.Source, error) {
	files, err := e.layout(ctx, s)
	if err != nil {
		return nil, err
	}
	img, err := e.b.deps.Transfer.Import(ctx, s, files)
	if err != nil {
		return nil, err
	}
	return img, nil
}

// layout opens the client's OCI layout: a store of its own, or else a directory.
func (e *env) layout(ctx context.Context, s *op.OCILayout) (worker.Layout, error) {
	if l, ok := e.req.Sources.(worker.LayoutSources); ok {
		return l.Layout(ctx, s.Session, s.Store)
	}
	dir, err := e.directory(ctx, s.Session, s.Store)
	if err != nil {
		return nil, err
	}
	return layoutFiles{dir}, nil
}

// layoutFiles are the files of a client's OCI layout. Each is asked for by itself, so that of a large layout only what
// is needed is read, or sent.
type layoutFiles struct{ dir filesync.Source }

// Open implements worker.Layout.
func (l layoutFiles) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	tree, err := l.dir.Tree(ctx, filesync.Selection{Follow: []string{name}})
	if err != nil {
		return nil, fmt.Errorf("reading the OCI layout: %w", err)
	}
	entry, err := treehash.Resolve(ctx, tree, "/"+name, true)
	if err != nil {
		return nil, err
	}
	if !entry.IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	return tree.Open(ctx, entry.Path)
}
