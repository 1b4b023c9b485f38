package builder

import (
	"context"
	"fmt"
	"slices"
	"testing"

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
