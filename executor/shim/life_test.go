package shim_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/shim"
)

// patience is how long is waited for what must happen. Only a hang is ever waited for so long.
const patience = time.Minute

// marker returns an argument of sleep that no other process on the machine has.
func marker() string { return fmt.Sprintf("%d.%d", 100000+os.Getpid(), 1000+number.Add(1)) }

// awaitGone waits until no process has marker in its command line.
func awaitGone(t *testing.T, marker string) {
	t.Helper()
	for begin := time.Now(); running(t, marker); time.Sleep(time.Millisecond) {
		if time.Since(begin) > patience {
			t.Fatalf("a process with %s is still there", marker)
		}
	}
}

// Close ends the whole process tree: children in sessions of their own, and processes of Exec.
func TestCloseEndsTree(t *testing.T) { both(t, testCloseEndsTree) }

func testCloseEndsTree(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	m := marker()
	spec := sh(root, fmt.Sprintf("for i in 1 2 3; do setsid sh -c 'sleep %s' & done; echo up > /tmp/up; wait", m))
	b := start(t, e, spec)
	execDone := make(chan error, 1)
	go func() {
		_, err := b.Exec(context.Background(), &executor.Process{Args: []string{"/bin/sleep", m}}, executor.IO{})
		execDone <- err
	}()
	for !running(t, "/bin/sleep\x00"+m) || !running(t, "sleep\x00"+m) {
		select {
		case err := <-execDone:
			t.Fatalf("exec has ended: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	b.Close()
	if running(t, m) {
		t.Error("a process of the sandbox is still there after Close")
	}
	<-execDone
}

// The sandbox ends with its first process, although others would go on and hold its output; all that was written
// arrives.
func TestEndsWithFirstProcess(t *testing.T) { both(t, testEndsWithFirstProcess) }

func testEndsWithFirstProcess(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	m := marker()
	r := run(t, e, sh(root, fmt.Sprintf("setsid sleep %s & seq 1 20000", m)))
	if !strings.HasSuffix(r.out, "\n20000\n") || running(t, m) {
		t.Errorf("%d bytes of output; still running: %t", len(r.out), running(t, m))
	}
}

// An Exec whose child keeps the output open returns when its own process ends.
func TestExecDoesNotWaitForChildren(t *testing.T) { both(t, testExecDoesNotWaitForChildren) }

func testExecDoesNotWaitForChildren(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	b := start(t, e, sh(root, "sleep 100000"))
	x := execIn(t, b, &executor.Process{Args: []string{"/bin/sh", "-c", "sleep 100000 & seq 1 20000"}})
	if x.exit.Code != 0 || !strings.HasSuffix(x.out, "\n20000\n") {
		t.Errorf("code %d, %d bytes of output", x.exit.Code, len(x.out))
	}
}

// Start that is cancelled at any point leaves nothing: no process, and the ID is free.
func TestCancelStart(t *testing.T) { both(t, testCancelStart) }

func testCancelStart(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	m := marker()
	cause := errors.New("the cause")
	for i := range 40 {
		ctx, cancel := context.WithCancelCause(context.Background())
		timer := time.AfterFunc(time.Duration(i)*400*time.Microsecond, func() { cancel(cause) })
		spec := sh(root, "sleep "+m)
		spec.ID = "cancelled"
		b, err := e.Start(ctx, spec, executor.IO{})
		if err == nil {
			b.Close()
		} else if !errors.Is(err, cause) {
			t.Errorf("after %d: %v", i, err)
		}
		timer.Stop()
		cancel(nil)
	}
	if running(t, m) {
		t.Error("a process is left")
	}
}

// The kernel's killing for want of memory is named as such, and not that by anybody else; the use is reported.
func TestOutOfMemory(t *testing.T) { both(t, testOutOfMemory) }

func testOutOfMemory(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	spec := sh(root, "dd if=/dev/zero of=/dev/shm/x bs=1M count=200; echo $?")
	spec.ShmSize = 400 << 20
	spec.Limits.Memory = 32 << 20
	r := run(t, e, spec)
	if !r.exit.OOMKilled {
		t.Errorf("%+v: the limit of 32 MiB killed nothing", r)
	}
	if p := r.exit.Usage.PeakMemory; p < 16<<20 || p > 64<<20 {
		t.Errorf("peak memory is %d", p)
	}
	spec = sh(root, "dd if=/dev/zero of=/dev/shm/x bs=1M count=50 2>/dev/null; seq 1 300000 >/dev/null; kill -9 $$; exit 1")
	if r := run(t, e, spec); r.exit.OOMKilled || r.exit.Usage.PeakMemory < 40<<20 || r.exit.Usage.CPU <= 0 {
		t.Errorf("without a limit: %+v", r)
	}
}

// The other limits hold: the kernel has the numbers that were asked for, with either version of cgroups, and no more
// processes can be started than the limit says.
func TestLimits(t *testing.T) {
	e := newExecutor(t)
	root, _ := newRoot(t)
	limits := executor.Limits{Pids: 5, CPUShares: 512, CPUQuota: 50000, CPUPeriod: 100000, CPUSetCPUs: "0", Memory: 64 << 20}
	spec := sh(root, "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; echo alive")
	spec.Limits = limits
	if r := run(t, e, spec); !strings.Contains(r.err, "can't fork") {
		t.Errorf("eight children under a limit of five: %q, %q", r.out, r.err)
	}
	var hard unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &hard); err != nil {
		t.Fatal(err)
	}
	// 512 shares are a weight of 59: 1024 are 100, and the scales are not in proportion.
	files := map[string]string{
		"pids.max": "50", "cpu.weight": "59", "cpu.max": "50000 100000", "cpuset.cpus": "0",
		"memory.max": "67108864",
	}
	if !unified() {
		files = map[string]string{
			"pids/pids.max": "50", "cpu/cpu.shares": "512", "cpu/cpu.cfs_quota_us": "50000", "cpuset/cpuset.cpus": "0",
			"memory/memory.limit_in_bytes": "67108864",
		}
	}
	script, want := "ulimit -n; ulimit -Hn", fmt.Sprintf("100\n%d\n", hard.Max)
	for name, content := range files {
		script += "; cat /sys/fs/cgroup/" + name
		want += content + "\n"
	}
	spec = sh(root, script)
	limits.Pids = 50
	spec.Limits = limits
	spec.Ulimits = []executor.Ulimit{{Name: "nofile", Soft: 100, Hard: 1 << 40}}
	if r := run(t, e, spec); r.out != want {
		t.Errorf("%s\noutput is %q, %q, want %q", script, r.out, r.err, want)
	}
}

// A limit of open files is the command's: what its process has open on the way to it does not count. It is so with and
// without a spare, with a filter and without, and for each user.
func TestFewFiles(t *testing.T) { both(t, testFewFiles) }

func testFewFiles(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	for _, n := range []uint64{64, 16, 11} {
		for name, change := range map[string]func(*executor.Spec){
			"plain":      func(*executor.Spec) {},
			"user":       func(s *executor.Spec) { s.Process.User = "1234" },
			"terminal":   func(s *executor.Spec) { s.Process.Terminal = true },
			"unconfined": func(s *executor.Spec) { s.Seccomp.Unconfined = true },
			"privileged": func(s *executor.Spec) { s.Privileged = true },
		} {
			t.Run(fmt.Sprint(n, name), func(t *testing.T) {
				for range 2 { // the second has a spare
					spec := sh(root, "ulimit -n; ulimit -Hn")
					spec.Ulimits = []executor.Ulimit{{Name: "nofile", Soft: n, Hard: n}}
					change(spec)
					r := run(t, e, spec)
					if want := fmt.Sprintf("%d\n%d\n", n, n); strings.ReplaceAll(r.out, "\r", "") != want {
						t.Errorf("got %q, %q, %v", r.out, r.err, r)
					}
				}
			})
		}
	}
	// What is started later has the same limit.
	spec := sh(root, "sleep 1000")
	spec.Ulimits = []executor.Ulimit{{Name: "nofile", Soft: 16, Hard: 16}}
	b, err := e.Start(t.Context(), spec, executor.IO{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var out, errs bytes.Buffer
	exit, err := b.Exec(t.Context(), &executor.Process{Args: []string{"/bin/sh", "-c", "ulimit -n"}}, executor.IO{Stdout: &out, Stderr: &errs})
	if err != nil || exit.Code != 0 || out.String() != "16\n" {
		t.Errorf("exec: %q, %q, %+v, %v", out.String(), errs.String(), exit, err)
	}
}

// A sandbox with all capabilities can make cgroups in its own, with version 2 also to move its processes there. They end
// with it, and are removed.
func TestCgroupsOfSandbox(t *testing.T) { both(t, testCgroupsOfSandbox) }

func testCgroupsOfSandbox(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	m := marker()
	dir := "/sys/fs/cgroup/own"
	if !unified() {
		dir = "/sys/fs/cgroup/pids/own"
	}
	spec := sh(root, fmt.Sprintf("mkdir %[1]s && echo 0 > %[1]s/cgroup.procs && cat /proc/self/cgroup; sleep %[2]s & echo up; wait", dir, m))
	spec.Privileged = true
	out, w := io.Pipe()
	b, err := e.Start(context.Background(), spec, executor.IO{Stdout: w})
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	moved := false
	for lines.Scan() && lines.Text() != "up" {
		moved = moved || strings.HasSuffix(lines.Text(), "/own")
	}
	if !moved {
		t.Error("the sandbox's process is not in the cgroup that it made")
	}
	b.Close()
	w.Close()
	if running(t, m) {
		t.Error("a process of the sandbox is still there after Close")
	}
}

// A terminal has the size that was asked for, echoes input, and its output arrives in full.
func TestTerminal(t *testing.T) { both(t, testTerminal) }

func testTerminal(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	spec := sh(root, "tty; stty size; read line; echo got $line; seq 1 5000; [ -t 2 ] && echo tty2")
	spec.Process.Terminal, spec.Process.Rows, spec.Process.Cols = true, 33, 77
	spec.Process.User = "1000"
	check := func(out string) {
		t.Helper()
		for _, want := range []string{"/dev/pts/", "33 77\r\n", "got hello\r\n", "\r\n5000\r\ntty2\r\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("output lacks %q: %.300q", want, out)
			}
		}
	}
	var out bytes.Buffer
	b, err := e.Start(context.Background(), spec, executor.IO{Stdin: strings.NewReader("hello\n"), Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if exit, err := b.Wait(context.Background()); err != nil || exit.Code != 0 {
		t.Errorf("exit %+v, %v", exit, err)
	}
	check(out.String())

	box := start(t, e, sh(root, "sleep 100000"))
	out.Reset()
	exit, err := box.Exec(context.Background(), &spec.Process, executor.IO{Stdin: strings.NewReader("hello\n"), Stdout: &out})
	if err != nil || exit.Code != 0 {
		t.Errorf("exec: exit %+v, %v", exit, err)
	}
	check(out.String())
}

// The minimal init is the first process, hands signals on, reaps orphans, and ends as the command does.
func TestInit(t *testing.T) { both(t, testInit) }

func testInit(t *testing.T, e executor.Executor) {
	root, dir := newRoot(t)
	spec := sh(root, "cat /proc/1/cmdline; (sh -c 'sleep 0.01 &' &); sleep 0.1; while ps | grep '\\[sleep\\]'; do sleep 0.01; done; echo reaped; exit 7")
	spec.Init = true
	if r := run(t, e, spec); r.exit.Code != 7 || !strings.HasPrefix(r.out, "/dev/init\x00--\x00/bin/sh") || !strings.HasSuffix(r.out, "reaped\n") {
		t.Errorf("%+v", r)
	}
	spec = sh(root, "trap 'exit 9' TERM; echo > /tmp/up; while :; do sleep 0.01; done")
	spec.Init = true
	b := start(t, e, spec)
	for _, err := os.Stat(filepath.Join(dir, "tmp/up")); err != nil; _, err = os.Stat(filepath.Join(dir, "tmp/up")) {
		if err := b.Signal(0); err != nil {
			t.Fatalf("the sandbox has ended: %v", err)
		}
		time.Sleep(time.Millisecond)
	}
	if err := b.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if exit, err := b.Wait(context.Background()); err != nil || exit.Code != 9 {
		t.Errorf("exit %+v, %v", exit, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "dev/init")); err == nil {
		t.Error("the init's mount point is left in the root")
	}
}

// When the shim dies, whatever waits is told so, and every process of its sandboxes dies with it.
func TestShimDies(t *testing.T) {
	e := newExecutor(t)
	root, _ := newRoot(t)
	m := marker()
	b := start(t, e, sh(root, "setsid sleep "+m+" & sleep "+m))
	for !running(t, m) {
		if err := b.Signal(0); err != nil {
			t.Fatalf("the sandbox has ended: %v", err)
		}
		time.Sleep(time.Millisecond)
	}
	killShim(t)
	if exit, err := b.Wait(context.Background()); !errors.Is(err, shim.ErrShimEnded) {
		t.Errorf("Wait: %+v, %v", exit, err)
	}
	awaitGone(t, m)
	if _, err := tryRun(e, sh(root, "")); err == nil {
		t.Error("a dead shim started a sandbox")
	}
}

// killShim kills the shim that this test started; tests of this package run one after the other.
func killShim(t *testing.T) {
	t.Helper()
	killed := false
	for _, pid := range childrenOf(t, os.Getpid()) {
		if exe, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && bytes.Contains(exe, []byte("\x00pool\x00")) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			killed = true
		}
	}
	if !killed {
		t.Fatal("there is no shim")
	}
}

func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		for s := range strings.FieldsSeq(string(data)) {
			if n, err := strconv.Atoi(s); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}

// When the daemon is killed, its shim and its sandboxes die, nothing is mounted, and the next daemon with its cgroup
// removes that.
func TestDaemonDies(t *testing.T) {
	needsRoot(t)
	m := marker()
	root, dir := newRoot(t)
	cgroup := fmt.Sprintf("/boxbuild-test-%d-%d", os.Getpid(), number.Add(1))
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestHelperDaemon$")
	cmd.Env = append(os.Environ(), "HELPER_DAEMON="+strings.Join([]string{binary, cgroup, dir, m}, ":"))
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 6)
	if _, err := io.ReadFull(stdout, line); err != nil || string(line) != "ready\n" {
		t.Fatalf("the daemon said %q, %v", line, err)
	}
	if !running(t, m) {
		t.Error("the sandbox does not run")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	awaitGone(t, m)
	awaitGone(t, cgroup)
	e := newExecutor(t, func(o *shim.Options) { o.CgroupParent = cgroup })
	if r := run(t, e, sh(root, "echo fine")); r.out != "fine\n" {
		t.Errorf("the next daemon: %+v", r)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(mounts), dir) {
		t.Error("something is mounted")
	}
}

// TestHelperDaemon is the daemon of TestDaemonDies.
func TestHelperDaemon(t *testing.T) {
	args := strings.Split(os.Getenv("HELPER_DAEMON"), ":")
	if len(args) != 4 {
		t.Skip("not a test of its own")
	}
	e, err := shim.Start(context.Background(), shim.Options{Binary: args[0], CgroupParent: args[1], Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	root := open(t, args[2])
	out, w := io.Pipe()
	if _, err := e.Start(context.Background(), sh(root, "echo up; sleep "+args[3]), executor.IO{Stdout: w}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	fmt.Println("ready")
	select {}
}

// A sandbox that takes its time to start does not keep others from starting.
func TestSlowStartBlocksNobody(t *testing.T) { both(t, testSlowStartBlocksNobody) }

func testSlowStartBlocksNobody(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	// The filter of a profile that is new takes a process of its own to compile.
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			spec := sh(root, "echo one")
			spec.CapDrop = []string{sandboxCaps[i]}
			if r, err := tryRun(e, spec); err != nil || r.out != "one\n" {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
	wg.Wait()
}

var sandboxCaps = []string{
	"CHOWN", "cap_fowner", "CAP_KILL", "mknod", "NET_RAW", "SETFCAP", "SETGID", "SETUID", "SYS_CHROOT", "AUDIT_WRITE",
}

// A shim that can't be started is an error, and leaves no cgroup.
func TestStartWithoutProgram(t *testing.T) {
	needsRoot(t)
	parent := fmt.Sprintf("/boxbuild-test-%d-%d", os.Getpid(), number.Add(1))
	opts := shim.Options{Binary: filepath.Join(t.TempDir(), "nothing"), Dir: t.TempDir(), CgroupParent: parent}
	if _, err := shim.Start(context.Background(), opts); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
	if left := cgroupsOf(t, parent); len(left) > 0 {
		t.Errorf("cgroups are left: %q", left)
	}
}
