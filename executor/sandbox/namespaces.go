package sandbox

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/boxbuild/boxbuild/executor"
)

func namespaces(spec *executor.Spec, host *Host) []specs.LinuxNamespace {
	out := []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.UTSNamespace}}
	if !spec.HostPID {
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	if !spec.HostIPC {
		out = append(out, specs.LinuxNamespace{Type: specs.IPCNamespace})
	}
	if !spec.HostCgroup {
		out = append(out, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	if spec.Network.Mode != executor.NetworkHost {
		// Without a path the runtime makes a namespace with nothing but lo.
		out = append(out, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: host.NetNS})
	}
	return out
}

// MaskedPaths are the files and directories that show the host and have no namespace. Directories appear empty, files
// as /dev/null.
func MaskedPaths() []string {
	return []string{
		"/proc/acpi",
		"/proc/asound",
		"/proc/interrupts",
		"/proc/kcore",
		"/proc/keys",
		"/proc/latency_stats",
		"/proc/sched_debug",
		"/proc/scsi",
		"/proc/timer_list",
		"/proc/timer_stats",
		"/sys/devices/virtual/powercap",
		"/sys/devices/system/cpu/cpu0/thermal_throttle",
		"/sys/firmware",
	}
}

// ReadonlyPaths are those that a sandbox may read but not write. The cgroup hierarchies are mounted read-only, but the
// tmpfs that those of version 1 are in is not.
func ReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/sys/fs/cgroup"}
}
