package run

import (
	"context"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/solver"
)

// runMerge lays its inputs over one another: the layers of every input but the first are applied, as layers are, on top
// of what comes before. A directory hides nothing but what it has itself, and a symlink in the way is replaced, never
// followed, so what a layer does depends on nothing below it.
func (r *Runner) runMerge(ctx context.Context, step *solver.Step) ([]solver.Result, error) {
	var top snapshot.ID
	for i, in := range step.Inputs {
		id, err := r.materialize(ctx, in)
		if err != nil {
			return nil, lost(err, i)
		}
		if top == "" {
			top = id // nothing is below it
			continue
		}
		layers, err := r.layersOf(ctx, id)
		if err != nil {
			return nil, lost(err, i)
		}
		for _, l := range layers {
			if top, err = r.applyOn(ctx, top, l); err != nil {
				return nil, lost(err, i)
			}
		}
	}
	return []solver.Result{ResultOf(top)}, nil
}

// layersOf returns the snapshots that id stands on and id itself, lowest first.
func (r *Runner) layersOf(ctx context.Context, id snapshot.ID) ([]snapshot.ID, error) {
	var out []snapshot.ID
	for id != "" {
		info, err := r.deps.Snapshots.Stat(ctx, id)
		if err != nil {
			return nil, missIfGone(err)
		}
		out = append(out, id)
		id = info.Parent
	}
	slices.Reverse(out)
	return out, nil
}

// applyOn makes a snapshot on top of parent that adds what the snapshot id adds to its own parent.
func (r *Runner) applyOn(ctx context.Context, parent, id snapshot.ID) (snapshot.ID, error) {
	d := &draft{r: r, name: snapshot.Draft(newName())}
	m, err := r.deps.Snapshots.Prepare(ctx, d.name, parent)
	if err != nil {
		return "", missIfGone(err)
	}
	defer d.discard(ctx)
	target, ok := layer.TargetOf(m)
	if !ok {
		return "", fmt.Errorf("merging: the snapshotter gives no directory to write to")
	}
	pr, pw := io.Pipe()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := layer.DiffSnapshot(gctx, r.deps.Snapshots, id, pw, layer.DiffOptions{})
		return pw.CloseWithError(err)
	})
	g.Go(func() error {
		_, err := layer.Apply(gctx, target, pr, layer.Options{Limits: layer.Limits{Size: -1, Ratio: -1, Entries: -1}})
		pr.CloseWithError(err)
		return err
	})
	if err := g.Wait(); err != nil {
		return "", fmt.Errorf("merging: %w", missIfGone(err))
	}
	return d.commit(ctx)
}
