package shim_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
)

// What containers can be asked for, seen from inside.
func TestHostSpec(t *testing.T) {
	h := newHost(t)
	root, _ := newRoot(t)
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	cgroupNS, err := os.Readlink("/proc/self/ns/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.CreateTemp("/dev/shm", "host")
	if err != nil {
		t.Fatal(err)
	}
	shared := file.Name()
	defer os.Remove(shared)
	if _, err := file.WriteString("shared with the host"); err != nil {
		t.Fatal(err)
	}
	file.Close()
	score := 500
	const unregistered = "mknod /tmp/d c 240 7; cat /tmp/d 2>&1; rm /tmp/d"
	for _, c := range []struct {
		name, script, want string
		change             func(*executor.Spec)
	}{
		{"uts", "hostname", hostname, func(s *executor.Spec) { s.HostUTS, s.Hostname = true, "" }},
		{"names", "hostname; cat /proc/sys/kernel/domainname", "box\nexample.org", func(s *executor.Spec) { s.Domain = "example.org" }},
		{"cgroup namespace", "readlink /proc/self/ns/cgroup", cgroupNS, func(s *executor.Spec) { s.HostCgroup = true }},
		{"masked", "cat /proc/keys > /dev/null; ls /proc/acpi /sys/firmware | wc -l", "3", func(*executor.Spec) {}},
		{"not masked", "grep -c 'proc/keys\\|sys/firmware' /proc/self/mountinfo", "0", func(s *executor.Spec) { s.MaskedPaths = []string{} }},
		{"masked otherwise", "cat /etc/passwd", "", func(s *executor.Spec) { s.MaskedPaths = []string{"/etc/passwd"} }},
		{"read-only", "echo x > /proc/sys/kernel/domainname 2>/dev/null || echo no", "no", func(*executor.Spec) {}},
		{"not read-only", "echo x > /proc/sys/kernel/domainname && echo yes", "yes", func(s *executor.Spec) { s.ReadonlyPaths = []string{} }},
		{"no device", unregistered, "not permitted", func(*executor.Spec) {}},
		{"device rule", unregistered, "No such device", func(s *executor.Spec) {
			s.DeviceRules = []executor.DeviceRule{{Type: "c", Major: 240, Minor: -1, Access: "rw"}}
		}},
		{"score", "cat /proc/self/oom_score_adj", "500", func(s *executor.Spec) { s.OOMScoreAdj = &score }},
		{"inodes", "df -i /m 2>/dev/null; for i in 1 2 3 4 5 6 7 8 9; do echo > /m/$i || break; done 2>&1; ls /m | wc -l", "No space", func(s *executor.Spec) {
			s.Mounts = []executor.Mount{{Target: "/m", Type: executor.Tmpfs, Data: []string{"nr_inodes=5"}}}
		}},
		{"groups", "id", "groups=0(root),777,2000(extra)", func(s *executor.Spec) { s.Process.AddGroups = []string{"777", "extra"} }},
		{"init", "cat /proc/1/cmdline | tr '\\0' ' '; ps | wc -l", "/dev/init -- /bin/sh", func(s *executor.Spec) { s.Init = true }},
		{"ulimit", "ulimit -n", "123", func(s *executor.Spec) { s.Ulimits = []executor.Ulimit{{Name: "nofile", Soft: 123, Hard: 123}} }},
		{"sysctl", "cat /proc/sys/kernel/shm_rmid_forced", "1", func(s *executor.Spec) {
			s.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1"}
		}},
		{"lo", "ifconfig lo", "UP LOOPBACK", func(*executor.Spec) {}},
		{"shm", "mount | grep /dev/shm", "size=1024k", func(s *executor.Spec) { s.ShmSize = 1 << 20 }},
		{"host's shm", "mount | grep /dev/shm; cat " + shared, "shared with the host", func(s *executor.Spec) { s.HostIPC = true }},
		{"no shm", "ls /dev | grep -c shm", "0", func(s *executor.Spec) { s.NoShm = true }},
		{"cgroups", "mkdir /sys/fs/cgroup/*/sub 2>&1 | grep -c Read-only", "0", func(s *executor.Spec) { s.WritableCgroups = true }},
		{"unconfined", "grep Seccomp: /proc/self/status", "0", func(s *executor.Spec) { s.Seccomp.Unconfined = true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := sh(root, c.script)
			c.change(spec)
			r := run(t, hostExecutor{t, h}, spec)
			if !strings.Contains(r.out, c.want) || c.want == "" && r.out != "" {
				t.Errorf("got %q, %q, want %q", r.out, r.err, c.want)
			}
		})
	}
}

// What this machine can't do is refused by name.
func TestHostRefuses(t *testing.T) {
	h := newHost(t)
	root, _ := newRoot(t)
	low := -700
	for want, change := range map[string]func(*executor.Spec){
		"apparmor profile":     func(s *executor.Spec) { s.AppArmor = "no-such-profile" },
		"selinux label":        func(s *executor.Spec) { s.SELinux = "system_u:system_r:container_t:s0" },
		"CAP_SYS_RESOURCE":     func(s *executor.Spec) { s.OOMScoreAdj = &low },
		"host name":            func(s *executor.Spec) { s.HostUTS = true },
		"device rule":          func(s *executor.Spec) { s.DeviceRules = []executor.DeviceRule{{Type: "x", Access: "r"}} },
		"it is none":           func(s *executor.Spec) { s.Limits.Blkio = []executor.BlkioLimit{{Path: "/dev/null"}} },
		"swappiness":           func(s *executor.Spec) { n := uint64(101); s.Limits.Swappiness = &n },
		"reservation":          func(s *executor.Spec) { s.Limits.Memory, s.Limits.MemoryReservation = 1<<20, 2<<20 },
		"weight":               func(s *executor.Spec) { s.Limits.BlkioWeight = 5 },
		"not a namespace":      func(s *executor.Spec) { s.PIDNamespace = "/etc/passwd" },
		"/no/such/device":      func(s *executor.Spec) { s.Devices = []executor.Device{{HostPath: "/no/such/device"}} },
		"unable to find user":  func(s *executor.Spec) { s.Process.User = "nobody-here" },
		"unknown to keepers":   nil,
		"belongs to no namesp": func(s *executor.Spec) { s.Sysctls = map[string]string{"kernel.panic": "1"} },
	} {
		t.Run(want, func(t *testing.T) {
			spec, opt := sh(root, "true"), executor.HostOptions{}
			dir := t.TempDir()
			if n, _ := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0); n == 1 && want == "CAP_SYS_RESOURCE" {
				t.Skip("this process has the capability")
			}
			if change == nil {
				opt.Log = executor.Log{Driver: "gelf", Path: filepath.Join(dir, "log")}
			} else {
				change(spec)
			}
			c, err := h.Create(t.Context(), dir, spec, opt)
			if err == nil {
				_ = c.Delete(t.Context())
				t.Fatal("made")
			}
			if !strings.Contains(err.Error(), want) {
				t.Errorf("error is %q, want %q in it", err, want)
			}
		})
	}
}

