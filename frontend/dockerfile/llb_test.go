package dockerfile

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/proto"

	"github.com/boxbuild/boxbuild/frontend"
	llbfrontend "github.com/boxbuild/boxbuild/frontend/llb"
	"github.com/boxbuild/boxbuild/proto/llb"
	"github.com/boxbuild/boxbuild/solver"
)

// vertices returns what in needs, inputs first.
func vertices(in solver.Input) (out []*solver.Vertex) {
	seen := make(map[*solver.Vertex]bool)
	var visit func(v *solver.Vertex)
	visit = func(v *solver.Vertex) {
		if seen[v] {
			return
		}
		seen[v] = true
		for _, in := range v.Inputs() {
			visit(in.Vertex)
		}
		out = append(out, v)
	}
	visit(in.Vertex)
	return out
}

// distinct is vertices with one for each key and name, as a definition has them: those that are equal.
func distinct(in solver.Input) (out []*solver.Vertex) {
	seen := make(map[string]bool)
	for _, v := range vertices(in) {
		key := string(llb.Digest(v))
		if !seen[key] {
			out = append(out, v)
		}
		seen[key] = true
	}
	return out
}

// TestLLB checks that every graph of the test data is a definition too, pinned and unpinned: it has the same keys when a
// client sends it back, the same names, and the lines that each step comes from.
func TestLLB(t *testing.T) {
	var files []string
	for _, dir := range []string{"graph", "buildkit"} {
		more, err := filepath.Glob("testdata/" + dir + "/*.txtar")
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, more...)
	}
	graphs := 0
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			c := readCase(t, file)
			out, err := c.translate()
			if err != nil {
				return
			}
			for i := range out.Images {
				if root := out.Images[i].Root; root != nil {
					graphs++
					checkLLB(t, c, out, root)
				}
			}
		})
	}
	if graphs < 300 {
		t.Errorf("only %d graphs were compared", graphs)
	}
}

func checkLLB(t *testing.T, c *testcase, out *frontend.Output, root *solver.Input) {
	t.Helper()
	opt := llb.Options{Files: []llb.File{{Name: out.File, Language: "Dockerfile", Text: out.Text}}}
	def := sent(t, root, opt)
	g, err := llb.Decode(def)
	if err != nil {
		t.Fatal(err)
	}
	want, got := distinct(*root), g.Vertices
	for i := range min(len(want), len(got)) {
		w, g := want[i], got[i]
		if w.Document() != g.Document() {
			t.Fatalf("vertex %d has the key\n%swant\n%s", i, g.Document(), w.Document())
		}
		if w.Name() != g.Name() || w.Meta().IgnoreCache != g.Meta().IgnoreCache || !slices.Equal(w.Meta().Source, g.Meta().Source) {
			t.Errorf("vertex %d is %q at %v, want %q at %v", i, g.Name(), g.Meta().Source, w.Name(), w.Meta().Source)
		}
		if len(g.Meta().Source) > 0 && string(g.Meta().Text) != string(out.Text) {
			t.Errorf("vertex %d has lost its text", i)
		}
	}
	if len(want) != len(got) {
		t.Errorf("%d vertices, want %d", len(got), len(want))
	}
	opt.Unpinned = true
	for _, def := range []*pb.Definition{def, sent(t, root, opt)} {
		pinned, err := llbfrontend.Load(t.Context(), def, c.env)
		if err != nil {
			t.Fatal(err)
		}
		if pinned.Vertex.Recipe() != root.Vertex.Recipe() || pinned.Output != root.Output {
			for i, v := range distinct(*pinned) {
				if v.Recipe() != want[i].Recipe() {
					t.Fatalf("pinned again vertex %d has the key\n%swant\n%s", i, v.Document(), want[i].Document())
				}
			}
			t.Error("pinned again the root has another key")
		}
	}
}

// sent returns the definition of root as a client gets it.
func sent(t *testing.T, root *solver.Input, opt llb.Options) *pb.Definition {
	t.Helper()
	def, err := llb.Encode(root, opt)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := proto.Marshal(def)
	if err != nil {
		t.Fatal(err)
	}
	def = new(pb.Definition)
	if err := proto.Unmarshal(raw, def); err != nil {
		t.Fatal(err)
	}
	return def
}
