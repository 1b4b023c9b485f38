package builder

import (
	"slices"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
)

// The steps that warnings about requests belong to.
const (
	stepReading = "[internal] reading the request"
	stepChosen  = "[internal] reading the outputs that the client has chosen"
	stepMissing = "[internal] checking what is not done"

	stepPlatforms = "[internal] checking the platforms of the result"
)

// hasResult says whether there is an image or a tree in what a frontend made. Clients that direct a build themselves may only
// ask something, and return nothing.
func hasResult(out *frontend.Output) bool {
	return slices.ContainsFunc(out.Images, func(i frontend.Image) bool {
		return i.Root != nil || i.Raw != nil || len(i.Config.History) > 0
	})
}

// remark reports warnings about the request as a step of their own.
func (e *emitter) remark(step string, warnings []solver.Warning) {
	if len(warnings) == 0 {
		return
	}
	v := e.note(step)
	e.emit(solver.Event{Kind: solver.Declared, Vertex: v})
	e.emit(solver.Event{Kind: solver.Started, Vertex: v})
	for _, w := range warnings {
		e.emit(solver.Event{Kind: solver.Warned, Vertex: v, Warning: w})
	}
	e.emit(solver.Event{Kind: solver.Done, Vertex: v})
}
