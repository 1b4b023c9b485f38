package solver_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/solvertest"
)

// soak solves random graphs, in several builds at once and several times in a row, on a Runner that loses things at
// random, and compares with the naive evaluator. Edits between the rounds make for partly warm caches.
func soak(t *testing.T, seed uint64, size int, p float64) {
	rng := rand.New(rand.NewPCG(seed, 7))
	w := &solvertest.World{}
	f := solvertest.NewFaulty(w, rand.New(rand.NewPCG(seed, 8)), p, size)
	s := solver.New(f, &solvertest.Cache{}, solver.Options{Parallelism: 1 + rng.IntN(8), Retries: 100})
	for round := range 3 {
		g := solvertest.Random(rand.New(rand.NewPCG(seed, uint64(round/2))), size)
		var wg sync.WaitGroup
		for range 3 {
			targets := everything(g)
			rng.Shuffle(len(targets), func(i, j int) { targets[i], targets[j] = targets[j], targets[i] })
			targets = targets[:1+rng.IntN(len(targets))]
			want, err := solvertest.Eval(targets)
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				out, events, err := solve(t.Context(), s, targets)
				check(t, events)
				if err != nil {
					t.Errorf("seed %d: %v", seed, err)
					return
				}
				for i, r := range out {
					// A result may have been lost after it was held: that is the fault in this world, not the solver's.
					if x, ok := w.Value(r); ok && x != want[i] {
						t.Errorf("seed %d: %s is %d, want %d", seed, targets[i].Vertex.Name(), x, want[i])
					}
				}
			})
		}
		wg.Wait()
	}
}

// Whatever is lost, and when, the results are right.
func TestRandomLoss(t *testing.T) {
	for seed := range uint64(60) {
		soak(t, seed, 20+int(seed)*3, 0.3/float64(1+seed%4))
	}
}

func FuzzRandomLoss(f *testing.F) {
	f.Add(uint64(1), uint8(10), uint8(0))
	f.Add(uint64(2), uint8(200), uint8(20))
	f.Add(uint64(3), uint8(100), uint8(128))
	f.Fuzz(func(t *testing.T, seed uint64, size, p uint8) {
		soak(t, seed, 1+int(size), float64(p)/512)
	})
}

// The solver uses nothing that it does not hold. In a strict world a result vanishes when nobody holds it; so if nothing
// is ever found lost, everything was held in time, by each of the builds that used it.
func TestEverythingUsedIsHeld(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 9))
		w := &solvertest.World{Strict: true}
		s := solver.New(w, &solvertest.Cache{}, solver.Options{Parallelism: 2})
		var wg sync.WaitGroup
		for range 6 {
			g := solvertest.Random(rand.New(rand.NewPCG(seed%10, 0)), 100)
			targets := everything(g)
			rng.Shuffle(len(targets), func(i, j int) { targets[i], targets[j] = targets[j], targets[i] })
			targets = targets[:1+rng.IntN(len(targets))]
			want, err := solvertest.Eval(targets)
			if err != nil {
				t.Fatal(err)
			}
			// Each build lets go of what it holds as soon as it is over, and some are cancelled early, so that their
			// holds are gone while the others go on.
			early := rng.IntN(3) == 0
			wg.Go(func() {
				mine, release := solvertest.WithLease(t.Context())
				defer release()
				mine, end := context.WithCancel(mine)
				defer end()
				if early {
					go func() { end() }()
				}
				out, events, err := solve(mine, s, targets)
				check(t, events)
				switch {
				case early && errors.Is(err, context.Canceled):
				case err != nil:
					t.Errorf("seed %d: %v", seed, err)
				case early:
				default:
					if got := w.Values(out); !equal(got, want) {
						t.Errorf("seed %d: got %v, want %v", seed, got, want)
					}
				}
			})
		}
		wg.Wait()
		if n := w.Losses(); n != 0 {
			t.Errorf("seed %d: %d results were used that nobody held", seed, n)
		}
	}
}

// An input of a hit that was never visited is found from the ground up when it is needed after all.
func TestLossBelowHit(t *testing.T) {
	r := newRig(t, solver.Options{})
	text := `
		a = const 3
		b = add 1 a
		c = add 2 b`
	g := solvertest.MustParse(text)
	r.build(g.Inputs("c"))
	r.w.Lose("r1")
	r.w.Lose("r2")
	r.w.Forget()
	_, events := r.build(g.Inputs("c"))
	r.stories(events, "a", "", "b", "", "c", "cached recipe")
	r.w.Lose("r3")
	got, events := r.build(g.Inputs("c"))
	r.equal(got, []int{6})
	r.stories(events, "a", "started done", "b", "started done", "c", "started done")
}

// A result that is lost after its vertex had its final event is found again without another such event.
func TestLossAfterTheEnd(t *testing.T) {
	r := newRig(t, solver.Options{})
	g := solvertest.MustParse(`
		a = const 3
		b = add 1 a
		c = add 2 b`)
	lost := false
	r.w.OnRun = func(_ context.Context, step *solver.Step) error {
		if step.Vertex.Name() == "c" && !lost {
			lost = true
			r.w.Lose("r1")
			r.w.Lose("r2")
		}
		return nil
	}
	got, events := r.build(g.Inputs("c"))
	r.equal(got, []int{6})
	// c finds b lost, and b finds a lost.
	r.equal(r.w.Ran(), []string{"a", "b", "c", "b", "a", "b", "c"})
	r.stories(events, "a", "started done", "b", "started done", "c", "started done")
}

