package run

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/snapshot/mount"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run/fileop"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// trees are the directories of clients that the builds which run now have pinned, by Merkle root. Trees of equal roots
// are equal, so any of them will do; but each is there only until the build that added it has ended, so a step reads the
// one of the build that it runs for.
type trees struct {
	mu sync.Mutex // guards m
	m  map[string][]ownedTree
}

// An ownedTree is a tree and the lease of the build that added it, which may be nil.
type ownedTree struct {
	treehash.Tree
	owner *lease.Lease
}

// AddTree makes tree the content of the pinned op.Local with that root, until remove is called. It belongs to the build
// whose lease ctx carries.
func (r *Runner) AddTree(ctx context.Context, root string, tree treehash.Tree) (remove func()) {
	t := &r.trees
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = make(map[string][]ownedTree)
	}
	t.m[root] = append(t.m[root], ownedTree{tree, lease.From(ctx)})
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		kept := t.m[root][:0:0]
		for _, x := range t.m[root] {
			if x.Tree != tree {
				kept = append(kept, x)
			}
		}
		if t.m[root] = kept; len(kept) == 0 {
			delete(t.m, root)
		}
	})
}

func (t *trees) has(root string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.m[root]) > 0
}

// get returns a tree with that root: that of owner, if it has one.
func (t *trees) get(root string, owner *lease.Lease) (treehash.Tree, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.m[root]
	if len(s) == 0 {
		return nil, false
	}
	i := max(0, slices.IndexFunc(s, func(x ownedTree) bool { return x.owner == owner }))
	return s[i].Tree, true
}

func (r *Runner) runLocal(l *op.Local) ([]solver.Result, error) {
	if !r.trees.has(l.Root) {
		return nil, fmt.Errorf("reading %s: the client that offered it has gone", l)
	}
	return []solver.Result{solver.Result(localPrefix + l.Root)}, nil
}

// Open gives the tree that res names for reading, until close is called. It returns solver.ErrMiss if it is gone.
func (r *Runner) Open(ctx context.Context, res solver.Result) (tree treehash.Tree, closeTree func(), err error) {
	if root, ok := strings.CutPrefix(string(res), localPrefix); ok {
		t, ok := r.trees.get(root, lease.From(ctx))
		if !ok {
			return nil, nil, solver.ErrMiss
		}
		return t, func() {}, nil
	}
	id, ok := SnapshotOf(res)
	if !ok {
		return nil, nil, solver.ErrMiss
	}
	if id == "" {
		return fileop.EmptyTree(), func() {}, nil
	}
	f, done, err := r.view(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	t, err := r.deps.Hashes.Snapshot("s-"+string(id), f)
	if err != nil {
		done()
		return nil, nil, err
	}
	return t, func() {
		t.Close()
		done()
	}, nil
}

// view mounts a snapshot for reading, "" being the empty tree. An error that says that it does not exist is solver.ErrMiss.
func (r *Runner) view(ctx context.Context, id snapshot.ID) (f *os.File, done func(), err error) {
	d := snapshot.Draft(newName())
	prepare := r.deps.Snapshots.View
	if id == "" {
		prepare = r.deps.Snapshots.Prepare // there is nothing to view, but a draft of nothing is empty
	}
	m, err := prepare(ctx, d, id)
	if err != nil {
		return nil, nil, missIfGone(err)
	}
	discard := func() { _ = r.deps.Snapshots.Discard(context.WithoutCancel(ctx), d) }
	if f, err = mount.Open(ctx, m, mount.ReadOnly()); err != nil {
		discard()
		return nil, nil, err
	}
	return f, func() { f.Close(); discard() }, nil
}

// Digest implements solver.Runner.
func (r *Runner) Digest(ctx context.Context, res solver.Result, sel *solver.Selector) (solver.Digest, error) {
	if sel == nil {
		if root, ok := strings.CutPrefix(string(res), localPrefix); ok {
			var d solver.Digest
			if b, err := hex.DecodeString(root); err == nil && len(b) == len(d) {
				copy(d[:], b)
				return d, nil
			}
		}
		sel = &solver.Selector{}
	}
	tree, done, err := r.Open(ctx, res)
	if err != nil {
		return solver.Digest{}, err
	}
	defer done()
	return treehash.Digest(ctx, tree, sel)
}
