package llb

import (
	"errors"
	"fmt"
	"path"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// definition returns a definition of ops, the last of which is the result. An input with the digest "#n" is output 0 of
// the n-th, "#n.m" output m.
func definition(t testing.TB, ops ...*pb.Op) *pb.Definition {
	t.Helper()
	def := &pb.Definition{}
	names := make(map[string]string)
	for i, o := range append(ops, &pb.Op{Inputs: []*pb.Input{{Digest: fmt.Sprintf("#%d", len(ops)-1)}}}) {
		for _, in := range o.Inputs {
			if name, ok := names[in.Digest]; ok {
				in.Digest = name
			}
		}
		raw, err := marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		def.Def = append(def.Def, raw)
		names[fmt.Sprintf("#%d", i)] = digest.FromBytes(raw).String()
	}
	return def
}

func in(names ...string) (out []*pb.Input) {
	for _, n := range names {
		name, index, _ := strings.Cut(n, ".")
		x := &pb.Input{Digest: name}
		_, _ = fmt.Sscan(index, &x.Index) // 0 without one
		out = append(out, x)
	}
	return out
}

func source(id string, attrs ...string) *pb.Op {
	m := make(map[string]string)
	for i := 0; i+1 < len(attrs); i += 2 {
		m[attrs[i]] = attrs[i+1]
	}
	return &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: id, Attrs: m}}}
}

func files(inputs []*pb.Input, actions ...*pb.FileAction) *pb.Op {
	return &pb.Op{Inputs: inputs, Op: &pb.Op_File{File: &pb.FileOp{Actions: actions}}}
}

func mkdir(input, output int64, p string) *pb.FileAction {
	return &pb.FileAction{Input: input, SecondaryInput: -1, Output: output, Action: &pb.FileAction_Mkdir{
		Mkdir: &pb.FileActionMkDir{Path: p, Timestamp: -1},
	}}
}

func command(inputs []*pb.Input, mounts ...*pb.Mount) *pb.Op {
	return &pb.Op{Inputs: inputs, Op: &pb.Op_Exec{Exec: &pb.ExecOp{Meta: &pb.Meta{Args: []string{"x"}, Cwd: "/w"}, Mounts: mounts}}}
}

func with(o *pb.Op, change func(*pb.Op)) *pb.Op {
	change(o)
	return o
}

