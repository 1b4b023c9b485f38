package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

// until is a builder whose builds end when they are told to.
type until chan struct{}

func (u until) Build(ctx context.Context, _ *worker.BuildRequest, _ func(solver.Event)) (*worker.BuildResult, error) {
	select {
	case <-u:
		return &worker.BuildResult{}, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// A gate that is shut lets no build in, those that are in go on, and once they have ended it is empty.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := make(until)
		g := newGate(u)
		if _, idle := g.idle(); !idle || g.draining() {
			t.Error("a new gate is not idle, or it is shut")
		}
		results := make(chan error)
		for range 2 {
			go func() {
				_, err := g.Build(t.Context(), nil, nil)
				results <- err
			}()
		}
		synctest.Wait()
		if _, idle := g.idle(); idle {
			t.Error("builds run, and the gate is idle")
		}
		if n := g.shut(); n != 2 || !g.draining() {
			t.Errorf("%d builds run", n)
		}
		if _, err := g.Build(t.Context(), nil, nil); !errors.Is(err, worker.ErrDraining) {
			t.Errorf("a build after that: %v", err)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.wait(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting while builds run: %v", err)
		}
		u <- struct{}{}
		if err := <-results; err != nil {
			t.Error(err)
		}
		g.cancel()
		if err := <-results; !errors.Is(err, worker.ErrDraining) {
			t.Errorf("a build that is ended: %v", err)
		}
		if err := g.wait(t.Context()); err != nil {
			t.Error(err)
		}
		if n := g.shut(); n != 0 {
			t.Errorf("%d builds run in the end", n)
		}
	})
}

// A gate in which nobody was is empty when it is shut, however often.
func TestGateEmpty(t *testing.T) {
	g := newGate(make(until))
	g.shut()
	g.shut()
	if err := g.wait(t.Context()); err != nil {
		t.Error(err)
	}
}
