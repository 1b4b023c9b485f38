package builder

import (
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/proto/llb"
	"github.com/boxbuild/boxbuild/solver"
)

// A note is the operation of a vertex that only tells what the builder is doing.
type note struct {
	name string
	of   string // the build, or what is asked
	n    int
}

func (n *note) WriteKey(h *solver.Hasher) {
	h.Version("note", 2)
	h.Str("name", n.name)
	h.Str("of", n.of)
	h.Int("n", int64(n.n))
}

func (n *note) String() string { return n.name }

// A knownNote is one that has the digest of a vertex of the client's.
type knownNote struct {
	note
	known digest.Digest
}

// VertexDigest returns what the client knows it by.
func (n *knownNote) VertexDigest() digest.Digest { return n.known }

// loadDefinition is the name of the vertex that warnings about a Dockerfile belong to, up to the file's name.
const loadDefinition = "[internal] load build definition"

// vertex makes a vertex that is shown under name, or returns the definition, if that is its name.
func (e *emitter) vertex(name string) *solver.Vertex {
	e.mu.Lock()
	def := e.def
	e.mu.Unlock()
	if def != nil && def.Name() == name && strings.HasPrefix(name, loadDefinition) {
		return def
	}
	v := e.note(name)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.notes == nil {
		e.notes = make(map[string]*solver.Vertex)
	}
	e.notes[name] = v
	if e.def == nil || strings.HasPrefix(name, loadDefinition) {
		e.def = v
	}
	return v
}

// source makes a vertex that is shown as v is, which the client knows by a digest. If it has been made, it is the one that there
// is, and done says whether it is done.
func (e *emitter) source(v *solver.Vertex, known digest.Digest) (s *solver.Vertex, done bool) {
	m := v.Meta()
	m.Name, m.Internal = v.Name(), true
	definition := strings.HasPrefix(m.Name, loadDefinition)
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := e.sources[known]; s != nil {
		return s, e.state[s] == ended
	}
	if definition && e.def != nil && e.def.Name() == m.Name {
		return e.def, false // it was to be known early
	}
	e.steps++
	s = solver.NewVertex(&knownNote{note{m.Name, e.id, e.steps}, known}, nil, m)
	if e.sources == nil {
		e.sources = make(map[digest.Digest]*solver.Vertex)
	}
	e.sources[known] = s
	if e.def == nil || definition {
		e.def = s
	}
	return s, false
}

// note makes a vertex that is shown under name, and that no warnings of the user's file belong to.
func (e *emitter) note(name string) *solver.Vertex {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.steps++
	return solver.NewVertex(&note{name, e.id, e.steps}, nil, solver.Meta{Name: name, Internal: true})
}

// asking makes the vertex, shown under name, of a question that other builds ask, too. They have the same one.
func (e *emitter) asking(name string, question solver.Key) *solver.Vertex {
	v := solver.NewVertex(&note{name: name, of: question.String()}, nil, solver.Meta{Name: name, Internal: true})
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.def == nil {
		e.def = v
	}
	return v
}

// named is the vertex that the client calls that, if it has been told of one, or else the definition.
func (e *emitter) named(id string) *solver.Vertex {
	if id == "" {
		return e.definition()
	}
	e.mu.Lock()
	for v := range e.state {
		if known(v) == id {
			e.mu.Unlock()
			return v
		}
	}
	e.mu.Unlock()
	return e.definition()
}

// known is the digest by which a client knows v that has defined it; empty if none has.
func known(v *solver.Vertex) string {
	if n, ok := v.Op().(*knownNote); ok {
		return string(n.known)
	}
	d, _ := llb.Decoded(v)
	return string(d)
}

// definition is the vertex that warnings about the user's file belong to.
func (e *emitter) definition() *solver.Vertex {
	e.mu.Lock()
	v := e.def
	e.mu.Unlock()
	if v == nil {
		v = e.early()
	}
	return v
}
