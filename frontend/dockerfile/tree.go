package dockerfile

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// A tree is a source of files that is not an image: the build context or a named one. It is pinned after the steps are
// known, since of a directory of the client's only what they read is asked for.
type tree struct {
	src    op.Source // unpinned
	ignore []string  // patterns of .dockerignore; for a directory only
	label  string    // the name of its vertex
	paths  map[string]bool
	input  *solver.Input // once pinned
}

// use notes that p, absolute in the tree, is read.
func (tr *tree) use(p string) {
	if tr.paths == nil {
		tr.paths = map[string]bool{}
	}
	tr.paths[p] = true
}

// follow returns what has to be asked for: relative paths in order, or nil for everything.
func (tr *tree) follow() []string {
	if tr.paths["/"] {
		return nil
	}
	out := slices.Sorted(maps.Keys(tr.paths))
	for i, p := range out {
		out[i] = path.Join(".", p)
	}
	return out
}

// pin fixes the content.
func (tr *tree) pin(ctx context.Context, t *translation) error {
	src, key := tr.src, tr.label
	if l, ok := src.(*op.Local); ok {
		only := *l
		only.Include, only.Exclude, only.Follow = nil, tr.ignore, tr.follow()
		src = &only
		key = fmt.Sprintf("%s %q", key, only.Follow)
	}
	in, err := t.shared.tree(key, func() (in solver.Input, err error) {
		err = t.env.Step(ctx, tr.label, func(ctx context.Context) error {
			in, err = pinInput(ctx, t.env, src, tr.label)
			return err
		})
		return in, err
	})()
	tr.input = &in
	return err
}

// pinTrees pins every tree that something is read from, all at once.
func (t *translation) pinTrees(ctx context.Context) error {
	all := []*tree{t.context}
	for s := range t.plan.target.reachable() {
		if s.origin != nil {
			all = append(all, s.origin.tree)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, tr := range all {
		if tr != nil && len(tr.paths) > 0 {
			g.Go(func() error { return tr.pin(ctx, t) })
		}
	}
	return g.Wait()
}
