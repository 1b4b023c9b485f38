package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What is asked for is what there is, is wanted, and has not been handed out.
func TestMissingControllers(t *testing.T) {
	for _, c := range []struct{ have, handed, want string }{
		{"cpuset cpu io memory hugetlb pids rdma misc\n", "memory pids\n", "+cpu +cpuset"},
		{"cpuset cpu io memory pids", "", "+cpu +cpuset +memory +pids"},
		{"cpu pids\n", "cpu pids\n", ""},
		{"io rdma", "", ""},
		{"", "", ""},
	} {
		if got := missing(c.have, c.handed); got != c.want {
			t.Errorf("of %q, with %q: %q, want %q", c.have, c.handed, got, c.want)
		}
	}
}

// group makes the files of a cgroup of version 2 in an ordinary directory.
func group(t *testing.T, dir, controllers string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"cgroup.controllers": controllers, "cgroup.subtree_control": "", "cgroup.procs": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Every cgroup down to the parent hands its controllers out, the parent too.
func TestDelegateHandsOut(t *testing.T) {
	root := t.TempDir()
	for _, d := range []string{"", "a", "a/b"} {
		group(t, filepath.Join(root, d), "cpu memory rdma\n")
	}
	if err := At(root).Delegate("/a/b"); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"", "a", "a/b"} {
		if got, err := os.ReadFile(filepath.Join(root, d, "cgroup.subtree_control")); err != nil || string(got) != "+cpu +memory" {
			t.Errorf("%q: written is %q, %v", d, got, err)
		}
	}
	if err := At(t.TempDir()).Delegate("/a/b"); err != nil {
		t.Errorf("with version 1: %v", err)
	}
}

// With version 2, cgroups of the same name below others are not ours; with version 1, they are those of the hierarchies.
func TestRemoveOnlyOurs(t *testing.T) {
	for _, unified := range []bool{false, true} {
		root := t.TempDir()
		for _, d := range []string{"boxbuild-x/1", "other/boxbuild-x"} {
			if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if unified {
			if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := At(root).Remove("/boxbuild-x"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(root, "boxbuild-x")); err == nil {
			t.Error("our cgroup is left")
		}
		if _, err := os.Stat(filepath.Join(root, "other/boxbuild-x")); (err == nil) != unified {
			t.Errorf("unified %t: the cgroup below another: %v", unified, err)
		}
	}
}

// needsUnified skips the test where no cgroups of version 2 with controllers can be made.
func needsUnified(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if have, _ := os.ReadFile(filepath.Join(Root, "cgroup.controllers")); len(strings.Fields(string(have))) == 0 {
		t.Skip("needs cgroup v2 with controllers")
	}
}

// In a container's hierarchy, processes at the root of it are moved out of the way of sandboxes; anywhere else they are
// an error, which names the cgroup.
func TestDelegatePastProcesses(t *testing.T) {
	needsUnified(t)
	top := filepath.Join(Root, "boxbuild-test-"+strings.ToLower(t.Name())+"-"+filepath.Base(t.TempDir()))
	if err := handOut(Root, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(top, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := remove(top); err != nil {
			t.Error(err)
		}
	})
	child := sleeper(t)
	join := func(dir string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(child), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	join(top)
	if err := At(top).Delegate("/b/c"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"cgroup.procs": "", leafName + "/cgroup.procs": child, "b/cgroup.type": "domain", "b/c/cgroup.type": "domain"} {
		if got, err := os.ReadFile(filepath.Join(top, name)); err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s is %q, %v, want %q", name, got, err, want)
		}
	}
	if err := os.Mkdir(filepath.Join(top, "busy"), 0o755); err != nil {
		t.Fatal(err)
	}
	join(filepath.Join(top, "busy"))
	err := At(top).Delegate("/busy/c")
	if !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), filepath.Join(top, "busy")) || !strings.Contains(err.Error(), "processes of its own") {
		t.Errorf("below a cgroup with processes: %v", err)
	}
}

// sleeper starts a process that ends with the test, and returns its pid.
func sleeper(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("sleep", "100000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return strconv.Itoa(cmd.Process.Pid)
}
