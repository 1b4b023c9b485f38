package llb

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// A filler sets every field of an operation to something, so that one which the codec forgets is noticed.
type filler struct{ *client }

func newFiller(seed uint64) *filler {
	return &filler{&client{Rand: rand.New(rand.NewPCG(seed, 2))}}
}

// fill sets all fields of x. With sparse it leaves some as they are.
func (f *filler) fill(x any, sparse bool) { f.value(reflect.ValueOf(x).Elem(), "", sparse) }

func (f *filler) value(v reflect.Value, name string, sparse bool) {
	if sparse && f.chance(3) && name != "" {
		return
	}
	switch x := v.Addr().Interface().(type) {
	case *digest.Digest:
		*x = f.digest()
		return
	case *time.Time:
		*x = time.Unix(int64(1+f.IntN(1e9)), 0).UTC()
		return
	case *op.Platform:
		*x = f.platform()
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			f.value(v.Field(i), v.Type().Field(i).Name, sparse)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.value(v.Elem(), name, sparse)
	case reflect.Slice:
		n := 1 + f.IntN(2)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			f.value(v.Index(i), "", false)
		}
	case reflect.String:
		v.SetString(f.text(name))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(1 + f.IntN(2))) // also of every enumeration
	case reflect.Uint32:
		v.SetUint(uint64(1 + f.IntN(0o777)))
	case reflect.Uint8:
		v.SetUint(uint64(f.IntN(256)))
	default:
		panic("a kind of field that is not known: " + name + " " + v.Kind().String())
	}
}

// text returns what a field of that name may have.
func (f *filler) text(name string) string {
	switch name {
	case "Ref":
		return []string{"docker.io/library/busybox:latest", "reg:5000/a/b:v1", "docker.io/x/y:1"}[f.IntN(3)]
	case "URL", "Remote":
		return "https://host/p.git"
	case "Subdir":
		return "a/b"
	case "RecordType":
		return "internal"
	case "Root", "Commit":
		return strings.Repeat("ab", 20)
	case "Bundle":
		return "oci-layout+blob://example.com/x@" + f.digest().String()
	case "Src", "Path", "New", "Selector":
		return f.path()
	case "Dst":
		return f.path() + []string{"", "/", "/."}[f.IntN(3)]
	}
	return f.word()
}

// TestFields checks that every field of every operation is there again after encoding and decoding.
func TestFields(t *testing.T) {
	base := solver.Input{Vertex: solver.NewVertex(&op.Image{Ref: "docker.io/library/base:1", Digest: digest.FromString("x")}, nil, solver.Meta{})}
	tree := solver.Input{Vertex: solver.NewVertex(&op.Local{Name: "context"}, nil, solver.Meta{})}
	for seed := range uint64(200) {
		f := newFiller(seed)
		sparse := seed%2 == 1
		for _, v := range f.vertices(base, tree, sparse) {
			def, err := Encode(&solver.Input{Vertex: v}, Options{})
			if err != nil {
				t.Fatalf("seed %d: %+v: %v", seed, v.Op(), err)
			}
			g, err := decode(def, everything)
			if err != nil {
				t.Fatalf("seed %d: %+v: %v", seed, v.Op(), err)
			}
			got := g.Root.Vertex
			if diff := cmp.Diff(v.Op(), got.Op()); diff != "" {
				t.Errorf("seed %d: -want +got:\n%s", seed, diff)
			}
			if v.Recipe() != got.Recipe() {
				t.Errorf("seed %d: the key is\n%swant\n%s", seed, got.Document(), v.Document())
			}
			if w, g := v.Meta(), got.Meta(); w.Name != g.Name || w.Group != g.Group || w.IgnoreCache != g.IgnoreCache || !slices.Equal(w.Source, g.Source) {
				t.Errorf("seed %d: the meta is %+v, want %+v", seed, g, w)
			}
			if d := Digest(v); g.Vertex(d) != got {
				t.Errorf("seed %d: no vertex is called %s", seed, d)
			}
			// Whoever knows the definition, and its digests, finds that boxbuild has what it asks for.
			for name, m := range def.Metadata {
				for c := range m.Caps {
					if _, ok := capabilities[c]; !ok {
						t.Errorf("operation %s needs %q, which there is not", name, c)
					}
				}
			}
		}
		if t.Failed() {
			return
		}
	}
}

