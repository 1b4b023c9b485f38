package builder

import (
	"testing"

	"github.com/boxbuild/boxbuild/solver"
)

// TestSettled checks that a step which ignores the cache does so until it has been made in this build, also as part of
// another graph, and that what is not concerned stays the very same.
func TestSettled(t *testing.T) {
	fresh := func(name string, below ...solver.Input) solver.Input {
		return solver.Input{Vertex: solver.NewVertex(&note{name: name}, below, solver.Meta{Name: name, IgnoreCache: true})}
	}
	plain := func(name string, below ...solver.Input) solver.Input {
		return solver.Input{Vertex: solver.NewVertex(&note{name: name}, below, solver.Meta{Name: name})}
	}
	var s settled
	base := plain("base")
	step := fresh("step", base)
	other := fresh("other", base)
	if got := s.relax([]solver.Input{step}); got[0] != step {
		t.Error("what has not been made is changed")
	}
	s.add([]solver.Input{step})
	top := plain("top", fresh("step", plain("base")), other) // another vertex for the same step
	got := s.relax([]solver.Input{top, base})
	below := got[0].Vertex.Inputs()
	switch {
	case below[0].Vertex.Meta().IgnoreCache:
		t.Error("what has been made is made again")
	case below[1] != other || got[1] != base:
		t.Error("what is not concerned is changed")
	case got[0].Vertex.Recipe() != top.Vertex.Recipe():
		t.Error("the key has changed")
	case below[0].Vertex.Name() != "step":
		t.Errorf("the step is called %q", below[0].Vertex.Name())
	}
}
