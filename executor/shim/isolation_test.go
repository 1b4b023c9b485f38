package shim_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/sandbox"
)

// field returns the value of a line "Name: value" of /proc/self/status.
func field(status, name string) string {
	for line := range strings.Lines(status) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return "missing"
}

// The first process has a filter, Docker's default capabilities as its bounding set, and none that would be inherited
// (CVE-2022-24769), and of descriptors nothing but the standard streams (CVE-2024-21626). As another user it has no
// capability at all, ambient ones least of all (CVE-2016-8867); the same goes for Exec.
func TestStatus(t *testing.T) { both(t, testStatus) }

func testStatus(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	const script = "cat /proc/self/status; ls /proc/1/fd; chown 1 /etc/passwd && echo changed"
	check := func(t *testing.T, out, user string) {
		t.Helper()
		caps := "00000000a80425fb"
		if user != "" {
			caps = "0000000000000000"
		}
		for name, want := range map[string]string{
			"Seccomp": "2", "CapInh": "0000000000000000", "CapAmb": "0000000000000000", "CapBnd": "00000000a80425fb",
			"CapEff": caps, "CapPrm": caps, "NoNewPrivs": "0",
		} {
			if got := field(out, name); got != want {
				t.Errorf("user %q: %s is %s, want %s", user, name, got, want)
			}
		}
		if user != "" && strings.Contains(out, "changed") {
			t.Errorf("user %q changed the owner of root's file", user)
		}
	}
	for _, user := range []string{"", "1000"} {
		spec := sh(root, script)
		spec.Process.User = user
		r := run(t, e, spec)
		check(t, r.out, user)
		if !strings.Contains(r.out, "\n0\n1\n2\n") || strings.Contains(r.out, "\n3\n") {
			t.Errorf("user %q: descriptors are not 0 to 2:\n%s%s", user, r.out, r.err)
		}
		b := start(t, e, sh(root, "sleep 100000"))
		x := execIn(t, b, &executor.Process{Args: []string{"/bin/sh", "-c", script}, User: user})
		check(t, x.out, user)
	}
}

// NoNewPrivileges holds for the first process and for every Exec.
func TestNoNewPrivileges(t *testing.T) { both(t, testNoNewPrivileges) }

func testNoNewPrivileges(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	spec := sh(root, "cat /proc/self/status; sleep 100000")
	spec.NoNewPrivileges = true
	b := start(t, e, spec)
	x := execIn(t, b, &executor.Process{Args: []string{"/bin/cat", "/proc/1/status", "/proc/self/status"}})
	if strings.Count(x.out, "NoNewPrivs:\t1") != 2 || strings.Count(x.out, "Seccomp:\t2") != 2 {
		t.Errorf("status is\n%s", x.out)
	}
}

// Every namespace is the sandbox's own, but the network's with NetworkHost.
func TestNamespaces(t *testing.T) { both(t, testNamespaces) }

func testNamespaces(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	const script = "for n in mnt pid ipc uts cgroup net; do echo $n $(readlink /proc/self/ns/$n); done; hostname; ifconfig -a"
	links := func(out string) map[string]string {
		m := make(map[string]string)
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) == 2 {
				m[f[0]] = f[1]
			}
		}
		return m
	}
	spec := sh(root, script)
	spec.Hostname, spec.Domain = "name", "domain.test"
	r := run(t, e, spec)
	got := links(r.out)
	for _, n := range []string{"mnt", "pid", "ipc", "uts", "cgroup", "net"} {
		host, err := os.Readlink("/proc/self/ns/" + n)
		if err != nil || got[n] == "" || got[n] == host {
			t.Errorf("namespace %s is %q, the host's is %q, %v", n, got[n], host, err)
		}
	}
	if !strings.Contains(r.out, "\nname\n") || !strings.Contains(r.out, "UP LOOPBACK") || strings.Contains(r.out, "eth0") {
		t.Errorf("output is\n%s", r.out)
	}
	spec = sh(root, script)
	spec.Network.Mode = executor.NetworkHost
	host, _ := os.Readlink("/proc/self/ns/net")
	if got := links(run(t, e, spec).out)["net"]; got != host {
		t.Errorf("with the host's network, the namespace is %q, the host's %q", got, host)
	}
	spec = sh(root, script)
	spec.Network = executor.Network{Mode: executor.NetworkPath, Path: "/proc/self/ns/net"}
	if got := links(run(t, e, spec).out)["net"]; got != host {
		t.Errorf("with a path, the namespace is %q, want %q", got, host)
	}
	spec.Network.Path = "/etc/passwd"
	if r, err := tryRun(e, spec); err == nil {
		t.Errorf("a file that is no namespace: %+v", r)
	}
}

// What is masked shows nothing, and what is read-only can't be written (CVE-2017-16539, CVE-2018-10892, the RAPL
// counters of GHSA-7ww5-4wqc-m92c); /sys and its cgroups neither, also without a cgroup namespace (CVE-2023-25809).
func TestMaskedPaths(t *testing.T) { both(t, testMaskedPaths) }

