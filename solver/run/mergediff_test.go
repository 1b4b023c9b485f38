package run_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// What follows makes graphs as short as LLB's client does. A nil vertex is an empty tree.

func fileStep(base *solver.Vertex, a op.FileAction) *solver.Vertex {
	var in []solver.Input
	if a.Input, a.Second = op.NoInput, op.NoInput; base != nil {
		a.Input, in = 0, []solver.Input{{Vertex: base}}
	}
	f := &op.File{Actions: []op.FileAction{a}}
	return solver.NewVertex(f, in, solver.Meta{Name: f.String()})
}

func mkfile(base *solver.Vertex, p string, mode uint32, data string) *solver.Vertex {
	return fileStep(base, op.FileAction{Mkfile: &op.Mkfile{Path: p, Mode: mode, Data: []byte(data)}})
}

func mkdir(base *solver.Vertex, p string, mode uint32) *solver.Vertex {
	return fileStep(base, op.FileAction{Mkdir: &op.Mkdir{Path: p, Mode: mode}})
}

func rm(base *solver.Vertex, p string) *solver.Vertex {
	return fileStep(base, op.FileAction{Rm: &op.Rm{Path: p}})
}

func merge(vs ...*solver.Vertex) *solver.Vertex {
	var in []solver.Input
	for _, v := range vs {
		if v != nil {
			in = append(in, solver.Input{Vertex: v})
		}
	}
	return solver.NewVertex(&op.Merge{}, in, solver.Meta{Name: "merge"})
}

func diff(lower, upper *solver.Vertex) *solver.Vertex {
	var in []solver.Input
	for _, v := range []*solver.Vertex{lower, upper} {
		if v != nil {
			in = append(in, solver.Input{Vertex: v})
		}
	}
	return solver.NewVertex(&op.Diff{Lower: lower != nil, Upper: upper != nil}, in, solver.Meta{Name: "diff"})
}

// shell runs commands, one after another, in one step.
func shell(base *solver.Vertex, cmds ...string) *solver.Vertex {
	return sh(base, strings.Join(cmds, " && "))
}

// bases are two root file systems with a shell that share no layer.
type bases struct{ alpine, busybox *solver.Vertex }

func (r *rig) bases() bases {
	box := r.busybox()
	for _, d := range []string{"/proc", "/sys", "/dev"} {
		box = fileStep(box, op.FileAction{Mkdir: &op.Mkdir{Path: d, Mode: 0o755, Parents: true}})
	}
	data, err := os.ReadFile(filepath.Join(os.Getenv("BOXBUILD_BASES"), "busybox.tar"))
	if err != nil {
		r.t.Skip("no base images: run `make bases` and set BOXBUILD_BASES")
	}
	dir := r.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "busybox.tar"), data, 0o644); err != nil {
		r.t.Fatal(err)
	}
	alpine := solver.NewVertex(&op.File{Actions: []op.FileAction{
		{Input: op.NoInput, Second: op.NoInput, Output: op.NoOutput, Mkfile: &op.Mkfile{Path: "/alpine", Mode: 0o644}},
		{Input: 1, Second: 0, Output: op.NoOutput, Copy: &op.Copy{Src: "/busybox.tar", Dst: "/", Unpack: true, MkdirDst: true}},
		{Input: 2, Second: op.NoInput, Output: op.NoOutput, Mkdir: &op.Mkdir{Path: "/proc", Mode: 0o755, Parents: true}},
		{Input: 3, Second: op.NoInput, Output: op.NoOutput, Mkdir: &op.Mkdir{Path: "/sys", Mode: 0o755, Parents: true}},
		{Input: 4, Second: op.NoInput, Output: op.NoOutput, Mkdir: &op.Mkdir{Path: "/dev", Mode: 0o755, Parents: true}},
		{Input: 5, Second: op.NoInput, Output: 0, Mkdir: &op.Mkdir{Path: "/home2", Mode: 0o700}},
	}}, []solver.Input{{Vertex: r.local(dir), Select: &solver.Selector{Paths: []string{"/busybox.tar"}}}}, solver.Meta{Name: "alpine"})
	return bases{alpine: alpine, busybox: box}
}

