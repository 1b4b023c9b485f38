package builder

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// sendLocked sends an event, and with it what BuildKit's clients know of an image: that it was resolved, as the first of its
// parts. That it need not be pulled does not make it a cached step: it has been looked for, and found.
func (e *emitter) sendLocked(ev solver.Event) {
	img, ok := ev.Vertex.Op().(*op.Image)
	switch {
	case ok && ev.Kind == solver.Started:
		e.sink(ev)
		e.resolvedLocked(ev, img)
	case ok && ev.Kind == solver.Cached:
		ev.Kind = solver.Started
		e.sink(ev)
		e.resolvedLocked(ev, img)
		ev.Kind = solver.Done
		e.sink(ev)
	default:
		e.sink(ev)
	}
}

// resolvedLocked tells that the image of ev's vertex is known: it was pinned before. Of what a client has defined that is told
// while it happens.
func (e *emitter) resolvedLocked(ev solver.Event, img *op.Image) {
	if known(ev.Vertex) != "" {
		return
	}
	e.sink(solver.Event{Kind: solver.Progress, Time: ev.Time, Vertex: ev.Vertex, Status: solver.Status{
		ID: "resolve " + shownRef(ev.Vertex.Name(), img), Started: ev.Time, Ended: ev.Time,
	}})
}

// partsLocked keeps account of the parts of ev's vertex, and ends with it those that have not: BuildKit's clients tell of no end
// while a part is under way.
func (e *emitter) partsLocked(ev solver.Event) {
	open := e.parts[ev.Vertex]
	switch ev.Kind {
	case solver.Progress:
		i := slices.IndexFunc(open, func(s solver.Status) bool { return s.ID == ev.Status.ID })
		switch {
		case i >= 0 && ev.Status.Ended.IsZero():
			open[i] = ev.Status
			return
		case i >= 0:
			open = slices.Delete(open, i, i+1)
		case ev.Status.Ended.IsZero():
			open = append(open, ev.Status)
		default:
			return
		}
		if e.parts == nil {
			e.parts = make(map[*solver.Vertex][]solver.Status)
		}
		e.parts[ev.Vertex] = open
	case solver.Done, solver.Cached, solver.Failed, solver.Canceled:
		delete(e.parts, ev.Vertex)
		for _, s := range open {
			s.Ended = ev.Time
			e.sink(solver.Event{Kind: solver.Progress, Time: ev.Time, Vertex: ev.Vertex, Status: s})
		}
	case solver.Declared, solver.Started, solver.Logged, solver.Warned:
	}
}

// blamed says of the failure of a vertex which one clients have been told of instead, if it was another.
func (e *emitter) blamed(err error) error {
	var failed *solver.VertexError
	if !errors.As(err, &failed) || failed.Vertex == nil {
		return err
	}
	e.mu.Lock()
	shown := e.same[failed.Vertex.Recipe()]
	e.mu.Unlock()
	if shown == nil || shown == failed.Vertex {
		return err
	}
	return &solver.VertexError{Vertex: failed.Vertex, Shown: shown, Err: err} // a new one: other builds may have had that
}

// shownRef is what a vertex calls its image, which is the last word of its name: "[1/2] FROM docker.io/library/a:1@sha256:…".
func shownRef(name string, img *op.Image) string {
	if last := name[strings.LastIndexByte(name, ' ')+1:]; strings.HasPrefix(last, img.Ref) {
		return last
	}
	if img.Digest == "" {
		return img.Ref
	}
	return img.Ref + "@" + string(img.Digest)
}

// noteLocked is the step of the translation as which the work of v was shown; nil if none was.
func (e *emitter) noteLocked(v *solver.Vertex) *solver.Vertex {
	switch v.Op().(type) {
	case *op.Local, *op.HTTP, *op.Git:
		return e.notes[v.Name()]
	}
	return nil
}

// followLocked returns v as clients are to see it: what it reads of the client's directories, and of what else was fetched as
// a step of the translation, follows from that step.
func (e *emitter) followLocked(v *solver.Vertex) *solver.Vertex {
	var inputs []solver.Input
	for i, in := range v.Inputs() {
		if step := e.noteLocked(in.Vertex); step != nil {
			if inputs == nil {
				inputs = append(inputs, v.Inputs()...)
			}
			inputs[i] = solver.Input{Vertex: step}
		}
	}
	if inputs == nil {
		return v
	}
	return solver.Recall(v.Recipe(), v.Op(), inputs, v.Meta())
}

// early makes the definition, which is to be known before it is read: as a step that has been done.
func (e *emitter) early() *solver.Vertex {
	v := e.vertex(loadDefinition + " from " + e.file)
	at := time.Now()
	for _, k := range []solver.EventKind{solver.Declared, solver.Started, solver.Done} {
		e.emit(solver.Event{Kind: k, Time: at, Vertex: v})
	}
	return v
}
