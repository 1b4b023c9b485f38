package solvertest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/boxbuild/boxbuild/solver"
)

// A World is a Runner whose results are integers. Every run makes a new result, even if its value is not new. The zero
// World is ready for use.
type World struct {
	// OnRun, if set, is called by Run before it does anything; what it returns is what Run returns.
	OnRun func(ctx context.Context, step *solver.Step) error
	// Strict has a result vanish as soon as nothing holds it any more: neither a lease in a context that it was held
	// under, nor the context of the run that made it. A solver that uses what it does not hold shows in Losses.
	Strict bool

	mu     sync.Mutex // guards what follows
	values map[solver.Result]int
	holds  map[solver.Result]int // how many contexts hold it
	ran    []string
	counts map[solver.Key]int
	last   int
	losses int
}

// Value returns the integer that r names, if it is still there.
func (w *World) Value(r solver.Result) (int, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x, ok := w.values[r]
	return x, ok
}

// Values returns the integers that the results name. It panics if one is gone.
func (w *World) Values(rs []solver.Result) []int {
	out := make([]int, len(rs))
	for i, r := range rs {
		x, ok := w.Value(r)
		if !ok {
			panic("solvertest: " + string(r) + " is gone")
		}
		out[i] = x
	}
	return out
}

// Ran returns the names of the vertices that have run, in order.
func (w *World) Ran() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.ran)
}

// Most returns how often the step has run that ran most often.
func (w *World) Most() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	most := 0
	for _, n := range w.counts {
		most = max(most, n)
	}
	return most
}

// Count returns how often the step with key k has run.
func (w *World) Count(k solver.Key) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts[k]
}

// Forget empties what Ran and Most count.
func (w *World) Forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ran, w.counts = nil, nil
}

// Losses returns how often a result was asked for that was gone.
func (w *World) Losses() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.losses
}

// Lose has r vanish.
func (w *World) Lose(r solver.Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.values, r)
}

// Hold implements solver.Runner.
func (w *World) Hold(ctx context.Context, r solver.Result) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.values[r]; !ok {
		return fmt.Errorf("holding %s: %w", r, solver.ErrMiss)
	}
	if lease, ok := ctx.Value(leaseKey{}).(context.Context); ok {
		ctx = lease
	}
	w.holdLocked(ctx, r)
	return nil
}

type leaseKey struct{}

// WithLease returns a context for a build. What the build holds in a strict World is kept until release is called.
func WithLease(ctx context.Context) (leased context.Context, release func()) {
	lease, release := context.WithCancel(context.WithoutCancel(ctx))
	return context.WithValue(ctx, leaseKey{}, lease), release
}

func (w *World) holdLocked(ctx context.Context, r solver.Result) {
	if !w.Strict {
		return
	}
	if w.holds == nil {
		w.holds = make(map[solver.Result]int)
	}
	w.holds[r]++
	context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.holds[r]--
		if w.holds[r] == 0 {
			delete(w.values, r)
			delete(w.holds, r)
		}
	})
}

// Digest implements solver.Runner.
func (w *World) Digest(_ context.Context, r solver.Result, sel *solver.Selector) (solver.Digest, error) {
	w.mu.Lock()
	x, ok := w.values[r]
	if !ok {
		w.losses++
	}
	w.mu.Unlock()
	if !ok {
		return solver.Digest{}, fmt.Errorf("digesting %s: %w", r, solver.ErrMiss)
	}
	x, err := View(x, sel)
	if err != nil {
		return solver.Digest{}, err
	}
	return sha256.Sum256([]byte(strconv.Itoa(x))), nil
}

// Run implements solver.Runner.
func (w *World) Run(ctx context.Context, step *solver.Step) ([]solver.Result, error) {
	w.mu.Lock()
	w.ran = append(w.ran, step.Vertex.Name())
	if w.counts == nil {
		w.counts = make(map[solver.Key]int)
	}
	w.counts[step.Key]++
	w.mu.Unlock()
	if w.OnRun != nil {
		if err := w.OnRun(ctx, step); err != nil {
			return nil, err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var lost []int
	in := make([]int, len(step.Inputs))
	for i, r := range step.Inputs {
		x, ok := w.values[r]
		if !ok {
			lost = append(lost, i)
			continue
		}
		var err error
		if in[i], err = View(x, step.Vertex.Inputs()[i].Select); err != nil {
			return nil, err
		}
	}
	if lost != nil {
		w.losses++
		return nil, &solver.LostError{Inputs: lost}
	}
	if w.values == nil {
		w.values = make(map[solver.Result]int)
	}
	var out []solver.Result
	for _, x := range step.Vertex.Op().(Op).Eval(in) {
		w.last++
		r := solver.Result("r" + strconv.Itoa(w.last))
		w.values[r] = x
		w.holdLocked(ctx, r)
		out = append(out, r)
	}
	return out, nil
}