// A treeCase is a graph and what it results in.
type treeCase struct {
	name string
	v    *solver.Vertex
	want []content
}

// check solves each case; then an image of the result has to have the same tree.
func (r *rig) check(t *testing.T, cases []treeCase) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			expected := listing{}
			for _, f := range c.want {
				f(r, expected)
			}
			id := r.snapshotOf(c.v)
			if d := compare(r.list(id), expected); d != "" {
				t.Errorf("the tree differs:%s", d)
			}
			// Sockets are in no layer, and who is a link to whom is in them only where both are.
			if d := compare(r.list(r.pulled(id)), expected); d != "" {
				t.Errorf("the tree of the image differs:%s", d)
			}
		})
	}
}

// TestDiffSame checks diffs of what is equal, and of nothing.
func TestDiffSame(t *testing.T) {
	r := newRig(t)
	b := r.bases()
	r.check(t, []treeCase{
		{"scratch", diff(nil, nil), nil},
		{"self", diff(b.alpine, b.alpine), nil},
		{"self deletes", merge(b.alpine, diff(b.alpine, b.alpine)), []content{wantOf(b.alpine)}},
		{"lower scratch", diff(nil, b.alpine), []content{wantOf(b.alpine)}},
		{
			"lower scratch deletes",
			merge(mkfile(nil, "/foo", 0o755, "A"), diff(nil, mkfile(rm(mkfile(nil, "/foo", 0o644, "B"), "/foo"), "/bar", 0o644, ""))),
			[]content{wantFile("/bar", 0o644, "")},
		},
		{
			"upper scratch",
			merge(b.alpine, mkfile(nil, "/foo", 0o644, "foo"), diff(b.alpine, nil)),
			[]content{wantFile("/foo", 0o644, "foo")},
		},
		{"other image", merge(b.busybox, diff(b.busybox, b.alpine)), []content{wantOf(b.alpine)}},
		{"other image alone", diff(b.busybox, b.alpine), []content{wantFile("/alpine", 0o644, ""), wantDir("/home2", 0o700)}},
	})
}

// diffBase is what TestDiffSlices changes.
func diffBase(v *solver.Vertex) *solver.Vertex {
	v = mkdir(mkfile(v, "/shuffleFile1", 0o644, "shuffleFile1"), "/unmodifiedDir", 0o755)
	v = mkdir(v, "/modifyDir", 0o755)
	for i, d := range []string{"/unmodifiedDir", "/modifyDir"} {
		n := string(rune('1' + i))
		for _, sub := range []string{"chmodSubdir", "deleteSubdir", "opaqueDir", "overrideSubdir"} {
			v = mkdir(v, d+"/"+sub+n, 0o755)
		}
		v = mkdir(v, d+"/opaqueDir"+n+"/opaqueSubdir", 0o755)
		v = mkfile(v, d+"/chmodFile"+n, 0o644, "chmodFile"+n)
		v = mkfile(v, d+"/modifyContentFile"+n, 0o644, "modifyContentFile1")
		for _, f := range []string{"/deleteFile" + n, "/opaqueDir" + n + "/opaqueFile", "/opaqueDir" + n + "/opaqueSubdir/opaqueFile2", "/overrideFileA", "/overrideFileB"} {
			v = mkfile(v, d+f, 0o644, "")
		}
		v = mkfile(v, d+"/shuffleFile", 0o644, "shuffleFile2")
	}
	return v
}

// A slice is what is done to diffBase, and what is there of it in the diff.
type slice struct {
	name string
	cmds []string
	want []content
}

// each applies f for both directories of diffBase.
func both(f func(dir, n string) ([]string, []content)) (cmds []string, want []content) {
	for i, d := range []string{"/unmodifiedDir", "/modifyDir"} {
		c, w := f(d, string(rune('1'+i)))
		cmds, want = append(cmds, c...), append(want, w...)
	}
	return cmds, want
}

