package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// telling is an emitter whose events are listed with the parts that they are about.
func telling() (*emitter, *[]string) {
	var got []string
	return &emitter{file: "x.Dockerfile", sink: func(e solver.Event) {
		got = append(got, fmt.Sprintf("%v %s %s%s", e.Kind, e.Vertex.Name(), e.Status.ID, e.Warning.Short))
	}}, &got
}

// TestImageTold checks that an image has a part that says that it is resolved, under the name that its vertex has for it, and
// that one which need not be pulled is done and not cached, as is one below a hit.
func TestImageTold(t *testing.T) {
	img := &op.Image{Ref: "docker.io/library/a:1", Digest: "sha256:00"}
	for name, want := range map[string]string{
		"[1/2] FROM docker.io/library/a:1@sha256:11": "docker.io/library/a:1@sha256:11",
		"[context a] docker.io/library/a:1":          "docker.io/library/a:1",
		"a base":                                     "docker.io/library/a:1@sha256:00",
	} {
		from := solver.NewVertex(img, nil, solver.Meta{Name: name})
		top := named("top", from)
		say := func(k solver.EventKind, rest string) string { return fmt.Sprintf("%v %s %s", k, name, rest) }
		found := []string{say(solver.Started, ""), say(solver.Progress, "resolve "+want), say(solver.Done, "")}
		for _, tc := range []struct {
			ev   solver.Event
			want []string
		}{
			{solver.Event{Kind: solver.Started, Vertex: from}, found[:2]},
			{solver.Event{Kind: solver.Cached, Vertex: from, Hit: solver.StepHit}, found},
			{solver.Event{Kind: solver.Cached, Vertex: top, Hit: solver.RecipeHit}, append(append([]string{say(solver.Declared, "")}, found...), fmt.Sprintf("%v top ", solver.Cached))},
		} {
			em, got := telling()
			em.emit(tc.ev)
			if !slices.Equal(*got, tc.want) {
				t.Errorf("%s: got  %q\nwant %q", name, *got, tc.want)
			}
		}
	}
}

// TestFollows checks that what reads a client's directory follows from the step that has read it, under the key that it has
// anyway; and that a repository is one step, whether its ref is asked for or its content fetched.
func TestFollows(t *testing.T) {
	var seen []*solver.Vertex
	em := &emitter{sink: func(e solver.Event) { seen = append(seen, e.Vertex) }}
	nothing := func(context.Context, *progress) error { return nil }
	for _, name := range []string{"load context", "load git"} {
		if err := em.step(t.Context(), name, nothing); err != nil {
			t.Fatal(err)
		}
	}
	context, git := seen[0], seen[3]
	local := solver.NewVertex(&op.Local{Name: "context", Root: "x"}, nil, solver.Meta{Name: "load context"})
	repo := solver.NewVertex(&op.Git{Commit: "c"}, nil, solver.Meta{Name: "load git"})
	reader := named("copy", local, repo)
	seen = nil
	for _, v := range []*solver.Vertex{local, repo, reader} {
		em.emit(solver.Event{Kind: solver.Started, Vertex: v})
	}
	if len(seen) != 2 || seen[0] != git {
		t.Fatalf("got %v", seen)
	}
	copied := seen[1]
	if in := copied.Inputs(); copied.Recipe() != reader.Recipe() || len(in) != 2 || in[0].Vertex != context || in[1].Vertex != git {
		t.Errorf("it is told to follow from %v", in)
	}
}

// TestEarlyWarning checks that a warning which comes before the Dockerfile is read belongs to the vertex that reads it, which
// is told of once and begins before the warning.
func TestEarlyWarning(t *testing.T) {
	em, got := telling()
	e := &env{em: em}
	e.Warn(solver.Warning{Short: "early"})
	const name = "[internal] load build definition from x.Dockerfile"
	_ = em.step(t.Context(), name, func(context.Context, *progress) error {
		e.Warn(solver.Warning{Short: "late"})
		return nil
	})
	var want []string
	for _, k := range []solver.EventKind{solver.Declared, solver.Started, solver.Done} {
		want = append(want, fmt.Sprintf("%v %s ", k, name))
	}
	want = append(want, fmt.Sprintf("%v %s early", solver.Warned, name), fmt.Sprintf("%v %s ", solver.Started, name),
		fmt.Sprintf("%v %s late", solver.Warned, name), fmt.Sprintf("%v %s ", solver.Done, name))
	if !slices.Equal(*got, want) {
		t.Errorf("got  %q\nwant %q", *got, want)
	}
}

// TestPartsEnd checks that what is under way in a vertex ends with it, before it and as far as it came, however it ends; and
// that what has ended is not told of twice.
func TestPartsEnd(t *testing.T) {
	for _, end := range []solver.EventKind{solver.Done, solver.Cached, solver.Failed, solver.Canceled} {
		var got []string
		em := &emitter{sink: func(e solver.Event) {
			got = append(got, fmt.Sprintf("%v %s %d %t", e.Kind, e.Status.ID, e.Status.Current, !e.Status.Ended.IsZero()))
		}}
		v := named("push")
		em.emit(solver.Event{Kind: solver.Started, Vertex: v})
		for _, s := range []solver.Status{
			{ID: "a"}, {ID: "b", Current: 1}, {ID: "c", Ended: time.Unix(1, 0)}, {ID: "b", Current: 2}, {ID: "a", Ended: time.Unix(1, 0)},
		} {
			em.emit(solver.Event{Kind: solver.Progress, Vertex: v, Status: s})
		}
		got = nil
		em.emit(solver.Event{Kind: end, Vertex: v})
		em.emit(solver.Event{Kind: solver.Started, Vertex: v})
		em.emit(solver.Event{Kind: solver.Done, Vertex: v})
		want := []string{
			fmt.Sprintf("%v b 2 true", solver.Progress), fmt.Sprintf("%v  0 false", end),
			fmt.Sprintf("%v  0 false", solver.Started), fmt.Sprintf("%v  0 false", solver.Done),
		}
		if !slices.Equal(got, want) {
			t.Errorf("%v: got  %q\nwant %q", end, got, want)
		}
	}
}

