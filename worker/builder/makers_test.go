package builder

import (
	"slices"
	"testing"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// TestMakers checks that each layer is told of by the vertex that has made it, whatever lies below the layers of the
// instructions: a tree of which the frontend says nothing, or a base image.
func TestMakers(t *testing.T) {
	vertex := func(o solver.Op, name string, ins ...solver.Input) solver.Input {
		return solver.Input{Vertex: solver.NewVertex(o, ins, solver.Meta{Name: name})}
	}
	file := func(name string, ins ...solver.Input) solver.Input {
		a := op.FileAction{Input: len(ins) - 1, Second: op.NoInput, Mkdir: &op.Mkdir{Path: "/d"}}
		return vertex(&op.File{Actions: []op.FileAction{a}}, name, ins...)
	}
	exec := func(name string, in solver.Input) solver.Input {
		e := &op.Exec{Meta: op.ExecMeta{Args: []string{"/bin/sh", "-c", name}}}
		e.Mounts = []op.ExecMount{{Dest: "/c", Input: op.NoInput, Output: op.NoOutput}, {Dest: "/", Output: 0}}
		return vertex(e, "RUN "+name, in)
	}
	local := vertex(&op.Local{Name: "l"}, "load")
	get := vertex(&op.HTTP{URL: "http://ann:secret@host/c.tar"}, "load")
	repo := vertex(&op.Git{Remote: "https://ann:secret@host/r.git", Ref: "main"}, "load")
	base := vertex(&op.Image{Ref: "docker.io/library/busybox:latest"}, "FROM busybox")
	merged := vertex(&op.Merge{}, "merge", local, get)
	for _, tc := range []struct {
		name string
		root solver.Input
		n    int
		want []string
	}{
		{"a directory", local, 1, []string{"local source for l"}},
		{"a file", get, 1, []string{"http url http://ann:xxxxx@host/c.tar"}},
		{"a repository", repo, 1, []string{"git snapshot for https://xxxxx:xxxxx@host/r.git#main"}},
		{"with steps", file("[2/2] B", file("[1/2] A", local)), 3, []string{"local source for l", "[1/2] A", "[2/2] B"}},
		{"with a process", exec("x", file("A", get)), 3, []string{"http url http://ann:xxxxx@host/c.tar", "A", "mount / from exec /bin/sh -c x"}},
		{"from scratch", file("B", file("A")), 2, []string{"A", "B"}},
		{"an image below", file("B", file("A", base)), 2, []string{"A", "B"}},
		{"a merge of more layers below", file("A", merged), 4, []string{"", "", "merge", "A"}},
		{"no layers", base, 0, nil},
	} {
		for _, told := range []bool{false, true} {
			img := &frontend.Image{Root: &tc.root}
			if told && tc.n > 0 { // the frontend says which make the layers
				img.Layers = []solver.Input{tc.root}
			}
			var got []string
			for _, v := range makers(img, tc.n) {
				got = append(got, createdBy(v))
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
			}
		}
	}
}