func diffSlices() []slice {
	var out []slice
	add := func(name string, f func(d, n string) ([]string, []content)) {
		c, w := both(f)
		out = append(out, slice{name, c, w})
	}
	add("new files", func(d, _ string) ([]string, []content) {
		return []string{"mkdir " + d + "/newdir", "touch " + d + "/newdir/newfile " + d + "/newfile"},
			[]content{wantDir(d+"/newdir", 0o755), wantFile(d+"/newdir/newfile", 0o644, ""), wantFile(d+"/newfile", 0o644, "")}
	})
	add("modified files", func(d, n string) ([]string, []content) {
		return []string{"chmod 0444 " + d + "/chmodFile" + n, "echo -n modifyContentFile0 > " + d + "/modifyContentFile" + n},
			[]content{wantFile(d+"/chmodFile"+n, 0o444, "chmodFile"+n), wantFile(d+"/modifyContentFile"+n, 0o644, "modifyContentFile0")}
	})
	add("new dirs", func(d, _ string) ([]string, []content) {
		return []string{"mkdir -p " + d + "/newdir2/newsubdir"}, []content{wantDir(d+"/newdir2", 0o755), wantDir(d+"/newdir2/newsubdir", 0o755)}
	})
	add("modified dirs", func(d, n string) ([]string, []content) {
		return []string{"chmod 0700 " + d + "/chmodSubdir" + n}, []content{wantDir(d+"/chmodSubdir"+n, 0o700)}
	})
	add("override dirs", func(d, n string) ([]string, []content) {
		p := d + "/overrideSubdir" + n
		return []string{"rm -rf " + p, "echo -n over > " + p}, []content{wantFile(p, 0o644, "over")}
	})
	add("override files", func(d, _ string) ([]string, []content) {
		a, b := d+"/overrideFileA", d+"/overrideFileB"
		cmds := []string{"rm " + a + " " + b, "mkdir -m 0700 " + a, "mkdir -m 0750 " + b, "mkdir -m 0770 " + b + "/sub", "touch " + b + "/f " + b + "/sub/f"}
		return cmds, []content{
			wantDir(a, 0o700), wantDir(b, 0o750), wantDir(b+"/sub", 0o770), wantFile(b+"/f", 0o644, ""), wantFile(b+"/sub/f", 0o644, ""),
		}
	})
	add("opaque dirs", func(d, n string) ([]string, []content) {
		p := d + "/opaqueDir" + n
		return []string{"rm -rf " + p, "mkdir -p " + p + "/newSub", "touch " + p + "/newFile " + p + "/newSub/newFile"},
			[]content{wantDir(p, 0o755), wantDir(p+"/newSub", 0o755), wantFile(p+"/newFile", 0o644, ""), wantFile(p+"/newSub/newFile", 0o644, "")}
	})
	add("fifos", func(d, _ string) ([]string, []content) {
		return []string{"mknod " + d + "/fifo p"}, []content{want(d+"/fifo", "fifo 0644")}
	})
	add("devices", func(d, _ string) ([]string, []content) {
		return []string{"mknod " + d + "/null c 1 3"}, []content{want(d+"/null", "device 0644 1:3")}
	})
	return out
}

// TestDiffSlices checks the diff of each kind of change, of all of them at once, and of all of them in layers.
func TestDiffSlices(t *testing.T) {
	r := newRig(t)
	base := diffBase(r.bases().alpine)
	first := []string{"chmod 0700 /modifyDir"}
	dirs := []content{wantDir("/unmodifiedDir", 0o755), wantDir("/modifyDir", 0o700)}
	var cases []treeCase
	allCmds, allWant := slices.Clone(first), slices.Clone(dirs)
	layered := shell(base, first...)
	for _, s := range diffSlices() {
		cases = append(cases, treeCase{s.name, diff(base, shell(base, append(slices.Clone(first), s.cmds...)...)), append(slices.Clone(dirs), s.want...)})
		allCmds, allWant = append(allCmds, s.cmds...), append(allWant, s.want...)
		layered = shell(layered, s.cmds...)
	}
	cases = append(cases,
		treeCase{"single layer", diff(base, shell(base, allCmds...)), allWant},
		treeCase{"layers", diff(base, layered), allWant},
		treeCase{"layers merged", merge(base, diff(base, layered)), []content{wantOf(layered)}},
		treeCase{"layers back", merge(layered, diff(layered, base)), []content{wantOf(base)}},
	)
	r.check(t, cases)
}

