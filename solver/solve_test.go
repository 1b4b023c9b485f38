package solver_test

import (
	"context"
	"errors"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/solvertest"
)

func itoa(i int) string { return strconv.Itoa(i) }

func equal(a, b any) bool { return reflect.DeepEqual(a, b) }

// A hit on the target's recipe is all that a second build needs: no input is looked up, let alone run, and inputs have
// no event but that they are there.
func TestRecipeHitVisitsNoInput(t *testing.T) {
	r := newRig(t, solver.Options{})
	g := solvertest.MustParse(`
		a = const 3
		b = add 1 a
		c = add 2 b`)
	got, events := r.build(g.Inputs("c"))
	r.equal(got, []int{6})
	r.stories(events, "a", "started done", "b", "started done", "c", "started done")
	gets := r.c.Gets(g.Vertex("b").Recipe())
	r.w.Forget()
	got, events = r.build(g.Inputs("c"))
	r.equal(got, []int{6})
	r.stories(events, "a", "", "b", "", "c", "cached recipe")
	r.equal(r.c.Gets(g.Vertex("b").Recipe()), gets)
	r.equal(len(r.w.Ran()), 0)
	hit := events.Of("c")[1]
	r.equal(hit.Key, g.Vertex("c").Recipe())
}

// An input that ran again and came out the same, as far as what is selected of it goes, invalidates nothing, and the
// new recipe is recorded, so that the build after that does not even look.
func TestEarlyCutOff(t *testing.T) {
	r := newRig(t, solver.Options{})
	text := `
		a = const 13
		b = add 1 a[/mod/10]
		c = add 2 b`
	r.build(solvertest.MustParse(text).Inputs("c"))
	g := solvertest.MustParse(strings.Replace(text, "13", "23", 1))
	r.w.Forget()
	got, events := r.build(g.Inputs("c"))
	r.equal(got, []int{6})
	r.equal(r.w.Ran(), []string{"a"})
	r.stories(events, "a", "started done", "b", "cached step", "c", "cached step")
	_, events = r.build(g.Inputs("c"))
	r.stories(events, "a", "", "b", "", "c", "cached recipe")
}

// What an operation says of inputs whose content is in its step key may change without it being run again; where the
// identity of an input counts, it is run.
func TestStepKeyByContent(t *testing.T) {
	r := newRig(t, solver.Options{})
	text := `
		a = const 13
		b = sum 1 a[/mod/10]
		c = sum 1 a`
	r.build(solvertest.MustParse(text).Inputs("b c"))
	r.w.Forget()
	g := solvertest.MustParse(strings.ReplaceAll(text, "sum 1", "sum 2"))
	got, events := r.build(g.Inputs("b c"))
	r.equal(got, []int{3, 13})
	r.equal(r.w.Ran(), []string{"c"})
	r.stories(events, "a", "cached recipe", "b", "cached step", "c", "started done")
}

// To select everything is not to select nothing: by content there is early cut-off, by identity there is none, so the two
// must not share a recipe.
func TestEmptySelectorIsOne(t *testing.T) {
	g := solvertest.MustParse("a = const 1\nb = add 1 a\nc = add 1 a[]")
	if g.Vertex("b").Recipe() == g.Vertex("c").Recipe() {
		t.Error("the recipes are equal")
	}
}

// Without a selector the identity of an input counts, since the step may read anything of it.
func TestNoCutOffWithoutSelector(t *testing.T) {
	r := newRig(t, solver.Options{})
	r.build(solvertest.MustParse("a = const 13\nb = add 1 a").Inputs("b"))
	r.w.Forget()
	r.build(solvertest.MustParse("a = add 13\nb = add 1 a").Inputs("b")) // another way to the same 13
	r.equal(r.w.Ran(), []string{"a", "b"})
}

// Vertices that are equal are one: a diamond's tip runs once, even if its two sides were made separately.
func TestEqualVerticesAreOneNode(t *testing.T) {
	r := newRig(t, solver.Options{})
	g := solvertest.MustParse(`
		a1 = const 3
		a2 = const 3
		b1 = add 1 a1
		b2 = add 1 a2
		c = mul 1 b1 b2`)
	got, events := r.build(g.Inputs("c b2 b1 b1"))
	r.equal(got, []int{16, 4, 4, 4})
	r.equal(r.w.Ran(), []string{"a1", "b1", "c"})
	r.stories(events, "b1", "started done", "b2", "-")
}

// A vertex that ignores the cache runs although it is there, and is recorded. What consumes it is not answered by its
// recipe, which would skip the vertex, but by its step.
func TestIgnoreCache(t *testing.T) {
	r := newRig(t, solver.Options{})
	text := `
		z = const 1
		a = add 12 z
		b = add 1 a[/mod/10]
		c = add 2 b`
	r.build(solvertest.MustParse(text).Inputs("c"))
	r.w.Forget()
	again := solvertest.MustParse(strings.Replace(text, "12 z", "12 z !nocache", 1))
	_, events := r.build(again.Inputs("c"))
	r.equal(r.w.Ran(), []string{"a"})
	r.stories(events, "z", "cached recipe", "a", "started done", "b", "cached step", "c", "cached step")
	out, err := r.c.Get(t.Context(), again.Vertex("a").Recipe())
	r.equal([]any{len(out), err}, []any{1, nil})
	r.w.Forget()
	_, events = r.build(solvertest.MustParse(text).Inputs("a"))
	r.stories(events, "a", "cached recipe")
}

