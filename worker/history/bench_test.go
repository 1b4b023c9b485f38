package history

import (
	"context"
	"fmt"
	"testing"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

// BenchmarkUnchanged is what recording adds to a build of fifty steps that are all in the cache.
func BenchmarkUnchanged(b *testing.B) {
	s, err := Open(Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	var steps []*solver.Vertex
	for i := range 50 {
		v := vertex(fmt.Sprintf("RUN true %d", i))
		if i > 0 {
			v = vertex(fmt.Sprintf("RUN true %d", i), steps[i-1])
		}
		steps = append(steps, v)
	}
	build := s.Wrap(script(func(_ context.Context, _ *worker.BuildRequest, send func(solver.Event)) (*worker.BuildResult, error) {
		for _, v := range steps {
			send(solver.Event{Kind: solver.Declared, Vertex: v})
		}
		for _, v := range steps {
			send(solver.Event{Kind: solver.Cached, Vertex: v, Key: v.Recipe(), Hit: solver.RecipeHit})
		}
		return &worker.BuildResult{}, nil
	}))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := build.Build(b.Context(), &worker.BuildRequest{}, nil); err != nil {
			b.Fatal(err)
		}
	}
}
