package solvertest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/boxbuild/boxbuild/solver"
)

// Faulty is a World that loses things at random: a result when it is to be held, an input when it is to be digested or
// when a step is to run. What is lost is really gone. Sometimes a loss is reported without saying what was lost. There
// are at most Budget losses in all, so that a solver can come to an end.
type Faulty struct {
	*World
	P float64 // the chance of a loss at each call

	mu     sync.Mutex // guards what follows
	rng    *rand.Rand
	budget int
}

// NewFaulty returns a Faulty on w.
func NewFaulty(w *World, rng *rand.Rand, p float64, budget int) *Faulty {
	return &Faulty{World: w, P: p, rng: rng, budget: budget}
}

// strike reports whether this call is to lose something, and which of n things that is.
func (f *Faulty) strike(n int) (int, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n == 0 || f.budget == 0 || f.rng.Float64() >= f.P {
		return 0, false
	}
	f.budget--
	return f.rng.IntN(n), true
}

// Hold implements solver.Runner.
func (f *Faulty) Hold(ctx context.Context, r solver.Result) error {
	if _, ok := f.strike(1); ok {
		f.Lose(r)
	}
	return f.World.Hold(ctx, r)
}

// Digest implements solver.Runner.
func (f *Faulty) Digest(ctx context.Context, r solver.Result, sel *solver.Selector) (solver.Digest, error) {
	if _, ok := f.strike(1); ok {
		f.Lose(r)
	}
	return f.World.Digest(ctx, r, sel)
}

// Run implements solver.Runner.
func (f *Faulty) Run(ctx context.Context, step *solver.Step) ([]solver.Result, error) {
	if i, ok := f.strike(len(step.Inputs)); ok {
		f.Lose(step.Inputs[i])
		if i%3 == 2 {
			return nil, fmt.Errorf("running %s: %w", step.Vertex.Name(), solver.ErrMiss)
		}
	}
	return f.World.Run(ctx, step)
}
