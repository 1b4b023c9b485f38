package builder

import (
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
