package shim_test

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/cgroup"
	"github.com/boxbuild/boxbuild/executor/shim"
	"github.com/boxbuild/boxbuild/executor/shim/wire"
)

// foreign returns the name of a cgroup that is none of the host's, which is removed at the end.
func foreign(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("boxbuild-foreign-%d-%d", os.Getpid(), number.Add(1))
	t.Cleanup(func() {
		if err := cgroup.At(cgroup.Root).Remove("/" + name); err != nil {
			t.Error(err)
		}
	})
	return name
}

// named returns a specification and a directory as a daemon's containers have them.
func named(t *testing.T, root *os.File, script string) (*executor.Spec, string) {
	t.Helper()
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	spec := sh(root, script)
	spec.ID = hex.EncodeToString(b)
	dir := filepath.Join(t.TempDir(), spec.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return spec, dir
}

func runningNamed(t *testing.T, h *shim.Host, dir string, spec *executor.Spec) executor.Container {
	t.Helper()
	c, err := h.Create(t.Context(), dir, spec, executor.HostOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Delete(t.Context()) })
	if err := c.Run(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	return c
}

// groupsOf returns the cgroups of a process, with the kernel's numbers of the hierarchies taken away.
func groupsOf(t *testing.T, pid int) (out []string) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		_, line, _ = strings.Cut(strings.TrimSpace(line), ":")
		out = append(out, line)
	}
	return out
}

// mounted are the hierarchies that there are at the usual places; with version 2 it is "".
func mounted() (out []string) {
	tree := cgroup.At(cgroup.Root)
	for _, d := range append(slices.Clone(cgroup.V1All), "systemd", "") {
		var st unix.Statfs_t
		if unix.Statfs(filepath.Join(cgroup.Root, d), &st) != nil || d == "" && !tree.Unified() {
			continue
		}
		if st.Type == unix.CGROUP_SUPER_MAGIC || st.Type == unix.CGROUP2_SUPER_MAGIC {
			out = append(out, strings.Replace(strings.Replace(d, "systemd", "name=systemd", 1), "unified", "", 1))
		}
	}
	return out
}

// A container is in a cgroup of its own in each hierarchy, also in that of systemd, which has no controller: what is left in the
// daemon's there ends with it. Of a parent that is asked for it is below that as it is called; the parent stays.
func TestHostCgroupParent(t *testing.T) {
	h := newHost(t)
	root, _ := newRoot(t)
	name := foreign(t)
	for asked, want := range map[string]string{
		"/" + name: "/" + name, "//" + name + "/./sub/": "/" + name + "/sub",
	} {
		spec, dir := named(t, root, "sleep 1000")
		spec.CgroupPath = asked
		c := runningNamed(t, h, dir, spec)
		groups := groupsOf(t, c.Pid(""))
		for _, hierarchy := range mounted() {
			if line := hierarchy + ":" + want + "/" + spec.ID; !slices.Contains(groups, line) {
				t.Errorf("%s: there is no %s among %q", asked, line, groups)
			}
		}
		if err := c.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := cgroupsOf(t, want+"/"+spec.ID); len(left) > 0 {
			t.Errorf("%s: cgroups are left: %q", asked, left)
		}
		if len(cgroupsOf(t, want)) == 0 {
			t.Errorf("%s: the parent has been removed", asked)
		}
	}
	spec, dir := named(t, root, "true")
	// One without a slash in front is below this process's own, where nothing is made here, since that may be anybody's.
	spec.CgroupPath = name + "/sub"
	own := path.Join(cgroup.At(cgroup.Root).Own(), name, "sub")
	if got, err := shim.ParentOf(h, dir, spec); err != nil || got != own {
		t.Errorf("a relative parent is %s, %v, want %s", got, err, own)
	}
	for _, asked := range []string{"../" + name, "/" + name + "/../x", "/a\x00b"} {
		spec.CgroupPath = asked
		if _, err := h.Create(t.Context(), dir, spec, executor.HostOptions{}); err == nil {
			t.Errorf("%q: made", asked)
		}
	}
	spec.CgroupPath = "/" + name
	if _, err := h.Create(t.Context(), t.TempDir(), spec, executor.HostOptions{}); err == nil {
		t.Error("made in a directory with another name")
	}
}