// In one build, a vertex may be wanted from the cache by one consumer and fresh by another.
func TestIgnoreCacheIsPerVertex(t *testing.T) {
	r := newRig(t, solver.Options{})
	text := `
		a = const 5
		b = add 1 a
		a2 = const 5 !nocache
		b2 = add 1 a2
		c = mul 1 b b2`
	g := solvertest.MustParse(text)
	r.build(g.Inputs("b"))
	r.w.Forget()
	got, events := r.build(g.Inputs("c"))
	r.equal(got, []int{36})
	r.stories(events, "a", "", "b", "cached recipe", "a2", "started done", "b2", "started done")
}

// The result of an ephemeral operation is neither looked up nor recorded; what consumes it is cached as usual.
func TestEphemeral(t *testing.T) {
	r := newRig(t, solver.Options{})
	g := solvertest.MustParse(`
		a = temp 13
		b = add 1 a[/mod/10]`)
	r.build(g.Inputs("b"))
	r.w.Forget()
	_, events := r.build(g.Inputs("a b"))
	r.stories(events, "a", "started done", "b", "cached recipe")
	k := g.Vertex("a").Recipe()
	r.equal(r.c.Gets(k), 0)
	r.equal(r.c.Len(), 2) // b, by recipe and by step
}

// A record describes what its key is the hash of, and how long the step took.
func TestDescribe(t *testing.T) {
	r := newRig(t, solver.Options{})
	g := solvertest.MustParse(`
		a = const 13
		b = add 1 a[/mod/10]`)
	_, events := r.build(g.Inputs("b"))
	b := g.Vertex("b")
	recipe, ok := r.c.Record(b.Recipe())
	if !ok || recipe.Document != b.Document() || recipe.Name != "b" || recipe.Recipe != b.Recipe() {
		t.Errorf("recipe described as %+v", recipe)
	}
	step, ok := r.c.Record(events.Of("b")[1].Key)
	if !ok || !strings.HasPrefix(step.Document, "int.add v1\narg=1\ninput.0=sha256:") || step.Duration <= 0 {
		t.Errorf("step described as %+v", step)
	}
}

// A record that cannot be the vertex's is none, whatever the cache says.
func TestBadRecords(t *testing.T) {
	for _, out := range [][]solver.Result{nil, {}, {"r1", "r2"}, {"gone"}} {
		r := newRig(t, solver.Options{})
		g := solvertest.MustParse("a = const 3")
		r.c.Put(t.Context(), g.Vertex("a").Recipe(), out)
		got, events := r.build(g.Inputs("a"))
		r.equal(got, []int{3})
		r.stories(events, "a", "started done")
	}
}

// A cache that does not work costs time and fails nothing; the user is told.
func TestBrokenCache(t *testing.T) {
	w := &solvertest.World{}
	s := solver.New(w, brokenCache{}, solver.Options{})
	g := solvertest.MustParse("a = const 3\nb = add 1 a[]")
	out, events, err := solve(t.Context(), s, g.Inputs("b"))
	if err != nil || !equal(w.Values(out), []int{4}) {
		t.Fatalf("got %v, %v", out, err)
	}
	check(t, events)
	warned := 0
	for _, e := range events.Of("b") {
		if e.Kind == solver.Warned {
			warned++
			if !strings.Contains(e.Warning.Short, "disk on fire") {
				t.Errorf("warned of %q", e.Warning.Short)
			}
		}
	}
	if warned == 0 {
		t.Error("no warning")
	}
}

type brokenCache struct{}

var errFire = errors.New("disk on fire")

func (brokenCache) Get(context.Context, solver.Key) ([]solver.Result, error) { return nil, errFire }
func (brokenCache) Put(context.Context, solver.Key, []solver.Result) error   { return errFire }

// Targets that do not exist are refused, and a build without targets is done.
func TestTargets(t *testing.T) {
	r := newRig(t, solver.Options{})
	g := solvertest.MustParse("a = split 3")
	for _, in := range []solver.Input{{}, {Vertex: g.Vertex("a"), Output: 2}, {Vertex: g.Vertex("a"), Output: -1}} {
		if _, _, err := solve(t.Context(), r.s, []solver.Input{in}); err == nil {
			t.Errorf("%v was solved", in)
		}
	}
	got, _ := r.build(nil)
	r.equal(got, []int{})
}

// A graph may be deeper than a stack is good for.
func TestDeepGraph(t *testing.T) {
	r := newRig(t, solver.Options{})
	g := solvertest.Chain(100_000)
	target := g.Inputs("v99999")
	want, err := solvertest.Eval(target)
	if err != nil {
		t.Fatal(err)
	}
	out, err := r.s.Solve(t.Context(), &solver.Build{Targets: target})
	if err != nil {
		t.Fatal(err)
	}
	r.equal(r.w.Values(out), want)
	// And again, with every result lost, which has to be found out from the top to the bottom.
	for i := range 100_001 {
		r.w.Lose(solver.Result("r" + itoa(i)))
	}
	out, err = r.s.Solve(t.Context(), &solver.Build{Targets: target})
	if err != nil {
		t.Fatal(err)
	}
	r.equal(r.w.Values(out), want)
}
