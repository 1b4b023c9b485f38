package run_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run"
)

// snapshots returns the IDs of all snapshots.
func (r *rig) snapshots() []snapshot.ID {
	r.t.Helper()
	var out []snapshot.ID
	for info, err := range r.snaps.All(r.t.Context()) {
		if err != nil {
			r.t.Fatal(err)
		}
		out = append(out, info.ID)
	}
	slices.Sort(out)
	return out
}

// TestLeft checks that a failed step keeps what it wrote in a build that wants it, as long as that lasts, and nothing in
// any other.
func TestLeft(t *testing.T) {
	r := newRig(t)
	base := r.busybox()
	r.run(base)
	before := r.snapshots()
	script := sh(base, "echo x > /left; echo y > /o/left; exit 3", op.ExecMount{Dest: "/o", Input: op.NoInput, Output: 1},
		op.ExecMount{Dest: "/t", Input: op.NoInput, Output: op.NoOutput, Type: op.MountTmpfs})
	copied := solver.NewVertex(&op.File{Actions: []op.FileAction{
		{Input: 0, Second: op.NoInput, Output: op.NoOutput, Mkfile: &op.Mkfile{Path: "/left", Mode: 0o644}},
		{Input: 1, Second: op.NoInput, Output: 0, Rm: &op.Rm{Path: "/none"}},
	}}, []solver.Input{{Vertex: base}}, solver.Meta{Name: "copy"})
	absent := sh(base, "true")
	unstarted := *absent.Op().(*op.Exec)
	unstarted.Meta.Args = []string{"/no/such"}
	for name, tc := range map[string]struct {
		v    *solver.Vertex
		left []bool
	}{
		"process": {script, []bool{true, true, false}},
		"files":   {copied, []bool{false, true}},
		"start":   {solver.NewVertex(&unstarted, []solver.Input{{Vertex: base}}, solver.Meta{Name: "no such"}), []bool{true}},
	} {
		now := r.snapshots() // with what the cases before have left
		_, err := r.solve(t.Context(), tc.v)
		var left *solver.LeftError
		if err == nil || errors.As(err, &left) {
			t.Errorf("%s: nobody wants it, and the error is %#v", name, err)
		}
		if got := r.snapshots(); !slices.Equal(got, now) {
			t.Errorf("%s: nobody wants it, and there are %v", name, got)
		}
		_, err = r.solve(solver.KeepLeft(t.Context()), tc.v)
		if !errors.As(err, &left) || len(left.Left) != len(tc.left) {
			t.Errorf("%s: got %#v", name, err)
			continue
		}
		for i, x := range left.Left {
			id, ok := run.SnapshotOf(x)
			if ok != tc.left[i] || ok && !slices.Contains(r.snapshots(), id) {
				t.Errorf("%s: %q is left of %d", name, x, i)
			}
		}
	}
	if err := r.leases.Sweep(t.Context()); err != nil || len(r.snapshots()) <= len(before) {
		t.Errorf("gone while the build lasts: %v", err)
	}
	r.lease.Release()
	if err := r.leases.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if got := r.snapshots(); !slices.Equal(got, before) {
		t.Errorf("after the build there are %v, want %v", got, before)
	}
}