// TestDiffDeletes checks that what was removed is not in a diff, and is removed where the diff is merged: as far as the
// lower tree of the diff had it, and no further.
func TestDiffDeletes(t *testing.T) {
	r := newRig(t)
	b := r.bases()
	base := diffBase(b.alpine)
	first := "chmod 0700 /modifyDir"
	dirs := []content{wantDir("/unmodifiedDir", 0o755), wantDir("/modifyDir", 0o700)}
	files := shell(base, first, "rm /unmodifiedDir/deleteFile1 /modifyDir/deleteFile2")
	trees := shell(base, first, "rm -rf /unmodifiedDir/deleteSubdir1 /modifyDir/deleteSubdir2")
	extra := mkfile(mkdir(base, "/extradir", 0o755), "/extradir/extrafile", 0o755, "")
	content2 := mkfile(mkdir(nil, "/unmodifiedDir", 0o755), "/unmodifiedDir/deleteFile2", 0o644, "foo")
	opaque := shell(base, first,
		"rm -rf /unmodifiedDir/opaqueDir1 /modifyDir/opaqueDir2", "mkdir /unmodifiedDir/opaqueDir1 /modifyDir/opaqueDir2",
		"touch /unmodifiedDir/opaqueDir1/new /modifyDir/opaqueDir2/new")
	rebased := mkfile(mkfile(base, "/unmodifiedDir/opaqueDir1/rebase1", 0o644, ""), "/modifyDir/opaqueDir2/opaqueSubdir/rebase2", 0o644, "")
	shuffled := shell(base, first,
		"mv /shuffleFile1 /tmpfile", "mv /tmpfile /shuffleFile1",
		"mv /unmodifiedDir/shuffleFile /unmodifiedDir/x", "mv /unmodifiedDir/x /unmodifiedDir/shuffleFile",
		"mv /modifyDir/shuffleFile /modifyDir/x", "mv /modifyDir/x /modifyDir/shuffleFile")
	parent := shell(b.alpine, "mkdir -p /parentdir/dir/subdir", "touch /parentdir/dir/A /parentdir/dir/B /parentdir/dir/subdir/C")
	r.check(t, []treeCase{
		{"files", diff(base, files), dirs},
		{"files merged", merge(base, diff(base, files)), append([]content{wantOf(base), wantGone("/unmodifiedDir/deleteFile1"), wantGone("/modifyDir/deleteFile2")}, dirs...)},
		{"trees", diff(base, trees), dirs},
		{"trees merged", merge(base, diff(base, trees)), append([]content{wantOf(base), wantGone("/unmodifiedDir/deleteSubdir1"), wantGone("/modifyDir/deleteSubdir2")}, dirs...)},
		// The parent of what was removed is in the diff, as it is in a layer.
		{"unmatched", merge(base, diff(extra, rm(extra, "/extradir/extrafile"))), []content{wantOf(base), wantDir("/extradir", 0o755)}},
		{
			"of two layers",
			diff(base, shell(merge(base, content2), "rm /unmodifiedDir/deleteFile1 /unmodifiedDir/deleteFile2")),
			[]content{wantDir("/unmodifiedDir", 0o755)},
		},
		{
			"opaque merged", merge(rebased, diff(base, opaque)),
			append([]content{
				wantOf(base), wantGone("/unmodifiedDir/opaqueDir1"), wantGone("/modifyDir/opaqueDir2"),
				wantDir("/unmodifiedDir/opaqueDir1", 0o755), wantDir("/modifyDir/opaqueDir2", 0o755),
				wantFile("/unmodifiedDir/opaqueDir1/new", 0o644, ""), wantFile("/modifyDir/opaqueDir2/new", 0o644, ""),
				wantFile("/unmodifiedDir/opaqueDir1/rebase1", 0o644, ""),
			}, dirs...),
		},
		{"shuffled", diff(base, shuffled), dirs[1:]},
		{"shuffled merged", merge(base, diff(base, shuffled)), append([]content{wantOf(base)}, dirs...)},
		{
			"opaque elsewhere",
			merge(shell(b.busybox, "mkdir -p /parentdir/dir/subdir", "touch /parentdir/dir/A /parentdir/dir/B /parentdir/dir/D"),
				diff(parent, shell(parent, "rm -rf /parentdir/dir", "mkdir /parentdir/dir", "touch /parentdir/dir/E"))),
			[]content{wantOf(shell(b.busybox, "mkdir -p /parentdir/dir", "touch /parentdir/dir/D /parentdir/dir/E"))},
		},
	})
}

