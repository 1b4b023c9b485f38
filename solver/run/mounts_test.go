package run_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/snapshot/layer"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run"
)

// changes lists what a result adds to the one below it, as the tar of its layer has it, without the directories that
// are in it as they were before.
func (r *rig) changes(res solver.Result) []string {
	r.t.Helper()
	id, ok := run.SnapshotOf(res)
	if !ok || id == "" {
		r.t.Fatalf("%q is no snapshot", res)
	}
	var b bytes.Buffer
	if err := layer.DiffSnapshot(r.t.Context(), r.snaps, id, &b, layer.DiffOptions{}); err != nil {
		r.t.Fatal(err)
	}
	var names []string
	for tr := tar.NewReader(&b); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			r.t.Fatal(err)
		}
		if h.Typeflag != tar.TypeDir || time.Since(h.ModTime) < 24*time.Hour {
			names = append(names, h.Name)
		}
	}
}

// TestNoStubs checks that what is made for mounts to be mounted on is in no layer, nor the times of the directories that
// it stood in.
func TestNoStubs(t *testing.T) {
	r := newRig(t)
	v := sh(r.busybox(), "mkdir -p /etc /var/lib; rm -f /etc/hosts /etc/resolv.conf; touch -d 2001-02-03 /etc /var/lib /var /")
	mounts := []op.ExecMount{
		{Type: op.MountTmpfs, Input: op.NoInput, Output: op.NoOutput, Dest: "/var/lib/made/for/this"},
		{Type: op.MountCache, Input: op.NoInput, Output: op.NoOutput, Dest: "/var/lib/apt", Cache: op.CacheMount{ID: "apt"}},
		{Type: op.MountCache, Input: op.NoInput, Output: op.NoOutput, Dest: "/etc/cache", Cache: op.CacheMount{ID: "etc"}},
	}
	for _, tc := range []struct {
		script string
		want   []string
	}{
		{"true", nil},
		{"touch /var/lib/apt/x /var/lib/made/for/this/x", nil},
		{"touch /var/lib/new", []string{"var/lib/", "var/lib/new"}},
	} {
		res, _ := r.run(sh(v, tc.script, mounts...))
		if got := r.changes(res); !slices.Equal(got, tc.want) {
			t.Errorf("%q leaves %q, want %q", tc.script, got, tc.want)
		}
	}
	if _, log := r.run(sh(sh(v, "true", mounts...), "stat -c %y /var /var/lib | cut -c 1-10")); log != "2001-02-03\n2001-02-03\n" {
		t.Errorf("directories that stubs stood in have the times %q", log)
	}
}

// TestNoStubsBehindLinks checks that nothing is left in a layer of mount points behind dangling links.
func TestNoStubsBehindLinks(t *testing.T) {
	r := newRig(t)
	dir, links := t.TempDir(), t.TempDir()
	err := errors.Join(
		os.WriteFile(filepath.Join(dir, "f"), []byte("f\n"), 0o644),
		os.Mkdir(filepath.Join(links, "etc"), 0o755),
		os.Symlink("/nowhere/x", filepath.Join(links, "dl")),
		os.Symlink("/x/r", filepath.Join(links, "etc/hosts")),
		os.Symlink("../run/systemd/resolve/stub-resolv.conf", filepath.Join(links, "etc/resolv.conf")),
	)
	if err != nil {
		t.Fatal(err)
	}
	v := solver.NewVertex(&op.File{Actions: []op.FileAction{{
		Input: 0, Second: 1, Output: 0, Copy: &op.Copy{Src: "/", Dst: "/", DirContents: true},
	}}}, []solver.Input{{Vertex: r.busybox()}, {Vertex: r.local(links)}}, solver.Meta{Name: "links"})
	v = sh(v, "test -L /dl && test -L /etc/hosts && test -L /etc/resolv.conf && touch -d 2001-02-03 /etc /")
	res, _ := r.run(v)
	if got := r.changes(res); len(got) != 0 {
		t.Errorf("no mount but those of every step: left are %q", got)
	}
	for _, tc := range []struct {
		script string
		mount  op.ExecMount
	}{
		{"touch /dl/x", op.ExecMount{Type: op.MountTmpfs, Input: op.NoInput, Output: op.NoOutput, Dest: "/dl"}},
		{"touch /dl/x", op.ExecMount{Type: op.MountCache, Input: op.NoInput, Output: op.NoOutput, Dest: "/dl", Cache: op.CacheMount{ID: "dl"}}},
		{"cat /dl/f", op.ExecMount{Type: op.MountBind, Input: 1, Output: op.NoOutput, Dest: "/dl", ReadOnly: true}},
		{"cat /dl", op.ExecMount{Type: op.MountBind, Input: 1, Output: op.NoOutput, Dest: "/dl", Selector: "f", ReadOnly: true}},
		{"cat /dl/deeper/f", op.ExecMount{Type: op.MountBind, Input: 1, Output: op.NoOutput, Dest: "/dl/deeper", ReadOnly: true}},
	} {
		res, _ := r.run(shWith(v, []*solver.Vertex{r.local(dir)}, tc.script, tc.mount))
		if got := r.changes(res); len(got) != 0 {
			t.Errorf("%q with %v at %s leaves %q", tc.script, tc.mount.Type, tc.mount.Dest, got)
		}
	}
}

