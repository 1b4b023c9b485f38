package solvertest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/solvertest"
)

var errTold = errors.New("told to fail")

// A script is a Runner: the world, with what the script's commands ask for.

func (x *script) Hold(ctx context.Context, r solver.Result) error { return x.w.Hold(ctx, r) }

func (x *script) Digest(ctx context.Context, r solver.Result, sel *solver.Selector) (solver.Digest, error) {
	return x.w.Digest(ctx, r, sel)
}

// Run runs one step at a time, as Parallelism is 1.
func (x *script) Run(ctx context.Context, step *solver.Step) ([]solver.Result, error) {
	name := step.Vertex.Name()
	if x.hook[0] == name {
		x.lose(x.hook[1])
		x.hook = [2]string{}
	}
	out, err := x.w.Run(ctx, step)
	if name == x.fail {
		return nil, errTold
	}
	x.known[name] = out
	return out, err
}

// The Cache in memory passes the suite for caches.
func TestMemoryCache(t *testing.T) {
	solvertest.TestCache(t, func() solver.Cache { return &solvertest.Cache{} })
}

// A strict world lets go of what nobody holds and keeps the rest; a lease outlives the context that it is in.
func TestStrictWorld(t *testing.T) {
	w := &solvertest.World{Strict: true}
	run, end := context.WithCancel(t.Context())
	v := solver.NewVertex(solvertest.Op{Kind: "split", Arg: 3}, nil, solver.Meta{})
	out, err := w.Run(run, &solver.Step{Vertex: v})
	if err != nil || len(out) != 2 {
		t.Fatalf("got %v, %v", out, err)
	}
	leased, release := solvertest.WithLease(run)
	if err := w.Hold(leased, out[0]); err != nil {
		t.Fatal(err)
	}
	end()
	for {
		if _, ok := w.Value(out[1]); !ok {
			break // it goes on another goroutine
		}
	}
	if err := w.Hold(leased, out[1]); !errors.Is(err, solver.ErrMiss) {
		t.Errorf("got %v", err)
	}
	if _, ok := w.Value(out[0]); !ok {
		t.Error("what is leased is gone")
	}
	release()
	for {
		if _, ok := w.Value(out[0]); !ok {
			break
		}
	}
	if _, err := w.Digest(t.Context(), out[0], nil); !errors.Is(err, solver.ErrMiss) || w.Losses() != 1 {
		t.Errorf("got %v, %d losses", err, w.Losses())
	}
}

// Text that is no graph is refused, and a graph's text means what Eval says it does.
func TestParse(t *testing.T) {
	for _, bad := range []string{
		"a", "a = const", "a = const x", "a = const -1", "a = split 0", "a = what 1", "a = add 1 b", "a = const 1\nb = add 1 a.1",
		"a = const 1\nb = add 1 a.x",
	} {
		if _, err := solvertest.Parse(bad); err == nil {
			t.Errorf("%q was taken for a graph", bad)
		}
	}
	g := solvertest.MustParse(`
		# 17 is 5 times 3 and 2
		a = const 17
		b = split 3 a
		c = mul 2 b.0 b.1
		d = add 1 a[/mod/10,/mod/4] c[]`)
	got, err := solvertest.Eval(g.Inputs("a b b.1 c d"))
	if want := []int{17, 5, 2, 20, 29}; err != nil || !equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if _, err := solvertest.Eval(solvertest.MustParse("a = const 1\nb = add 1 a[/x]").Inputs("b")); err == nil {
		t.Error("a path that is missing was found")
	}
}

func equal(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
