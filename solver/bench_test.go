package solver_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/solvertest"
)

// BenchmarkSolve measures the solver's own cost: steps that take no time and a cache in memory. Cold runs every step;
// cut finds every step but the first ones by its step key, after one that had to be looked at again; hit finds the
// target by its recipe.
func BenchmarkSolve(b *testing.B) {
	for _, n := range []int{1000, 10_000, 100_000} {
		for _, shape := range []struct {
			name  string
			graph *solvertest.Graph
		}{
			{"chain", solvertest.Chain(n)},
			{"wide", solvertest.Wide(n)},
			{"random", solvertest.Random(rand.New(rand.NewPCG(1, 2)), n)},
		} {
			target := everything(shape.graph)
			solve := func(b *testing.B, s *solver.Solver) {
				if _, err := s.Solve(b.Context(), &solver.Build{Targets: target}); err != nil {
					b.Fatal(err)
				}
			}
			b.Run(fmt.Sprintf("%s/%d/cold", shape.name, n), func(b *testing.B) {
				for b.Loop() {
					solve(b, solver.New(&solvertest.World{}, &solvertest.Cache{}, solver.Options{}))
				}
			})
			b.Run(fmt.Sprintf("%s/%d/cut", shape.name, n), func(b *testing.B) {
				c := &stepsOnly{recipes: recipes(shape.graph)}
				s := solver.New(&solvertest.World{}, c, solver.Options{})
				solve(b, s)
				for b.Loop() {
					solve(b, s)
				}
			})
			b.Run(fmt.Sprintf("%s/%d/hit", shape.name, n), func(b *testing.B) {
				s := solver.New(&solvertest.World{}, &solvertest.Cache{}, solver.Options{})
				solve(b, s)
				for b.Loop() {
					solve(b, s)
				}
			})
		}
	}
}
