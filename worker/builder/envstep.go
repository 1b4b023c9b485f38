package builder

import (
	"context"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run"
)

// Step implements frontend.Env.
func (e *env) Step(ctx context.Context, name string, fn func(ctx context.Context) error) error {
	return e.em.step(ctx, name, func(ctx context.Context, p *progress) error {
		return fn(run.WithStatus(ctx, p.status))
	})
}

// AskStep implements frontend.Asker.
func (e *env) AskStep(ctx context.Context, name string, src op.Source, fn func(ctx context.Context) error) error {
	return e.em.run(ctx, e.em.asking(name, keyOf(src)), func(ctx context.Context, p *progress) error {
		return fn(run.WithStatus(ctx, p.status))
	})
}

// SourceStep implements frontend.SourceStepper. What has been done once is told once, as BuildKit does it once.
func (e *env) SourceStep(ctx context.Context, v *solver.Vertex, known digest.Digest, part string, fn func(ctx context.Context) error) error {
	step, done := e.em.source(v, known)
	if done {
		err := fn(ctx)
		if err != nil {
			e.em.end(ctx, step, err)
		}
		return err
	}
	return e.em.run(ctx, step, func(ctx context.Context, p *progress) error {
		if part != "" {
			defer p.begin(part)()
		}
		return fn(run.WithStatus(ctx, p.status))
	})
}

// LoggedStep implements frontend.Logger.
func (e *env) LoggedStep(ctx context.Context, name string, fn func(ctx context.Context, log io.Writer) error) error {
	l := &logged{e: e.em, v: e.em.vertex(name), began: time.Now()}
	err := fn(ctx, l)
	if l.told.Load() {
		e.em.end(ctx, l.v, err)
	}
	return err
}

// Warn implements frontend.Env.
func (e *env) Warn(w solver.Warning) {
	e.em.emit(solver.Event{Kind: solver.Warned, Time: time.Now(), Vertex: e.em.named(w.Vertex), Warning: w})
}
