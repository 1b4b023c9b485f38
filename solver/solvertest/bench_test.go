package solvertest_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/solvertest"
)

// BenchmarkSolve measures the solver's own cost: steps that take no time, a cache in memory. Cold runs every step; warm
// finds each step by its step key, since the first vertices ignore the cache; hit finds the target by its recipe.
func BenchmarkSolve(b *testing.B) {
	for _, n := range []int{1000, 10_000, 100_000} {
		graphs := map[string]*solvertest.Graph{
			"chain":  solvertest.Chain(n),
			"wide":   solvertest.Wide(n),
			"random": solvertest.Random(rand.New(rand.NewPCG(1, 2)), n),
		}
		for _, name := range []string{"chain", "wide", "random"} {
			g := graphs[name]
			target := []solver.Input{{Vertex: g.Vertex(g.Names[n-1])}}
			b.Run(fmt.Sprintf("%s/%d/cold", name, n), func(b *testing.B) {
				for b.Loop() {
					s := solver.New(&solvertest.World{}, &solvertest.Cache{}, solver.Options{})
					if _, err := s.Solve(b.Context(), &solver.Build{Targets: target}); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run(fmt.Sprintf("%s/%d/hit", name, n), func(b *testing.B) {
				s := solver.New(&solvertest.World{}, &solvertest.Cache{}, solver.Options{})
				for b.Loop() {
					if _, err := s.Solve(b.Context(), &solver.Build{Targets: target}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
