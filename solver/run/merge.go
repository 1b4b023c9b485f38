package run

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// A tree is the sum of its layers, and a layer is a difference between two snapshots: to its parent, unless the snapshot
// is a copy of another difference. Merge and Diff are defined on these lists, as in BuildKit: a merge has the layers of
// its inputs one after another, and a diff those that its upper input has beyond its lower one. Each becomes a snapshot
// that remembers what it is a copy of, so that the layers of an image of the result are those of the inputs.

// runMerge lays its inputs over one another. A layer hides nothing but what it has or removes itself, and a symlink in
// the way is replaced, never followed, so what it does depends on nothing below it.
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
		if err == nil {
			top, err = r.stack(ctx, top, layers)
		}
		if err != nil {
			return nil, lost(err, i)
		}
	}
	return []solver.Result{ResultOf(top)}, nil
}

// runDiff makes a tree of what turns the lower input into the upper one. Seen by itself it has what was added and
// changed; what was removed is removed where it is merged, or in an image of it.
func (r *Runner) runDiff(ctx context.Context, step *solver.Step, d *op.Diff) ([]solver.Result, error) {
	var ids [2]snapshot.ID
	next := 0
	for i, there := range []bool{d.Lower, d.Upper} {
		if !there {
			continue
		}
		if next >= len(step.Inputs) {
			return nil, fmt.Errorf("comparing trees: the operation has %d inputs only", len(step.Inputs))
		}
		id, err := r.materialize(ctx, step.Inputs[next])
		if err != nil {
			return nil, lost(err, next)
		}
		ids[i] = id
		next++
	}
	lower, upper := ids[0], ids[1]
	if lower == "" || lower == upper {
		if lower == upper {
			upper = ""
		}
		return []solver.Result{ResultOf(upper)}, nil
	}
	layers, err := r.between(ctx, lower, upper)
	var top snapshot.ID
	if err == nil {
		top, err = r.stack(ctx, "", layers)
	}
	if errors.Is(err, solver.ErrMiss) {
		l := &solver.LostError{}
		for i := range next {
			l.Inputs = append(l.Inputs, i) // whichever: both are looked at again
		}
		return nil, l
	}
	if err != nil {
		return nil, err
	}
	return []solver.Result{ResultOf(top)}, nil
}

// between returns the layers that lead from one tree to another. Where upper has all layers of lower and several more,
// they are those, so that an image has the layers that were built. In all other cases it is one, the difference.
func (r *Runner) between(ctx context.Context, lower, upper snapshot.ID) ([]snapshot.Delta, error) {
	whole := []snapshot.Delta{{Lower: lower, Upper: upper, Loose: true}}
	if upper == "" {
		return whole, nil
	}
	below, err := r.layersOf(ctx, lower)
	if err != nil {
		return nil, err
	}
	above, err := r.layersOf(ctx, upper)
	if err != nil {
		return nil, err
	}
	if len(above) <= len(below)+1 || !slices.EqualFunc(above[:len(below)], below, sameTrees) {
		return whole, nil
	}
	out := slices.Clone(above[len(below):])
	for i := range out {
		out[i].Loose = true
	}
	return out, nil
}

// sameTrees says whether two layers are differences of the same trees.
func sameTrees(a, b snapshot.Delta) bool { return a.Lower == b.Lower && a.Upper == b.Upper }

// layersOf returns the layers of a tree, lowest first.
func (r *Runner) layersOf(ctx context.Context, id snapshot.ID) ([]snapshot.Delta, error) {
	var out []snapshot.Delta
	for id != "" {
		info, err := r.deps.Snapshots.Stat(ctx, id)
		if err != nil {
			return nil, missIfGone(err)
		}
		out = append(out, layer.DeltaOf(info))
		id = info.Parent
	}
	slices.Reverse(out)
	return out, nil
}

// stack lays layers over the tree top, and returns the tree of all. As long as a layer is where it was made, on the tree
// that is below it here too, it is taken as it is.
func (r *Runner) stack(ctx context.Context, top snapshot.ID, layers []snapshot.Delta) (snapshot.ID, error) {
	for _, l := range layers {
		there, err := r.standsOn(ctx, l.Upper, top)
		if err != nil {
			return "", err
		}
		if there && l.Lower == top {
			top = l.Upper
			continue
		}
		if top, err = r.transplant(ctx, top, l); err != nil {
			return "", err
		}
	}
	return top, nil
}

// standsOn says whether the snapshot id, "" for an empty tree, is a child of parent, and keeps it for the build if so.
func (r *Runner) standsOn(ctx context.Context, id, parent snapshot.ID) (bool, error) {
	if id == "" {
		return false, nil
	}
	info, err := r.deps.Snapshots.Stat(ctx, id)
	if err != nil || info.Parent != parent {
		return false, missIfGone(err)
	}
	if l := lease.From(ctx); l != nil {
		return true, missIfGone(l.Hold(ctx, lease.ID(id)))
	}
	return true, nil
}

// transplant makes a snapshot on top of parent that adds and removes what of does.
func (r *Runner) transplant(ctx context.Context, parent snapshot.ID, of snapshot.Delta) (snapshot.ID, error) {
	d := &draft{r: r, name: snapshot.Draft(newName()), of: of}
	m, err := r.deps.Snapshots.Prepare(ctx, d.name, parent)
	if err != nil {
		return "", missIfGone(err)
	}
	defer d.discard(ctx)
	target, ok := layer.TargetOf(m)
	if !ok {
		return "", errors.New("merging: the snapshotter gives no directory to write to")
	}
	if err := layer.Transplant(ctx, r.deps.Snapshots, of, target); err != nil {
		return "", fmt.Errorf("merging: %w", missIfGone(err))
	}
	id, err := d.commit(ctx)
	return id, missIfGone(err)
}