// TestRefuse checks what is refused, and that the error says what it is.
func TestRefuse(t *testing.T) {
	img := source("docker-image://busybox")
	root := &pb.Mount{Dest: "/"}
	for _, tt := range []struct {
		want string
		ops  []*pb.Op
	}{
		{`missing input digest "sha256:x"`, []*pb.Op{files(in("sha256:x"), mkdir(0, 0, "/a"))}},
		{"has no output 1: it has 1", []*pb.Op{img, files(in("#0.1"), mkdir(0, 0, "/a"))}},
		{"invalid output -1 of input 0", []*pb.Op{img, files(in("#0.-1"), mkdir(0, 0, "/a"))}},
		{"no operation, and not the last", []*pb.Op{{}}},
		{"a source has inputs", []*pb.Op{img, with(source("docker-image://a"), func(o *pb.Op) { o.Inputs = in("#0") })}},
		// sources
		{`unknown source scheme "ftp"`, []*pb.Op{source("ftp://a")}},
		{`invalid source "busybox"`, []*pb.Op{source("busybox")}},
		{`unknown attribute "image.new" of a source docker-image://`, []*pb.Op{source("docker-image://a", "image.new", "x")}},
		{`unknown attribute "git.checksum" of a source local://`, []*pb.Op{source("local://a", "git.checksum", "x")}},
		{"invalid reference", []*pb.Op{source("docker-image://A B")}},
		{"invalid resolve mode", []*pb.Op{source("docker-image://a", "image.resolvemode", "x")}},
		{"invalid record type", []*pb.Op{source("docker-image://a", "image.recordtype", "x")}},
		{`image.layerlimit: invalid value "0"`, []*pb.Op{source("docker-image://a", "image.layerlimit", "0")}},
		{"image.checksum: invalid digest", []*pb.Op{source("docker-image://a", "image.checksum", "x")}},
		{"local.includepattern: invalid list", []*pb.Op{source("local://a", "local.includepattern", "[")}},
		{"local.differ: invalid differ", []*pb.Op{source("local://a", "local.differ", "x")}},
		{"boxbuild.root: not in lower-case hex", []*pb.Op{source("local://a", "boxbuild.root", "../x")}},
		{"http.perm: invalid value", []*pb.Op{source("http://a", "http.perm", "0o77777")}},
		{"http.uid: invalid value", []*pb.Op{source("http://a", "http.uid", "4294967295")}},
		{"http.header.cookie: only Accept and User-Agent", []*pb.Op{source("http://a", "http.header.cookie", "x")}},
		{"http.sig.signature: neither goes without the other", []*pb.Op{source("http://a", "http.sig.pubkey", "x")}},
		{"boxbuild.name: invalid name", []*pb.Op{source("http://a", "boxbuild.name", "../x", "boxbuild.digest", digest.FromString("").String())}},
		{"invalid git ref", []*pb.Op{source("git://h/p#--upload-pack=x")}},
		{"invalid URL of a Git repository", []*pb.Op{source("git://h/p", "git.fullurl", "https://u:p w@h/%zz")}},
		{"git.mtime: invalid value", []*pb.Op{source("git://h/p", "git.mtime", "x")}},
		{"git.bundle requires git.checksum", []*pb.Op{source("git://h/p", "git.bundle", "docker-image+blob://a@"+digest.FromString("").String())}},
		{"locator scheme", []*pb.Op{source("git://h/p", "git.bundle", "https://a", "git.checksum", "a")}},
		{"incompatible with git.keepgitdir", []*pb.Op{source("git://h/p", "git.checkoutbundle", "true", "git.keepgitdir", "true")}},
		{"it has no digest", []*pb.Op{source("docker-image+blob://a")}},
		// files
		{"no actions", []*pb.Op{files(nil)}},
		{"neither an input nor an earlier action", []*pb.Op{files(nil, mkdir(0, 0, "/a"))}},
		{"neither an input nor an earlier action", []*pb.Op{files(nil, mkdir(-2, 0, "/a"))}},
		{"neither an input nor an earlier action", []*pb.Op{files(nil, mkdir(1<<62, 0, "/a"))}},
		{"output 1000000000000, which is taken or out of range", []*pb.Op{files(nil, mkdir(-1, 1e12, "/a"))}},
		{"output 0, which is taken or out of range", []*pb.Op{files(nil, mkdir(-1, 0, "/a"), mkdir(-1, 0, "/a"))}},
		{"no action has output 0", []*pb.Op{files(nil, mkdir(-1, -1, "/a"))}},
		{"says nothing to do", []*pb.Op{files(nil, &pb.FileAction{Input: -1, SecondaryInput: -1})}},
		{"invalid mode -5", []*pb.Op{files(nil, with2(mkdir(-1, 0, "/a"), func(m *pb.FileActionMkDir) { m.Mode = -5 }))}},
		{"invalid user index -1", []*pb.Op{img, files(in("#0"), with2(mkdir(0, 0, "/a"), func(m *pb.FileActionMkDir) { m.Owner = userNamed("u", -1) }))}},
		{"an owner reads from 7", []*pb.Op{img, files(in("#0"), with2(mkdir(0, 0, "/a"), func(m *pb.FileActionMkDir) { m.Owner = userNamed("u", 7) }))}},
		{"a user without a name", []*pb.Op{img, files(in("#0"), with2(mkdir(0, 0, "/a"), func(m *pb.FileActionMkDir) { m.Owner = userNamed("", 0) }))}},
		// processes
		{"no meta", []*pb.Op{{Op: &pb.Op_Exec{Exec: &pb.ExecOp{}}}}},
		{"no args", []*pb.Op{{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Meta: &pb.Meta{}}}}}},
		{"no mounts", []*pb.Op{command(nil)}},
		{"no rootfs", []*pb.Op{command(nil, &pb.Mount{Dest: "/a", Input: -1})}},
		{"more than one rootfs", []*pb.Op{command(nil, &pb.Mount{Dest: "/", Input: -1, Output: -1}, &pb.Mount{Dest: "/", Input: -1, Output: -1})}},
		{"invalid mount target", []*pb.Op{img, command(in("#0"), root, &pb.Mount{Dest: "/a/..", Input: -1, Output: -1})}},
		{"invalid mount type for /", []*pb.Op{command(nil, &pb.Mount{Dest: "/", MountType: pb.MountType_TMPFS, Input: -1})}},
		{"names input 3 of 1", []*pb.Op{img, command(in("#0"), &pb.Mount{Dest: "/", Input: 3})}},
		{"has output 1152921504606846976", []*pb.Op{img, command(in("#0"), &pb.Mount{Dest: "/", Output: 1 << 60})}},
		{"has output -2", []*pb.Op{img, command(in("#0"), &pb.Mount{Dest: "/", Output: -2})}},
		{"no mount has output 0", []*pb.Op{img, command(in("#0"), &pb.Mount{Dest: "/", Output: 1}, &pb.Mount{Dest: "/b", Input: -1, Output: -1})}},
		{"a mount of type SECRET has input 0", []*pb.Op{img, command(in("#0"), root, &pb.Mount{Dest: "/s", MountType: pb.MountType_SECRET})}},
		{"unknown mount type 9", []*pb.Op{img, command(in("#0"), root, &pb.Mount{Dest: "/s", MountType: 9})}},
		{"invalid cache sharing 4", []*pb.Op{img, command(in("#0"), root, &pb.Mount{Dest: "/s", MountType: pb.MountType_CACHE, Input: -1, CacheOpt: &pb.CacheOpt{Sharing: 4}})}},
		{"invalid content cache 5", []*pb.Op{img, command(in("#0"), &pb.Mount{Dest: "/", ContentCache: 5})}},
		{"its content cannot be what counts", []*pb.Op{img, command(in("#0"), root, &pb.Mount{Dest: "/s", Selector: "/a", Output: 1, ContentCache: pb.MountContentCache_ON})}},
		{"invalid size -1 of a tmpfs", []*pb.Op{img, command(in("#0"), root, &pb.Mount{Dest: "/s", Input: -1, MountType: pb.MountType_TMPFS, TmpfsOpt: &pb.TmpfsOpt{Size: -1}})}},
		{"invalid network mode 3", []*pb.Op{img, with(command(in("#0"), root), func(o *pb.Op) { o.GetExec().Network = 3 })}},
		{"invalid security mode 2", []*pb.Op{img, with(command(in("#0"), root), func(o *pb.Op) { o.GetExec().Security = 2 })}},
		// the others
		{"a merge without inputs", []*pb.Op{{Op: &pb.Op_Merge{Merge: &pb.MergeOp{}}}}},
		{"a merge names input 1 of 1", []*pb.Op{img, {Inputs: in("#0"), Op: &pb.Op_Merge{Merge: &pb.MergeOp{Inputs: []*pb.MergeInput{{Input: 1}}}}}}},
		{"a merge does not use input 1", []*pb.Op{img, {Inputs: in("#0", "#0"), Op: &pb.Op_Merge{Merge: &pb.MergeOp{Inputs: []*pb.MergeInput{{}}}}}}},
		{"nil lower or upper", []*pb.Op{{Op: &pb.Op_Diff{Diff: &pb.DiffOp{}}}}},
		{"lower side of a diff names input 0 of 0", []*pb.Op{{Op: &pb.Op_Diff{Diff: &pb.DiffOp{Lower: &pb.LowerDiffInput{}, Upper: &pb.UpperDiffInput{}}}}}},
		{"passthrough op with no id", []*pb.Op{{Op: &pb.Op_Passthrough{Passthrough: &pb.PassthroughOp{}}}}},
		{"no outputs", []*pb.Op{{Op: &pb.Op_Passthrough{Passthrough: &pb.PassthroughOp{Id: "x"}}}}},
		{"names input 0 of 0", []*pb.Op{{Op: &pb.Op_Passthrough{Passthrough: &pb.PassthroughOp{Id: "x", Outputs: []int64{0}}}}}},
		{"only LLB builder", []*pb.Op{{Op: &pb.Op_Build{Build: &pb.BuildOp{}}}}},
		{"no llb definition input", []*pb.Op{{Op: &pb.Op_Build{Build: &pb.BuildOp{Builder: -1}}}}},
		{`unknown attribute "x"`, []*pb.Op{img, {Inputs: in("#0"), Op: &pb.Op_Build{Build: &pb.BuildOp{
			Builder: -1, Inputs: map[string]*pb.BuildInput{pb.LLBDefinitionInput: {}}, Attrs: map[string]string{"x": "y"},
		}}}}},
		{"with a definition inside", []*pb.Op{{Op: &pb.Op_Build{Build: &pb.BuildOp{Builder: -1, Def: &pb.Definition{}}}}}},
	} {
		_, err := decode(definition(t, tt.ops...), everything)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: the error is %v", tt.want, err)
		}
		var bad *OpError
		if err != nil && !errors.As(err, &bad) && !strings.Contains(err.Error(), "missing input") {
			t.Errorf("%q: %T does not say which operation", tt.want, err)
		}
	}
}