// vertices returns one of each operation, with all that there is in it.
func (f *filler) vertices(base, tree solver.Input, sparse bool) []*solver.Vertex {
	var ops []solver.Op
	img, layout, blob, local, git, http := &op.Image{}, &op.OCILayout{}, &op.Blob{}, &op.Local{}, &op.Git{}, &op.HTTP{}
	for _, o := range []solver.Op{img, layout, blob, local, git, http} {
		f.fill(o, sparse)
		ops = append(ops, o)
	}
	img.Ref, layout.Ref, blob.Ref, blob.Digest = f.text("Ref"), f.text("Ref"), "example.com/a", f.digest()
	img.Tagged = img.Tagged && img.Digest != ""
	img.Unnamed = false // the builder says it when it pins the image
	if !blob.Layout {
		blob.Store, blob.Session = "", ""
	}
	local.Name, git.Remote, http.URL = f.word(), "https://host/p.git", "https://host/p"
	git.Ref, git.Written = "refs/heads/x#1", "" // the latter is for names of steps only
	git.CheckoutBundle = git.CheckoutBundle && !git.KeepGitDir && git.Subdir == ""
	if git.Bundle != "" {
		git.Checksum = strings.Repeat("c", 40)
	}
	http.Header = []op.HTTPHeader{{Name: "Accept", Value: f.word()}, {Name: "User-Agent", Value: f.word()}}
	if http.Digest == "" || http.Name == "" {
		http.Digest, http.Name, http.Modified = "", "", time.Time{}
	}
	if s := http.Signature; s != nil && (s.PublicKeys == "" || s.Signature == "") {
		http.Signature = nil
	}
	if g := git.Signature; g != nil && *g == (op.GitSignature{}) {
		git.Signature = nil
	}
	var out []*solver.Vertex
	for _, o := range ops {
		out = append(out, solver.NewVertex(o, nil, f.meta()))
	}
	return append(out, f.exec(base, tree, sparse), f.file(base, tree, sparse),
		solver.NewVertex(&op.Merge{}, []solver.Input{base, tree, base}, f.meta()),
		solver.NewVertex(&op.Diff{Lower: true, Upper: true}, []solver.Input{base, tree}, f.meta()),
		solver.NewVertex(&op.Diff{Upper: true}, []solver.Input{tree}, f.meta()),
		solver.NewVertex(&op.Diff{Lower: true}, []solver.Input{tree}, f.meta()),
		solver.NewVertex(&op.Passthrough{ID: f.word(), Out: []int{1, 0, 1}}, []solver.Input{base, tree}, f.meta()),
		solver.NewVertex(&op.Build{File: f.word(), Inputs: []op.BuildInput{{Name: "a"}, {Name: op.DefinitionInput, Input: 1}}}, []solver.Input{base, tree}, f.meta()))
}

func (f *filler) meta() solver.Meta {
	m := solver.Meta{Name: "step " + f.word()}
	if f.chance(2) {
		m.Group, m.IgnoreCache = f.word(), true
		m.File, m.Text, m.Source = "Dockerfile", []byte("a\nb\n"), []solver.Range{{Start: 1, End: 2}, {Start: 2, End: 2}}
	}
	return m
}

func (f *filler) exec(base, tree solver.Input, sparse bool) *solver.Vertex {
	e := &op.Exec{}
	f.fill(e, sparse)
	if len(e.Meta.Args) == 0 {
		e.Meta.Args = []string{"x"}
	}
	e.Security = min(e.Security, op.SecurityInsecure)
	e.Mounts = []op.ExecMount{{Dest: "/", ResultID: f.word()}}
	inputs := []solver.Input{base}
	out := 1
	for kind := op.MountBind; kind <= op.MountTmpfs; kind++ {
		var all op.ExecMount
		f.fill(&all, false)
		m := op.ExecMount{Type: kind, Dest: f.path(), Input: op.NoInput, Output: op.NoOutput, ReadOnly: f.chance(2), ResultID: all.ResultID}
		switch kind {
		case op.MountBind, op.MountCache:
			if kind == op.MountCache {
				m.Cache = all.Cache
			} else if f.chance(2) {
				m.Output = out
				out++
			}
			if f.chance(2) {
				m.Selector = all.Selector
			}
			m.ContentCache = op.ContentCache(f.IntN(3))
			sel, err := mountSelector(&m)
			if err != nil {
				m.ContentCache = op.ContentCacheDefault
				sel, _ = mountSelector(&m)
			}
			m.Input, m.ContentKey = len(inputs), sel != nil
			in := tree
			in.Select = sel
			inputs = append(inputs, in)
			if sel == nil { // as decoding does it: an input is there once as a whole
				for i, x := range inputs[:len(inputs)-1] {
					if x.Vertex == in.Vertex && x.Select == nil {
						m.Input, inputs = i, inputs[:len(inputs)-1]
						break
					}
				}
			}
		case op.MountSecret:
			m.Secret = all.Secret
		case op.MountSSH:
			m.SSH = all.SSH
		case op.MountTmpfs:
			m.Tmpfs, m.Dest = all.Tmpfs, []string{f.path(), "/dev/shm"}[f.IntN(2)]
		}
		e.Mounts = append(e.Mounts, m)
	}
	return solver.NewVertex(e, inputs, f.meta())
}