// TestResolvConf checks that a step without a network and one on the host's see the host's /etc/resolv.conf, and that what
// one on any network writes to that file fails and is no part of the layer.
func TestResolvConf(t *testing.T) {
	r := newRig(t)
	base := r.busybox()
	for _, network := range []op.Network{op.NetworkNone, op.NetworkHost, op.NetworkSandbox} {
		v := sh(base, "exec 2>&1; echo leak > /etc/resolv.conf || echo refused; cat /etc/resolv.conf")
		e := *v.Op().(*op.Exec)
		e.Network = network
		res, log := r.run(solver.NewVertex(&e, []solver.Input{{Vertex: base}}, solver.Meta{Name: "resolv.conf"}))
		if !strings.Contains(log, "Read-only file system\nrefused\nnameserver ") {
			t.Errorf("network %d: %q", network, log)
		}
		if got := strings.HasSuffix(log, hostResolvConf); got != (network != op.NetworkSandbox) {
			t.Errorf("network %d: the host's file is seen: %t, in %q", network, got, log)
		}
		if got := r.changes(res); len(got) != 0 {
			t.Errorf("network %d: the layer has %q", network, got)
		}
	}
}

// TestStubBehindSymlink checks that a process which moves the parent of a mount point away, and puts a symlink to the
// host in its place, has nothing removed there (CVE-2024-23652).
func TestStubBehindSymlink(t *testing.T) {
	r := newRig(t)
	canary := t.TempDir()
	for _, name := range []string{"b", "c"} {
		if err := os.WriteFile(filepath.Join(canary, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	v := sh(r.busybox(), "mv /a /old && ln -s "+canary+" /a && test -d /old/b",
		op.ExecMount{Type: op.MountTmpfs, Input: op.NoInput, Output: op.NoOutput, Dest: "/a/b"},
		op.ExecMount{Type: op.MountTmpfs, Input: op.NoInput, Output: op.NoOutput, Dest: "/a/c"})
	res, err := r.solve(t.Context(), v)
	if err != nil {
		t.Logf("the step: %v", err) // it may also fail; nothing may be removed
	} else if got := r.changes(res); slices.Contains(got, "old/b/") || !slices.Contains(got, "a") {
		t.Errorf("the layer has %q", got)
	}
	left, err := os.ReadDir(canary)
	if err != nil || len(left) != 2 {
		t.Errorf("left on the host are %v (%v), want b and c", left, err)
	}
}

// TestCacheMount checks that what is written to a cache mount is there in later steps and no part of the layer, and that
// one with another ID is apart.
func TestCacheMount(t *testing.T) {
	r := newRig(t)
	cache := func(id string) op.ExecMount {
		return op.ExecMount{
			Type: op.MountCache, Input: op.NoInput, Output: op.NoOutput, Dest: "/cache", Cache: op.CacheMount{ID: id},
		}
	}
	res, _ := r.run(sh(r.busybox(), "echo kept > /cache/file", cache("a")))
	if got := r.changes(res); len(got) != 0 {
		t.Errorf("the layer has %q, want nothing", got)
	}
	if _, log := r.run(sh(r.busybox(), "cat /cache/file; stat -c %a:%u:%g /cache", cache("a"))); log != "kept\n755:0:0\n" {
		t.Errorf("the next step sees %q", log)
	}
	if all, err := r.runner.CacheMounts(t.Context()); err != nil || len(all) != 1 || all[0].Uses != 2 ||
		all[0].Description != "cached mount /cache from exec /bin/sh -c echo kept > /cache/file with id \"a\"" {
		t.Errorf("it is listed as %+v, %v", all, err)
	}
	if _, log := r.run(sh(r.busybox(), "ls /cache", cache("b"))); log != "" {
		t.Errorf("a cache with another ID has %q", log)
	}
	ro := cache("a")
	ro.ReadOnly = true
	if _, log := r.run(sh(r.busybox(), "cat /cache/file; touch /cache/new 2>/dev/null || echo refused", ro)); log != "kept\nrefused\n" {
		t.Errorf("a read-only mount: %q", log)
	}
}

// TestCacheMountBase checks that a cache mount starts with the content of its base, with owners and modes, and that the
// base's own tree is not written to.
func TestCacheMountBase(t *testing.T) {
	r := newRig(t)
	base := sh(r.busybox(), "mkdir /seed /seed/sub && echo one > /seed/sub/file && chmod 640 /seed/sub/file && "+
		"chown 12:34 /seed/sub/file /seed && chmod 1770 /seed && ln -s sub /seed/link")
	mount := op.ExecMount{
		Type: op.MountCache, Input: 1, Selector: "/seed", Output: op.NoOutput, Dest: "/cache", Cache: op.CacheMount{ID: "a"},
	}
	look := "stat -c %a:%u:%g /cache /cache/sub/file; cat /cache/link/file; "
	_, log := r.run(shWith(r.busybox(), []*solver.Vertex{base}, look+"echo two > /cache/sub/file", mount))
	if want := "1770:12:34\n640:12:34\none\n"; log != want {
		t.Errorf("a new cache: %q, want %q", log, want)
	}
	_, log = r.run(shWith(r.busybox(), []*solver.Vertex{base}, look, mount))
	if want := "1770:12:34\n640:12:34\ntwo\n"; log != want {
		t.Errorf("the next step: %q, want %q", log, want)
	}
	if _, log := r.run(sh(base, "cat /seed/sub/file")); log != "one\n" {
		t.Errorf("the base has %q, want what it had", log)
	}
	mount.Selector = "/none"
	if _, err := r.solve(t.Context(), shWith(r.busybox(), []*solver.Vertex{base}, "true", mount)); err == nil {
		t.Error("a cache mount whose base is not there succeeds")
	}
	left, err := filepath.Glob(filepath.Join(r.dir, "cache", "new-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("half filled directories are left: %q (%v)", left, err)
	}
}

// TestBindFromStage checks a bind mount of a part of another stage. A symlink in it leads nowhere but inside that stage
// (CVE-2024-1753).
func TestBindFromStage(t *testing.T) {
	r := newRig(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	stage := sh(r.busybox(), "mkdir -p /dir && echo stage > /dir/file && ln -s / /x && ln -s ../../../../../.. /up && "+
		"ln -s "+filepath.Dir(secret)+" /abs && ln -s dir /good")
	bind := func(sel string) op.ExecMount {
		return op.ExecMount{Type: op.MountBind, Input: 1, Selector: sel, Output: op.NoOutput, Dest: "/m", ReadOnly: true}
	}
	for _, tc := range []struct{ sel, script, want string }{
		{"/dir", "cat /m/file", "stage\n"},
		{"/dir/file", "cat /m", "stage\n"},
		{"/good", "cat /m/file", "stage\n"},
		{"/x", "cat /m/dir/file; test -e /m" + secret + " || echo confined", "stage\nconfined\n"},
		{"/up", "cat /m/dir/file; test -e /m" + secret + " || echo confined", "stage\nconfined\n"},
		{"/x/../../../dir", "cat /m/file", "stage\n"},
	} {
		if _, log := r.run(shWith(r.busybox(), []*solver.Vertex{stage}, tc.script, bind(tc.sel))); log != tc.want {
			t.Errorf("%s: %q, want %q", tc.sel, log, tc.want)
		}
	}
	for _, sel := range []string{"/abs", "/none", "/abs/secret"} {
		_, err := r.solve(t.Context(), shWith(r.busybox(), []*solver.Vertex{stage}, "cat /m/* /m", bind(sel)))
		if err == nil || !strings.Contains(err.Error(), sel) {
			t.Errorf("%s: got %v, want an error that names it", sel, err)
		}
	}
}

// TestBindNothing checks that the empty tree can be mounted like any other: empty, read-only if that is asked for, and
// without a trace. It is an input that a mount does without, or the result of a step that has nothing.
func TestBindNothing(t *testing.T) {
	r := newRig(t)
	nothing := diff(r.busybox(), r.busybox())
	for _, input := range []int{op.NoInput, 1} {
		for _, tc := range []struct {
			sel, script, want string
			readOnly          bool
		}{
			{"", "ls -A /m; (echo x > /m/x) 2>/dev/null || echo refused", "refused\n", true},
			{"/", "ls -A /m; (echo y > /m/y) 2>/dev/null || echo refused", "refused\n", true},
			{"", "ls -A /m; echo x > /m/x && ls /m", "x\n", false},
		} {
			mount := op.ExecMount{Type: op.MountBind, Input: input, Selector: tc.sel, Output: op.NoOutput, Dest: "/m", ReadOnly: tc.readOnly}
			inputs := []*solver.Vertex{nothing}
			if input == op.NoInput {
				inputs = nil
			}
			res, log := r.run(shWith(r.busybox(), inputs, tc.script, mount))
			if got := r.changes(res); log != tc.want || len(got) != 0 {
				t.Errorf("input %d, %+v: the step says %q, and the layer has %q", input, tc, log, got)
			}
			mount.Selector = "/none"
			if _, err := r.solve(t.Context(), shWith(r.busybox(), inputs, tc.script, mount)); err == nil || !strings.Contains(err.Error(), "/none") {
				t.Errorf("input %d, %+v: a path that it lacks: %v", input, tc, err)
			}
		}
	}
	if drafts, err := filepath.Glob(filepath.Join(r.dir, "snapshots", "new-*")); err != nil || len(drafts) != 0 {
		t.Errorf("drafts are left: %q (%v)", drafts, err)
	}
}

// TestReadWriteBind checks that a bind mount may be written to if it is asked for, that what is written is thrown away,
// and that it is refused otherwise.
func TestReadWriteBind(t *testing.T) {
	r := newRig(t)
	stage := sh(r.busybox(), "mkdir -p /dir && echo stage > /dir/file")
	for _, sel := range []string{"", "/dir"} {
		file := "/m/dir/file"
		if sel != "" {
			file = "/m/file"
		}
		mount := op.ExecMount{Type: op.MountBind, Input: 1, Selector: sel, Output: op.NoOutput, Dest: "/m"}
		res, log := r.run(shWith(r.busybox(), []*solver.Vertex{stage}, "echo mine > "+file+" && cat "+file, mount))
		if log != "mine\n" {
			t.Errorf("%q: the step sees %q of what it wrote", sel, log)
		}
		if got := r.changes(res); len(got) != 0 {
			t.Errorf("%q: the layer has %q", sel, got)
		}
		mount.ReadOnly = true
		_, log = r.run(shWith(r.busybox(), []*solver.Vertex{stage}, "cat "+file+"; (echo x > "+file+") 2>/dev/null || echo refused", mount))
		if log != "stage\nrefused\n" {
			t.Errorf("%q: the next step sees %q", sel, log)
		}
	}
	if drafts, err := filepath.Glob(filepath.Join(r.dir, "snapshots", "new-*")); err != nil || len(drafts) != 0 {
		t.Errorf("drafts are left: %q (%v)", drafts, err)
	}
}

// TestTmpfs checks that a tmpfs is empty, has its size, gives nobody another identity, and leaves nothing.
func TestTmpfs(t *testing.T) {
	r := newRig(t)
	mount := op.ExecMount{Type: op.MountTmpfs, Input: op.NoInput, Output: op.NoOutput, Dest: "/tmp/x", Tmpfs: 1 << 20}
	base := sh(r.busybox(), "mkdir -p /tmp/x; echo hidden > /tmp/x/file")
	res, log := r.run(sh(base, "ls /tmp/x; dd if=/dev/zero of=/tmp/x/big bs=1M count=2 2>/dev/null || stat -c %s /tmp/x/big", mount))
	if want := "1048576\n"; log != want {
		t.Errorf("log %q, want %q", log, want)
	}
	if got := r.changes(res); len(got) != 0 {
		t.Errorf("the layer has %q", got)
	}
	if _, log := r.run(sh(base, "grep -c ' /tmp/x tmpfs rw,nosuid,' /proc/mounts", mount)); log != "1\n" {
		t.Errorf("mounts with nosuid: %q", log)
	}
	if _, log := r.run(sh(base, "cat /tmp/x/file")); log != "hidden\n" {
		t.Errorf("what the mount hid is %q", log)
	}
}

// TestBindContext checks that a client's directory can be mounted, with what was in it when the build began.
func TestBindContext(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sub", "file"), []byte("context\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	dirVertex := r.local(dir)
	mount := op.ExecMount{Type: op.MountBind, Input: 1, Output: op.NoOutput, Dest: "/m"}
	for _, tc := range []struct{ sel, script, want string }{
		{"", "cat /m/sub/file; stat -c %a:%u:%g /m/sub/file; echo x > /m/sub/file", "context\n640:0:0\n"},
		{"/sub", "cat /m/file", "context\n"},
		{"/sub/file", "cat /m", "context\n"},
	} {
		mount.Selector = tc.sel
		if _, log := r.run(shWith(r.busybox(), []*solver.Vertex{dirVertex}, tc.script, mount)); log != tc.want {
			t.Errorf("%q: %q, want %q", tc.sel, log, tc.want)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "sub", "file")); err != nil || string(b) != "context\n" {
		t.Errorf("the client's file is %q (%v)", b, err)
	}
}

// TestLost checks that a step whose input has been removed from under its record is no failure: the input is made again.
// Without a record of the step itself it is looked for, and what it stands on was needed for nothing but that.
func TestLost(t *testing.T) {
	r := newRig(t)
	below := sh(r.busybox(), "echo below > /below")
	v := sh(below, "echo input > /input")
	top, _ := r.run(v)
	id, _ := run.SnapshotOf(top)
	r.lease.Release() // nothing is held any more: not what is removed, nor by what made it
	r.lease = r.leases.Acquire("test again")
	if err := r.snaps.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		v    *solver.Vertex
		want string
	}{
		{"as the root", sh(v, "cat /input"), "input\n"},
		{"as a mount", shWith(below, []*solver.Vertex{v}, "cat /m/input", op.ExecMount{Input: 1, Output: op.NoOutput, Dest: "/m", ReadOnly: true}), "input\n"},
	} {
		if _, log := r.run(tc.v); log != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, log, tc.want)
		}
	}
}

// TestLostError checks what the solver is told when an input goes while a step is about to use it: which one.
func TestLostError(t *testing.T) {
	r := newRig(t)
	base, _ := r.run(r.busybox())
	gone := run.ResultOf(snapshot.ID("gone"))
	cat := op.ExecMount{Input: 1, Output: op.NoOutput, Dest: "/m", ReadOnly: true}
	rw, cached := cat, cat
	rw.ReadOnly = false
	cached.Type = op.MountCache
	file := &op.File{Actions: []op.FileAction{{
		Input: 0, Second: 1, Output: 0, Copy: &op.Copy{Src: "/bin", Dst: "/copy", MkdirDst: true},
	}}}
	for _, tc := range []struct {
		name string
		v    *solver.Vertex
		in   []solver.Result
		want []int
	}{
		{"root", sh(r.busybox(), "true"), []solver.Result{gone}, []int{0}},
		{"bind", shWith(r.busybox(), []*solver.Vertex{r.busybox()}, "true", cat), []solver.Result{base, gone}, []int{1}},
		{"draft", shWith(r.busybox(), []*solver.Vertex{r.busybox()}, "true", rw), []solver.Result{base, gone}, []int{1}},
		{"cache", shWith(r.busybox(), []*solver.Vertex{r.busybox()}, "true", cached), []solver.Result{base, gone}, []int{1}},
		{"local", shWith(r.busybox(), []*solver.Vertex{r.busybox()}, "true", cat), []solver.Result{base, "local:gone"}, []int{1}},
		{"copy to", fileVertex(file, r.busybox(), r.busybox()), []solver.Result{gone, base}, []int{0}},
		{"copy from", fileVertex(file, r.busybox(), r.busybox()), []solver.Result{base, gone}, []int{1}},
	} {
		_, err := r.runner.Run(t.Context(), &solver.Step{
			Vertex: tc.v, Inputs: tc.in,
			Log: func(solver.Stream, []byte) {}, Status: func(solver.Status) {}, Warn: func(solver.Warning) {},
		})
		var lost *solver.LostError
		if !errors.As(err, &lost) || !slices.Equal(lost.Inputs, tc.want) {
			t.Errorf("%s: got %v, want that %v is lost", tc.name, err, tc.want)
		}
	}
	if drafts, err := filepath.Glob(filepath.Join(r.dir, "snapshots", "new-*")); err != nil || len(drafts) != 0 {
		t.Errorf("drafts are left: %q (%v)", drafts, err)
	}
	if err := r.runner.Hold(t.Context(), gone); err == nil {
		t.Error("without a lease something is held")
	}
}

func fileVertex(f *op.File, inputs ...*solver.Vertex) *solver.Vertex {
	var in []solver.Input
	for _, v := range inputs {
		in = append(in, solver.Input{Vertex: v})
	}
	return solver.NewVertex(f, in, solver.Meta{Name: "copy"})
}

// TestRecentGone checks that a copy is right whether the last result of the same is there to link from or has been removed.
func TestRecentGone(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir()
	file := &op.File{Actions: []op.FileAction{{
		Input: 0, Second: 1, Output: 0, Copy: &op.Copy{Src: "/", Dst: "/copy", DirContents: true, MkdirDst: true},
	}}}
	hints := func() []string {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(r.dir, "recent", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	base := r.busybox()
	r.run(base)
	before := len(hints())
	for n, text := range []string{"one", "two", "three"} {
		for _, name := range []string{"same", "changed"} {
			content := name
			if name == "changed" {
				content = text
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		v := fileVertex(file, base, r.local(dir))
		res, _ := r.run(v)
		if _, log := r.run(sh(v, "cat /copy/same /copy/changed")); log != "same"+text {
			t.Errorf("copy %d is %q", n, log)
		}
		if got := len(hints()); got != before+1 {
			t.Fatalf("there are %d hints, want %d", got, before+1)
		}
		if n == 0 {
			continue // the second links from the first, the third finds the second gone
		}
		r.lease.Release()
		r.lease = r.leases.Acquire("test again")
		below, _ := r.solve(t.Context(), sh(v, "cat /copy/same /copy/changed"))
		id, _ := run.SnapshotOf(below)
		top, _ := run.SnapshotOf(res)
		r.lease.Release()
		r.lease = r.leases.Acquire("test again")
		for _, x := range []snapshot.ID{id, top} {
			if err := r.snaps.Remove(t.Context(), x); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestFailedStep checks that a step that fails, is cancelled or cannot begin leaves no draft, no sandbox and no cache
// directory in use.
func TestFailedStep(t *testing.T) {
	r := newRig(t)
	mounts := []op.ExecMount{
		{Type: op.MountCache, Input: op.NoInput, Output: op.NoOutput, Dest: "/c", Cache: op.CacheMount{ID: "c", Sharing: op.SharingLocked}},
		{Type: op.MountBind, Input: 0, Selector: "/bin", Output: op.NoOutput, Dest: "/rw"},
	}
	base := r.busybox()
	r.run(base)
	for _, script := range []string{"exit 3", "touch /c/x; false"} {
		if _, err := r.solve(t.Context(), sh(base, script, mounts...)); err == nil {
			t.Errorf("%q succeeds", script)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for {
			found, err := filepath.Glob(filepath.Join(r.dir, "cache", "*", "begun"))
			if err != nil || len(found) > 0 || t.Context().Err() != nil {
				cancel()
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if _, err := r.solve(ctx, sh(base, "touch /c/begun; sleep 1000 & wait", mounts...)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was cancelled", err)
	}
	missing := append(slices.Clone(mounts), op.ExecMount{Type: op.MountBind, Input: 0, Selector: "/none", Output: op.NoOutput, Dest: "/m"})
	if _, err := r.solve(t.Context(), sh(base, "true", missing...)); err == nil {
		t.Error("a step with a mount that is not there succeeds")
	}
	// It would wait for ever if one of them were still in the locked directory.
	if _, log := r.run(sh(base, "ls /c", mounts...)); log != "begun\nx\n" {
		t.Errorf("the cache has %q", log)
	}
	if drafts, err := filepath.Glob(filepath.Join(r.dir, "snapshots", "new-*")); err != nil || len(drafts) != 0 {
		t.Errorf("drafts are left: %q (%v)", drafts, err)
	}
}