// Whoever loses everything, always, in whatever way, ends a build with an error and not in a loop.
func TestEndlessLoss(t *testing.T) {
	for name, w := range map[string]*loser{
		"hold":           {hold: true},
		"digest":         {digest: true},
		"run":            {run: &solver.LostError{Inputs: []int{0}}},
		"run, no input":  {run: &solver.LostError{}},
		"run, bad input": {run: &solver.LostError{Inputs: []int{-1, 7}}},
		"run, miss":      {run: solver.ErrMiss},
	} {
		s := solver.New(w, &solvertest.Cache{}, solver.Options{})
		g := solvertest.Chain(20)
		v := g.Vertex("v19")
		target := solver.NewVertex(solvertest.Op{Kind: "add"}, []solver.Input{{Vertex: v, Select: &solver.Selector{}}}, solver.Meta{})
		_, events, err := solve(t.Context(), s, []solver.Input{{Vertex: target}})
		check(t, events)
		var ve *solver.VertexError
		if !errors.As(err, &ve) {
			t.Errorf("%s: got %v", name, err)
		}
		if n := len(w.Ran()); n > 1000 {
			t.Errorf("%s: it took %d runs to see", name, n)
		}
	}
}

type loser struct {
	solvertest.World
	hold, digest bool
	run          error
}

func (l *loser) Hold(ctx context.Context, r solver.Result) error {
	if l.hold {
		return solver.ErrMiss
	}
	return l.World.Hold(ctx, r)
}

func (l *loser) Digest(ctx context.Context, r solver.Result, sel *solver.Selector) (solver.Digest, error) {
	if l.digest {
		return solver.Digest{}, solver.ErrMiss
	}
	return l.World.Digest(ctx, r, sel)
}

func (l *loser) Run(ctx context.Context, step *solver.Step) ([]solver.Result, error) {
	out, err := l.World.Run(ctx, step)
	if l.run != nil && len(step.Inputs) > 0 {
		return nil, l.run
	}
	return out, err
}

// A cache whose records name what can be held and yet is not there, as a store that has lost files might, does not keep
// the solver from the right answer.
func TestHeldButGone(t *testing.T) {
	w := &liar{}
	s := solver.New(w, &solvertest.Cache{}, solver.Options{})
	g := solvertest.MustParse("a = const 3\nb = add 1 a[]\nc = add 1 b[]")
	if _, _, err := solve(t.Context(), s, g.Inputs("b")); err != nil {
		t.Fatal(err)
	}
	w.Lose("r1")
	w.Lose("r2")
	out, events, err := solve(t.Context(), s, g.Inputs("c"))
	if err != nil || !equal(w.Values(out), []int{5}) {
		t.Fatalf("got %v, %v", out, err)
	}
	check(t, events)
}

type liar struct{ solvertest.World }

func (l *liar) Hold(context.Context, solver.Result) error { return nil }

// Two consumers that find the same result lost, one after the other, have it made again once.
func TestLossIsFoundTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, solver.Options{})
		g := solvertest.MustParse(`
			a = const 3
			b = add 1 a
			c = add 2 a
			d = mul 1 b c`)
		took := map[string]time.Duration{"b": time.Second, "c": 2 * time.Second}
		r.w.OnRun = func(ctx context.Context, step *solver.Step) error {
			if len(step.Inputs) == 1 && step.Inputs[0] == "r1" {
				sleep(took[step.Vertex.Name()])(ctx, step)
				r.w.Lose("r1")
			}
			return nil
		}
		got, _ := r.build(g.Inputs("d"))
		r.equal(got, []int{20})
		ran := r.w.Ran()
		slices.Sort(ran)
		r.equal(ran, []string{"a", "a", "b", "b", "c", "c", "d"})
	})
}

// The bound on losses is one for the build. Each vertex here finds its input lost a few times before it runs, again
// whenever it is made again, which by itself would be no reason to give up on any of them, and five to the power of the
// depth in all.
func TestLossesDoNotMultiply(t *testing.T) {
	tries := make(map[string]int)
	w := &solvertest.World{}
	w.OnRun = func(_ context.Context, step *solver.Step) error {
		name := step.Vertex.Name()
		tries[name]++
		if len(step.Inputs) > 0 && tries[name]%5 != 0 {
			return &solver.LostError{Inputs: []int{0}}
		}
		return nil
	}
	s := solver.New(w, &solvertest.Cache{}, solver.Options{Parallelism: 1})
	_, events, err := solve(t.Context(), s, solvertest.Chain(12).Inputs("v11"))
	check(t, events)
	if err == nil {
		t.Error("it came to an end that it could not")
	}
	if n := len(w.Ran()); n > 1000 {
		t.Errorf("it took %d runs to see", n)
	}
}

// When a shared step runs on another build's inputs and finds one gone, that says nothing about one's own.
func TestOtherBuildsLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, solver.Options{})
		r.w.OnRun = func(ctx context.Context, step *solver.Step) error {
			if step.Vertex.Name() == "b" && step.Inputs[0] == "r1" {
				sleep(time.Second)(ctx, step)
				r.w.Lose("r1")
			}
			return nil
		}
		var wg sync.WaitGroup
		for _, text := range []string{"a = const 13\nb = add 1 a[/mod/10]", "a = const 23\nb = add 1 a[/mod/10]"} {
			wg.Go(func() {
				got, _ := r.build(solvertest.MustParse(text).Inputs("b"))
				r.equal(got, []int{4})
			})
			synctest.Wait()
		}
		wg.Wait()
		ran := 0
		for _, name := range r.w.Ran() {
			if name == "a" {
				ran++
			}
		}
		// Once for each build, and perhaps again for the first, which may as well find b made by the second.
		if ran > 3 || r.w.Most() > 2 {
			t.Errorf("ran %v", r.w.Ran())
		}
		if r.w.Count(solvertest.MustParse("a = const 23").Vertex("a").Recipe()) != 1 {
			t.Errorf("the second build made its input again: %v", r.w.Ran())
		}
	})
}