func with2(a *pb.FileAction, change func(*pb.FileActionMkDir)) *pb.FileAction {
	change(a.GetMkdir())
	return a
}

func userNamed(name string, input int64) *pb.ChownOpt {
	return &pb.ChownOpt{User: &pb.UserOpt{User: &pb.UserOpt_ByName{ByName: &pb.NamedUserOpt{Name: name, Input: input}}}}
}

// TestRefuseDefinition checks what is wrong with a definition as a whole.
func TestRefuseDefinition(t *testing.T) {
	img := source("docker-image://busybox")
	for name, tt := range map[string]struct {
		change func(d *pb.Definition)
		want   string
	}{
		"garbage":       {func(d *pb.Definition) { d.Def[0] = []byte{0xff} }, "reading it"},
		"no end":        {func(d *pb.Definition) { d.Def = d.Def[:1] }, "names its result"},
		"two ends":      {func(d *pb.Definition) { d.Def = append(d.Def, d.Def[1]) }, ""},
		"unknown field": {func(d *pb.Definition) { d.Def[0] = append(d.Def[0], 0xa2, 0x06, 0x01, 'x') }, "unknown field of Op"},
		"unknown capability": {func(d *pb.Definition) {
			d.Metadata = map[string]*pb.OpMetadata{digest.FromBytes(d.Def[0]).String(): {Caps: map[string]bool{"new.thing": true}}}
		}, "unknown API capability new.thing"},
		"unknown capability of all": {func(d *pb.Definition) {
			d.Metadata = map[string]*pb.OpMetadata{digest.FromBytes(d.Def[1]).String(): {Caps: map[string]bool{"cache.s3": true}}}
		}, "cache.s3 has been disabled"},
		"source map": {func(d *pb.Definition) {
			d.Source = &pb.Source{Locations: map[string]*pb.Locations{"x": {Locations: []*pb.Location{{SourceIndex: 1}}}}}
		}, "source map with index 1"},
	} {
		d := definition(t, proto.Clone(img).(*pb.Op))
		tt.change(d)
		if name == "unknown field" { // its digest is another
			d.Def[1], _ = marshal(&pb.Op{Inputs: in(digest.FromBytes(d.Def[0]).String())})
		}
		_, err := Decode(d)
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: the error is %v, want %q", name, err, tt.want)
		}
	}
	for _, d := range []*pb.Definition{nil, {}} {
		if g, err := Decode(d); err != nil || g.Root != nil {
			t.Errorf("the empty definition is %v, %v", g, err)
		}
	}
}

