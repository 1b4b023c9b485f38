package llb

import (
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// diamond returns two sources, a vertex of each, and one of both.
func diamond() (a, b, onA, onB, both *solver.Vertex) {
	vertex := func(o solver.Op, in ...*solver.Vertex) *solver.Vertex {
		var inputs []solver.Input
		for _, v := range in {
			inputs = append(inputs, solver.Input{Vertex: v})
		}
		return solver.NewVertex(o, inputs, solver.Meta{Name: o.String()})
	}
	a, b = vertex(&op.Image{Ref: "docker.io/library/a:1"}), vertex(&op.Local{Name: "b"})
	onA, onB = vertex(&op.Merge{}, a, a), vertex(&op.Merge{}, b)
	return a, b, onA, onB, vertex(&op.Merge{}, onA, onB, a)
}

// TestReplace checks that only what needs a replaced vertex is made anew, with all of its inputs, and once.
func TestReplace(t *testing.T) {
	a, b, onA, onB, both := diamond()
	pinned := &op.Image{Ref: "docker.io/library/a:1", Digest: digest.FromString("x")}
	targets := []solver.Input{{Vertex: both}, {Vertex: onB}, {Vertex: onA}}
	got := Replace(targets, map[*solver.Vertex]solver.Op{a: pinned})
	if got[1].Vertex != onB || targets[0].Vertex != both || both.Inputs()[0].Vertex != onA {
		t.Error("what does not need the image is another, or the old graph has been changed")
	}
	now := got[0].Vertex
	if now == both || now.Recipe() == both.Recipe() || now.Inputs()[0].Vertex != got[2].Vertex || now.Inputs()[1].Vertex != onB {
		t.Errorf("the inputs are %v", now.Inputs())
	}
	fresh := now.Inputs()[2].Vertex
	if fresh.Op() != pinned || fresh.Name() != a.Name() {
		t.Errorf("the image is %v", fresh.Op())
	}
	for _, in := range got[2].Vertex.Inputs() {
		if in.Vertex != fresh {
			t.Error("the image was made more than once")
		}
	}
	claims := Claims(got...)
	if len(claims) != 2 || claims[0] != fresh || claims[1] != b {
		t.Errorf("the sources are %v", claims)
	}
}

// TestEncoder checks that one Encoder gives everybody the same, whatever they ask for at the same time.
func TestEncoder(t *testing.T) {
	_, _, onA, onB, both := diamond()
	e := NewEncoder(Options{})
	var wg sync.WaitGroup
	for range 8 {
		for _, v := range []*solver.Vertex{both, onA, onB} {
			wg.Go(func() {
				if got, want := e.Digest(v), Digest(v); got != want {
					t.Errorf("%s is called %s, want %s", v.Name(), got, want)
				}
				def, err := e.Definition(&solver.Input{Vertex: v})
				if err != nil {
					t.Error(err)
					return
				}
				if n := len(def.Def) - 2; digest.FromBytes(def.Def[n]) != e.Digest(v) {
					t.Errorf("%s is not the last of its definition", v.Name())
				}
			})
		}
	}
	wg.Wait()
	def, err := e.Definition(nil)
	if err != nil || len(def.Def) != 0 {
		t.Errorf("the empty tree is %v, %v", def, err)
	}
}
