package builder

import (
	"slices"
	"strings"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// makers returns the vertices that have made the n uppermost layers of an image, lowest first. Those are nil of which it is
// not known, such as what a merge was put together from.
func makers(img *frontend.Image, n int) []*solver.Vertex {
	var out []*solver.Vertex
	next := img.Root
	for _, in := range slices.Backward(img.Layers) {
		out, next = append(out, in.Vertex), under(in)
	}
	for ; next != nil && len(out) < n; next = under(*next) {
		out = append(out, next.Vertex)
	}
	out = append(out, make([]*solver.Vertex, max(n-len(out), 0))...)[:n]
	slices.Reverse(out)
	return out
}

// under returns the tree onto which in puts a layer; nil if that is none, or not one.
func under(in solver.Input) *solver.Input {
	input := op.NoInput
	switch o := in.Vertex.Op().(type) {
	case *op.File:
		input = o.Actions[0].Input // the other actions go on with what that has made
	case *op.Exec:
		for _, m := range o.Mounts {
			if m.Output == in.Output {
				input = m.Input
			}
		}
	}
	if input < 0 || input >= len(in.Vertex.Inputs()) {
		return nil
	}
	return &in.Vertex.Inputs()[input]
}

// createdBy is what BuildKit says of a layer for which there is no instruction.
func createdBy(v *solver.Vertex) string {
	if v == nil {
		return ""
	}
	switch o := v.Op().(type) {
	case *op.HTTP:
		return "http url " + op.RedactURL(o.URL)
	case *op.Git:
		return "git snapshot for " + op.RedactGit(o.Remote) + "#" + o.Ref
	case *op.Local:
		return "local source for " + o.Name
	case *op.Exec:
		return "mount / from exec " + strings.Join(o.Meta.Args, " ")
	}
	return v.Meta().Name
}
