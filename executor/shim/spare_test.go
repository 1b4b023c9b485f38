package shim_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/shim"
)

// describeSelf prints all that a process can easily find out about what it is in.
const describeSelf = `hostname; id; pwd; env | sort; cat /proc/self/limits /proc/self/timerslack_ns /proc/1/comm
grep -v -e SigQ -e Tgid -e NStgid -e NSpid -e NSpgid -e NSsid -e ctxt_switches -e Vm -e Rss -e Pid -e Threads -e HugetlbPages -e Hugepages /proc/self/status
while read a b c root point options rest; do echo $root $point $options; done </proc/self/mountinfo
for f in /proc/self/fd/*; do echo $f; done; cat /proc/self/cgroup /proc/self/oom_score_adj /etc/hosts; ls /dev /sys/class/net`

// A sandbox that was made of a spare can't be told from one that was not, and two of them have no namespace in common.
func TestSpareIsLikeAny(t *testing.T) {
	e := newExecutor(t, withNetwork(t))
	root, _ := newRoot(t)
	var first string
	seen := make(map[string]bool)
	for i := range 6 {
		spec := sh(root, describeSelf)
		spec.Network.Mode = executor.NetworkBridge
		spec.Hostname, spec.Hosts = "box", []byte("127.0.0.1 localhost\n")
		spec.Process.Env = []string{"PATH=/bin", "A=b"}
		spec.Process.Cwd = "/tmp"
		r := run(t, e, spec)
		if r.err != "" || r.exit.Code != 0 || len(r.out) < 1000 {
			t.Fatalf("sandbox %d: %+v", i, r)
		}
		// The order of mounts has no meaning where none is below another.
		lines := strings.Split(strings.ReplaceAll(r.out, spec.ID, "ID"), "\n")
		slices.Sort(lines)
		out := strings.Join(lines, "\n")
		if i == 0 {
			first = out
		} else if out != first {
			t.Errorf("sandbox %d is in\n%s\nand the first in\n%s", i, out, first)
		}
		spec = sh(root, "for n in cgroup ipc mnt net pid uts; do readlink /proc/self/ns/$n; done")
		spec.Network.Mode = executor.NetworkBridge
		for ns := range strings.FieldsSeq(run(t, e, spec).out) {
			own, err := os.Readlink("/proc/self/ns/" + strings.SplitN(ns, ":", 2)[0])
			if err != nil || own == ns {
				t.Errorf("sandbox %d is in the host's %s: %v", i, ns, err)
			}
			// The kernel may give a new namespace the number of one that is gone, except the network's, which is held.
			seen[ns] = true
		}
	}
	if len(seen) < 6 {
		t.Errorf("only the namespaces %v", seen)
	}
}

// What differs from the sandbox before takes effect: a spare is never taken for what it does not fit.
func TestSpareOfAnotherShape(t *testing.T) {
	e := newExecutor(t, withNetwork(t))
	root, _ := newRoot(t)
	const script = "ulimit -n; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max; ls /sys/class/net; [ -t 0 ] && echo terminal; pwd; id -u"
	change := []func(*executor.Spec){
		func(*executor.Spec) {},
		func(s *executor.Spec) { s.Ulimits = []executor.Ulimit{{Name: "nofile", Soft: 77, Hard: 77}} },
		func(s *executor.Spec) { s.Limits.Pids = 99 },
		func(s *executor.Spec) { s.Network.Mode = executor.NetworkNone },
		func(s *executor.Spec) { s.Network.Mode = executor.NetworkBridge },
		func(s *executor.Spec) { s.Process.Terminal = true },
		func(s *executor.Spec) { s.Process.Cwd = "/tmp" },
		func(s *executor.Spec) { s.Process.User = "1234" },
	}
	var cold []string
	for round := range 3 {
		for i, f := range change {
			// In the first round each one has an executor of its own, and so no spare.
			with := e
			if round == 0 {
				with = newExecutor(t, withNetwork(t))
			}
			spec := sh(root, script)
			f(spec)
			out := run(t, with, spec).out
			if round == 0 {
				cold = append(cold, out)
			} else if out != cold[i] {
				t.Errorf("round %d, sandbox %d: %q, and %q without a spare", round, i, out, cold[i])
			}
			if round == 2 {
				run(t, with, sh(root, "true")) // so that a spare is of the plain shape each time
			}
		}
	}
}

// A command that can't be executed, in a sandbox made of a spare, is the same error, and leaves nothing.
func TestSpareThatFails(t *testing.T) {
	var parent string
	e := newExecutor(t, func(o *shim.Options) { parent = o.CgroupParent })
	root, _ := newRoot(t)
	for i := range 4 {
		run(t, e, sh(root, "true"))
		spec := sh(root, "")
		spec.Process.Args = []string{"/bin/nothing"}
		box, err := e.Start(context.Background(), spec, executor.IO{})
		var se *executor.StartError
		if !errors.As(err, &se) || se.Code != 127 {
			t.Fatalf("start %d: %v, %v", i, box, err)
		}
	}
	// What is left is one spare, or, while it is replaced, two.
	most := len(cgroupsOf(t, parent)) // one in each hierarchy
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		left := cgroupsOf(t, parent+"/*/")
		if len(left) <= most {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("cgroups that are left: %q", left)
		}
	}
}
