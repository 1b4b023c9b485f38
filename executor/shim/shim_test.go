package shim_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/shim"
)

// Modes of files that tests make do not depend on who runs the tests.
func init() { unix.Umask(0o022) }

// binary is boxshim, built once by TestMain.
var binary string

// The first thread of the process is TestMain's: one that has entered a namespace ends with its goroutine, which the first
// cannot, and /proc/self would be in that namespace from then on.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if os.Getuid() != 0 {
			return m.Run()
		}
		dir, err := os.MkdirTemp("", "boxshim")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "boxshim")
		if b := os.Getenv("BOXSHIM"); b != "" {
			binary = b
			return m.Run()
		}
		cmd := exec.Command("go", "build", "-tags", "seccomp netgo osusergo",
			"-ldflags", "-s -w -linkmode external -extldflags -static", "-o", binary,
			"github.com/boxbuild/boxbuild/cmd/boxshim")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building boxshim: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

func needsRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

var number atomic.Int64

// newExecutor returns an executor with a shim and a cgroup of its own.
func newExecutor(t testing.TB, change ...func(*shim.Options)) *shim.Executor {
	t.Helper()
	needsRoot(t)
	opts := shim.Options{
		Binary: binary, Dir: t.TempDir(), Log: testLog{t},
		CgroupParent: fmt.Sprintf("/boxbuild-test-%d-%d", os.Getpid(), number.Add(1)),
	}
	for _, c := range change {
		c(&opts)
	}
	e, err := shim.Start(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		left := cgroupsOf(t, opts.CgroupParent)
		if len(left) > 0 {
			t.Errorf("cgroups are left: %q", left)
		}
	})
	return e
}

// unified says whether the machine has cgroups of version 2 only.
func unified() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// cgroupsOf returns the directories of a cgroup, or those that match a pattern, in every hierarchy.
func cgroupsOf(t testing.TB, cgroup string) []string {
	t.Helper()
	pattern := "/sys/fs/cgroup/*"
	if unified() {
		pattern = "/sys/fs/cgroup"
	}
	found, err := filepath.Glob(pattern + cgroup)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Helper()
	l.t.Logf("shim: %s", bytes.TrimSpace(p))
	return len(p), nil
}

// applets are the commands of busybox that tests use.
const applets = "sh cat ls echo id grep sleep true false head dd stat readlink mount umount mkdir ln rm mv ps kill tty " +
	"stty nslookup ifconfig wget env pwd touch chown chmod sort tr wc seq hostname mknod test find nc ulimit setsid df"

// newRoot makes a root file system with busybox, and opens it.
func newRoot(t testing.TB) (*os.File, string) {
	t.Helper()
	needsRoot(t)
	dir := t.TempDir()
	for _, d := range []string{"bin", "etc", "tmp", "root", "proc", "sys", "dev"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile("/usr/bin/busybox")
	if err != nil {
		t.Skip("needs busybox-static")
	}
	write(t, filepath.Join(dir, "bin/busybox"), string(data), 0o755)
	for _, name := range strings.Fields(applets) {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n", 0o644)
	write(t, filepath.Join(dir, "etc/group"), "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n", 0o644)
	return open(t, dir), dir
}

func open(t testing.TB, path string) *os.File {
	t.Helper()
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	t.Cleanup(func() { f.Close() })
	return f
}

func write(t testing.TB, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// sh returns the spec of a sandbox that runs a shell script.
func sh(root *os.File, script string) *executor.Spec {
	return &executor.Spec{
		ID: fmt.Sprintf("t-%d", number.Add(1)), Hostname: "box", Root: root,
		Process: executor.Process{Args: []string{"/bin/sh", "-c", script}},
		Network: executor.Network{Mode: executor.NetworkNone},
	}
}

type result struct {
	out, err string
	exit     executor.Exit
}

// run runs a sandbox to its end.
func run(t testing.TB, e executor.Executor, spec *executor.Spec) result {
	t.Helper()
	r, err := tryRun(e, spec)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tryRun(e executor.Executor, spec *executor.Spec) (result, error) {
	var stdout, stderr bytes.Buffer
	ctx := context.Background()
	b, err := e.Start(ctx, spec, executor.IO{Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return result{}, err
	}
	defer b.Close()
	exit, err := b.Wait(ctx)
	return result{stdout.String(), stderr.String(), exit}, err
}