// Two containers with one ipc namespace have one /dev/shm, too; others have neither.
func TestHostSharedIPC(t *testing.T) {
	h := newHost(t)
	root, _ := newRoot(t)
	first, err := h.Create(t.Context(), t.TempDir(), sh(root, "echo shared > /dev/shm/f; sleep 1000"), executor.HostOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Delete(context.Background())
	if err := first.Run(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	const script = "i=0; while ! test -s /dev/shm/f && test $i -lt 100; do sleep 0.05; i=$((i+1)); done; cat /dev/shm/f; readlink /proc/self/ns/ipc"
	spec := sh(root, script)
	spec.IPCNamespace = fmt.Sprintf("/proc/%d/ns/ipc", first.Pid(""))
	want, err := os.Readlink(spec.IPCNamespace)
	if err != nil {
		t.Fatal(err)
	}
	if r := run(t, hostExecutor{t, h}, spec); r.out != "shared\n"+want+"\n" {
		t.Errorf("got %q, %q, want what the other has, and %s", r.out, r.err, want)
	}
	if r := run(t, hostExecutor{t, h}, sh(root, "cat /dev/shm/f; readlink /proc/self/ns/ipc")); strings.Contains(r.out, want) || strings.Contains(r.out, "shared") {
		t.Errorf("a stranger has %q", r.out)
	}
}

// Mounts below a source come along, read-only as the source is, unless the caller wants it otherwise; what is mounted on the
// host later comes along as the propagation says.
func TestHostMountOptions(t *testing.T) {
	h := newHost(t)
	root, _ := newRoot(t)
	base := t.TempDir()
	mount := func(kind, dir string, flags uintptr) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(kind, dir, kind, flags, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	}
	mount("tmpfs", base, 0)
	if err := unix.Mount("", base, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	mount("tmpfs", filepath.Join(base, "sub"), 0)
	write(t, filepath.Join(base, "sub/f"), "below\n", 0o644)
	if err := os.Mkdir(filepath.Join(base, "later"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		m      executor.Mount
		script string
		want   string
	}{
		{"recursive", executor.Mount{}, "cat /m/sub/f; echo > /m/sub/g && echo written", "below\nwritten\n"},
		{"alone", executor.Mount{NonRecursive: true}, "ls /m/sub", ""},
		{"read-only", executor.Mount{ReadOnly: true}, "echo > /m/g || echo > /m/sub/g || echo neither", "neither\n"},
		{"read-only top", executor.Mount{ReadOnly: true, ReadOnlyTop: true}, "echo > /m/g || echo > /m/sub/g && echo below", "below\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.m.Target, c.m.Source = "/m", open(t, base)
			spec := sh(root, c.script)
			spec.Mounts = []executor.Mount{c.m}
			if r := run(t, hostExecutor{t, h}, spec); r.out != c.want {
				t.Errorf("got %q, %q, want %q", r.out, r.err, c.want)
			}
		})
	}
	for propagation, seen := range map[string]bool{"": false, "rprivate": false, "rslave": true, "rshared": true} {
		t.Run("propagation "+propagation, func(t *testing.T) {
			spec := sh(root, "echo ready; read x; ls /m/later")
			spec.Mounts = []executor.Mount{{Target: "/m", Source: open(t, base), Propagation: propagation}}
			c, err := h.Create(t.Context(), t.TempDir(), spec, executor.HostOptions{OpenStdin: true})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Delete(context.Background())
			a, err := c.Attach(t.Context(), "", executor.Streams{Stdin: true, Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Run(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			later := filepath.Join(base, "later")
			if err := unix.Mount("tmpfs", later, "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
			defer unix.Unmount(later, unix.MNT_DETACH)
			write(t, filepath.Join(later, "new"), "", 0o644)
			fmt.Fprintln(a, "go")
			l := newLines()
			copyFrames(a, false, executor.IO{Stdout: l})
			if got := strings.Contains(l.String(), "new"); got != seen {
				t.Errorf("a mount that came later is seen: %v, want %v", got, seen)
			}
		})
	}
}

// Limits that builds don't have reach the kernel, and Update replaces them and takes them away.
func TestHostLimits(t *testing.T) {
	if unified() {
		t.Skip("needs cgroups of version 1")
	}
	opts := hostOptions(t)
	h := startHost(t, opts)
	root, _ := newRoot(t)
	swappiness := uint64(7)
	spec := sh(root, "sleep 1000")
	spec.Limits = executor.Limits{
		Memory: 64 << 20, MemorySwap: 64 << 20, MemoryReservation: 32 << 20, Swappiness: &swappiness, OOMKillDisable: true,
		CPUShares: 100, CPUQuota: 20000, CPUPeriod: 100000, Pids: 50,
	}
	c, err := h.Create(t.Context(), t.TempDir(), spec, executor.HostOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Delete(context.Background())
	if err := c.Run(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	check := func(want map[string]string) {
		t.Helper()
		for file, v := range want {
			found := cgroupsOf(t, opts.CgroupParent+"/*/"+file)
			if file == "memory.memsw.limit_in_bytes" && len(found) == 0 {
				continue // a kernel that does not account for swap
			}
			got := ""
			for _, f := range found {
				if strings.Contains(f, "spare") {
					continue
				}
				if data, err := os.ReadFile(f); err == nil {
					got = strings.TrimSpace(string(data))
				}
			}
			if got, _, _ := strings.Cut(got, "\n"); got != v {
				t.Errorf("%s is %q, want %q", file, got, v)
			}
		}
	}
	check(map[string]string{
		"memory.limit_in_bytes": "67108864", "memory.memsw.limit_in_bytes": "67108864", "memory.soft_limit_in_bytes": "33554432",
		"memory.swappiness": "7", "memory.oom_control": "oom_kill_disable 1", "cpu.shares": "100", "cpu.cfs_quota_us": "20000", "pids.max": "50",
	})
	if err := c.Update(t.Context(), executor.Limits{Memory: 128 << 20, MemorySwap: -1, Pids: 70}); err != nil {
		t.Fatal(err)
	}
	const none = "9223372036854771712"
	check(map[string]string{
		"memory.limit_in_bytes": "134217728", "memory.memsw.limit_in_bytes": none, "memory.soft_limit_in_bytes": none,
		"cpu.shares": "1024", "cpu.cfs_quota_us": "-1", "pids.max": "70",
	})
	if err := c.Update(t.Context(), executor.Limits{}); err != nil {
		t.Fatal(err)
	}
	check(map[string]string{"memory.limit_in_bytes": none, "pids.max": "max"})
	st, err := c.Stats(t.Context())
	// The kernel takes the threads of the program that the command replaced off the count when it comes to it.
	for err == nil && st.Pids > 1 {
		time.Sleep(time.Millisecond)
		st, err = c.Stats(t.Context())
	}
	if err != nil || st.CPUTotal == 0 || len(st.CPUPer) == 0 || st.Memory == 0 || st.MemoryDetail["rss"] == 0 || st.Pids != 1 {
		t.Errorf("stats are %+v, %v", st, err)
	}
}
