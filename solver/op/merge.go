package op

import "github.com/boxbuild/boxbuild/solver"

// Merge lays its inputs over one another, the last on top. It has one output.
type Merge struct{}

// WriteKey implements solver.Op.
func (*Merge) WriteKey(h *solver.Hasher) { h.Version("merge", 1) }

func (*Merge) String() string { return "merge" }

// Diff is what turns its first input into its second, as a tree with deletions. Lower and Upper say whether the first
// and second input are there; an absent one is an empty tree.
type Diff struct{ Lower, Upper bool }

// WriteKey implements solver.Op.
func (d *Diff) WriteKey(h *solver.Hasher) {
	h.Version("diff", 1)
	h.Bool("lower", d.Lower)
	h.Bool("upper", d.Upper)
}

func (*Diff) String() string { return "diff" }
