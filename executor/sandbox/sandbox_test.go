package sandbox_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/sandbox"
)

func valid() *executor.Spec {
	return &executor.Spec{ID: "box", Process: executor.Process{Args: []string{"/bin/true"}}}
}

// Each of these can't be what a caller means, or would mean more than it says: sysctls that are the host's or hide a
// second setting (CVE-2022-0811), a propagation that is a list of options (CVE-2024-9407), a CPU set that asks for the
// kernel's memory (CVE-2018-20699), a variable without a value (CVE-2026-57231), mounts over /proc (CVE-2019-16884).
func TestValidate(t *testing.T) {
	if err := sandbox.Validate(valid()); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*executor.Spec){
		"id":                func(s *executor.Spec) { s.ID = "../x" },
		"empty id":          func(s *executor.Spec) { s.ID = "" },
		"host name":         func(s *executor.Spec) { s.Hostname = "a\nb" },
		"long domain":       func(s *executor.Spec) { s.Domain = strings.Repeat("d", 65) },
		"cgroup":            func(s *executor.Spec) { s.CgroupPath = "../../x" },
		"shm":               func(s *executor.Spec) { s.ShmSize = -1 },
		"no command":        func(s *executor.Spec) { s.Process.Args = nil },
		"NUL in argument":   func(s *executor.Spec) { s.Process.Args = []string{"/bin/true", "a\x00b"} },
		"relative cwd":      func(s *executor.Spec) { s.Process.Cwd = "x" },
		"bare variable":     func(s *executor.Spec) { s.Process.Env = []string{"SECRET"} },
		"no variable name":  func(s *executor.Spec) { s.Process.Env = []string{"=x"} },
		"NUL in variable":   func(s *executor.Spec) { s.Process.Env = []string{"A\x00B=1"} },
		"host sysctl":       func(s *executor.Spec) { s.Sysctls = map[string]string{"kernel.core_pattern": "|/x"} },
		"sysctl value":      func(s *executor.Spec) { s.Sysctls = map[string]string{"kernel.shmmax": "1+kernel.core_pattern=|/x"} },
		"sysctl newline":    func(s *executor.Spec) { s.Sysctls = map[string]string{"kernel.shmmax": "1\n"} },
		"sysctl name":       func(s *executor.Spec) { s.Sysctls = map[string]string{"net/../kernel/core_pattern": "x"} },
		"sysctl of host":    func(s *executor.Spec) { s.HostIPC, s.Sysctls = true, map[string]string{"kernel.shmmax": "1"} },
		"relative mount":    func(s *executor.Spec) { s.Mounts = []executor.Mount{{Target: "x"}} },
		"mount at root":     func(s *executor.Spec) { s.Mounts = []executor.Mount{{Target: "/a/.."}} },
		"mount at proc":     func(s *executor.Spec) { s.Mounts = []executor.Mount{{Target: "/x/../proc/"}} },
		"tmpfs in sys":      func(s *executor.Spec) { s.Mounts = []executor.Mount{{Target: "/sys/x", Type: executor.Tmpfs}} },
		"propagation":       func(s *executor.Spec) { s.Mounts = []executor.Mount{{Target: "/x", Propagation: "private,rw"}} },
		"mount type":        func(s *executor.Spec) { s.Mounts = []executor.Mount{{Target: "/x", Type: 9}} },
		"mount size":        func(s *executor.Spec) { s.Mounts = []executor.Mount{{Target: "/x", Type: executor.Tmpfs, Size: -1}} },
		"mount owner":       func(s *executor.Spec) { s.Mounts = []executor.Mount{{Target: "/x", UID: -1}} },
		"memory":            func(s *executor.Spec) { s.Limits.Memory = -1 },
		"swap":              func(s *executor.Spec) { s.Limits.Memory, s.Limits.MemorySwap = 10, 5 },
		"huge set of nodes": func(s *executor.Spec) { s.Limits.CPUSetMems = "0-9223372036854775807" },
		"set of CPUs":       func(s *executor.Spec) { s.Limits.CPUSetCPUs = "1,,2" },
		"reversed set":      func(s *executor.Spec) { s.Limits.CPUSetCPUs = "3-1" },
	} {
		s := valid()
		change(s)
		if err := sandbox.Validate(s); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Unknown capabilities and ulimits are errors, and so are profiles that are none.
func TestDescribeErrors(t *testing.T) {
	for name, change := range map[string]func(*executor.Spec){
		"capability": func(s *executor.Spec) { s.CapAdd = []string{"CAP_NONE"} },
		"ulimit":     func(s *executor.Spec) { s.Ulimits = []executor.Ulimit{{Name: "nofiles"}} },
		"soft limit": func(s *executor.Spec) { s.Ulimits = []executor.Ulimit{{Name: "nofile", Soft: 2, Hard: 1}} },
		"profile":    func(s *executor.Spec) { s.Seccomp.Profile = []byte("{") },
	} {
		s := valid()
		change(s)
		if _, err := sandbox.Describe(s, &sandbox.Host{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestCapabilities(t *testing.T) {
	def := sandbox.DefaultCapabilities()
	for _, c := range []struct {
		add, drop  []string
		has, hasNo []string
		count      int
	}{
		{nil, nil, def, []string{"CAP_SYS_ADMIN"}, len(def)},
		{[]string{"sys_admin"}, nil, []string{"CAP_SYS_ADMIN"}, nil, len(def) + 1},
		{[]string{"CAP_CHOWN"}, []string{"kill"}, []string{"CAP_CHOWN"}, []string{"CAP_KILL"}, len(def) - 1},
		{[]string{"ALL"}, []string{"SYS_ADMIN"}, []string{"CAP_BPF", "CAP_SYS_PTRACE"}, []string{"CAP_SYS_ADMIN"}, 40},
		{[]string{"NET_ADMIN"}, []string{"ALL"}, []string{"CAP_NET_ADMIN"}, []string{"CAP_CHOWN"}, 1},
		{nil, []string{"all"}, nil, def, 0},
		{[]string{"NET_RAW"}, []string{"net_raw"}, []string{"CAP_NET_RAW"}, nil, len(def)},
		{[]string{"CHOWN"}, []string{"ALL", "CHOWN"}, []string{"CAP_CHOWN"}, []string{"CAP_KILL"}, 1},
		{[]string{"ALL", "CHOWN"}, []string{"CHOWN"}, nil, []string{"CAP_CHOWN"}, 40},
	} {
		s := valid()
		s.CapAdd, s.CapDrop = c.add, c.drop
		out, err := sandbox.Describe(s, &sandbox.Host{})
		if err != nil {
			t.Fatal(err)
		}
		caps := out.Process.Capabilities
		if len(caps.Bounding) != c.count || len(caps.Inheritable) != 0 || len(caps.Ambient) != 0 {
			t.Errorf("add %v drop %v: got %+v", c.add, c.drop, caps)
		}
		s.Process.Ambient = true
		if out, err = sandbox.Describe(s, &sandbox.Host{}); err != nil {
			t.Fatal(err)
		}
		if kept := out.Process.Capabilities; !slices.Equal(kept.Ambient, caps.Bounding) || !slices.Equal(kept.Inheritable, caps.Bounding) {
			t.Errorf("add %v drop %v, kept: got %+v", c.add, c.drop, kept)
		}
		for _, h := range c.has {
			if !slices.Contains(caps.Bounding, h) {
				t.Errorf("add %v drop %v: lacks %s", c.add, c.drop, h)
			}
		}
		for _, h := range c.hasNo {
			if slices.Contains(caps.Bounding, h) {
				t.Errorf("add %v drop %v: has %s", c.add, c.drop, h)
			}
		}
	}
}

// A privileged sandbox gets no capability that the runtime lacks: asking for one would fail.
func TestPrivilegedWithin(t *testing.T) {
	s := valid()
	s.Privileged = true
	out, err := sandbox.Describe(s, &sandbox.Host{Capabilities: 0b11})
	if err != nil || !slices.Equal(out.Process.Capabilities.Bounding, []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE"}) {
		t.Errorf("got %+v, %v", out.Process.Capabilities, err)
	}
}

// The default filter is shared between sandboxes with the same capabilities, and differs with them.
func TestFilterIsShared(t *testing.T) {
	def, err := sandbox.DefaultFilter()
	if err != nil {
		t.Fatal(err)
	}
	a, _ := sandbox.Describe(valid(), &sandbox.Host{})
	s := valid()
	s.CapAdd = []string{"SYS_ADMIN"}
	b, _ := sandbox.Describe(s, &sandbox.Host{})
	if a.Linux.Seccomp != def || b.Linux.Seccomp == def {
		t.Error("the filter depends on something else than the capabilities")
	}
}

// Whatever the files hold and whoever is asked for, a name or a number out of range is never user 0 unless the files say
// so, and no id is out of range.
func FuzzResolve(f *testing.F) {
	f.Add("root:x:0:0::/root:\n", "g:x:5:u\n", "u")
	f.Add("4294967296:x:0:0::/:\n", "", "4294967296")
	f.Add("a:b:c:d\n::::\n", "x\n:::", "0x0:1")
	f.Fuzz(func(t *testing.T, passwd, group, user string) {
		u := sandbox.Users{Passwd: []byte(passwd), Group: []byte(group)}
		id, err := u.Resolve(&executor.Process{User: user})
		if err != nil {
			return
		}
		name, _, _ := strings.Cut(user, ":")
		if id.UID == 0 && name != "" && strings.Trim(name, "0") != "" && !strings.Contains(passwd, name+":") {
			t.Errorf("%q is user 0", user)
		}
		if id.UID > 1<<31-1 || id.GID > 1<<31-1 {
			t.Errorf("%q is %+v", user, id)
		}
	})
}

// TestGroups checks who a process is, by what BuildKit does for the same files: the primary group is among the
// supplementary ones (CVE-2022-36109), and odd forms of USER mean what they mean there.
func TestGroups(t *testing.T) {
	u := sandbox.Users{
		Passwd: []byte("root:x:0:0::/root:\njoe:x:1234:1234::/home/joe:\n"),
		Group:  []byte("root:x:0:\njoe:x:1234:\ngg:x:777:joe\n"),
	}
	for _, tt := range []struct {
		user     string
		uid, gid uint32
		groups   []uint32
	}{
		{"", 0, 0, []uint32{0}},
		{"root:root", 0, 0, []uint32{0}},
		{"joe", 1234, 1234, []uint32{777, 1234}},
		{"joe:gg", 1234, 777, []uint32{777}},
		{"99:88", 99, 88, []uint32{88}},
		{"99", 99, 0, []uint32{0}},
		{":777", 0, 777, []uint32{777}},
		{"1234:", 1234, 1234, []uint32{777, 1234}},
		{"joe:777:1", 1234, 777, []uint32{777}},
	} {
		id, err := u.Resolve(&executor.Process{User: tt.user})
		if err != nil || id.UID != tt.uid || id.GID != tt.gid || !slices.Equal(id.Groups, tt.groups) {
			t.Errorf("%q: %+v, %v, want %d:%d %v", tt.user, id, err, tt.uid, tt.gid, tt.groups)
		}
	}
}

// A group file with very many members is read, and one with a line without end is not.
func TestLargeGroup(t *testing.T) {
	var b strings.Builder
	for i := range 30000 {
		fmt.Fprintf(&b, "g%d:x:%d:u\n", i, i+10)
	}
	u := sandbox.Users{Passwd: []byte("u:x:1:1::/:\n"), Group: []byte(b.String())}
	if id, err := u.Resolve(&executor.Process{User: "u"}); err != nil || len(id.Groups) != 30001 { // with the primary one
		t.Errorf("%d groups, %v", len(id.Groups), err)
	}
	u.Group = []byte(strings.Repeat("m,", 4<<20))
	if id, err := u.Resolve(&executor.Process{User: "u"}); err == nil {
		t.Errorf("a line of 8 MiB: %d groups", len(id.Groups))
	}
}

// TestCgroupPath checks that the cgroup of a sandbox is below the executor's own or, in one of its name, below the parent that is
// asked for, however that is written, as with BuildKit.
func TestCgroupPath(t *testing.T) {
	for name, want := range map[string]string{
		"": "/x/own/", "a": "/a/own/", "/a": "/a/own/", "a//b/./c/": "/a/b/c/own/", "/": "/own/", "a.slice:b:": "/a.slice:b:/own/", "..a": "/..a/own/",
	} {
		s := valid()
		s.CgroupPath = name
		got, err := sandbox.Describe(s, &sandbox.Host{CgroupParent: "/x/own"})
		if err != nil || got.Linux.CgroupsPath != want+s.ID {
			t.Errorf("%q: got %+v, %v", name, got, err)
		}
	}
	for _, name := range []string{"..", "../x", "a/../../b", "/..", "a/.."} {
		s := valid()
		if s.CgroupPath = name; sandbox.Validate(s) == nil {
			t.Errorf("%q is taken", name)
		}
	}
}
