package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/boxbuild/boxbuild/cmd/internal/scripts"
)

// Modes of files that tests make do not depend on who runs the tests.
func init() { syscall.Umask(0o022) }

// needs skips the test where the programs cannot run, and returns their directory and that of the base images.
func needs(t *testing.T) (bin, bases string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for _, v := range []struct {
		name string
		dir  *string
	}{{"BOXBUILD_BIN", &bin}, {"BOXBUILD_BASES", &bases}} {
		if *v.dir = os.Getenv(v.name); *v.dir == "" {
			t.Skipf("%s is not set; `make test` sets it", v.name)
		}
	}
	return bin, bases
}

// TestScript runs the scripts, each with a daemon of its own at BOXBUILD_ROOT.
func TestScript(t *testing.T) {
	bin, bases := needs(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               func(env *testscript.Env) error { return setUp(env, bin, bases) },
		Condition: func(cond string) (bool, error) {
			if name, ok := strings.CutPrefix(cond, "net:"); ok {
				addrs, err := net.LookupHost(name)
				return err == nil && len(addrs) > 0, nil
			}
			if arch, ok := strings.CutPrefix(cond, "foreign:"); ok {
				ok, _, err := runs(arch)
				return ok, err
			}
			if arch, ok := strings.CutPrefix(cond, "alone:"); ok {
				_, ok, err := runs(arch)
				return ok, err
			}
			if name, ok := strings.CutPrefix(cond, "dev:"); ok {
				f, err := os.Open("/dev/" + name) // else the kernel has no such device
				if err == nil {
					err = f.Close()
				}
				return err == nil, nil
			}
			if name, ok := strings.CutPrefix(cond, "env:"); ok {
				return os.Getenv(name) != "", nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"base": base, "code": code, "registry": startRegistry, "putindex": putIndex, "await": await,
			"count": count, "term": term, "web": startWeb, "program": program, "compile": compile,
		},
	})
}

// setUp gives a script a root, and a second one that is called $ROOT2, in a directory with a short path: a socket's path
// has at most 107 bytes.
func setUp(env *testscript.Env, bin, bases string) error {
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		return err
	}
	// Users that a script becomes get into what it opens for them, and can run the command line.
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		return err
	}
	env.Setenv("OPEN", open)
	roots := []string{filepath.Join(dir, "r"), filepath.Join(dir, "r2")}
	env.Defer(func() {
		for _, root := range roots {
			if err := finish(root); err != nil {
				// FailNow would keep the other clean-ups from running.
				env.T().(testing.TB).Error(err)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			env.T().(testing.TB).Error(err)
		}
	})
	env.Setenv("BOXBUILD_ROOT", roots[0])
	env.Setenv("ROOT2", roots[1])
	// A daemon that a broken test leaves behind goes by itself.
	env.Setenv("BOXBUILD_IDLE_TIMEOUT", "2m")
	env.Setenv("BASES", bases)
	deploy, err := filepath.Abs("../../boxbuildd/deploy")
	if err != nil {
		return err
	}
	env.Setenv("DEPLOY", deploy)
	// A number of seconds that no other script's processes sleep for, to know this one's by.
	env.Setenv("SLEEP", strconv.Itoa(1e6+rand.IntN(9e6)))
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
	at, err := scripts.Refused(env)
	env.Setenv("REFUSED", at)
	return err
}

// holder returns the pid of the daemon that uses root; 0 if none does.
func holder(root string) int {
	text, err := os.ReadFile(filepath.Join(root, "lock"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.Fields(string(text) + " 0")[0])
	if err != nil || pid == 0 {
		return 0
	}
	// A pid may be another process's by now: only one that has the lock file open counts.
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return 0
	}
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && target == filepath.Join(root, "lock") {
			return pid
		}
	}
	return 0
}

// endTime is how long a daemon may take to end. It takes 9 seconds at most by its own clock; a machine that is busy with other
// things may take longer over what the daemon does.
const endTime = 30 * time.Second

