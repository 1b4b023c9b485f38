package sandbox

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/boxbuild/boxbuild/executor"
)

const defaultShmSize = 64 << 20

// propagations are the values of Mount.Propagation; an enumeration, since the value becomes a mount option
// (CVE-2024-9407).
var propagations = []string{"", "private", "rprivate", "slave", "rslave", "shared", "rshared"}

func validateMount(m *executor.Mount) error {
	clean := path.Clean(m.Target)
	switch {
	case !path.IsAbs(m.Target) || strings.Contains(m.Target, "\x00"):
		return fmt.Errorf("mount target %q: not an absolute path", m.Target)
	case clean == "/":
		return fmt.Errorf("mount target %q: the root cannot be mounted over", m.Target)
	case len(m.Target) > 4095:
		return fmt.Errorf("mount target of %d bytes: longer than a path can be", len(m.Target))
	case m.Type < executor.Bind || m.Type > executor.File:
		return fmt.Errorf("mount at %s: unknown type %d", m.Target, m.Type)
	case !slices.Contains(propagations, m.Propagation):
		return fmt.Errorf("mount at %s: propagation %q: want one of %q", m.Target, m.Propagation, propagations[1:])
	case m.Size < 0:
		return fmt.Errorf("mount at %s: size %d is negative", m.Target, m.Size)
	case m.Mode > 0o7777:
		return fmt.Errorf("mount at %s: mode %#o has more than permission bits", m.Target, m.Mode)
	case m.UID < 0 || m.GID < 0 || m.UID > maxID || m.GID > maxID:
		return fmt.Errorf("mount at %s: owner %d:%d out of range", m.Target, m.UID, m.GID)
	}
	for _, o := range m.Data {
		if !executor.IsTmpfsData(o) {
			return fmt.Errorf("mount at %s: option %q: a tmpfs has none such", m.Target, o)
		}
	}
	for _, o := range m.Flags {
		if !executor.IsMountFlag(m.Type, o) {
			return fmt.Errorf("mount at %s: option %q: no mount of its type has one such", m.Target, o)
		}
	}
	// Nothing may hide the file systems that isolation is built on (CVE-2019-16884, CVE-2023-27561).
	for _, p := range []string{"/proc", "/sys"} {
		if clean == p || strings.HasPrefix(clean, p+"/") && m.Type != executor.Bind {
			return fmt.Errorf("mount target %q: %s belongs to the sandbox", m.Target, p)
		}
	}
	return nil
}

// mounts returns all mounts of a sandbox in order, and the propagation that its root needs for them.
func mounts(spec *executor.Spec, host *Host) ([]specs.Mount, string, error) {
	if len(host.Sources) != len(spec.Mounts) {
		return nil, "", fmt.Errorf("%d sources for %d mounts", len(host.Sources), len(spec.Mounts))
	}
	out := systemMounts(spec, host)
	if spec.Hosts != nil {
		out = append(out, fileMount("/etc/hosts", host.Hosts))
	}
	if spec.ResolvConf != nil {
		out = append(out, fileMount("/etc/resolv.conf", host.ResolvConf))
	}
	propagation := ""
	for i := range spec.Mounts {
		m := &spec.Mounts[i]
		target := path.Clean(m.Target)
		// A mount of the user's at the place of one of ours, such as a tmpfs at /dev/shm, takes its place.
		out = slices.DeleteFunc(out, func(o specs.Mount) bool { return o.Destination == target })
		out = append(out, userMount(m, target, host.Sources[i]))
		switch m.Propagation {
		case "shared", "rshared":
			propagation = "shared"
		case "slave", "rslave":
			if propagation == "" {
				propagation = "rslave"
			}
		}
	}
	if spec.Init {
		out = append(out, fileMount(InitPath, host.Init))
		out[len(out)-1].Options = []string{"bind", "ro", "nosuid", "nodev"}
	}
	return out, propagation, nil
}

// systemMounts are those that every sandbox has.
func systemMounts(spec *executor.Spec, host *Host) []specs.Mount {
	shm := spec.ShmSize
	if shm == 0 {
		shm = defaultShmSize
	}
	access := "ro"
	if spec.Privileged {
		access = "rw"
	}
	// In the order of their targets' depth, as /dev has to be there for what is below it.
	out := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{
			Destination: "/dev", Type: "tmpfs", Source: "tmpfs",
			Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"},
		},
		{
			Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"},
		},
		{
			Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
			Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + strconv.FormatInt(shm, 10)},
		},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
	}
	if host.Shm != "" {
		out[3] = specs.Mount{
			Destination: "/dev/shm", Type: "bind", Source: host.Shm, Options: []string{"bind", "nosuid", "noexec", "nodev"},
		}
	}
	if spec.NoShm {
		out = slices.Delete(out, 3, 4)
	}
	cgroup := "ro"
	if writableCgroups(spec) {
		cgroup = "rw"
	}
	return append(out, specs.Mount{
		Destination: cgroupDir, Type: "cgroup", Source: "cgroup",
		Options: []string{"nosuid", "noexec", "nodev", cgroup},
	})
}

const cgroupDir = "/sys/fs/cgroup"

// writableCgroups says whether a sandbox may write to its cgroups: a privileged one, or one that asks for it, with a view of
// its own, and no other (CVE-2023-25809).
func writableCgroups(spec *executor.Spec) bool {
	return (spec.Privileged || spec.WritableCgroups) && !spec.HostCgroup
}

func fileMount(target, source string) specs.Mount {
	return specs.Mount{
		Destination: target, Type: "bind", Source: source,
		Options: []string{"bind", "ro", "nosuid", "noexec", "nodev"},
	}
}

func userMount(m *executor.Mount, target, source string) specs.Mount {
	var opts []string
	flag := func(on bool, name string) {
		if on {
			opts = append(opts, name)
		}
	}
	if m.Type == executor.Tmpfs {
		flag(m.ReadOnly, "ro")
		flag(m.NoSuid, "nosuid")
		flag(m.NoDev, "nodev")
		flag(m.NoExec, "noexec")
		opts = append(opts, m.Flags...)
		mode := m.Mode
		if mode == 0 {
			mode = 0o1777
		}
		opts = append(opts, fmt.Sprintf("mode=%o", mode))
		if m.UID != 0 || m.GID != 0 {
			opts = append(opts, fmt.Sprintf("uid=%d", m.UID), fmt.Sprintf("gid=%d", m.GID))
		}
		if m.Size > 0 {
			opts = append(opts, fmt.Sprintf("size=%d", m.Size))
		}
		opts = append(opts, m.Data...)
		return specs.Mount{Destination: target, Type: "tmpfs", Source: "tmpfs", Options: opts}
	}
	if m.NonRecursive {
		opts = append(opts, "bind")
	} else {
		opts = append(opts, "rbind")
	}
	// Recursively, else a mount below the source would stay writable.
	flag(m.ReadOnly && !m.ReadOnlyTop, "rro")
	flag(m.ReadOnly, "ro")
	flag(m.NoSuid, "nosuid")
	flag(m.NoDev, "nodev")
	flag(m.NoExec, "noexec")
	opts = append(opts, m.Flags...)
	flag(m.Propagation != "", m.Propagation)
	return specs.Mount{Destination: target, Type: "bind", Source: source, Options: opts}
}