// TestDeep checks that a definition of many steps one after another is decoded, written and replaced without a stack that
// grows with them: there is not room for 60 bytes of it a step.
func TestDeep(t *testing.T) {
	const n = 20_000
	def := &pb.Definition{}
	add := func(o *pb.Op) string {
		raw, err := marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		def.Def = append(def.Def, raw)
		return digest.FromBytes(raw).String()
	}
	last := add(source("docker-image://busybox"))
	for range n {
		last = add(files(in(last), mkdir(0, 0, "/a")))
	}
	add(&pb.Op{Inputs: in(last)})
	defer debug.SetMaxStack(debug.SetMaxStack(1 << 20))
	g, err := Decode(def)
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Vertices) != n+1 || g.Vertex(digest.Digest(last)) != g.Root.Vertex {
		t.Errorf("there are %d vertices", len(g.Vertices))
	}
	pinned := &op.Image{Ref: "x", Digest: digest.FromString("")}
	now := Replace([]solver.Input{*g.Root}, map[*solver.Vertex]solver.Op{g.Vertices[0]: pinned})
	got, err := Encode(&now[0], Options{Pinned: true})
	if err != nil || len(got.Def) != n+2 {
		t.Errorf("%d operations were written: %v", len(got.GetDef()), err)
	}
}

