package shim_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/boxbuild/boxbuild/executor"
)

// scripted is a hook that runs a shell script, of busybox on the host or in the sandbox.
func scripted(stage executor.HookStage, script string) executor.Hook {
	shell := "/usr/bin/busybox"
	if stage == executor.StartContainer {
		shell = "/bin/sh"
	}
	return executor.Hook{Stage: stage, Path: shell, Args: []string{"sh", "-c", script}}
}

// bundleOf is a script that sets b to the bundle of a state, which is in a file or on standard input.
func bundleOf(file string) string { return `b=$(sed 's/.*"bundle":"\([^"]*\)".*/\1/' ` + file + ");" }

// onHost are the stages whose hooks can write to the host.
var onHost = []executor.HookStage{executor.Prestart, executor.CreateRuntime, executor.Poststart, executor.Poststop}

// TestHooks checks that hooks of all stages run, in order, when and where they are due, and what they are told: a state with
// the stage's status, the sandbox's number as the hook's pid namespace has it, and a bundle whose configuration names the
// root. Those which the host cannot be written from tell by the root.
func TestHooks(t *testing.T) { both(t, testHooks) }

func testHooks(t *testing.T, e executor.Executor) {
	root, dir := newRoot(t)
	out := t.TempDir()
	write(t, filepath.Join(dir, "here"), "", 0o644)
	spec := sh(root, "echo command >>/order; (cd /proc/self/ns; for n in mnt uts net ipc pid cgroup; do readlink $n; done >/own); test -e /order2 && echo shared; while ! test -s /out/poststart.root; do sleep 0.01; done")
	spec.Hostname = "hooked"
	spec.Mounts = []executor.Mount{{Source: open(t, out), Target: "/out"}}
	// Poststop comes first in the list: the order within the life does not depend on that.
	for _, stage := range []executor.HookStage{executor.Poststop, executor.Poststart, executor.Prestart, executor.CreateRuntime} {
		spec.Hooks = append(spec.Hooks, scripted(stage, fmt.Sprintf(
			"cd %s; cat >%s; echo %[2]s >>order; hostname >%[2]s.name; %[3]s (ls $b/rootfs; echo .) >%[2]s.root", out, stage, bundleOf(string(stage)))))
	}
	spec.Hooks = append(spec.Hooks, scripted(executor.CreateContainer, bundleOf("")+`
cd $b/rootfs
echo createContainer >>order
cd /proc/self/ns; for n in mnt uts net ipc pid cgroup; do readlink $n; done >$b/rootfs/namespaces; cd $b/rootfs
cat $b/config.json >config.json
grep -c " $b/rootfs/proc " /proc/self/mountinfo >mounts
touch order2`), scripted(executor.StartContainer, "cat >/start; echo startContainer >>/order; hostname >/start.name"))
	got := run(t, e, spec)
	if got.exit.Code != 0 || got.out != "shared\n" {
		t.Fatalf("the command ended with %d, %q, %q", got.exit.Code, got.out, got.err)
	}
	if got, want := read(t, filepath.Join(out, "order")), "prestart\ncreateRuntime\npoststart\npoststop\n"; got != want {
		t.Errorf("the host's order is %q, want %q", got, want)
	}
	if got, want := read(t, filepath.Join(dir, "order")), "createContainer\nstartContainer\ncommand\n"; got != want {
		t.Errorf("the root's order is %q, want %q", got, want)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for stage, want := range map[executor.HookStage]specs.ContainerState{
		executor.Prestart: specs.StateCreating, executor.CreateRuntime: specs.StateCreating,
		executor.Poststart: specs.StateRunning, executor.Poststop: specs.StateStopped,
	} {
		var st specs.State
		decode(t, filepath.Join(out, string(stage)), &st)
		if st.Status != want || st.ID != spec.ID || st.Version != specs.Version || !filepath.IsAbs(st.Bundle) || (st.Pid > 1) != (want != specs.StateStopped) {
			t.Errorf("%s is told %+v", stage, st)
		}
		if got := read(t, filepath.Join(out, string(stage)+".name")); got != host+"\n" {
			t.Errorf("%s runs on %q, want %q", stage, got, host)
		}
		if _, err := os.Stat(st.Bundle); err == nil {
			t.Errorf("the bundle %s is left", st.Bundle)
		}
		before := slices.Contains([]executor.HookStage{executor.Prestart, executor.CreateRuntime}, stage)
		if got := read(t, filepath.Join(out, string(stage)+".root")); strings.Contains(got, "here\n") != before {
			t.Errorf("%s sees the root %q", stage, got)
		}
	}
	var st specs.State
	decode(t, filepath.Join(dir, "start"), &st)
	if st.Status != specs.StateCreated || st.Pid != 1 || st.ID != spec.ID || st.Bundle == "" {
		t.Errorf("startContainer is told %+v", st)
	}
	var config specs.Spec
	decode(t, filepath.Join(dir, "config.json"), &config)
	if config.Root.Path != st.Bundle+"/rootfs" || config.Process.Args[0] != "/bin/sh" {
		t.Errorf("the configuration has root %+v and process %+v", config.Root, config.Process)
	}
	if got := read(t, filepath.Join(dir, "start.name")); got != "hooked\n" {
		t.Errorf("startContainer runs on %q", got)
	}
	if got, want := read(t, filepath.Join(dir, "namespaces")), read(t, filepath.Join(dir, "own")); got != want || got == "" {
		t.Errorf("createContainer runs in\n%swant\n%s", got, want)
	}
	if got := read(t, filepath.Join(dir, "mounts")); got != "1\n" {
		t.Errorf("of the sandbox's mounts createContainer sees %q, want /proc once", got)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func decode(t testing.TB, path string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(read(t, path)), v); err != nil {
		t.Errorf("%s: %v", path, err)
	}
}

// TestHookFails checks that the failure of a hook of before the command's end is the sandbox's, with the program's name, its
// exit code and what it said, that no later stage comes to be but the last, and that nothing runs after it.
func TestHookFails(t *testing.T) { both(t, testHookFails) }

func testHookFails(t *testing.T, e executor.Executor) {
	for _, stage := range executor.HookStages()[:5] {
		root, dir := newRoot(t)
		out := t.TempDir()
		spec := sh(root, "echo ran >/ran; sleep 100")
		spec.Hooks = []executor.Hook{
			scripted(stage, "echo what is wrong >&2; exit 3"), scripted(stage, "echo x >/second || true"),
			scripted(executor.Poststop, "echo x >"+out+"/stopped"),
		}
		_, err := tryRun(e, spec)
		want := "running " + string(stage) + " hook " + spec.Hooks[0].Path + ": exit code: 3: what is wrong"
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", stage, err, want)
		}
		if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil && stage != executor.Poststart {
			t.Errorf("%s: the command has run", stage)
		}
		if _, err := os.Stat(filepath.Join(dir, "second")); err == nil {
			t.Errorf("%s: the second hook has run", stage)
		}
		if got := read(t, filepath.Join(out, "stopped")); got != "x\n" {
			t.Errorf("%s: the hooks of the end have not run", stage)
		}
	}
}

// TestHookFailsAtEnd checks that the failure of a hook after the command's end changes nothing, and keeps no other from running.
func TestHookFailsAtEnd(t *testing.T) { both(t, testHookFailsAtEnd) }

func testHookFailsAtEnd(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	out := t.TempDir()
	spec := sh(root, "exit 7")
	spec.Hooks = []executor.Hook{scripted(executor.Poststop, "exit 3"), scripted(executor.Poststop, "echo x >"+out+"/stopped")}
	if got := run(t, e, spec); got.exit.Code != 7 {
		t.Errorf("the exit code is %d", got.exit.Code)
	}
	if got := read(t, filepath.Join(out, "stopped")); got != "x\n" {
		t.Error("the second hook has not run")
	}
}

// TestHookTimeout checks that a hook which takes too long is killed, with what it has started, and has failed.
func TestHookTimeout(t *testing.T) { both(t, testHookTimeout) }

func testHookTimeout(t *testing.T, e executor.Executor) {
	for _, stage := range executor.HookStages()[:5] {
		root, _ := newRoot(t)
		marker := marker()
		spec := sh(root, "sleep 100")
		h := scripted(stage, "sleep "+marker+"; true")
		h.Timeout = 50 * time.Millisecond
		spec.Hooks = []executor.Hook{h}
		_, err := tryRun(e, spec)
		if err == nil || !strings.HasSuffix(err.Error(), h.Path+": still running after 50ms") {
			t.Errorf("%s: got %v", stage, err)
		}
		if running(t, marker) {
			t.Errorf("%s: its program runs on", stage)
		}
	}
}

// TestHookEnvironment checks that a hook has the variables of its description and a PATH, and nothing of the sandbox's or of
// the daemon's, whose dynamic linker would load the image's libraries into a program with all rights (CVE-2025-23266).
func TestHookEnvironment(t *testing.T) { both(t, testHookEnvironment) }

func testHookEnvironment(t *testing.T, e executor.Executor) {
	t.Setenv("OF_THE_DAEMON", "1")
	root, dir := newRoot(t)
	out := t.TempDir()
	if err := os.Chmod(out, 0o777); err != nil {
		t.Fatal(err)
	}
	spec := sh(root, "env >/command")
	spec.Process.Env = []string{"LD_PRELOAD=./evil.so", "OF_THE_IMAGE=1"}
	spec.Process.Cwd = "/tmp"
	for _, stage := range executor.HookStages() {
		to := out + "/" + string(stage)
		if stage == executor.CreateContainer {
			to = `$(sed 's/.*"bundle":"\([^"]*\)".*/\1/')/rootfs/` + string(stage)
		}
		if stage == executor.StartContainer {
			to = "/" + string(stage)
		}
		h := scripted(stage, "(pwd; env) >"+to)
		h.Env = []string{"GIVEN=" + string(stage)}
		spec.Hooks = append(spec.Hooks, h)
	}
	if got := run(t, e, spec); got.exit.Code != 0 {
		t.Fatalf("the command ended with %d", got.exit.Code)
	}
	for _, stage := range executor.HookStages() {
		from := out
		if !slices.Contains(onHost, stage) {
			from = dir
		}
		lines := strings.Fields(read(t, filepath.Join(from, string(stage))))
		// The shell and, with the user's own, the library add what they need.
		lines = slices.DeleteFunc(lines, func(l string) bool {
			name, _, _ := strings.Cut(l, "=")
			return slices.Contains([]string{"PWD", "SHLVL", "OLDPWD", "_", "HOME"}, name)
		})
		want := []string{"/", "GIVEN=" + string(stage), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
		if !slices.Equal(lines, want) && !slices.Equal(lines, []string{want[0], want[2], want[1]}) {
			t.Errorf("%s has %q, want %q", stage, lines, want)
		}
	}
	if got := read(t, filepath.Join(dir, "command")); strings.Contains(got, "GIVEN") || !strings.Contains(got, "OF_THE_IMAGE") {
		t.Errorf("the command has %q", got)
	}
}

// TestHookLinks checks that a root full of links that lead out of it has no hook write to the host (CVE-2024-0132), and that
// one cannot by itself, where the sandbox's own mounts are.
func TestHookLinks(t *testing.T) { both(t, testHookLinks) }

func testHookLinks(t *testing.T, e executor.Executor) {
	root, dir := newRoot(t)
	c := newCanary(t)
	for _, name := range []string{"lib", "cache"} {
		if err := os.Symlink(c.dir, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(c.dir+"/new", filepath.Join(dir, "etc/ld.so.cache")); err != nil {
		t.Fatal(err)
	}
	spec := sh(root, "true")
	attack := `b=$(sed 's/.*"bundle":"\([^"]*\)".*/\1/'); r=$b/rootfs; test -d $r/etc || exit 9
for f in $r/lib/null $r/cache/new $r/etc/ld.so.cache $r/lib/b/x; do echo evil >$f; done 2>/dev/null; mkdir $r/lib/d; rm $r/lib/ptmx; true`
	for _, stage := range executor.HookStages()[:3] {
		spec.Hooks = append(spec.Hooks, scripted(stage, attack))
	}
	spec.Hooks = append(spec.Hooks, scripted(executor.CreateContainer, "echo evil >"+c.dir+"/null; mkdir "+c.dir+"/d; true"))
	if got := run(t, e, spec); got.exit.Code != 0 {
		t.Errorf("the command ended with %d, %s", got.exit.Code, got.err)
	}
	c.check(t)
}

// TestHookLeavesNothing checks that nothing of the host's is left in a sandbox for which hooks have run: no mount, no
// descriptor; and that a mount which a hook made in the root is there.
func TestHookLeavesNothing(t *testing.T) { both(t, testHookLeavesNothing) }

func testHookLeavesNothing(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	plain := sh(root, "ls /proc/self/fd; grep -c . /proc/self/mountinfo; ls -d /proc/[0-9]*")
	want := run(t, e, plain)
	spec := sh(root, "cat /tmp/of-the-hook >&2; ls /proc/self/fd; n=$(grep -c . /proc/self/mountinfo); echo $((n-1)); ls -d /proc/[0-9]*")
	spec.Hooks = []executor.Hook{
		scripted(executor.CreateRuntime, "true"),
		scripted(executor.CreateContainer, `b=$(sed 's/.*"bundle":"\([^"]*\)".*/\1/'); mount -t tmpfs tmpfs $b/rootfs/tmp && echo mounted >$b/rootfs/tmp/of-the-hook`),
	}
	got := run(t, e, spec)
	if got.err != "mounted\n" {
		t.Errorf("what the hook has mounted says %q", got.err)
	}
	if strings.Count(got.out, "\n") < 4 || got.out[:strings.Index(got.out, "/proc")] != want.out[:strings.Index(want.out, "/proc")] {
		t.Errorf("descriptors and mounts are %q, want %q", got.out, want.out)
	}
}

// TestHookGivenUp checks that a start which is given up while a hook runs ends the hook.
func TestHookGivenUp(t *testing.T) { both(t, testHookGivenUp) }

func testHookGivenUp(t *testing.T, e executor.Executor) {
	for _, stage := range executor.HookStages()[:3] {
		root, _ := newRoot(t)
		marker := marker()
		spec := sh(root, "true")
		spec.Hooks = []executor.Hook{scripted(stage, "exec sleep "+marker)}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() {
			_, err := e.Start(ctx, spec, executor.IO{})
			ended <- err
		}()
		for !running(t, marker) {
			time.Sleep(5 * time.Millisecond)
		}
		cancel()
		if err := <-ended; err == nil {
			t.Errorf("%s: no error", stage)
		}
		if running(t, marker) {
			t.Errorf("%s: the hook runs on", stage)
		}
	}
}

// TestHookJoins checks that a hook of the host's namespaces which joins those of the process that it is told of, as NVIDIA's of
// prestart does, finds the root, where its bundle says, and the host's files, which it cannot change from there.
func TestHookJoins(t *testing.T) { both(t, testHookJoins) }

func testHookJoins(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	out := t.TempDir()
	script := `s=$(cat); b=$(echo "$s" | sed 's/.*"bundle":"\([^"]*\)".*/\1/'); p=$(echo "$s" | sed 's/.*"pid":\([0-9]*\).*/\1/')
nsenter -t $p -m -- /usr/bin/busybox sh -c "echo joined >$b/rootfs/tmp/joined; mount -t tmpfs tmpfs $b/rootfs/root; echo kept >$b/rootfs/root/kept; touch ` + out + `/evil; true"`
	spec := sh(root, "cat /tmp/joined /root/kept")
	spec.Mounts = []executor.Mount{{Type: executor.Tmpfs, Target: "/tmp"}}
	spec.Hooks = []executor.Hook{scripted(executor.Prestart, script)}
	if got := run(t, e, spec); got.out != "joined\nkept\n" {
		t.Errorf("got %q, %q", got.out, got.err)
	}
	if _, err := os.Stat(filepath.Join(out, "evil")); err == nil {
		t.Error("the host was written to")
	}
}
