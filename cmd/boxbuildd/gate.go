package main

import (
	"context"
	"sync"
	"time"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

// A gate is the builder as all services have it: it counts the builds, whoever asked for them, and lets no more in when
// the daemon goes down. It is safe for concurrent use.
type gate struct {
	builder worker.Builder

	mu      sync.Mutex // guards all below
	closed  bool
	running map[*context.CancelCauseFunc]struct{}
	last    time.Time     // when there was no build left
	empty   chan struct{} // closed once closed and nothing runs
}

func newGate(b worker.Builder) *gate {
	return &gate{builder: b, running: map[*context.CancelCauseFunc]struct{}{}, last: time.Now(), empty: make(chan struct{})}
}

// Build implements worker.Builder.
func (g *gate) Build(
	ctx context.Context, req *worker.BuildRequest, events func(solver.Event),
) (*worker.BuildResult, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := g.enter(&cancel); err != nil {
		return nil, err
	}
	defer g.leave(&cancel)
	return g.builder.Build(ctx, req, events)
}

func (g *gate) enter(cancel *context.CancelCauseFunc) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return worker.ErrDraining
	}
	g.running[cancel] = struct{}{}
	return nil
}

func (g *gate) leave(cancel *context.CancelCauseFunc) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.running, cancel)
	if len(g.running) == 0 {
		g.last = time.Now()
		if g.closed {
			close(g.empty)
		}
	}
}

// shut lets no build in any more. It returns how many run.
func (g *gate) shut() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed && len(g.running) == 0 {
		close(g.empty)
	}
	g.closed = true
	return len(g.running)
}

// draining says whether the gate is shut.
func (g *gate) draining() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

// cancel ends what runs.
func (g *gate) cancel() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.running {
		(*c)(worker.ErrDraining)
	}
}

// idle returns since when no build has been running; false if one is.
func (g *gate) idle() (time.Time, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.last, len(g.running) == 0
}

// wait returns once the gate is shut and no build is left, or ctx is done.
func (g *gate) wait(ctx context.Context) error {
	select {
	case <-g.empty:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
