package llb

import (
	"reflect"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"github.com/boxbuild/boxbuild/solver"
)

// forget returns the graph of root without what it remembers of the definition that it was decoded from, except for what
// an operation has no field for: the capabilities, the platform and the constraints.
func forget(root solver.Input) solver.Input {
	now := make(map[*solver.Vertex]*solver.Vertex)
	for v := range depthFirst([]solver.Input{root}) {
		inputs := append([]solver.Input(nil), v.Inputs()...)
		for i := range inputs {
			inputs[i].Vertex = now[inputs[i].Vertex]
		}
		m := v.Meta()
		if o := originOf(v); o != nil {
			bare := *o
			bare.raw, bare.inputs, bare.op, bare.digest = nil, nil, nil, ""
			m.Wire = &bare
		}
		now[v] = solver.NewVertex(v.Op(), inputs, m)
	}
	root.Vertex = now[root.Vertex]
	return root
}

// everything supports every capability, so that all is decoded that there will be.
func everything(string) error { return nil }

// TestClient checks with random graphs of BuildKit's own client that decoding and encoding gives the same definition: with
// what the vertices remember, and by their fields alone, which also shows that no field is lost on the way.
func TestClient(t *testing.T) {
	for seed := range uint64(200) {
		def := newClient(seed).definition(t, 12)
		g, err := decode(def, everything)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for _, root := range []solver.Input{*g.Root, forget(*g.Root)} {
			got, err := Encode(&root, Options{})
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			diffDefinitions(t, def, got)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
		for _, v := range g.Vertices {
			if got := digest.FromBytes(originOf(v).raw); Digest(v) != got || g.Vertex(got) != v {
				t.Fatalf("seed %d: the digest of %s is %s, want %s", seed, v.Name(), Digest(v), got)
			}
		}
	}
}

// diffDefinitions reports in what two definitions differ. The order of operations may, and what is in a map.
func diffDefinitions(t *testing.T, want, got *pb.Definition) {
	t.Helper()
	ops := func(d *pb.Definition) map[digest.Digest]*pb.Op {
		m := make(map[digest.Digest]*pb.Op)
		for _, raw := range d.Def {
			o := new(pb.Op)
			if err := o.Unmarshal(raw); err != nil {
				t.Fatal(err)
			}
			m[digest.FromBytes(raw)] = o
		}
		return m
	}
	w, g := ops(want), ops(got)
	for d, o := range w {
		if g[d] == nil {
			t.Errorf("an operation is missing: %v", o)
		}
		wm, gm := want.Metadata[d.String()], got.Metadata[d.String()]
		if wm == nil {
			wm = &pb.OpMetadata{}
		}
		if g[d] != nil && !proto.Equal(wm, gm) {
			t.Errorf("the metadata of %v are\n%v, want\n%v", o, gm, wm)
		}
		if wl, gl := places2(want, d), places2(got, d); g[d] != nil && !reflect.DeepEqual(wl, gl) {
			t.Errorf("the places of %v are\n%v, want\n%v", o, gl, wl)
		}
	}
	for d, o := range g {
		if w[d] == nil {
			t.Errorf("there is one operation more: %v", o)
		}
	}
	if last := len(want.Def) - 1; len(got.Def) != len(want.Def) || string(got.Def[last]) != string(want.Def[last]) {
		t.Errorf("the result is not the same")
	}
}

// places2 returns where an operation comes from, with the names and texts of the files.
func places2(d *pb.Definition, name digest.Digest) (out []string) {
	seen := make(map[string]bool)
	for _, l := range d.Source.GetLocations()[name.String()].GetLocations() {
		f := d.Source.Infos[l.SourceIndex]
		s := f.Filename + "\n" + f.Language + "\n" + string(f.Data) + l.String()[len("sourceIndex:0"):]
		if !seen[s] {
			out = append(out, s)
		}
		seen[s] = true
	}
	return out
}
