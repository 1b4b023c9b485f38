package solver_test

import (
	"context"
	"slices"
	"testing"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/solvertest"
)

// everything asks for every output of every vertex of g.
func everything(g *solvertest.Graph) []solver.Input {
	var out []solver.Input
	for _, name := range g.Names {
		v := g.Vertex(name)
		for i := range v.Outputs() {
			out = append(out, solver.Input{Vertex: v, Output: i})
		}
	}
	return out
}

// recipes returns the recipe keys of the vertices of g that have inputs.
func recipes(g *solvertest.Graph) map[solver.Key]bool {
	out := make(map[solver.Key]bool)
	for _, name := range g.Names {
		if v := g.Vertex(name); len(v.Inputs()) > 0 {
			out[v.Recipe()] = true
		}
	}
	return out
}

// stepsOnly is a cache that has no recipes.
type stepsOnly struct {
	solvertest.Cache
	recipes map[solver.Key]bool
}

func (c *stepsOnly) Get(ctx context.Context, k solver.Key) ([]solver.Result, error) {
	if c.recipes[k] {
		return nil, solver.ErrMiss
	}
	return c.Cache.Get(ctx, k)
}

// A rig is a solver on a world and a cache.
type rig struct {
	*testing.T
	w *solvertest.World
	c *solvertest.Cache
	s *solver.Solver
}

func newRig(t *testing.T, opts solver.Options) *rig {
	r := &rig{T: t, w: &solvertest.World{}, c: &solvertest.Cache{}}
	r.s = solver.New(r.w, r.c, opts)
	return r
}

// build solves targets, which must go well, and returns their values and what happened.
func (r *rig) build(targets []solver.Input) ([]int, *solvertest.Events) {
	r.Helper()
	out, events, err := solve(r.Context(), r.s, targets)
	if err != nil {
		r.Fatal(err)
	}
	r.check(events)
	return r.w.Values(out), events
}

// check checks that events are as they must always be.
func (r *rig) check(events *solvertest.Events) {
	r.Helper()
	check(r.T, events)
}

func check(t *testing.T, events *solvertest.Events) {
	t.Helper()
	for _, bad := range events.Check() {
		t.Error(bad)
	}
}

func solve(ctx context.Context, s *solver.Solver, targets []solver.Input) ([]solver.Result, *solvertest.Events, error) {
	events := &solvertest.Events{}
	out, err := s.Solve(ctx, &solver.Build{ID: "b", Targets: targets, Events: events.Add})
	return out, events, err
}

// stories checks what happened to vertices: pairs of a name and what Events.Story says of it.
func (r *rig) stories(events *solvertest.Events, want ...string) {
	r.Helper()
	for pair := range slices.Chunk(want, 2) {
		if got := events.Story(pair[0]); got != pair[1] {
			r.Errorf("%s: got %q, want %q", pair[0], got, pair[1])
		}
	}
}

func (r *rig) equal(got, want any) {
	r.Helper()
	if !equal(got, want) {
		r.Errorf("got %v, want %v", got, want)
	}
}
