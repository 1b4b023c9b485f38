package builder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// listing is an emitter whose events are listed as "kind name".
func listing() (*emitter, *[]string) {
	var got []string
	return &emitter{sink: func(e solver.Event) { got = append(got, fmt.Sprintf("%v %s", e.Kind, e.Vertex.Name())) }}, &got
}

func named(name string, inputs ...*solver.Vertex) *solver.Vertex {
	var in []solver.Input
	for _, v := range inputs {
		in = append(in, solver.Input{Vertex: v})
	}
	return solver.NewVertex(&note{name: name}, in, solver.Meta{Name: name})
}

// TestImplied checks that a hit tells of every step below it, lowest first and once, also if another step asks for one of
// them later; that a step which then has to run after all is told of; and that a client's directory is no step.
func TestImplied(t *testing.T) {
	em, got := listing()
	local := solver.NewVertex(&op.Local{Name: "context", Root: "x"}, nil, solver.Meta{Name: "context"})
	base := named("base", local)
	shared := named("shared", base)
	one, two := named("one", shared), named("two", shared)
	emit := func(k solver.EventKind, v *solver.Vertex) {
		em.emit(solver.Event{Kind: k, Vertex: v, Hit: solver.RecipeHit})
	}
	emit(solver.Declared, one)
	emit(solver.Declared, two)
	emit(solver.Cached, one)
	emit(solver.Declared, shared)
	emit(solver.Cached, shared)
	emit(solver.Started, base) // its record has been evicted
	emit(solver.Done, base)
	emit(solver.Started, local)
	emit(solver.Cached, two)
	say := func(k solver.EventKind, name string) string { return fmt.Sprintf("%v %s", k, name) }
	want := []string{
		say(solver.Declared, "one"), say(solver.Declared, "two"),
		say(solver.Declared, "base"), say(solver.Cached, "base"), say(solver.Declared, "shared"), say(solver.Cached, "shared"),
		say(solver.Cached, "one"),
		say(solver.Declared, "shared"),
		say(solver.Started, "base"), say(solver.Done, "base"),
		say(solver.Cached, "two"),
	}
	if !slices.Equal(*got, want) {
		t.Errorf("got  %q\nwant %q", *got, want)
	}
}

// TestStep checks how the end of a step of the builder's own is told.
func TestStep(t *testing.T) {
	broken := errors.New("broken")
	for _, tc := range []struct {
		err  error
		want solver.EventKind
	}{
		{nil, solver.Done},
		{broken, solver.Failed},
		{fmt.Errorf("pulling: %w", context.Canceled), solver.Canceled},
		{fmt.Errorf("pulling: %w", context.DeadlineExceeded), solver.Canceled},
	} {
		em, got := listing()
		err := em.step(t.Context(), "work", func(context.Context, *progress) error { return tc.err })
		if !errors.Is(err, tc.err) {
			t.Errorf("got %v, want %v", err, tc.err)
		}
		var want []string
		for _, k := range []solver.EventKind{solver.Declared, solver.Started, tc.want} {
			want = append(want, fmt.Sprintf("%v work", k))
		}
		if !slices.Equal(*got, want) {
			t.Errorf("%v is told as %q, want %q", tc.err, *got, want)
		}
	}
}

// TestStepOfOther checks that a step which ends because another has failed is not told to have failed by that one's error.
func TestStepOfOther(t *testing.T) {
	other := errors.New("fetching something else")
	ctx, cancel := context.WithCancelCause(t.Context())
	em, got := listing()
	_ = em.step(ctx, "work", func(ctx context.Context, _ *progress) error {
		cancel(other)
		return fmt.Errorf("pulling: %w", context.Cause(ctx))
	})
	if want := fmt.Sprintf("%v work", solver.Canceled); (*got)[2] != want {
		t.Errorf("it is told as %q, want %q", *got, want)
	}
}

// TestPieces checks that a step which a build solves again as part of more is told of once, also if it is another vertex
// then; but that it is told when it has to run again.
func TestPieces(t *testing.T) {
	em, got := listing()
	first, again := named("step"), named("step")
	for _, v := range []*solver.Vertex{first, again} {
		em.emit(solver.Event{Kind: solver.Declared, Vertex: v})
		if v == first {
			em.emit(solver.Event{Kind: solver.Started, Vertex: v})
			em.emit(solver.Event{Kind: solver.Done, Vertex: v})
		} else {
			em.emit(solver.Event{Kind: solver.Cached, Vertex: v, Hit: solver.RecipeHit})
		}
	}
	em.emit(solver.Event{Kind: solver.Cached, Vertex: named("top", again), Hit: solver.RecipeHit})
	em.emit(solver.Event{Kind: solver.Started, Vertex: again})
	var want []string
	for _, k := range []solver.EventKind{solver.Declared, solver.Started, solver.Done} {
		want = append(want, fmt.Sprintf("%v step", k))
	}
	want = append(want, fmt.Sprintf("%v top", solver.Cached), fmt.Sprintf("%v step", solver.Started))
	if !slices.Equal(*got, want) {
		t.Errorf("got  %q\nwant %q", *got, want)
	}
}
