package sandbox

import (
	"errors"
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/boxbuild/boxbuild/executor"
)

func namespaces(spec *executor.Spec, host *Host) []specs.LinuxNamespace {
	out := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	// Without a path the runtime makes a namespace; one of the network's has nothing but lo.
	add := func(kind specs.LinuxNamespaceType, hosts bool, path string) {
		if !hosts {
			out = append(out, specs.LinuxNamespace{Type: kind, Path: path})
		}
	}
	add(specs.UTSNamespace, spec.HostUTS, "")
	add(specs.PIDNamespace, spec.HostPID, host.PIDNS)
	add(specs.IPCNamespace, spec.HostIPC, host.IPCNS)
	add(specs.CgroupNamespace, spec.HostCgroup, "")
	add(specs.NetworkNamespace, spec.Network.Mode == executor.NetworkHost, host.NetNS)
	return out
}

func validateNamespaces(spec *executor.Spec) error {
	switch {
	case spec.HostPID && spec.PIDNamespace != "":
		return errors.New("pid namespace: both the host's and another container's")
	case spec.HostIPC && spec.IPCNamespace != "":
		return errors.New("ipc namespace: both the host's and another container's")
	case spec.HostUTS && (spec.Hostname != "" || spec.Domain != ""):
		return errors.New("host name: would be the host's, with the host's UTS namespace")
	}
	return nil
}

// joinable reports a namespace that spec wants joined and host does not have.
func joinable(spec *executor.Spec, host *Host) error {
	if spec.PIDNamespace != "" && host.PIDNS == "" || spec.IPCNamespace != "" && host.IPCNS == "" {
		return errors.New("the namespaces of another container are not for sandboxes that end with the daemon")
	}
	return nil
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
		"/sys/firmware",
	}
}

// maskedPaths are those of a sandbox. Each CPU has a directory that counts how often it was throttled, which tells of other
// sandboxes' work: they are hidden whenever anything is. A list that is made for any machine cannot name them all.
func maskedPaths(spec *executor.Spec, host *Host) []string {
	paths := spec.MaskedPaths
	if paths == nil {
		paths = MaskedPaths()
	}
	if len(paths) == 0 {
		return paths
	}
	paths = slices.Clone(paths)
	for i := range host.CPUs {
		if p := fmt.Sprintf("/sys/devices/system/cpu/cpu%d/thermal_throttle", i); !slices.Contains(paths, p) {
			paths = append(paths, p)
		}
	}
	return paths
}

// ReadonlyPaths are those that a sandbox may read but not write.
func ReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", cgroupDir}
}

// readonlyPaths are those of a sandbox. The hierarchies of cgroups are mounted read-only, but the tmpfs that those of
// version 1 are in is not, and lists like Docker's do not name it: it is protected whenever anything is (CVE-2023-25809).
func readonlyPaths(spec *executor.Spec) []string {
	paths := spec.ReadonlyPaths
	if paths == nil {
		paths = ReadonlyPaths()
	}
	if writableCgroups(spec) {
		return slices.DeleteFunc(slices.Clone(paths), func(p string) bool { return p == cgroupDir })
	}
	if len(paths) > 0 && !slices.Contains(paths, cgroupDir) {
		paths = append(slices.Clone(paths), cgroupDir)
	}
	return paths
}