// TestDiffSymlinks checks that nothing in a diff is put or removed through a symlink of another tree.
func TestDiffSymlinks(t *testing.T) {
	r := newRig(t)
	b := r.bases()
	on := func(base *solver.Vertex, cmds ...string) *solver.Vertex { return diff(base, shell(base, cmds...)) }
	fooToBar := on(b.alpine, "mkdir -p /bar", "ln -s /bar /foo")
	withFoo := shell(b.alpine, "mkdir /foo")
	createFile := on(withFoo, "touch /foo/file")
	r.check(t, []treeCase{
		{"dir over symlink", merge(b.busybox, fooToBar, createFile), []content{wantOf(shell(b.busybox, "mkdir /bar /foo", "touch /foo/file"))}},
		{"symlink over dir", merge(b.busybox, createFile, fooToBar), []content{wantOf(shell(b.busybox, "mkdir /bar", "ln -s /bar /foo"))}},
		{
			"symlink over symlink",
			merge(b.busybox, on(b.alpine, "mkdir /1 /2", "ln -s /1 /a", "ln -s /2 /a/b"), on(b.alpine, "mkdir /3", "ln -s /3 /a")),
			[]content{wantOf(shell(b.busybox, "mkdir /1 /2 /3", "ln -s /3 /a", "ln -s /2 /1/b"))},
		},
		{"delete of a symlink", merge(b.busybox, fooToBar, on(withFoo, "rm -rf /foo")), []content{wantOf(shell(b.busybox, "mkdir /bar"))}},
		{
			"delete below a symlink",
			merge(b.busybox, mkfile(fooToBar, "/bar/file", 0o644, ""), diff(createFile, rm(createFile, "/foo/file"))),
			[]content{wantOf(shell(b.busybox, "mkdir /bar", "touch /bar/file", "mkdir /foo"))},
		},
		{
			"circular", merge(b.busybox, on(b.alpine, "ln -s /2 /1", "ln -s /1 /2"), mkfile(nil, "/1", 0o644, "foo")),
			[]content{wantOf(shell(b.busybox, "echo -n foo > /1", "ln -s /1 /2"))},
		},
		{
			"circular dir", merge(b.busybox, on(b.alpine, "mkdir /foo", "ln -s ../foo /foo/link"), on(b.alpine, "mkdir -p /foo/link", "touch /foo/link/file")),
			[]content{wantOf(shell(b.busybox, "mkdir -p /foo/link", "touch /foo/link/file"))},
		},
		{
			"circular parent", merge(b.busybox, on(b.alpine, "ln -s /2 /1", "ln -s /1 /2"), on(b.alpine, "mkdir /1", "echo -n foo > /1/file")),
			[]content{wantOf(shell(b.busybox, "mkdir /1", "echo -n foo > /1/file", "ln -s /1 /2"))},
		},
		{
			"out of the root", merge(b.busybox, on(b.alpine, "ln -s ../../../../../../../etc /up"), on(withFoo, "mkdir /up", "echo -n x > /up/passwd")),
			[]content{wantOf(b.busybox), wantDir("/up", 0o755), wantFile("/up/passwd", 0o644, "x")},
		},
	})
}