// What was limited before in a parent holds for containers in it.
func TestHostCgroupParentLimits(t *testing.T) {
	h := newHost(t)
	root, _ := newRoot(t)
	tree := cgroup.At(cgroup.Root)
	name := foreign(t)
	dir, file := filepath.Join(cgroup.Root, "pids", name), "pids.max"
	if tree.Unified() {
		dir = filepath.Join(cgroup.Root, name)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("no cgroups of processes: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte("30"), 0o644); err != nil {
		t.Skipf("no limit of processes: %v", err)
	}
	spec, boxDir := named(t, root, "i=0; while [ $i -lt 60 ]; do sleep 1000 & i=$((i+1)); done; exit 3")
	spec.CgroupPath = "/" + name
	c := runningNamed(t, h, boxDir, spec)
	if exit, err := c.Wait(t.Context(), ""); err != nil || exit.Code == 3 {
		t.Errorf("more processes than the parent allows: %+v, %v", exit, err)
	}
}

// What a keeper that was killed has left in a parent of others is removed, and nothing else: not the parent, not what else is in
// it, and nothing that only a copied or forged record names.
func TestHostCgroupParentSwept(t *testing.T) {
	h := newHost(t)
	root, _ := newRoot(t)
	name := foreign(t)
	spec, dir := named(t, root, "sleep 1000")
	spec.CgroupPath = "/" + name
	c := runningNamed(t, h, dir, spec)
	other, otherDir := named(t, root, "sleep 1000")
	other.CgroupPath = spec.CgroupPath
	second := runningNamed(t, h, otherDir, other)

	state, err := os.ReadFile(filepath.Join(otherDir, wire.StateFile))
	if err != nil {
		t.Fatal(err)
	}
	var gone *executor.GoneError
	copied := filepath.Join(t.TempDir(), other.ID)     // of a daemon whose files were copied while it ran
	forged := filepath.Join(t.TempDir(), "somebody's") // a name that is no container's
	for _, d := range []string{copied, forged} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, wire.StateFile), state, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Open(t.Context(), d); !errors.As(err, &gone) {
			t.Errorf("%s: %v", d, err)
		}
	}
	kill9(t, keeperOf(t, c))
	if _, err := h.Open(t.Context(), dir); !errors.As(err, &gone) {
		t.Errorf("opening: %v, want a GoneError", err)
	}
	if left := cgroupsOf(t, "/"+name+"/"+spec.ID); len(left) > 0 {
		t.Errorf("cgroups are left: %q", left)
	}
	if pids, err := second.Pids(t.Context()); err != nil || len(pids) == 0 {
		t.Errorf("the other container has %v, %v", pids, err)
	}
	if len(cgroupsOf(t, "/"+name)) == 0 {
		t.Error("the parent has been removed")
	}
}

// A sandbox of an Executor has its cgroup below the parent that it asks for, in one of the executor's name, which is removed when
// the executor closes, or by the next one when it was killed. Nothing else of the parent is touched.
func TestExecutorCgroupParent(t *testing.T) {
	needsRoot(t)
	name := foreign(t)
	opts := shim.Options{
		Binary: binary, Dir: t.TempDir(), CgroupParent: fmt.Sprintf("/boxbuild-test-%d-%d", os.Getpid(), number.Add(1)), Log: testLog{t},
	}
	root, _ := newRoot(t)
	e, err := shim.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	t.Cleanup(func() {
		if !closed {
			_ = e.Close()
		}
	})
	spec := sh(root, "sleep 1000")
	spec.CgroupPath = name
	start(t, e, spec)
	below := "/" + name + opts.CgroupParent
	found := cgroupsOf(t, below+"/*/cgroup.procs")
	if len(found) == 0 {
		t.Fatalf("there is no cgroup in %s", below)
	}
	if tree := cgroup.At(cgroup.Root); len(tree.Processes(below)) == 0 {
		t.Error("there is no process in it")
	}
	list, err := os.ReadFile(filepath.Join(opts.Dir, "cgroups.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	closed = true
	left := func(when string) {
		t.Helper()
		if got := cgroupsOf(t, below); len(got) > 0 || len(cgroupsOf(t, "/"+name)) == 0 {
			t.Errorf("%s there is %q, and of the parent %q", when, got, cgroupsOf(t, "/"+name))
		}
	}
	left("after Close")

	// As after the death of a daemon: its cgroups are there, and the list of them.
	dir := filepath.Dir(filepath.Dir(found[0])) // of a hierarchy, with the name
	other := filepath.Join(filepath.Dir(dir), "other")
	for _, d := range []string{dir, filepath.Join(dir, "box"), other} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(opts.Dir, "cgroups.json"), strings.Replace(string(list), "[", `["/`+name+`/other",`, 1), 0o600)
	next, err := shim.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	left("after the next start")
	if _, err := os.Stat(other); err != nil {
		t.Errorf("what is another's: %v", err)
	}
}