// TestInside checks that no path leads out of a tree, however it is written.
func TestInside(t *testing.T) {
	bad := "../../etc/../../x/./y"
	copied := &pb.FileAction{Input: 0, SecondaryInput: 1, Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{Src: bad, Dest: bad + "/", Mode: -1}}}
	g, err := decode(definition(t, source("docker-image://busybox"), source("local://a"),
		files(in("#0", "#1"), copied, mkdir(-1, 1, bad),
			&pb.FileAction{Input: 0, Output: 2, Action: &pb.FileAction_Rm{Rm: &pb.FileActionRm{Path: bad}}},
			&pb.FileAction{Input: 0, Output: 3, Action: &pb.FileAction_Symlink{Symlink: &pb.FileActionSymlink{Oldpath: bad, Newpath: bad}}},
			&pb.FileAction{Input: 0, Output: 4, Action: &pb.FileAction_Mkfile{Mkfile: &pb.FileActionMkFile{Path: bad}}}),
		command(in("#2"), &pb.Mount{Dest: "/"}, &pb.Mount{Dest: bad, Selector: bad, Input: 0, Output: -1})), everything)
	if err != nil {
		t.Fatal(err)
	}
	const want = "/x/y"
	f := g.Vertices[2].Op().(*op.File)
	e := g.Vertices[3].Op().(*op.Exec)
	for i, got := range []string{
		f.Actions[0].Copy.Src, strings.TrimSuffix(f.Actions[0].Copy.Dst, "/"), f.Actions[1].Mkdir.Path, f.Actions[2].Rm.Path,
		f.Actions[3].Symlink.New, f.Actions[4].Mkfile.Path, e.Mounts[1].Selector, g.Vertices[3].Inputs()[1].Select.Paths[0],
	} {
		if got != want {
			t.Errorf("path %d is %q, want %q", i, got, want)
		}
	}
	if got := e.Mounts[1].Dest; got != "/x/y" {
		t.Errorf("the mount is at %q", got)
	}
	if got := f.Actions[0].Copy.Dst; got != want+"/" {
		t.Errorf("the destination is %q: it has lost its slash", got)
	}
	for p, want := range map[string]string{
		"": "/", "/": "/", ".": "/", "/.": "/.", "a": "/a", "a/": "/a/", "a/.": "/a/.", "..": "/", "../": "/", "a/..": "/", "a/../": "/", "/a//b/": "/a/b/",
	} {
		if got := cleanTarget(p); got != want {
			t.Errorf("cleanTarget(%q) = %q, want %q", p, got, want)
		}
	}
}

