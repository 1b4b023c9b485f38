package history

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/solver"
)

// A replay makes events of the entries of one log, in their order.
type replay struct {
	vertices []*solver.Vertex // by number, less 1
	others   map[solver.Key]*solver.Vertex
}

// A past is the operation of a vertex of the past.
type past struct {
	text   string
	digest digest.Digest
}

// VertexDigest returns what BuildKit's clients know the vertex by.
func (p past) VertexDigest() digest.Digest { return p.digest }

// WriteKey implements solver.Op. It is never called for the key of the vertex, which is known.
func (p past) WriteKey(h *solver.Hasher) {
	h.Version("past", 1)
	h.Str("text", p.text)
}

func (p past) String() string { return p.text }

// event returns the event that an entry tells of.
func (r *replay) event(h head, body []byte) (ev solver.Event, err error) {
	ev.Time = h.time
	if h.kind == kindDeclared {
		ev.Kind = solver.Declared
		ev.Vertex, err = r.declare(h, body)
		return ev, err
	}
	if n := int(h.vertex); n > 0 {
		if n > len(r.vertices) {
			return ev, fmt.Errorf("reading the log of a build: there is no vertex %d", n)
		}
		ev.Vertex = r.vertices[n-1]
	}
	var key keyEvent
	switch h.kind {
	case kindStarted, kindCached:
		ev.Kind = solver.Started
		if h.kind == kindCached {
			ev.Kind = solver.Cached
		}
		if err = document(body, &key); err == nil && key.Key != "" {
			ev.Key, err = solver.ParseKey(key.Key)
		}
		ev.Hit = key.Hit
	case kindDone:
		ev.Kind = solver.Done
	case kindFailed, kindCanceled:
		ev.Kind = solver.Failed
		if h.kind == kindCanceled {
			ev.Kind = solver.Canceled
		}
		if len(body) > 0 {
			failed := &Error{}
			err = document(body, failed)
			ev.Err = failed
		}
	case kindLogged:
		ev.Kind, ev.Stream, ev.Data = solver.Logged, solver.Stream(h.stream), body
	case kindProgress:
		ev.Kind = solver.Progress
		err = document(body, &ev.Status)
	case kindWarned:
		ev.Kind = solver.Warned
		err = document(body, &ev.Warning)
	default:
		err = fmt.Errorf("reading the log of a build: entry of unknown kind %d", h.kind)
	}
	return ev, err
}

func document(body []byte, into any) error {
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("reading the log of a build: %w", err)
	}
	return nil
}

// declare makes the vertex that an entry declares.
func (r *replay) declare(h head, body []byte) (*solver.Vertex, error) {
	var d declaration
	if err := document(body, &d); err != nil {
		return nil, err
	}
	key, err := solver.ParseKey(d.Key)
	if err != nil {
		return nil, err
	}
	if int(h.vertex) != len(r.vertices)+1 {
		return nil, fmt.Errorf("reading the log of a build: vertex %d is declared as the %dth", h.vertex, len(r.vertices)+1)
	}
	inputs := make([]solver.Input, len(d.Inputs))
	for i, in := range d.Inputs {
		inputs[i].Output = in.Output
		switch {
		case in.Vertex == 0:
			if inputs[i].Vertex, err = r.other(in.Key); err != nil {
				return nil, err
			}
		case int(in.Vertex) > len(r.vertices):
			return nil, fmt.Errorf("reading the log of a build: there is no vertex %d", in.Vertex)
		default:
			inputs[i].Vertex = r.vertices[in.Vertex-1]
		}
	}
	v := solver.Recall(key, past{d.Op, d.digest(key)}, inputs, d.meta())
	r.vertices = append(r.vertices, v)
	return v, nil
}

// other returns the vertex of that key, which was not declared.
func (r *replay) other(text string) (*solver.Vertex, error) {
	key, err := solver.ParseKey(text)
	if err != nil {
		return nil, err
	}
	v := r.others[key]
	if v == nil {
		if r.others == nil {
			r.others = map[solver.Key]*solver.Vertex{}
		}
		v = solver.Recall(key, past{digest: keyDigest(key)}, nil, solver.Meta{Internal: true})
		r.others[key] = v
	}
	return v, nil
}
