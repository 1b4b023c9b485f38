package builder

import (
	"sync"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
)

// settled are the steps that have run in a build though the cache could have answered them. A build that is made piece by
// piece solves them again as parts of more; then they are answered, since without the cache means once a build.
type settled struct {
	mu   sync.Mutex
	keys map[solver.Key]bool
}

// add notes that what ins need has been made.
func (s *settled) add(ins []solver.Input) {
	seen := make(map[*solver.Vertex]bool)
	var walk func(ins []solver.Input)
	s.mu.Lock()
	defer s.mu.Unlock()
	walk = func(ins []solver.Input) {
		for _, in := range ins {
			v := in.Vertex
			if seen[v] {
				continue
			}
			seen[v] = true
			if v.Meta().IgnoreCache {
				if s.keys == nil {
					s.keys = make(map[solver.Key]bool)
				}
				s.keys[v.Recipe()] = true
			}
			walk(v.Inputs())
		}
	}
	walk(ins)
}

// relax returns ins with the cache allowed for what is settled. What needs no change stays the same.
func (s *settled) relax(ins []solver.Input) []solver.Input {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.keys) == 0 {
		return ins
	}
	return s.relaxLocked(ins, make(map[*solver.Vertex]*solver.Vertex))
}

func (s *settled) relaxLocked(ins []solver.Input, made map[*solver.Vertex]*solver.Vertex) []solver.Input {
	var out []solver.Input
	for i, in := range ins {
		v := s.vertexLocked(in.Vertex, made)
		if v == in.Vertex {
			continue
		}
		if out == nil {
			out = append(out, ins...)
		}
		out[i].Vertex = v
	}
	if out == nil {
		return ins
	}
	return out
}

func (s *settled) vertexLocked(v *solver.Vertex, made map[*solver.Vertex]*solver.Vertex) *solver.Vertex {
	if w, ok := made[v]; ok {
		return w
	}
	ins := s.relaxLocked(v.Inputs(), made)
	meta := v.Meta()
	same := len(ins) == 0 || &ins[0] == &v.Inputs()[0]
	w := v
	if fresh := meta.IgnoreCache && s.keys[v.Recipe()]; fresh || !same {
		meta.IgnoreCache = meta.IgnoreCache && !fresh
		w = solver.NewVertex(v.Op(), ins, meta)
	}
	made[v] = w
	return w
}

// settle allows the cache for what has been made while the output was being found.
func (e *env) settle(out *frontend.Output) { changeInputs(out, e.settled.relax) }

// changeInputs puts what f makes of the results that an output names into their places.
func changeInputs(out *frontend.Output, f func([]solver.Input) []solver.Input) {
	for i := range out.Images {
		img := &out.Images[i]
		if img.Root != nil {
			img.Root = &f([]solver.Input{*img.Root})[0]
		}
		img.Layers = f(img.Layers)
	}
}
