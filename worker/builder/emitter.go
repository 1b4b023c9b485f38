package builder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/proto/llb"
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

// A progress reports the parts of a step.
type progress struct {
	e *emitter
	v *solver.Vertex
}

func (p *progress) status(s solver.Status) {
	p.e.emit(solver.Event{Kind: solver.Progress, Vertex: p.v, Status: s})
}

// part reports a part that has no size while fn runs.
func (p *progress) part(id string, fn func() error) error {
	defer p.begin(id)()
	return fn()
}

// begin reports a part that has no size until end is called, the first time.
func (p *progress) begin(id string) (end func()) {
	s := solver.Status{ID: id, Started: time.Now()}
	p.status(s)
	return sync.OnceFunc(func() {
		s.Ended = time.Now()
		p.status(s)
	})
}

// made reports the documents of an image, in BuildKit's words.
func (p *progress) made(c exporter.Contents) {
	for i, d := range c.Manifests {
		p.begin("exporting manifest " + string(d))()
		p.begin("exporting config " + string(c.Configs[i]))()
	}
	if c.Index != "" {
		p.begin("exporting manifest list " + string(c.Index))()
	}
}

// step runs fn as a vertex called name.
func (e *emitter) step(ctx context.Context, name string, fn func(context.Context, *progress) error) error {
	return e.run(ctx, e.vertex(name), fn)
}

// run runs fn as what v is.
func (e *emitter) run(ctx context.Context, v *solver.Vertex, fn func(context.Context, *progress) error) error {
	e.emit(solver.Event{Kind: solver.Declared, Vertex: v})
	e.emit(solver.Event{Kind: solver.Started, Vertex: v})
	err := fn(ctx, &progress{e, v})
	e.end(ctx, v, err)
	return err
}

// end tells how the work of v ended.
func (e *emitter) end(ctx context.Context, v *solver.Vertex, err error) {
	switch {
	case err == nil:
		e.emit(solver.Event{Kind: solver.Done, Vertex: v})
	case isCanceled(err), ctx.Err() != nil && errors.Is(err, context.Cause(ctx)): // what failed is something else
		e.emit(solver.Event{Kind: solver.Canceled, Vertex: v, Err: err})
	default:
		e.emit(solver.Event{Kind: solver.Failed, Vertex: v, Err: err})
	}
}

// leftOut warns that a command has made a file which is in no layer. Of those that COPY and ADD make the step itself warns.
func (e *emitter) leftOut(v *solver.Vertex, file string) {
	if _, ok := v.Op().(*op.Exec); !ok {
		return
	}
	e.emit(solver.Event{Kind: solver.Warned, Time: time.Now(), Vertex: v, Warning: solver.Warning{
		Short:  fmt.Sprintf("%q is left out of the image: in a layer, a name that begins with \".wh.\" removes another file", file),
		Detail: []string{"Rename the file. Later steps of this build still see it."},
		Source: v.Meta().Source,
	}})
}
