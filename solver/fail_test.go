package solver_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/solvertest"
)

// failing returns a World.OnRun that fails the vertex called name with err, and takes a second for any.
func failing(name string, err error) func(context.Context, *solver.Step) error {
	return func(ctx context.Context, step *solver.Step) error {
		if step.Vertex.Name() == name {
			return errors.Join(sleep(time.Second/2)(ctx, step), err)
		}
		return sleep(time.Second)(ctx, step)
	}
}

var errFails = errors.New("exit code: 1")

// A failure ends the build with the vertex that failed first. What runs for this build only is cancelled, what waits is
// given up, and what was never needed has no part in it.
func TestFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, solver.Options{})
		g := solvertest.MustParse(`
			z = const 9
			y = add 1 z
			a = const 1
			b = const 2
			c = add 1 a
			d = add 1 b c y`)
		r.build(g.Inputs("y"))
		r.w.OnRun = failing("a", errFails)
		out, events, err := solve(t.Context(), r.s, g.Inputs("d"))
		check(t, events)
		var ve *solver.VertexError
		if !errors.As(err, &ve) || ve.Vertex != g.Vertex("a") || !errors.Is(err, errFails) || out != nil {
			t.Errorf("got %v, %v", out, err)
		}
		if want := "exit code: 1"; err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
		r.stories(events, "z", "", "y", "cached recipe",
			"a", "started failed: exit code: 1", "b", "started canceled", "c", "canceled", "d", "canceled")
	})
}

// A step that another build waits for goes on when this one fails, and a failure that several builds wait for is each
// one's own.
func TestFailureLeavesOthersAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, solver.Options{})
		g := solvertest.MustParse(`
			slow = const 1
			bad = const 2
			both = add 1 slow bad`)
		r.w.OnRun = func(ctx context.Context, step *solver.Step) error {
			if step.Vertex.Name() == "bad" {
				return errors.Join(sleep(time.Second)(ctx, step), errFails)
			}
			return sleep(2*time.Second)(ctx, step)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			got, events := r.build(g.Inputs("slow"))
			r.equal(got, []int{1})
			r.stories(events, "slow", "started done")
		})
		for range 2 {
			wg.Go(func() {
				start := time.Now()
				_, events, err := solve(t.Context(), r.s, g.Inputs("both"))
				check(t, events)
				var ve *solver.VertexError
				if !errors.As(err, &ve) || ve.Vertex.Name() != "bad" || time.Since(start) != time.Second {
					t.Errorf("got %v after %v", err, time.Since(start))
				}
				r.stories(events, "slow", "started canceled", "bad", "started failed: exit code: 1", "both", "canceled")
			})
		}
		wg.Wait()
		if got := r.w.Most(); got != 1 {
			t.Errorf("a step ran %d times", got)
		}
	})
}

// A failure is not remembered: the next build tries again.
func TestFailureIsNotRecorded(t *testing.T) {
	r := newRig(t, solver.Options{})
	g := solvertest.MustParse("a = const 1")
	r.w.OnRun = func(context.Context, *solver.Step) error { return errFails }
	if _, _, err := solve(t.Context(), r.s, g.Inputs("a")); err == nil {
		t.Fatal("it did not fail")
	}
	r.w.OnRun = nil
	got, _ := r.build(g.Inputs("a"))
	r.equal(got, []int{1})
}

// What a selector names must be there; it is the consumer that fails.
func TestMissingPath(t *testing.T) {
	r := newRig(t, solver.Options{})
	g := solvertest.MustParse("a = const 1\nb = add 1 a[/etc]")
	_, events, err := solve(t.Context(), r.s, g.Inputs("b"))
	check(t, events)
	var ve *solver.VertexError
	if !errors.As(err, &ve) || ve.Vertex.Name() != "b" {
		t.Errorf("got %v", err)
	}
	r.stories(events, "a", "started done", "b", "failed: selecting /etc: no such path")
}

// A build whose context has ended before it starts does nothing; one whose context ends later says why.
func TestCancelledBeforeStart(t *testing.T) {
	r := newRig(t, solver.Options{})
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("too late")
	cancel(why)
	g := solvertest.MustParse("a = const 1")
	_, events, err := solve(ctx, r.s, g.Inputs("a"))
	if !errors.Is(err, why) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	r.stories(events, "a", "")
	r.equal(len(r.w.Ran()), 0)
}