// TestDiffHardlinks checks that links stay links, that a change in a tree which shares files with others is seen in none
// of them, and that mounts of an exec have diffs of their own.
func TestDiffHardlinks(t *testing.T) {
	r := newRig(t)
	b := r.bases()
	linked := diff(b.alpine, shell(b.alpine, "mkdir /dir", "touch /dir/1", "ln /dir/1 /dir/2", "chmod 0600 /dir/2"))
	links := []content{wantDir("/dir", 0o755), wantFile("/dir/1", 0o600, ""), want("/dir/2", "file 0600  =/dir/1")}
	exec := solver.NewVertex(&op.Exec{
		Meta: op.ExecMeta{Args: []string{"/bin/sh", "-c", "chmod 0777 /A/dir/1; echo x > /A/dir/1"}, Env: []string{"PATH=/bin"}, Cwd: "/", RemoveStubs: true},
		Mounts: []op.ExecMount{
			{Input: 0, Dest: "/", Output: 0},
			{Input: 1, Dest: "/A", Output: 1},
			{Input: 2, Dest: "/B", Output: 2},
		},
		Network: op.NetworkNone,
	}, []solver.Input{{Vertex: b.busybox}, {Vertex: linked}, {Vertex: linked}}, solver.Meta{Name: "exec"})
	out := func(i int) *solver.Vertex {
		return solver.NewVertex(&op.Passthrough{ID: "t", Out: []int{0}}, []solver.Input{{Vertex: exec, Output: i}}, solver.Meta{Name: "output"})
	}
	split := shWith(b.alpine, []*solver.Vertex{b.busybox}, "touch /home2/A /mnt/B", op.ExecMount{Input: 1, Dest: "/mnt", Output: 1})
	mnt := solver.NewVertex(&op.Passthrough{ID: "t", Out: []int{0}}, []solver.Input{{Vertex: split, Output: 1}}, solver.Meta{Name: "mnt"})
	r.check(t, []treeCase{
		{"links", linked, links},
		{"other tree", out(2), links},
		{"after the change", linked, links},
		{"exec root", diff(b.alpine, split), []content{wantDir("/home2", 0o700), wantFile("/home2/A", 0o644, "")}},
		{"exec mount", diff(b.busybox, mnt), []content{wantFile("/B", 0o644, "")}},
	})
}

// TestDiffOfMerges checks diffs of merges, merges of diffs, diffs of diffs, and what is built on them.
func TestDiffOfMerges(t *testing.T) {
	r := newRig(t)
	one := func(base *solver.Vertex, n string) *solver.Vertex {
		return mkfile(base, n, 0o644, strings.TrimPrefix(n, "/"))
	}
	a, b, c := one(nil, "/A"), one(nil, "/B"), one(nil, "/C")
	ab, abc := merge(a, b), merge(a, b, c)
	abDeleteC := merge(a, b, rm(c, "/C"))
	nested := merge(one(abc, "/D"), rm(merge(a, one(nil, "/E")), "/A"))
	files := func(names ...string) (out []content) {
		for _, n := range names {
			out = append(out, wantFile("/"+n, 0o644, n))
		}
		return out
	}
	sa := one(nil, "/A")
	sab := one(sa, "/B")
	sabc := one(sab, "/C")
	dir := mkdir(nil, "/dir", 0o755)
	r.check(t, []treeCase{
		{"only diffs", merge(diff(a, b), diff(b, a)), files("A")},
		{"of merges", diff(ab, abc), files("C")},
		{"of merges with deletes", merge(abc, diff(abc, abDeleteC)), files("A", "B")},
		{"one layer on a merge", diff(abDeleteC, one(abDeleteC, "/D")), files("D")},
		{"one deleting layer on a merge", merge(abDeleteC, diff(abc, rm(abc, "/A"))), files("B")},
		{"layers on a merge", merge(abDeleteC, diff(abc, rm(one(abc, "/D"), "/A"))), files("B", "D")},
		{"nested", diff(abc, one(nested, "/F")), files("D", "E", "F")},
		{"nested deletes", merge(one(ab, "/D"), diff(abc, rm(nested, "/D"))), files("B", "E")},
		{"of diffs", diff(diff(sa, sab), diff(sa, sabc)), files("C")},
		{"of diffs with deletes", merge(sabc, diff(diff(sa, sabc), diff(sa, sab))), files("A", "B")},
		{"as a parent", one(diff(sa, sab), "/D"), files("B", "D")},
		{"as a parent, delete", merge(sab, rm(diff(sa, sab), "/B")), files("A")},
		{"as a parent of layers", one(diff(sa, sabc), "/D"), files("B", "C", "D")},
		{"as a parent of layers, delete", merge(sab, rm(diff(sa, sabc), "/B")), files("A", "C")},
		{"nothing", merge(), nil},
		{"one", merge(a), files("A")},
		{"merge of a merge", merge(merge(a, b), merge(b, c)), files("A", "B", "C")},
		{
			"opaque after a whiteout", merge(mkfile(dir, "/dir/a", 0o644, ""), rm(dir, "/dir"), mkfile(dir, "/dir/b", 0o644, "")),
			[]content{wantDir("/dir", 0o755), wantFile("/dir/b", 0o644, "")},
		},
		{
			"opaque after a file", merge(mkfile(dir, "/dir/a", 0o644, ""), mkfile(nil, "/dir", 0o644, ""), mkfile(dir, "/dir/b", 0o644, "")),
			[]content{wantDir("/dir", 0o755), wantFile("/dir/b", 0o644, "")},
		},
	})
}