func (f *filler) file(base, tree solver.Input, sparse bool) *solver.Vertex {
	file := &op.File{}
	inputs := []solver.Input{base}
	owner := func(o *op.Owner) *op.Owner {
		if o == nil {
			return nil
		}
		o = &op.Owner{UID: f.IntN(5), GID: f.IntN(5)}
		if f.chance(2) {
			*o = op.Owner{User: f.word(), GID: op.PrimaryGroup}
		}
		if f.chance(2) {
			o.Group, o.GID = f.word(), 0
		}
		return o
	}
	for range 2 {
		c, mkfile, mkdir, rm, link := &op.Copy{}, &op.Mkfile{}, &op.Mkdir{}, &op.Rm{}, &op.Symlink{}
		for _, x := range []any{c, mkfile, mkdir, rm, link} {
			f.fill(x, sparse)
		}
		for _, p := range []*string{&c.Src, &mkfile.Path, &mkdir.Path, &rm.Path, &link.New} {
			*p = f.path()
		}
		c.Dst = f.text("Dst")
		c.ModeSet = c.ModeString == "" && c.ModeSet
		if !c.ModeSet {
			c.Mode = 0
		}
		c.Owner, mkfile.Owner, mkdir.Owner, link.Owner = owner(c.Owner), owner(mkfile.Owner), owner(mkdir.Owner), owner(link.Owner)
		for _, a := range []op.FileAction{{Copy: c}, {Mkfile: mkfile}, {Mkdir: mkdir}, {Rm: rm}, {Symlink: link}} {
			a.Second, a.Output = op.NoInput, len(file.Actions)
			if a.Copy != nil {
				in := tree
				in.Select, a.Second = copySelector(a.Copy), len(inputs)
				inputs = append(inputs, in)
			}
			file.Actions = append(file.Actions, a)
		}
	}
	// Each goes on from the one before it, or begins with nothing.
	for i := range file.Actions[1:] {
		a := &file.Actions[i+1]
		a.Input = len(inputs) + i
		if f.chance(4) && ownerOf(a) == nil {
			a.Input = op.NoInput
		}
		if o := ownerOf(a); o != nil && f.chance(3) {
			if o.User != "" {
				o.UserTree = len(inputs) + i + 1 // the result before
			}
			if o.Group != "" {
				o.GroupTree = len(inputs) + i + 1
			}
		}
	}
	return solver.NewVertex(file, inputs, f.meta())
}

// TestCannotSay checks what LLB has no words for: it is refused by name, and has a digest all the same, which is none of an
// operation.
func TestCannotSay(t *testing.T) {
	base := solver.Input{Vertex: solver.NewVertex(&op.Image{Ref: "docker.io/library/base:1"}, nil, solver.Meta{})}
	part := base
	part.Select = &solver.Selector{Paths: []string{"/x"}}
	odd := solver.NewVertex(&op.Merge{}, []solver.Input{part}, solver.Meta{})
	for want, v := range map[string]*solver.Vertex{
		"LLB cannot say what is read of an input: input 0": odd,
		"writing inner as LLB: LLB has no operation for":   solver.NewVertex(&op.Merge{}, []solver.Input{{Vertex: solver.NewVertex(foreign{}, nil, solver.Meta{Name: "inner"})}}, solver.Meta{}),
		"LLB has no source for":                            solver.NewVertex(foreignSource{}, nil, solver.Meta{}),
	} {
		if _, err := Encode(&solver.Input{Vertex: v}, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %q", err, want)
		}
		if d := Digest(v); d.Encoded() != v.Recipe().String() || d.Validate() != nil {
			t.Errorf("the digest is %s", d)
		}
	}
}

type foreign struct{}

func (foreign) WriteKey(h *solver.Hasher) { h.Version("foreign", 1) }
func (foreign) String() string            { return "foreign" }

type foreignSource struct{ foreign }

func (foreignSource) Pinned() bool { return true }

