package run

import (
	"context"
	"errors"
	"os"
	"sync"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/snapshot/mount"
	"github.com/boxbuild/boxbuild/solver"
)

// A draft is a snapshot that a step is writing, mounted. It ends by commit or by discard, whichever comes first.
type draft struct {
	r    *Runner
	name snapshot.Draft
	root *os.File       // the merged tree, detached; nil if the draft is written without a mount
	of   snapshot.Delta // what it is a copy of; zero for nothing
	once sync.Once
	// cleanup is called before the draft ends either way.
	cleanup []func()
}

// release ends whatever mounts of and below the draft there are.
func (d *draft) release() {
	if d.root != nil {
		d.root.Close()
	}
	for _, f := range d.cleanup {
		f()
	}
}

// newDraft makes a draft on top of parent and mounts it.
func (r *Runner) newDraft(ctx context.Context, parent snapshot.ID) (*draft, error) {
	d := &draft{r: r, name: snapshot.Draft(newName())}
	m, err := r.deps.Snapshots.Prepare(ctx, d.name, parent)
	if err != nil {
		return nil, missIfGone(err)
	}
	if d.root, err = mount.Open(ctx, m); err != nil {
		_ = r.deps.Snapshots.Discard(context.WithoutCancel(ctx), d.name)
		return nil, err
	}
	return d, nil
}

// commit unmounts the draft and makes it a snapshot under a new ID, which is kept for the build.
func (d *draft) commit(ctx context.Context) (snapshot.ID, error) {
	id, err := d.end(ctx, (*lease.Lease).Reserve)
	if err == nil && id != "" && d.r.deps.DiffIDs != nil {
		d.r.deps.DiffIDs.Start(id)
	}
	return id, err
}

// leave is commit for what a failed step has written: nothing but the leases of builds will refer to it.
func (d *draft) leave(ctx context.Context) (snapshot.ID, error) {
	return d.end(ctx, (*lease.Lease).ReserveShort)
}

// end makes the draft a snapshot, which is reserved before it is there, so that no collection can come between. It returns
// "" for a draft that has ended.
func (d *draft) end(ctx context.Context, reserve func(*lease.Lease, context.Context, lease.Item) error) (id snapshot.ID, err error) {
	d.once.Do(func() {
		d.release()
		name := snapshot.ID(newName())
		if l := lease.From(ctx); l != nil {
			err = reserve(l, ctx, lease.ID(name))
		}
		if err == nil {
			err = d.commitAs(ctx, name)
		}
		if err != nil {
			_ = d.r.deps.Snapshots.Discard(context.WithoutCancel(ctx), d.name)
			return
		}
		id = name
	})
	return id, err
}

func (d *draft) commitAs(ctx context.Context, id snapshot.ID) error {
	if dc, ok := d.r.deps.Snapshots.(snapshot.DeltaCommitter); ok && d.of != (snapshot.Delta{}) {
		return dc.CommitDelta(ctx, d.name, id, d.of)
	}
	return d.r.deps.Snapshots.Commit(ctx, d.name, id)
}

// discard throws the draft away, unless it has been committed.
func (d *draft) discard(ctx context.Context) {
	d.once.Do(func() {
		d.release()
		_ = d.r.deps.Snapshots.Discard(context.WithoutCancel(ctx), d.name)
	})
}

// missIfGone turns an error of a snapshotter that says that the parent is gone into solver.ErrMiss.
func missIfGone(err error) error {
	if errors.Is(err, snapshot.ErrNotFound) {
		return solver.ErrMiss
	}
	return err
}

// lost says that inputs of a step are gone, if err says so of the input i, and is err otherwise.
func lost(err error, i int) error {
	if errors.Is(err, solver.ErrMiss) {
		return &solver.LostError{Inputs: []int{i}}
	}
	return err
}
