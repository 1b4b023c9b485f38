package llb

import (
	"strings"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// maxName bounds a name that is made of others', in bytes: merges of merges would have names as long as the graph is
// big, and longer.
const maxName = 256

// name returns what BuildKit calls an operation that has no name of its own.
func name(o solver.Op, inputs []solver.Input) string {
	var b strings.Builder
	switch o := o.(type) {
	case *op.File:
		for i := range o.Actions {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(actionName(&o.Actions[i]))
			if b.Len() > maxName {
				break
			}
		}
	case *op.Merge:
		b.WriteString("merge (")
		for i, in := range inputs {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(in.Vertex.Name())
			if b.Len() > maxName {
				break
			}
		}
		b.WriteString(")")
	case *op.Diff:
		lower, upper := "scratch", "scratch"
		if o.Lower {
			lower, inputs = "("+inputs[0].Vertex.Name()+")", inputs[1:]
		}
		if o.Upper {
			upper = "(" + inputs[0].Vertex.Name() + ")"
		}
		b.WriteString("diff " + lower + " -> " + upper)
	case *op.Build:
		return "build"
	default:
		return o.String()
	}
	if b.Len() > maxName {
		return strings.ToValidUTF8(b.String()[:maxName], "") + "…"
	}
	return b.String()
}

func actionName(a *op.FileAction) string {
	if a.Symlink != nil {
		return "symlink " + a.Symlink.New + " -> " + a.Symlink.Old
	}
	return (&op.File{Actions: []op.FileAction{*a}}).String()
}
