package shim_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/boxbuild/boxbuild/executor"
)

// TestHooksOutliveDaemon checks that the hooks of a container's end are run by whichever daemon is there then, once: one that
// deletes it, or one that finds its keeper gone; and that nothing of them is left in the container's directory.
func TestHooksOutliveDaemon(t *testing.T) {
	for _, killed := range []bool{false, true} {
		opts := hostOptions(t)
		root, _ := newRoot(t)
		dir, out := t.TempDir(), t.TempDir()
		spec := sh(root, "sleep 1000")
		spec.Hooks = []executor.Hook{
			scripted(executor.CreateContainer, "true"), scripted(executor.Poststart, "echo x >>"+out+"/started"),
			scripted(executor.Poststop, "echo x >>"+out+"/stopped; "+bundleOf("")+" ls $b >"+out+"/bundle"),
		}
		first := startHost(t, opts)
		c, err := first.Create(t.Context(), dir, spec, executor.HostOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		second := startHost(t, opts)
		if c, err = second.Open(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		if err := c.Run(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		if got := read(t, filepath.Join(out, "started")); got != "x\n" {
			t.Errorf("the hooks of the start have run %q", got)
		}
		if killed {
			kill9(t, keeperOf(t, c))
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			var gone *executor.GoneError
			for range 2 {
				if _, err := startHost(t, opts).Open(t.Context(), dir); !errors.As(err, &gone) {
					t.Fatalf("got %v", err)
				}
			}
		} else if err := c.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := read(t, filepath.Join(out, "stopped")); got != "x\n" {
			t.Errorf("killed %v: the hooks of the end have run %q", killed, got)
		}
		if got := read(t, filepath.Join(out, "bundle")); got != "config.json\nrootfs\n" {
			t.Errorf("killed %v: they found the bundle %q", killed, got)
		}
		for _, name := range []string{"bundle", "hooks.json"} {
			if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("killed %v: %s is left", killed, name)
			}
		}
	}
}

// TestHooksOfShared checks that hooks run for a sandbox that shares what it can with the host.
func TestHooksOfShared(t *testing.T) { both(t, testHooksOfShared) }

func testHooksOfShared(t *testing.T, e executor.Executor) {
	root, dir := newRoot(t)
	spec := sh(root, "cat /hooked")
	spec.Hostname, spec.HostUTS, spec.HostIPC, spec.HostCgroup = "", true, true, true
	spec.Network.Mode = executor.NetworkHost
	_, spec.HostPID = e.(hostExecutor) // which an Executor refuses
	spec.Hooks = []executor.Hook{scripted(executor.CreateContainer, bundleOf("")+" echo yes >$b/rootfs/hooked")}
	if got := run(t, e, spec); got.out != "yes\n" {
		t.Errorf("got %q, %q", got.out, got.err)
	}
	if got := read(t, filepath.Join(dir, "hooked")); got != "yes\n" {
		t.Errorf("the root has %q", got)
	}
}

// TestHooksAtOnce checks that sandboxes whose hooks run at the same time do not see each other's roots.
func TestHooksAtOnce(t *testing.T) { both(t, testHooksAtOnce) }

func testHooksAtOnce(t *testing.T, e executor.Executor) {
	const n = 6
	var specs [n]*executor.Spec
	for i := range specs {
		root, _ := newRoot(t)
		specs[i] = sh(root, "cat /mine; ls -d /of-*")
		specs[i].Hooks = []executor.Hook{
			scripted(executor.CreateRuntime, bundleOf("")+fmt.Sprintf(" touch $b/rootfs/of-%d", i)),
			scripted(executor.CreateContainer, bundleOf("")+fmt.Sprintf(" echo %d >$b/rootfs/mine; ls $b/..>/dev/null", i)),
		}
	}
	var all sync.WaitGroup
	for i, spec := range specs {
		all.Go(func() {
			got, err := tryRun(e, spec)
			if want := fmt.Sprintf("%d\n/of-%d\n", i, i); err != nil || got.out != want {
				t.Errorf("sandbox %d: %q, %v, want %q", i, got.out, err, want)
			}
		})
	}
	all.Wait()
}

// TestNoHookProgram checks that a program which is not there is the sandbox's failure, with its name.
func TestNoHookProgram(t *testing.T) { both(t, testNoHookProgram) }

func testNoHookProgram(t *testing.T, e executor.Executor) {
	for _, stage := range executor.HookStages()[:5] {
		root, _ := newRoot(t)
		spec := sh(root, "sleep 100")
		spec.Hooks = []executor.Hook{{Stage: stage, Path: "/no/such/hook"}}
		_, err := tryRun(e, spec)
		if err == nil || !strings.Contains(err.Error(), "running "+string(stage)+" hook /no/such/hook: ") || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("%s: got %v", stage, err)
		}
		var se *executor.StartError
		if errors.As(err, &se) {
			t.Errorf("%s: it looks like an error of the command: %v", stage, err)
		}
	}
}

// TestHookSaysMuch checks that a hook which says more than anybody reads is waited for, and its words cut off.
func TestHookSaysMuch(t *testing.T) { both(t, testHookSaysMuch) }

func testHookSaysMuch(t *testing.T, e executor.Executor) {
	for _, stage := range []executor.HookStage{executor.CreateContainer, executor.StartContainer} {
		root, _ := newRoot(t)
		spec := sh(root, "sleep 100")
		spec.Hooks = []executor.Hook{scripted(stage, "seq 100000 >&2; exit 4")}
		_, err := tryRun(e, spec)
		if err == nil || !strings.Contains(err.Error(), "exit code: 4: 1\n2\n3\n") || len(err.Error()) > 5000 {
			t.Errorf("%s: got %.200v", stage, err)
		}
	}
}

// TestHookStays checks that nothing which a hook has left running can be found by the command, also when it has left
// its group, and that hooks are not seen by those whose pid namespace the sandbox shares.
func TestHookStays(t *testing.T) { both(t, testHookStays) }

func testHookStays(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	marker := marker()
	spec := sh(root, "ls -d /proc/[0-9]*/root/usr/bin/busybox 2>/dev/null; cat /ready")
	spec.CapAdd = []string{"SYS_PTRACE"}
	spec.Hooks = []executor.Hook{
		scripted(executor.CreateContainer, bundleOf("")+`
setsid sh -c "echo yes >$b/rootfs/ready; exec sleep `+marker+`" </dev/null >/dev/null 2>&1 &
until test -s $b/rootfs/ready; do sleep 0.01; done`),
	}
	if got := run(t, e, spec); got.out != "yes\n" {
		t.Errorf("the command finds %q", got.out)
	}
	if running(t, marker) {
		t.Error("what the hook has left runs on")
	}
	if _, ok := e.(hostExecutor); !ok {
		return // sandboxes of builds share no pid namespace
	}
	other := start(t, e, sh(root, "sleep 1000"))
	pid := other.(*hostBox).c.Pid("")
	spec = sh(root, "cat /namespace")
	spec.PIDNamespace = fmt.Sprintf("/proc/%d/ns/pid", pid)
	spec.Hooks = []executor.Hook{scripted(executor.CreateContainer, bundleOf("")+" readlink /proc/self/ns/pid >$b/rootfs/namespace")}
	own, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	if got := run(t, e, spec); got.out != own+"\n" {
		t.Errorf("the hook's pid namespace is %q, want %q", got.out, own)
	}
}