func testMaskedPaths(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	var script strings.Builder
	for _, p := range sandbox.MaskedPaths() {
		fmt.Fprintf(&script, "if [ -d %[1]s ]; then ls -A %[1]s; elif [ -e %[1]s ]; then cat %[1]s; fi; ", p)
		fmt.Fprintf(&script, "[ -d %[1]s ] && echo x > %[1]s/x && echo wrote %[1]s; ", p)
		// A file is the null device: nothing else may stand in for it (CVE-2025-31133).
		fmt.Fprintf(&script, "[ -e %[1]s ] && [ ! -d %[1]s ] && [ $(stat -c %%t:%%T %[1]s) != 1:3 ] && echo not null %[1]s; ", p)
	}
	for _, p := range []string{
		"/proc/sys/kernel/domainname", "/proc/sys/vm/swappiness", "/proc/irq/default_smp_affinity", "/proc/sysrq-trigger",
	} {
		fmt.Fprintf(&script, "[ -e %[1]s ] && cat %[1]s > /tmp/v; [ -e %[1]s ] && echo x > %[1]s && echo wrote %[1]s; ", p)
	}
	script.WriteString("for d in /sys/devices/system/cpu/cpu*/thermal_throttle; do ls -A $d; done; for d in /sys/fs/cgroup /sys/fs/cgroup/memory /sys/fs/cgroup/init.scope /sys/kernel /proc/bus; do mkdir $d/x && echo made $d/x; done; ")
	script.WriteString("echo 1 > /sys/fs/cgroup/memory/memory.swappiness && echo wrote swappiness; echo 1 > /sys/fs/cgroup/cgroup.procs && echo wrote procs; echo max > /sys/fs/cgroup/memory.max && echo wrote max; true")
	// Docker's list of what is read-only, which its clients send, lacks the directory of the hierarchies.
	dockers := slices.DeleteFunc(sandbox.ReadonlyPaths(), func(p string) bool { return p == "/sys/fs/cgroup" })
	for _, hostCgroup := range []bool{false, true} {
		for _, list := range [][]string{nil, dockers} {
			spec := sh(root, script.String())
			spec.HostCgroup, spec.ReadonlyPaths = hostCgroup, list
			if r := run(t, e, spec); r.out != "" {
				t.Errorf("host's cgroups %t, %q: %s", hostCgroup, list, r.out)
			}
		}
	}
	b := start(t, e, sh(root, "sleep 100000"))
	x := execIn(t, b, &executor.Process{Args: []string{"/bin/sh", "-c", script.String()}})
	if x.out != "" {
		t.Errorf("exec: %s", x.out)
	}
}

// Device nodes other than the default ones can be made but not opened.
func TestDevices(t *testing.T) { both(t, testDevices) }

func testDevices(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	const script = "head -c 1 /dev/zero | wc -c; echo x > /dev/null && echo null; mknod /tmp/d c 1 1; head -c 1 /tmp/d; " +
		"mknod /tmp/e b 7 0; head -c 1 /tmp/e; [ -e /dev/kmsg ] && echo kmsg; [ -e /dev/mine ] && head -c 3 /dev/mine | wc -c"
	r := run(t, e, sh(root, script))
	if r.out != "1\nnull\n" || strings.Count(r.err, "Operation not permitted") != 2 {
		t.Errorf("output is %q and %q", r.out, r.err)
	}
	spec := sh(root, script)
	spec.Devices = []executor.Device{{HostPath: "/dev/zero", Path: "/dev/mine", Access: "r"}}
	if r := run(t, e, spec); r.out != "1\nnull\n3\n" {
		t.Errorf("with a device: output is %q and %q", r.out, r.err)
	}
	spec.Devices[0].HostPath = "/etc/passwd"
	if r, err := tryRun(e, spec); err == nil {
		t.Errorf("a file as a device: %+v", r)
	}
}

// A privileged sandbox has all capabilities and devices, and no filter.
func TestPrivileged(t *testing.T) { both(t, testPrivileged) }

func testPrivileged(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	spec := sh(root, "cat /proc/self/status; ls /dev; mount -t tmpfs x /tmp && echo mounted")
	spec.Privileged = true
	r := run(t, e, spec)
	host, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := field(r.out, "CapEff"), field(string(host), "CapEff"); got != want {
		t.Errorf("CapEff is %s, the host's is %s", got, want)
	}
	if field(r.out, "Seccomp") != "0" || !strings.Contains(r.out, "mounted") || !strings.Contains(r.out, "kmsg") {
		t.Errorf("output is\n%s%s", r.out, r.err)
	}
	b := start(t, e, sh(root, "sleep 100000"))
	x := execIn(t, b, &executor.Process{Args: []string{"/bin/cat", "/proc/self/status"}, Privileged: true})
	if got, want := field(x.out, "CapEff"), field(string(host), "CapEff"); got != want {
		t.Errorf("Exec: CapEff is %s, the host's is %s", got, want)
	}
}

// The filter that is compiled ahead of time is the one that libcontainer makes of the same profile in the sandbox:
// given as the caller's own profile often enough not to be remembered, it answers the same to every system call here.
func TestCustomProfile(t *testing.T) { both(t, testCustomProfile) }

func testCustomProfile(t *testing.T, e executor.Executor) {
	root, _ := newRoot(t)
	spec := sh(root, "mkdir /tmp/x || echo refused; cat /proc/self/status")
	spec.Seccomp.Profile = []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`)
	for range 40 {
		spec.ID = sh(root, "").ID
		if r := run(t, e, spec); !strings.Contains(r.out, "refused") || field(r.out, "Seccomp") != "2" {
			t.Fatalf("output is %q and %q", r.out, r.err)
		}
	}
	spec.Seccomp.Profile = []byte(`{`)
	if r, err := tryRun(e, spec); err == nil {
		t.Errorf("a broken profile: %+v", r)
	}
	if _, err := os.Stat(filepath.Join(root.Name(), "tmp/x")); err == nil {
		t.Error("the directory was made")
	}
}
