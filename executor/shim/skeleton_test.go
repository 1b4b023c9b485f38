package shim_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/shim"
)

// describeMounts prints what there is of file systems, and what is in those that a spare makes ahead.
const describeMounts = `while read a b c root point options rest; do echo $root $point $options ${rest#*- }; done </proc/self/mountinfo | sort
for f in /dev/* /dev/mqueue/* /dev/shm/* /sys/fs/cgroup/* /sys/class/net/lo /sys/class/net/eth0; do stat -c '%N %A %u:%g %t:%T' $f; done; readlink /proc/self/fd/0; stat -L -c '%t:%T %a' /proc/self/fd/0
[ "$(stat -L -c %d:%i /proc/self/fd/0)" = "$(stat -L -c %d:%i /dev/null)" ] && echo own null
for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/x /sys/fs/cgroup/x /dev/x /proc/kcore; do echo x >$f && echo $f is writable; done 2>/dev/null
for f in /proc/kcore /proc/keys /proc/scsi /sys/firmware; do [ -e $f ] && stat -c '%N %A %u:%g %t:%T' $f && ls $f/ 2>/dev/null; done; cat /etc/hosts /etc/resolv.conf; df -k /dev/shm /dev | grep -v File`

// What a sandbox wants of mounts and devices, it has, whatever its spare has made ahead; and a plain one gets what was made
// ahead, which can't be told from what is made at once.
func TestSpareOfOtherMounts(t *testing.T) {
	root, dir := newRoot(t)
	linked, linkedDir := newRoot(t)
	for _, f := range []struct{ old, name string }{{"/elsewhere", "proc"}, {"/etc/names", "etc/hosts"}} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(linkedDir, f.name)), 0o755); err != nil {
			t.Fatal(err)
		}
		_ = os.RemoveAll(filepath.Join(linkedDir, f.name))
		if err := os.Symlink(f.old, filepath.Join(linkedDir, f.name)); err != nil {
			t.Fatal(err)
		}
	}
	source := open(t, filepath.Join(dir, "bin"))
	bind := func(target string) executor.Mount {
		return executor.Mount{Type: executor.Bind, Target: target, Source: source, ReadOnly: true}
	}
	change := []func(*executor.Spec){
		func(*executor.Spec) {},
		func(s *executor.Spec) { s.ShmSize = 1 << 20 },
		func(s *executor.Spec) { s.NoShm = true },
		func(s *executor.Spec) {
			s.Mounts = []executor.Mount{{Type: executor.Tmpfs, Target: "/dev/shm", ReadOnly: true}}
		},
		func(s *executor.Spec) {
			s.Mounts = []executor.Mount{{Type: executor.Tmpfs, Target: "/dev", NoExec: true}}
		},
		func(s *executor.Spec) { s.Mounts = []executor.Mount{bind("/dev/more")} },
		func(s *executor.Spec) { s.Mounts = []executor.Mount{bind("/etc")} },
		func(s *executor.Spec) { s.Mounts = []executor.Mount{bind("/sys/kernel")} },
		func(s *executor.Spec) { s.Mounts = []executor.Mount{{Type: executor.Tmpfs, Target: "/run"}} },
		func(s *executor.Spec) { s.ReadOnly = true },
		func(s *executor.Spec) { s.Privileged = true },
		func(s *executor.Spec) { s.WritableCgroups = true },
		func(s *executor.Spec) { s.HostCgroup = true },
		func(s *executor.Spec) { s.Network.Mode = executor.NetworkHost },
		func(s *executor.Spec) { s.Sysctls = map[string]string{"kernel.shmmni": "17"} },
		func(s *executor.Spec) { s.MaskedPaths = []string{"/proc/cpuinfo", "/etc/passwd"} },
		func(s *executor.Spec) { s.MaskedPaths, s.ReadonlyPaths = []string{}, []string{"/etc"} },
		func(s *executor.Spec) { s.Root = linked },
		func(s *executor.Spec) { s.Hosts, s.ResolvConf = nil, nil },
	}
	e := newExecutor(t, withNetwork(t))
	one := func(e *shim.Executor, f func(*executor.Spec)) (result, bool) {
		spec := sh(root, describeMounts)
		spec.Network.Mode = executor.NetworkBridge
		spec.Hosts, spec.ResolvConf = []byte("127.0.0.1 localhost\n"), []byte("nameserver 127.0.0.1\n")
		f(spec)
		var out bytes.Buffer
		box, err := e.Start(context.Background(), spec, executor.IO{Stdout: &out, Stderr: &out})
		if err != nil {
			return result{err: strings.ReplaceAll(err.Error(), spec.ID, "ID")}, false
		}
		defer box.Close()
		exit, err := box.Wait(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		_, ahead := shim.Trace(box)["skeleton"]
		names := regexp.MustCompile(`/boxbuild-test-[^ ]*`) // of cgroups, which spares have their own for
		return result{out: strings.ReplaceAll(names.ReplaceAllString(out.String(), "CGROUP"), spec.ID, "ID"), exit: executor.Exit{Code: exit.Code}}, ahead
	}
	for i, f := range change {
		cold, ahead := one(newExecutor(t, withNetwork(t)), f)
		if ahead || cold.err == "" && len(cold.out) < 1000 {
			t.Fatalf("sandbox %d: %+v, %v", i, cold, ahead)
		}
		// After a plain one, with what that has left for it, and after one of its kind.
		for range 2 {
			for used := false; !used; {
				_, used = one(e, func(*executor.Spec) {})
			}
			for round := range 2 {
				if got, _ := one(e, f); got != cold {
					t.Errorf("sandbox %d, round %d: more:\n%s%s\nwithout a spare:\n%s%s", i, round,
						missing(got.out, cold.out), got.err, missing(cold.out, got.out), cold.err)
				}
			}
		}
	}
}

// A root may be a directory of a shared mount, as all are with systemd: what a spare mounts in it, nobody else sees.
func TestSpareInSharedMount(t *testing.T) {
	_, dir := newRoot(t)
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	e, spec := newExecutor(t, withNetwork(t)), sh(open(t, dir), "sleep 100000")
	spec.Network.Mode = executor.NetworkBridge
	for ahead := false; !ahead; {
		box := start(t, e, spec)
		_, ahead = shim.Trace(box)["skeleton"]
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, " "+dir+"/") {
				t.Errorf("skeleton %v: the host has %s", ahead, line)
			}
		}
		box.Close()
	}
}

// missing returns the lines of a that are not in b.
func missing(a, b string) string {
	have := strings.Split(b, "\n")
	return strings.Join(slices.DeleteFunc(strings.Split(a, "\n"), func(l string) bool { return slices.Contains(have, l) }), "\n")
}
