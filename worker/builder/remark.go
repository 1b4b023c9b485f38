package builder

import "github.com/boxbuild/boxbuild/solver"

// remark reports warnings about the request as a step of their own, before anything else happens.
func (e *emitter) remark(warnings []solver.Warning) {
	if len(warnings) == 0 {
		return
	}
	v := e.note("[internal] reading the request")
	e.emit(solver.Event{Kind: solver.Declared, Vertex: v})
	e.emit(solver.Event{Kind: solver.Started, Vertex: v})
	for _, w := range warnings {
		e.emit(solver.Event{Kind: solver.Warned, Vertex: v, Warning: w})
	}
	e.emit(solver.Event{Kind: solver.Done, Vertex: v})
}
