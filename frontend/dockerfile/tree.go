package dockerfile

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// A tree is a source of files that is not an image: the build context or a named one. It is pinned after the steps are
// known, since of a directory of the client's only what they read is asked for.
type tree struct {
	src    op.Source      // unpinned
	ignore []string       // patterns of .dockerignore; for a directory only
	label  string         // the name of its vertex
	where  []parser.Range // the instruction that names it; nil for a context
	subdir string         // only this directory of it; of no directory of the client's
	paths  map[string]bool
	input  *solver.Input // once pinned, which what has been fetched already is from the start
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

// pin returns the function that fixes the content. Of equal trees the one whose pin is called first gives the vertex its
// name and place.
func (tr *tree) pin(ctx context.Context, t *translation) func() error {
	if tr.input != nil {
		return func() error { return nil }
	}
	src, key := tr.src, tr.label
	if l, ok := src.(*op.Local); ok {
		only := *l
		only.Include, only.Exclude, only.Follow = nil, tr.ignore, tr.follow()
		src = &only
		key = fmt.Sprintf("%s %q", key, only.Follow)
	}
	if get, ok := src.(*op.HTTP); ok {
		key = fmt.Sprintf("%s %s %s", key, get.URL, get.Checksum)
	}
	repo, isRepo := src.(*op.Git)
	if isRepo {
		var h solver.Hasher
		repo.WriteKey(&h)
		key += " " + h.Document()
	}
	find := t.shared.tree(key, func() (in solver.Input, err error) {
		if isRepo {
			return pinGit(ctx, t.env, repo, solver.Meta{Name: tr.label, File: t.src.name, Source: ranges(tr.where)})
		}
		if get, ok := src.(*op.HTTP); ok && get.Checksum != "" {
			// It is pinned as it stands, and fetched if need be when the graph is solved.
			pinned, err := t.env.Pin(ctx, src)
			if err != nil {
				return in, err
			}
			return solver.Input{Vertex: solver.NewVertex(pinned, nil, solver.Meta{Name: tr.label, File: t.src.name, Source: ranges(tr.where)})}, nil
		}
		err = t.env.Step(ctx, tr.label, func(ctx context.Context) error {
			in, err = pinInput(ctx, t.env, src, tr.label)
			return err
		})
		return in, err
	})
	return func() error {
		in, err := find()
		tr.input = &in
		if err != nil && tr.where != nil {
			return at(err, tr.where)
		}
		return err
	}
}

// pinTrees pins every tree that something is read from, all at once.
func (t *translation) pinTrees(ctx context.Context) error {
	all := []*tree{t.context}
	if t.context != nil && len(t.context.paths) > 0 {
		if _, err := t.excluded(); err != nil {
			return t.src.inText(err)
		}
	}
	needed := t.plan.target.reachable()
	for _, s := range t.outside(needed) {
		all = append(all, s.origin.tree)
	}
	for _, s := range t.plan.stages {
		if needed[s] {
			all = append(all, s.remotes()...)
		}
	}
	g, ctx := together(ctx)
	for _, tr := range all {
		if tr != nil && len(tr.paths) > 0 {
			g.Go(tr.pin(ctx, t))
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if tr := t.context; tr != nil && tr.input != nil && tr.subdir != "" {
		in := below(*tr.input, tr.subdir)
		tr.input = &in
	}
	return nil
}

// remotes returns the trees that only one step of the stage reads: what ADD fetches.
func (s *stage) remotes() []*tree {
	if s.st == nil {
		return nil
	}
	var out []*tree
	for _, step := range s.st.steps {
		if cp, ok := step.(*copyStep); ok {
			for i := range cp.copies {
				if tr := cp.copies[i].from.tree; tr != nil && tr.where != nil {
					out = append(out, tr)
				}
			}
		}
	}
	return out
}
