package dockerfile

import (
	"context"
	"sync"

	"github.com/boxbuild/boxbuild/solver"
)

// A shared is what the translations for several platforms have in common, so that nothing is asked twice and what is
// equal is one vertex.
type shared struct {
	mu     sync.Mutex // guards the maps, not the functions in them
	images map[string]func() (*origin, error)
	trees  map[string]func() (solver.Input, error)
	epochs map[solver.Key]func(context.Context) (epoch, error) // by source

	vertices map[vertexID]*solver.Vertex // used by one goroutine
}

// A vertexID says which vertices are equal.
type vertexID struct {
	recipe  solver.Key
	noCache bool
}

// image returns the function that answers for key: f, if it is the first.
func (s *shared) image(key string, f func() (*origin, error)) func() (*origin, error) {
	return first(&s.mu, &s.images, key, sync.OnceValues(f))
}

// tree is image for trees.
func (s *shared) tree(key string, f func() (solver.Input, error)) func() (solver.Input, error) {
	return first(&s.mu, &s.trees, key, sync.OnceValues(f))
}

// first returns what is in the map under key, which is v if nothing was.
func first[K comparable, V any](mu *sync.Mutex, m *map[K]V, key K, v V) V {
	mu.Lock()
	defer mu.Unlock()
	if old, ok := (*m)[key]; ok {
		return old
	}
	if *m == nil {
		*m = map[K]V{}
	}
	(*m)[key] = v
	return v
}

// vertex makes a vertex, or returns one that is there already: what is equal is in the graph once, under the name that
// it had first.
func (s *shared) vertex(o solver.Op, inputs []solver.Input, meta solver.Meta) *solver.Vertex {
	v := solver.NewVertex(o, inputs, meta)
	id := vertexID{v.Recipe(), meta.IgnoreCache}
	if old, ok := s.vertices[id]; ok {
		return old
	}
	if s.vertices == nil {
		s.vertices = map[vertexID]*solver.Vertex{}
	}
	s.vertices[id] = v
	return v
}