// TestStepsOfBuilds checks which steps two builds have in common to a client that shows both: what is asked of a registry, if
// it is the same question, and nothing that a build does for itself.
func TestStepsOfBuilds(t *testing.T) {
	amd, arm := op.Platform{OS: "linux", Architecture: "amd64"}, op.Platform{OS: "linux", Architecture: "arm64"}
	steps := func(id string, p op.Platform) []solver.Key {
		var keys []solver.Key
		em := &emitter{id: id, sink: func(e solver.Event) {
			if e.Kind == solver.Started {
				keys = append(keys, e.Vertex.Recipe())
			}
		}}
		e := &env{em: em}
		for _, name := range []string{loadDefinition + " from Dockerfile", "exporting to image", "exporting to image"} {
			if err := e.Step(t.Context(), name, func(context.Context) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
		em.remark(stepMissing, []solver.Warning{{Short: "no attestations"}})
		img := &op.Image{Ref: "docker.io/library/a:1", Platform: p}
		if err := e.AskStep(t.Context(), "load metadata", img, func(context.Context) error { return nil }); err != nil {
			t.Fatal(err)
		}
		return keys
	}
	one, two, other := steps("one", amd), steps("two", amd), steps("three", arm)
	last := len(one) - 1
	for i, k := range one[:last] {
		if slices.Contains(two, k) || slices.Index(one, k) != i {
			t.Errorf("step %d is one of another build's", i)
		}
	}
	if one[last] != two[last] || one[last] == other[last] {
		t.Errorf("questions are %s, %s and, about another platform, %s", one[last], two[last], other[last])
	}
}

// TestBlamed checks that an error names what clients were told of: of a repository that is the step that asked about it.
func TestBlamed(t *testing.T) {
	var seen []*solver.Vertex
	em := &emitter{sink: func(e solver.Event) { seen = append(seen, e.Vertex) }}
	if err := em.step(t.Context(), "load git", func(context.Context, *progress) error { return nil }); err != nil {
		t.Fatal(err)
	}
	repo := solver.NewVertex(&op.Git{Commit: "c"}, nil, solver.Meta{Name: "load git"})
	em.emit(solver.Event{Kind: solver.Started, Vertex: repo})
	other := named("other")
	em.emit(solver.Event{Kind: solver.Started, Vertex: other})
	broken := errors.New("broken")
	for _, tc := range []struct {
		err          error
		failed, told *solver.Vertex
	}{
		{&solver.VertexError{Vertex: repo, Err: broken}, repo, seen[0]},
		{&solver.VertexError{Vertex: other, Err: broken}, other, nil},
		{broken, nil, nil},
	} {
		got := em.blamed(tc.err)
		var v *solver.VertexError
		if errors.As(got, &v) != (tc.failed != nil) || v != nil && (v.Vertex != tc.failed || v.Shown != tc.told) || !errors.Is(got, broken) {
			t.Errorf("%v: got %+v", tc.err, v)
		}
	}
}

// TestSourceOnce checks that what a client has defined is one step, however often it is fetched, with an end that is told again
// only if it is another one; and that a Dockerfile that was read so has the warnings.
func TestSourceOnce(t *testing.T) {
	em, got := telling()
	e := &env{em: em}
	const name = loadDefinition + " from x.Dockerfile"
	v := solver.NewVertex(&op.Local{Name: "dockerfile"}, nil, solver.Meta{Name: name})
	broken := errors.New("broken")
	for _, want := range []error{nil, nil, broken} {
		err := e.SourceStep(t.Context(), v, "sha256:00", "", func(context.Context) error { return want })
		if !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	e.Warn(solver.Warning{Short: "late"})
	var want []string
	for _, k := range []solver.EventKind{solver.Declared, solver.Started, solver.Done, solver.Failed} {
		want = append(want, fmt.Sprintf("%v %s ", k, name))
	}
	want = append(want, fmt.Sprintf("%v %s late", solver.Warned, name))
	if !slices.Equal(*got, want) {
		t.Errorf("got  %q\nwant %q", *got, want)
	}
}

// TestLoggedStep checks that a step of which only the output matters is shown if there is some; and that of a hidden vertex
// nothing is told.
func TestLoggedStep(t *testing.T) {
	for said, want := range map[string][]solver.EventKind{
		"": nil, "hello": {solver.Declared, solver.Started, solver.Logged, solver.Logged, solver.Failed},
	} {
		var got []solver.EventKind
		em := &emitter{sink: func(e solver.Event) { got = append(got, e.Kind) }}
		broken := errors.New("broken")
		err := (&env{em: em}).LoggedStep(t.Context(), "run", func(_ context.Context, log io.Writer) error {
			for range 2 {
				if said != "" {
					_, _ = io.WriteString(log, said)
				}
			}
			return broken
		})
		em.emit(solver.Event{Kind: solver.Started, Vertex: solver.NewVertex(&note{}, nil, solver.Meta{Hidden: true})})
		if !errors.Is(err, broken) || !slices.Equal(got, want) {
			t.Errorf("%q: got %v, %v, want %v", said, got, err, want)
		}
	}
}
