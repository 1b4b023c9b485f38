package shim_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/cgroup"
	"github.com/boxbuild/boxbuild/executor/shim"
)

// TestHelperHost is no test but a daemon: it creates a container, runs it, says so, and waits to be killed.
func TestHelperHost(t *testing.T) {
	var opts shim.Options
	if err := json.Unmarshal([]byte(os.Getenv("SHIM_HOST")), &opts); err != nil {
		t.Skip("runs for TestHostDaemonDies only")
	}
	h, err := shim.NewHost(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	dir := os.Getenv("SHIM_DIR")
	spec := sh(open(t, os.Getenv("SHIM_ROOT")), os.Getenv("SHIM_SCRIPT"))
	c, err := h.Create(context.Background(), dir, spec, executor.HostOptions{
		OpenStdin: true, Log: executor.Log{Driver: "json-file", Path: filepath.Join(dir, "log")},
	})
	if err == nil {
		err = c.Run(context.Background(), "")
	}
	fmt.Println("running", err)
	select {}
}

// startDaemon starts a daemon with a container that runs script, and returns its killing with SIGKILL.
func startDaemon(t *testing.T, opts shim.Options, root, dir, script string) (kill func()) {
	t.Helper()
	opts.Log = nil
	b, err := json.Marshal(opts)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelperHost$", "-test.v")
	cmd.Env = append(os.Environ(), "SHIM_HOST="+string(b), "SHIM_ROOT="+root, "SHIM_DIR="+dir, "SHIM_SCRIPT="+script, "BOXSHIM="+binary)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Cleanup(kill)
	l := newLines()
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(l, out)
	}()
	l.await("running <nil>")
	return func() {
		_ = cmd.Process.Kill()
		<-copied
		_ = cmd.Wait()
	}
}