// TestPins checks when a definition has what pinning found out: of what was not decoded always, of what was only when that
// is asked for, and of nothing when it is not wanted.
func TestPins(t *testing.T) {
	def := definition(t, source("local://context", "local.unique", "x"), source("docker-image://docker.io/library/a:1"),
		&pb.Op{Inputs: in("#0", "#1"), Op: &pb.Op_Merge{Merge: &pb.MergeOp{Inputs: []*pb.MergeInput{{}, {Input: 1}}}}})
	g, err := Decode(def)
	if err != nil {
		t.Fatal(err)
	}
	pins := make(map[*solver.Vertex]solver.Op)
	for _, v := range Claims(*g.Root) {
		switch s := v.Op().(type) {
		case *op.Local:
			c := *s
			c.Root = "ab"
			pins[v] = &c
		case *op.Image:
			c := *s
			c.Digest, c.Tagged = digest.FromString("x"), true
			pins[v] = &c
		}
	}
	pinned := Replace([]solver.Input{*g.Root}, pins)[0]
	if pinned.Vertex == g.Root.Vertex || Digest(pinned.Vertex) != Digest(g.Root.Vertex) {
		t.Error("a vertex whose sources are pinned is the old one, or is called something else")
	}
	if same := Replace([]solver.Input{*g.Root}, nil)[0]; same.Vertex != g.Root.Vertex {
		t.Error("a graph in which nothing is replaced is another")
	}
	bare := forget(pinned)
	for _, tt := range []struct {
		name  string
		root  solver.Input
		opt   Options
		came  bool // as it came
		roots int  // pinned sources in what comes out
	}{
		{"decoded", pinned, Options{}, true, 0},
		{"decoded, unpinned", pinned, Options{Unpinned: true}, true, 0},
		{"decoded, pinned", pinned, Options{Pinned: true}, false, 2},
		{"made", bare, Options{}, false, 2},
		{"made, unpinned", bare, Options{Unpinned: true}, true, 0},
	} {
		out, err := Encode(&tt.root, tt.opt)
		if err != nil {
			t.Fatal(err)
		}
		if came := string(out.Def[len(out.Def)-1]) == string(def.Def[len(def.Def)-1]); came != tt.came && tt.name != "made, unpinned" {
			t.Errorf("%s: as it came: %v, want %v", tt.name, came, tt.came)
		}
		g, err := Decode(out)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, v := range Claims(*g.Root) {
			if v.Op().(op.Source).Pinned() {
				n++
			}
		}
		if n != tt.roots {
			t.Errorf("%s: %d sources are pinned, want %d", tt.name, n, tt.roots)
		}
	}
}

// TestSession checks that sources which name no session are said to be of the one that is given, that those which name one
// keep it, and that what was decoded is left as it came.
func TestSession(t *testing.T) {
	for name, tt := range map[string]struct {
		op   solver.Op
		attr string
	}{
		"directory": {&op.Local{Name: "context"}, pb.AttrLocalSessionID},
		"layout":    {&op.OCILayout{Ref: "docker.io/library/a:1", Store: "s", Digest: digest.FromString("x")}, pb.AttrOCILayoutSessionID},
	} {
		own := &solver.Input{Vertex: solver.NewVertex(tt.op, nil, solver.Meta{})}
		if got := attrOf(t, own, Options{Session: "mine"}, tt.attr); got != "mine" {
			t.Errorf("%s of nobody: session %q", name, got)
		}
		if got := attrOf(t, own, Options{}, tt.attr); got != "" {
			t.Errorf("%s, and no session given: session %q", name, got)
		}
	}
	named := &solver.Input{Vertex: solver.NewVertex(&op.Local{Name: "context", Session: "theirs"}, nil, solver.Meta{})}
	if got := attrOf(t, named, Options{Session: "mine"}, pb.AttrLocalSessionID); got != "theirs" {
		t.Errorf("a directory of another: session %q", got)
	}
	g, err := Decode(definition(t, source("local://context", "local.unique", "x")))
	if err != nil {
		t.Fatal(err)
	}
	if got := attrOf(t, g.Root, Options{Session: "mine"}, pb.AttrLocalSessionID); got != "" {
		t.Errorf("a directory that was decoded: session %q", got)
	}
}

// attrOf is an attribute of the one source that in is.
func attrOf(t *testing.T, in *solver.Input, opt Options, name string) string {
	t.Helper()
	def, err := Encode(in, opt)
	if err != nil {
		t.Fatal(err)
	}
	var written pb.Op
	if err := proto.Unmarshal(def.Def[0], &written); err != nil {
		t.Fatal(err)
	}
	return written.GetSource().GetAttrs()[name]
}
