package llb

import (
	"iter"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// depthFirst goes through the vertices that targets need, each once, inputs first.
func depthFirst(targets []solver.Input) iter.Seq[*solver.Vertex] {
	type frame struct {
		v    *solver.Vertex
		next int
	}
	return func(yield func(*solver.Vertex) bool) {
		seen := make(map[*solver.Vertex]bool)
		var stack []frame
		push := func(v *solver.Vertex) {
			if !seen[v] {
				seen[v] = true
				stack = append(stack, frame{v: v})
			}
		}
		for _, t := range targets {
			push(t.Vertex)
			for len(stack) > 0 {
				f := &stack[len(stack)-1]
				if f.next < len(f.v.Inputs()) {
					f.next++
					push(f.v.Inputs()[f.next-1].Vertex)
					continue
				}
				v := f.v
				stack = stack[:len(stack)-1]
				if !yield(v) {
					return
				}
			}
		}
	}
}

// Claims returns the vertices of sources that targets need, inputs first: those that are pinned too, since in a definition
// from outside that is no more than a claim.
func Claims(targets ...solver.Input) (out []*solver.Vertex) {
	for v := range depthFirst(targets) {
		if _, ok := v.Op().(op.Source); ok {
			out = append(out, v)
		}
	}
	return out
}

// Replace returns targets with other operations for vertices, which must have as many outputs as the old ones. What needs
// none of these is kept as it is. What a vertex remembers of a definition is kept too.
func Replace(targets []solver.Input, with map[*solver.Vertex]solver.Op) []solver.Input {
	now := make(map[*solver.Vertex]*solver.Vertex)
	for v := range depthFirst(targets) {
		o, changed := with[v]
		if !changed {
			o = v.Op()
		}
		inputs := v.Inputs()
		for i, in := range inputs {
			if now[in.Vertex] == in.Vertex {
				continue
			}
			if !changed || &inputs[0] == &v.Inputs()[0] {
				inputs, changed = append([]solver.Input(nil), inputs...), true
			}
			inputs[i].Vertex = now[in.Vertex]
		}
		now[v] = v
		if changed {
			now[v] = solver.NewVertex(o, inputs, v.Meta())
		}
	}
	out := append([]solver.Input(nil), targets...)
	for i := range out {
		out[i].Vertex = now[out[i].Vertex]
	}
	return out
}