// When the daemon is killed its container runs on, and the next daemon has all of it: input, output, log, end.
func TestHostDaemonDies(t *testing.T) {
	opts := hostOptions(t)
	_, root := newRoot(t)
	dir := t.TempDir()
	kill := startDaemon(t, opts, root, dir, "echo before; read x; echo got $x; exit 7")
	kill()
	h := startHost(t, opts)
	c, err := h.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.Attach(t.Context(), "", executor.Streams{Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(a, "input\n"); err != nil {
		t.Fatal(err)
	}
	if exit, err := c.Wait(t.Context(), ""); err != nil || exit.Code != 7 {
		t.Errorf("exit is %+v, %v", exit, err)
	}
	out, err := io.ReadAll(a)
	if err != nil || !strings.Contains(string(out), "got input\n") {
		t.Errorf("output is %q, %v", out, err)
	}
	log, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil || !strings.Contains(string(log), `"before\n"`) || !strings.Contains(string(log), `"got input\n"`) {
		t.Errorf("the log is %q, %v", log, err)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
}

// A container that ends while there is no daemon is recorded, and its keeper leaves nothing but that.
func TestHostEndsWithoutDaemon(t *testing.T) {
	opts := hostOptions(t)
	_, root := newRoot(t)
	dir := t.TempDir()
	fifo := filepath.Join(root, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	kill := startDaemon(t, opts, root, dir, "read x < fifo; exit 6")
	kill()
	h := startHost(t, opts)
	c, err := h.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	keeper := keeperOf(t, c)
	c.Close()
	done := awaitEnd(t, keeper)
	w, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(w, "go")
	w.Close()
	done()
	var gone *executor.GoneError
	if _, err := h.Open(t.Context(), dir); !errors.As(err, &gone) || !gone.Known || gone.Exit.Code != 6 || gone.Exit.At.IsZero() {
		t.Errorf("opening: %#v, want a GoneError with code 6", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "keeper.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the keeper's state is left: %v", err)
	}
}

// A stale socket, as after a restart of the machine, is a container that has gone.
func TestHostStaleSocket(t *testing.T) {
	h := newHost(t)
	root, _ := newRoot(t)
	dir := t.TempDir()
	c, err := h.Create(t.Context(), dir, sh(root, "sleep 1000"), executor.HostOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	kill9(t, keeperOf(t, c))
	if _, err := os.Lstat(filepath.Join(dir, "keeper.sock")); err != nil {
		t.Fatalf("there is no socket to be stale: %v", err)
	}
	var gone *executor.GoneError
	if _, err := h.Open(t.Context(), dir); !errors.As(err, &gone) || gone.Known {
		t.Errorf("opening: %#v, want a GoneError without an exit", err)
	}
}

// The end for want of memory is told apart, also to a daemon that comes later.
func TestHostOutOfMemory(t *testing.T) {
	h := newHost(t)
	root, _ := newRoot(t)
	dir := t.TempDir()
	spec := sh(root, "x=0123456789abcdef; while :; do x=$x$x; done")
	spec.Limits = executor.Limits{Memory: 16 << 20, MemorySwap: 16 << 20}
	c, err := h.Create(t.Context(), dir, spec, executor.HostOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	exit, err := c.Wait(t.Context(), "")
	if err != nil || !exit.OOMKilled || exit.Code != 137 {
		t.Errorf("exit is %+v, %v", exit, err)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	var gone *executor.GoneError
	if _, err := h.Open(t.Context(), dir); !errors.As(err, &gone) || !gone.Exit.OOMKilled {
		t.Errorf("opening: %#v", err)
	}
}

// With a pid namespace that is not its own, the end of the first process is still that of all, and a keeper that is killed
// leaves nothing once the container is looked for.
func TestHostSharedPID(t *testing.T) {
	h := newHost(t)
	root, _ := newRoot(t)
	first, err := h.Create(t.Context(), t.TempDir(), sh(root, "sleep 1000"), executor.HostOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Delete(context.Background())
	if err := first.Run(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	for name, share := range map[string]func(*executor.Spec){
		"host":  func(s *executor.Spec) { s.HostPID = true },
		"other": func(s *executor.Spec) { s.PIDNamespace = fmt.Sprintf("/proc/%d/ns/pid", first.Pid("")) },
	} {
		for _, killed := range []bool{false, true} {
			t.Run(fmt.Sprint(name, killed), func(t *testing.T) {
				dir := t.TempDir()
				spec := sh(root, "readlink /proc/self/ns/pid; sleep 2000 & echo ready; read x; exit 4")
				share(spec)
				c, err := h.Create(t.Context(), dir, spec, executor.HostOptions{OpenStdin: true})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Delete(context.Background())
				a, err := c.Attach(t.Context(), "", executor.Streams{Stdin: true, Stdout: true})
				if err != nil {
					t.Fatal(err)
				}
				l := newLines()
				copied := make(chan struct{})
				go func() {
					defer close(copied)
					copyFrames(a, false, executor.IO{Stdout: l})
				}()
				if err := c.Run(t.Context(), ""); err != nil {
					t.Fatal(err)
				}
				l.await("ready")
				want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", c.Pid("")))
				if err != nil || !strings.Contains(l.String(), want) {
					t.Errorf("its namespace is not %s in %q, %v", want, l, err)
				}
				pids, err := c.Pids(t.Context())
				if err != nil || len(pids) < 2 {
					t.Errorf("processes are %v, %v", pids, err)
				}
				if killed {
					kill9(t, keeperOf(t, c))
					var gone *executor.GoneError
					if _, err := h.Open(t.Context(), dir); !errors.As(err, &gone) {
						t.Errorf("opening: %v, want a GoneError", err)
					}
				} else {
					fmt.Fprintln(a, "go")
					if exit, err := c.Wait(t.Context(), ""); err != nil || exit.Code != 4 {
						t.Errorf("exit is %+v, %v", exit, err)
					}
					if err := c.Delete(t.Context()); err != nil {
						t.Error(err)
					}
				}
				for _, pid := range pids {
					// One that has ended, and that its new parent does not wait for, is nobody's fault.
					data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
					status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
					if err == nil && strings.Contains(string(data), spec.ID) && !strings.HasPrefix(field(string(status), "State"), "Z") {
						t.Errorf("process %d is left: %s", pid, status)
					}
				}
				a.Close()
				<-copied
			})
		}
	}
	if pid := first.Pid(""); pid == 0 {
		t.Error("the container whose namespace was joined has ended")
	}
}

// After many containers, everything is as it was before.
func TestHostLeaks(t *testing.T) {
	opts := hostOptions(t)
	h := startHost(t, opts)
	root, _ := newRoot(t)
	dir := t.TempDir()
	count := 40
	if !testing.Short() && os.Getenv("BOXBUILD_LONG") != "" {
		count = 200
	}
	var before string
	for i := range count {
		c, err := h.Create(t.Context(), dir, sh(root, "exit 0"), executor.HostOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			if err := c.Run(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Wait(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
		shim.AwaitStock(h)
		if i == 3 {
			before = inventory(t, opts.CgroupParent)
		}
	}
	shim.AwaitReaped(h)
	if after := inventory(t, opts.CgroupParent); after != before {
		t.Errorf("before there was %s, after it there is %s", before, after)
	}
}

// inventory counts what the test and the cgroup hold. Others mount what is theirs on the same machine.
func inventory(t *testing.T, parent string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	mounts := 0
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, filepath.Dir(t.TempDir())) {
			mounts++
		}
	}
	groups := 0
	for _, d := range cgroupsOf(t, parent+"/*") {
		if fi, err := os.Stat(d); err == nil && fi.IsDir() {
			groups++
		}
	}
	return fmt.Sprintf("%d mounts, %d cgroups, %d processes", mounts, groups,
		len(cgroup.At(cgroup.Root).Processes(parent)))
}