// checkVertex reports what a decoded vertex must never have.
func checkVertex(t *testing.T, v *solver.Vertex) {
	t.Helper()
	inside := func(p string) {
		if p = strings.TrimSuffix(p, "/."); p != "" && !path.IsAbs(p) || path.Clean(p) != strings.TrimSuffix(p, "/") && path.Clean("/"+p) != "/" {
			t.Errorf("%s has the path %q", v.Name(), p)
		}
	}
	number := func(n, most int) {
		if n < -1 || n >= most {
			t.Errorf("%s names %d of %d", v.Name(), n, most)
		}
	}
	for _, in := range v.Inputs() {
		if in.Select != nil {
			for _, p := range in.Select.Paths {
				inside(p)
			}
		}
	}
	k := len(v.Inputs())
	switch o := v.Op().(type) {
	case *op.File:
		for i := range o.Actions {
			a := &o.Actions[i]
			number(a.Input, k+i)
			number(a.Second, k+i)
			number(a.Output, len(o.Actions))
			if w := ownerOf(a); w != nil {
				number(w.UserTree-1, k+i)
				number(w.GroupTree-1, k+i)
			}
			switch {
			case a.Copy != nil:
				inside(a.Copy.Src)
				inside(a.Copy.Dst)
			case a.Mkdir != nil:
				inside(a.Mkdir.Path)
			case a.Mkfile != nil:
				inside(a.Mkfile.Path)
			case a.Rm != nil:
				inside(a.Rm.Path)
			case a.Symlink != nil:
				inside(a.Symlink.New)
			}
		}
	case *op.Exec:
		for i := range o.Mounts {
			m := &o.Mounts[i]
			number(m.Input, k)
			number(m.Output, len(o.Mounts))
			inside(m.Dest)
			inside(m.Selector)
		}
	case *op.Build:
		for _, in := range o.Inputs {
			number(in.Input, k)
		}
	case *op.Passthrough:
		for _, i := range o.Out {
			number(i, k)
		}
	}
}

// FuzzDecode checks that no definition makes the decoder panic, that what it makes names nothing that is not there, and
// that it can be written again: as it came, and by its fields to a definition with the same keys.
func FuzzDecode(f *testing.F) {
	for seed := range uint64(20) {
		raw, err := proto.Marshal(newClient(seed).definition(f, 4))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		def := new(pb.Definition)
		if proto.Unmarshal(raw, def) != nil {
			return
		}
		checkHostile(t, relink(def))
	})
}

// checkHostile reports what is wrong with what a definition is decoded to; one that is refused is not. It says whether it
// was refused.
func checkHostile(t *testing.T, def *pb.Definition) (refused bool) {
	t.Helper()
	g, err := decode(def, everything)
	if err != nil || g.Root == nil {
		return true
	}
	for _, v := range g.Vertices {
		checkVertex(t, v)
	}
	again, err := Encode(g.Root, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decode(again, everything); err != nil {
		t.Fatal(err)
	}
	bare := forget(*g.Root)
	again, err = Encode(&bare, Options{})
	if err != nil {
		t.Fatal(err)
	}
	g2, err := decode(again, everything)
	if err != nil {
		t.Fatal(err)
	}
	if g2.Root.Vertex.Recipe() != g.Root.Vertex.Recipe() {
		for i, v := range g.Vertices {
			if w := g2.Vertices[i]; w.Recipe() != v.Recipe() {
				t.Fatalf("the key is\n%s\nwant\n%s\nof %v", w.Document(), v.Document(), originOf(v).raw)
			}
		}
		t.Fatal("the root has another key")
	}
	return false
}

// relink makes a definition whose operations have been changed one again: what was an input by its digest is one by the
// digest that it has now.
func relink(def *pb.Definition) *pb.Definition {
	out := &pb.Definition{Metadata: def.Metadata, Source: def.Source}
	names := make([]string, 0, len(def.Def))
	for _, raw := range def.Def {
		o := new(pb.Op)
		if o.Unmarshal(raw) != nil {
			return def
		}
		for i, in := range o.Inputs {
			if in != nil && len(names) > 0 {
				in.Digest = names[(int(in.Index&0xff)+i+len(in.Digest))%len(names)]
			}
		}
		raw, err := marshal(o)
		if err != nil {
			return def
		}
		out.Def = append(out.Def, raw)
		names = append(names, digest.FromBytes(raw).String())
	}
	return out
}

// TestLocalLists checks that lists are read as BuildKit's client writes them.
func TestLocalLists(t *testing.T) {
	st := llb.Local("x", llb.IncludePatterns([]string{"<a>&", "ü"}), llb.SessionID("frontend:id"))
	d, err := st.Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g, err := Decode(d.ToPB())
	if err != nil {
		t.Fatal(err)
	}
	l := g.Root.Vertex.Op().(*op.Local)
	if len(l.Include) != 2 || l.Include[0] != "<a>&" || l.Name != "frontend-x" || l.Session != "id" {
		t.Errorf("got %+v", l)
	}
}