// TestMergeLayers checks that the layers of merges and diffs are those of their inputs, byte for byte, that what stands
// where it did is taken as it is, and that a diff keeps alive what its layers are made of.
func TestMergeLayers(t *testing.T) {
	r := newRig(t)
	b := r.bases()
	layersOf := func(v *solver.Vertex) [][]byte { return r.layers(r.snapshotOf(v)) }
	join := func(vs ...*solver.Vertex) (out [][]byte) {
		for _, v := range vs {
			out = append(out, layersOf(v)...)
		}
		return out
	}
	up := shell(b.alpine, "echo x > /etc/x", "rm /alpine")
	up2 := shell(up, "rm -rf /home2", "mkdir /home2", "touch /home2/y")
	other := mkfile(mkfile(nil, "/o", 0o644, "1"), "/p", 0o644, "2")
	n := len(layersOf(b.alpine))
	base := merge(b.busybox, mkfile(nil, "/foo", 0o644, "foo"))
	onMerge := shell(base, "echo y > /y")
	for _, c := range []struct {
		name string
		v    *solver.Vertex
		want [][]byte
	}{
		{"merge", merge(b.busybox, other), join(b.busybox, other)},
		{"merge of three", merge(other, b.busybox, up2), join(other, b.busybox, up2)},
		{"one layer", diff(b.alpine, up), layersOf(up)[n:]},
		{"two layers", diff(b.alpine, up2), layersOf(up2)[n:]},
		{"merged diff", merge(b.busybox, diff(b.alpine, up2)), append(layersOf(b.busybox), layersOf(up2)[n:]...)},
		{"one layer on a merge", diff(base, onMerge), layersOf(onMerge)[len(layersOf(base)):]},
	} {
		got := layersOf(c.v)
		if len(got) != len(c.want) {
			t.Errorf("%s: %d layers, want %d", c.name, len(got), len(c.want))
			continue
		}
		for i := range got {
			if !bytes.Equal(got[i], c.want[i]) {
				t.Errorf("%s: layer %d differs", c.name, i)
			}
		}
	}
	if got, want := r.snapshotOf(merge(b.alpine, diff(b.alpine, up2))), r.snapshotOf(up2); got != want {
		t.Errorf("a merge with what was made there is %s, want %s itself", got, want)
	}
	info := r.chain(r.snapshotOf(diff(b.alpine, up)))[0]
	if want := (snapshot.Delta{Lower: r.snapshotOf(b.alpine), Upper: r.snapshotOf(up), Loose: true}); info.Delta != want {
		t.Errorf("the delta is %v, want %v", info.Delta, want)
	}
}
