package run

import (
	"testing"

	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// A namedTree is a tree that is only told apart.
type namedTree struct{ treehash.Tree }

// TestOwnTree checks that a build reads its own copy of a directory that several builds have: another one's goes when
// that build ends.
func TestOwnTree(t *testing.T) {
	r := New(Deps{})
	leases := lease.New()
	trees := make(map[string]*namedTree)
	for _, name := range []string{"first", "second"} {
		trees[name] = new(namedTree)
		l := leases.Acquire(name)
		defer l.Release()
		ctx := lease.With(t.Context(), l)
		remove := r.AddTree(ctx, "root", trees[name])
		if got, _, err := r.Open(ctx, "local:root"); err != nil || got != trees[name] {
			t.Errorf("the %s build reads another's directory (%v)", name, err)
		}
		defer func() {
			remove()
			remove()
		}()
	}
	third := leases.Acquire("third")
	defer third.Release()
	ctx := lease.With(t.Context(), third)
	if _, _, err := r.Open(ctx, "local:root"); err != nil {
		t.Errorf("a build without the directory is refused: %v", err)
	}
	if err := r.Hold(ctx, "local:root"); err != nil {
		t.Errorf("holding a directory that is there: %v", err)
	}
	for _, res := range []solver.Result{"local:other", "elsewhere:root", ""} {
		if err := r.Hold(ctx, res); err != solver.ErrMiss { //nolint:errorlint // it is not wrapped
			t.Errorf("holding %q: got %v, want ErrMiss", res, err)
		}
		if _, _, err := r.Open(ctx, res); err != solver.ErrMiss { //nolint:errorlint // it is not wrapped
			t.Errorf("opening %q: got %v, want ErrMiss", res, err)
		}
	}
}

// TestRemoveTree checks that a directory is there until the last build that has it ends.
func TestRemoveTree(t *testing.T) {
	r := New(Deps{})
	one := r.AddTree(t.Context(), "root", new(namedTree))
	two := r.AddTree(t.Context(), "root", &namedTree{Tree: new(namedTree)})
	one()
	one()
	if !r.trees.has("root") {
		t.Error("the directory has gone with the first of two builds")
	}
	two()
	if r.trees.has("root") || len(r.trees.m) != 0 {
		t.Error("the directory is still there")
	}
}
