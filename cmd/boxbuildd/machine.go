package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// machine says what the kernel offers to sandboxes, and what the root lies on.
func machine(info *boxbuildv1.InfoResponse, cfg *config.Daemon) {
	info.Cgroups = cgroupVersion("/sys/fs/cgroup")
	info.Features = features("/")
	info.Security = []string{"name=seccomp,profile=builtin", "name=cgroupns"}
	info.BackingFilesystem = filesystem(cfg.Root)
	info.Mirrors = cfg.Registries["docker.io"].Mirrors
	for _, name := range slices.Sorted(maps.Keys(cfg.Registries)) {
		if r := cfg.Registries[name]; r.HTTP || r.Insecure {
			info.Insecure = append(info.Insecure, name)
		}
	}
}

// cgroupVersion is "2" where the controllers are in the one hierarchy of version 2, else "1".
func cgroupVersion(dir string) string {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return "2"
	}
	return "1"
}

// featureFiles say by their presence that there is a feature: for cgroups of version 1, and those of a group of version 2.
var featureFiles = map[string][2]string{
	"memory":           {"sys/fs/cgroup/memory/memory.limit_in_bytes", "memory.max"},
	"swap":             {"sys/fs/cgroup/memory/memory.memsw.limit_in_bytes", "memory.swap.max"},
	"oom-kill-disable": {"sys/fs/cgroup/memory/memory.oom_control", ""},
	"cpu-period":       {"sys/fs/cgroup/cpu/cpu.cfs_period_us", "cpu.max"},
	"cpu-quota":        {"sys/fs/cgroup/cpu/cpu.cfs_quota_us", "cpu.max"},
	"cpu-shares":       {"sys/fs/cgroup/cpu/cpu.shares", "cpu.weight"},
	"cpuset":           {"sys/fs/cgroup/cpuset/cpuset.cpus", "cpuset.cpus"},
	"pids":             {"sys/fs/cgroup/pids/cgroup.procs", "pids.max"}, // the root group has no pids.max
}

// features returns what the machine whose root directory is given can do, sorted.
func features(root string) []string {
	exists := func(pattern string) bool {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		return err == nil && len(found) > 0
	}
	var out []string
	for name, files := range featureFiles {
		// In version 2 the root group has no limits; any group below it has, where the controller is enabled. It is not in
		// version 2 beside controllers of version 1.
		if exists(files[0]) || files[1] != "" && exists("sys/fs/cgroup/*/"+files[1]) && exists("sys/fs/cgroup/cgroup.controllers") {
			out = append(out, name)
		}
	}
	if b, err := os.ReadFile(filepath.Join(root, "proc/sys/net/ipv4/ip_forward")); err == nil && strings.TrimSpace(string(b)) == "1" {
		out = append(out, "ipv4-forwarding")
	}
	slices.Sort(out)
	return out
}

// filesystem names the file system of a directory as docker does, or is "" for one that has no name here.
func filesystem(dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return ""
	}
	return map[int64]string{
		unix.EXT4_SUPER_MAGIC: "extfs", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs",
		unix.OVERLAYFS_SUPER_MAGIC: "overlayfs", 0x2fc12fc1: "zfs", unix.NFS_SUPER_MAGIC: "nfs", unix.F2FS_SUPER_MAGIC: "f2fs",
	}[int64(st.Type)]
}