// A panic in what the solver calls is the failure of one vertex, with the stack to find it by, and of the builds that
// wait for that one. The solver goes on.
func TestPanics(t *testing.T) {
	g := solvertest.MustParse("a = const 1\nb = add 1 a[]")
	for name, w := range map[string]*panicky{
		"run":    {run: true},
		"digest": {digest: true},
		"admit":  {admit: true},
	} {
		s := solver.New(w, &solvertest.Cache{}, solver.Options{})
		_, events, err := solve(t.Context(), s, g.Inputs("b"))
		check(t, events)
		var pe *solver.PanicError
		if !errors.As(err, &pe) || pe.Value != "oops" || !strings.Contains(string(pe.Stack), "fail_test.go") {
			t.Errorf("%s: got %v", name, err)
		}
		w.run, w.digest, w.admit = false, false, false
		if _, _, err := solve(t.Context(), s, g.Inputs("b")); err != nil {
			t.Errorf("%s: afterwards: %v", name, err)
		}
	}
}

type panicky struct {
	solvertest.World
	run, digest, admit bool
}

func (p *panicky) Run(ctx context.Context, step *solver.Step) ([]solver.Result, error) {
	if p.run {
		panic("oops")
	}
	return p.World.Run(ctx, step)
}

func (p *panicky) Digest(ctx context.Context, r solver.Result, sel *solver.Selector) (solver.Digest, error) {
	if p.digest {
		panic("oops")
	}
	return p.World.Digest(ctx, r, sel)
}

func (p *panicky) Admit(context.Context, *solver.Step) (func(), error) {
	if p.admit {
		panic("oops")
	}
	return nil, nil
}

// So it is with a panic in an operation that the solver asks for its step key.
func TestPanicInKey(t *testing.T) {
	g := solvertest.MustParse("a = const 1")
	v := solver.NewVertex(panickyOp{}, []solver.Input{{Vertex: g.Vertex("a"), Select: &solver.Selector{}}}, solver.Meta{Name: "b"})
	s := solver.New(&solvertest.World{}, &solvertest.Cache{}, solver.Options{})
	_, _, err := solve(t.Context(), s, []solver.Input{{Vertex: v}})
	var ve *solver.VertexError
	var pe *solver.PanicError
	if !errors.As(err, &ve) || ve.Vertex != v || !errors.As(err, &pe) || pe.Value != "oops" {
		t.Errorf("got %v", err)
	}
}

type panickyOp struct{ solvertest.Op }

func (panickyOp) WriteStepKey(*solver.Hasher, []solver.Input) { panic("oops") }

// A cache that panics is a broken cache, and a Runner that ends its goroutine has failed.
func TestOtherAbuse(t *testing.T) {
	g := solvertest.MustParse("a = const 1")
	s := solver.New(&solvertest.World{}, panickyCache{}, solver.Options{})
	if _, _, err := solve(t.Context(), s, g.Inputs("a")); err != nil {
		t.Error(err)
	}
	w := &solvertest.World{OnRun: func(context.Context, *solver.Step) error {
		(&testing.T{}).SkipNow()
		return nil
	}}
	if _, _, err := solve(t.Context(), solver.New(w, &solvertest.Cache{}, solver.Options{}), g.Inputs("a")); err == nil {
		t.Error("a run that never returned was done")
	}
}

type panickyCache struct{}

func (panickyCache) Get(context.Context, solver.Key) ([]solver.Result, error) { panic("oops") }
func (panickyCache) Put(context.Context, solver.Key, []solver.Result) error   { panic("oops") }

// A run must return what its vertex has.
func TestWrongNumberOfResults(t *testing.T) {
	s := solver.New(&wrongNumber{}, &solvertest.Cache{}, solver.Options{})
	g := solvertest.MustParse("a = const 1")
	if _, _, err := solve(t.Context(), s, g.Inputs("a")); err == nil {
		t.Error("three results were taken for one")
	}
}

type wrongNumber struct{ solvertest.World }

func (*wrongNumber) Run(context.Context, *solver.Step) ([]solver.Result, error) {
	return make([]solver.Result, 3), nil
}