// finish ends the daemon of root by SIGTERM, and says what is left of it.
func finish(root string) error {
	if _, err := os.Lstat(root); errors.Is(err, fs.ErrNotExist) {
		return nil // the script had no such daemon
	}
	var family []process
	if pid := holder(root); pid != 0 {
		family = descendants(pid)
		daemon := slices.IndexFunc(family, func(p process) bool { return p.pid == pid }) // -1 if it has just ended
		begin := time.Now()
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("ending the daemon of %s: %w", root, err)
		}
		// It lets builds finish, which a second signal ends.
		again := time.AfterFunc(250*time.Millisecond, func() { _ = syscall.Kill(pid, syscall.SIGTERM) }) // it may have ended by now
		// The lock is given back before the process ends, and whoever adopted the process may be slow to notice its end.
		for daemon >= 0 && alive(family[daemon]) {
			time.Sleep(5 * time.Millisecond)
		}
		again.Stop()
		if took := time.Since(begin); took > endTime {
			return fmt.Errorf("the daemon of %s took %s to end", root, took)
		}
	}
	left := leftovers(root, family)
	// The kernel removes devices with their namespaces, when it comes to it.
	device := func(what string) bool { return strings.HasPrefix(what, "/sys/class/net/v") }
	for begin := time.Now(); slices.ContainsFunc(left, device) && time.Since(begin) < endTime; left = leftovers(root, family) {
		time.Sleep(20 * time.Millisecond)
	}
	if len(left) > 0 {
		return fmt.Errorf("the daemon of %s left behind:\n%s", root, strings.Join(left, "\n"))
	}
	return nil
}

// A process is one run of a program: a pid with the time it started at.
type process struct {
	pid, parent    int
	started, state string
}

// readProcess reads /proc/pid/stat.
func readProcess(pid int) (process, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	// The program's name is in parentheses and may hold anything.
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	parent, err := strconv.Atoi(f[1])
	return process{pid: pid, parent: parent, started: f[19], state: f[0]}, err
}

// alive says whether a process still runs: one that has ended and that its parent did not ask for does not.
func alive(p process) bool {
	now, err := readProcess(p.pid)
	return err == nil && now.started == p.started && now.state != "Z" && now.state != "X"
}

// processes returns all processes of the machine that run.
func processes() []process {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		panic(err) // the pattern is wrong
	}
	var all []process
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil {
			continue
		}
		if p, err := readProcess(pid); err == nil && alive(p) { // else it is gone already
			all = append(all, p)
		}
	}
	return all
}

// descendants returns a process and all below it.
func descendants(pid int) []process {
	all := processes()
	in := map[int]bool{pid: true}
	for grown := true; grown; {
		grown = false
		for _, p := range all {
			if in[p.parent] && !in[p.pid] {
				in[p.pid], grown = true, true
			}
		}
	}
	return slices.DeleteFunc(all, func(p process) bool { return !in[p.pid] })
}

// leftovers lists what is on the machine of the daemon with that root; family are the processes that it had.
func leftovers(root string, family []process) []string {
	sum := sha256.Sum256([]byte(root))
	id := hex.EncodeToString(sum[:4])
	var left []string
	for _, p := range processes() {
		dir := fmt.Sprintf("/proc/%d/", p.pid)
		was := slices.ContainsFunc(family, func(q process) bool { return p.pid == q.pid && p.started == q.started })
		rootDir, _ := os.Readlink(dir + "root") // gone, or a kernel thread
		workDir, _ := os.Readlink(dir + "cwd")
		groups, _ := os.ReadFile(dir + "cgroup")
		if was || strings.HasPrefix(rootDir, root+"/") || strings.HasPrefix(workDir, root+"/") || strings.Contains(string(groups), id) {
			args, _ := os.ReadFile(dir + "cmdline")
			left = append(left, fmt.Sprintf("process %d (%s, child of %d): %q", p.pid, p.state, p.parent, args))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		left = append(left, err.Error())
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, root+"/") {
			left = append(left, "mount "+strings.TrimSpace(line))
		}
	}
	for _, pattern := range []string{
		"/sys/class/net/bx-" + id, "/sys/class/net/v" + id + "-*", "/run/netns/*" + id + "*",
		"/sys/fs/cgroup/boxbuild-" + id, "/sys/fs/cgroup/*/boxbuild-" + id, "/sys/fs/cgroup/*/*/boxbuild-" + id,
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			panic(err)
		}
		left = append(left, paths...)
	}
	tables, err := exec.Command("nft", "list", "tables").Output()
	if err != nil {
		left = append(left, fmt.Sprintf("listing tables: %v", err))
	}
	if strings.Contains(string(tables), id) {
		left = append(left, string(tables))
	}
	return left
}
