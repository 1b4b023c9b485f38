package builder

import (
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// An emitter sends the events of a build to its sink, one at a time.
type emitter struct {
	sink func(solver.Event)
	id   string // the build's: what it does is no other's, to a client that shows several

	mu    sync.Mutex // guards what follows, and the order of calls of sink
	def   *solver.Vertex
	steps int
	state map[*solver.Vertex]vertexState
	// same is, by recipe, the vertex that was met first. A build that is made piece by piece has others like it later.
	same map[solver.Key]*solver.Vertex
	// notes are, by name, the steps of the translation that were made last.
	notes map[string]*solver.Vertex
	// sources are the steps that fetch what the client has defined, by the digest that it knows.
	sources map[digest.Digest]*solver.Vertex
	file    string // the name of the user's file
	// parts are those of each vertex that have begun and not ended.
	parts map[*solver.Vertex][]solver.Status
}

func (e *emitter) emit(ev solver.Event) {
	if e.sink == nil {
		return
	}
	if untold(ev.Vertex) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if ev.Time.IsZero() {
		ev.Time = time.Now()
	}
	if e.state == nil {
		e.state = make(map[*solver.Vertex]vertexState)
		e.same = make(map[solver.Key]*solver.Vertex)
	}
	ev.Vertex = e.firstLocked(ev.Vertex)
	switch {
	case ev.Kind == solver.Cached && e.state[ev.Vertex] == implied:
		e.state[ev.Vertex] = ended
		return // that is what the user has been told
	case e.state[ev.Vertex] == ended && (ev.Kind == solver.Cached || ev.Kind == solver.Declared):
		return // as is what became of it
	case ev.Kind == solver.Started: // perhaps once more
		e.state[ev.Vertex] = told
	case ev.Kind == solver.Done:
		e.state[ev.Vertex] = ended
	case ev.Kind == solver.Declared:
		e.state[ev.Vertex] = max(e.state[ev.Vertex], declared)
	case ev.Kind == solver.Cached && ev.Hit == solver.RecipeHit:
		e.impliedLocked(ev)
		fallthrough
	default:
		e.state[ev.Vertex] = max(e.state[ev.Vertex], told)
		if ev.Kind == solver.Cached {
			e.state[ev.Vertex] = ended
		}
	}
	e.partsLocked(ev)
	e.sendLocked(ev)
}

// firstLocked returns the vertex that stands for v and all like it.
func (e *emitter) firstLocked(v *solver.Vertex) *solver.Vertex {
	if first, ok := e.same[v.Recipe()]; ok {
		return first
	}
	first := e.followLocked(v)
	if _, ok := v.Op().(*op.Git); ok {
		if step := e.noteLocked(v); step != nil {
			first = step // one step to people: what a ref means is asked, and then it is fetched
		}
	}
	e.same[v.Recipe()] = first
	return first
}

// untold says whether nothing is told of a vertex, because its work was shown as a step of the translation: reading a directory
// of the client's, and fetching a file to know what it is.
func untold(v *solver.Vertex) bool {
	if v.Meta().Hidden {
		return true
	}
	switch v.Op().(type) {
	case *op.Local:
		return true
	case *op.HTTP:
		return v.Meta().Internal
	}
	return false
}

// A vertexState is what the user has been told of a vertex.
type vertexState int

// The states, in order.
const (
	unknown  vertexState = iota
	declared             // that it exists
	implied              // that it is cached, since something that needs it is
	told                 // something that happened to it
	ended                // that it is done, or cached
)

// impliedLocked tells of the vertices that a hit made unnecessary, so that a user sees every step of the file: the
// solver never looked at them.
func (e *emitter) impliedLocked(hit solver.Event) {
	var order []*solver.Vertex
	met := map[*solver.Vertex]bool{hit.Vertex: true}
	stack := []*solver.Vertex{hit.Vertex}
	for len(stack) > 0 {
		v := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for _, in := range v.Inputs() {
			if untold(in.Vertex) {
				continue
			}
			below := e.firstLocked(in.Vertex)
			if met[below] || e.state[below] >= implied {
				continue
			}
			met[below] = true
			order = append(order, below)
			stack = append(stack, below)
		}
	}
	for _, v := range slices.Backward(order) {
		if e.state[v] == unknown {
			e.sink(solver.Event{Kind: solver.Declared, Time: hit.Time, Vertex: v})
		}
		e.state[v] = implied
		e.sendLocked(solver.Event{Kind: solver.Cached, Time: hit.Time, Vertex: v, Key: v.Recipe()})
	}
}
