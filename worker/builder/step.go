package builder

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

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
