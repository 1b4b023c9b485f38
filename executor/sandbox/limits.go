package sandbox

import (
	"fmt"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/boxbuild/boxbuild/executor"
)

// maxSetMember bounds the numbers of a cpuset list, as the kernel would reserve memory for what it is asked
// (CVE-2018-20699). 8192 is the largest NR_CPUS of a kernel.
const maxSetMember = 8191

func validateLimits(l *executor.Limits) error {
	for name, v := range map[string]int64{
		"memory": l.Memory, "CPU quota": l.CPUQuota, "process": l.Pids,
		"memory reservation": l.MemoryReservation, "real-time CPU": l.CPURealtime,
	} {
		if v < 0 {
			return fmt.Errorf("%s limit: %d is negative", name, v)
		}
	}
	if l.MemorySwap < -1 || l.MemorySwap > 0 && l.MemorySwap < l.Memory {
		return fmt.Errorf("memory and swap limit: %d is less than the memory limit of %d", l.MemorySwap, l.Memory)
	}
	if err := validateSet(l.CPUSetCPUs); err != nil {
		return fmt.Errorf("set of CPUs: %w", err)
	}
	if err := validateSet(l.CPUSetMems); err != nil {
		return fmt.Errorf("set of memory nodes: %w", err)
	}
	if l.Memory > 0 && l.MemoryReservation > l.Memory {
		return fmt.Errorf("memory reservation: %d is more than the memory limit of %d", l.MemoryReservation, l.Memory)
	}
	if l.Swappiness != nil && *l.Swappiness > 100 {
		return fmt.Errorf("swappiness: %d is more than 100", *l.Swappiness)
	}
	return validateBlkio(l)
}

// validateSet checks the list format of cpuset(7), such as 0-3,5.
func validateSet(s string) error {
	if s == "" {
		return nil
	}
	for item := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(item, "-")
		if !isRange {
			last = first
		}
		a, err := strconv.ParseUint(first, 10, 32)
		if err != nil {
			return fmt.Errorf("%q is not a list of numbers", s)
		}
		b, err := strconv.ParseUint(last, 10, 32)
		if err != nil || a > b || b > maxSetMember {
			return fmt.Errorf("%q is not a list of numbers up to %d", s, maxSetMember)
		}
	}
	return nil
}

// enforceable reports the first limit that needs a cgroup controller which host lacks: one that the kernel was told to
// do without, or that a container in which the daemon runs was not given.
func enforceable(l *executor.Limits, host *Host) error {
	if host.Controllers == nil {
		return nil
	}
	for _, n := range []struct {
		limit, controller string
		set               bool
	}{
		{"memory", "memory", l.Memory > 0 || l.MemorySwap != 0},
		{"CPU", "cpu", l.CPUShares > 0 || l.CPUQuota > 0 || l.CPUPeriod > 0},
		{"CPU set", "cpuset", l.CPUSetCPUs != "" || l.CPUSetMems != ""},
		{"process", "pids", l.Pids > 0},
		{"memory reservation", "memory", l.MemoryReservation > 0 || l.Swappiness != nil || l.OOMKillDisable},
		{"real-time CPU", "cpu", l.CPURealtimePeriod > 0 || l.CPURealtime > 0},
		{"block device", blkioController(host), l.BlkioWeight > 0 || len(l.Blkio) > 0},
	} {
		if n.set && !host.Controllers[n.controller] {
			return fmt.Errorf("%s limit: this machine has no cgroup controller %q below %s", n.limit, n.controller, host.CgroupParent)
		}
	}
	return nil
}

func resources(spec *executor.Spec, host *Host) (*specs.LinuxResources, error) {
	l := &spec.Limits
	if err := enforceable(l, host); err != nil {
		return nil, err
	}
	out := &specs.LinuxResources{Devices: deviceRules(spec, host)}
	if l.Memory > 0 || l.MemorySwap != 0 {
		out.Memory = &specs.LinuxMemory{}
		if l.Memory > 0 {
			out.Memory.Limit = &l.Memory
		}
		swap := l.MemorySwap
		if swap == 0 {
			// As in Docker: with a memory limit alone, as much swap again.
			swap = 2 * l.Memory
		}
		// As in Docker, too: where swap can't be limited, memory still is.
		if !host.NoSwapLimit {
			out.Memory.Swap = &swap
		}
	}
	if l.MemoryReservation > 0 || l.Swappiness != nil || l.OOMKillDisable {
		if out.Memory == nil {
			out.Memory = &specs.LinuxMemory{}
		}
		out.Memory.Swappiness = l.Swappiness
		if l.MemoryReservation > 0 {
			out.Memory.Reservation = &l.MemoryReservation
		}
		if l.OOMKillDisable {
			out.Memory.DisableOOMKiller = &l.OOMKillDisable
		}
	}
	if l.CPUShares > 0 || l.CPUQuota > 0 || l.CPUPeriod > 0 || l.CPUSetCPUs != "" || l.CPUSetMems != "" ||
		l.CPURealtimePeriod > 0 || l.CPURealtime > 0 {
		out.CPU = &specs.LinuxCPU{Cpus: l.CPUSetCPUs, Mems: l.CPUSetMems}
		if l.CPUShares > 0 {
			out.CPU.Shares = &l.CPUShares
		}
		if l.CPUQuota > 0 {
			out.CPU.Quota = &l.CPUQuota
		}
		if l.CPUPeriod > 0 {
			out.CPU.Period = &l.CPUPeriod
		}
		if l.CPURealtimePeriod > 0 {
			out.CPU.RealtimePeriod = &l.CPURealtimePeriod
		}
		if l.CPURealtime > 0 {
			out.CPU.RealtimeRuntime = &l.CPURealtime
		}
	}
	if l.Pids > 0 {
		out.Pids = &specs.LinuxPids{Limit: &l.Pids}
	}
	out.BlockIO = blockIO(l)
	return out, nil
}

// ReplaceLimits returns the resources of a sandbox that runs, for other limits than those it was made with: what has none
// any more is set to none.
func ReplaceLimits(spec *executor.Spec, host *Host) (*specs.LinuxResources, error) {
	if err := validateLimits(&spec.Limits); err != nil {
		return nil, err
	}
	out, err := resources(spec, host)
	if err != nil {
		return nil, err
	}
	none := int64(-1)
	have := func(controller string) bool { return host.Controllers == nil || host.Controllers[controller] }
	if have("memory") {
		if out.Memory == nil {
			out.Memory = &specs.LinuxMemory{}
		}
		if out.Memory.Limit == nil {
			out.Memory.Limit = &none
			if !host.NoSwapLimit {
				out.Memory.Swap = &none
			}
		}
		if out.Memory.Reservation == nil {
			out.Memory.Reservation = &none
		}
	}
	if have("cpu") {
		if out.CPU == nil {
			out.CPU = &specs.LinuxCPU{}
		}
		if out.CPU.Quota == nil {
			out.CPU.Quota = &none
		}
		if out.CPU.Shares == nil {
			shares := uint64(1024) // the kernel's default
			out.CPU.Shares = &shares
		}
	}
	if have("pids") && out.Pids == nil {
		out.Pids = &specs.LinuxPids{Limit: &none}
	}
	return out, nil
}

// rlimitNames are the limits that an executor.Ulimit can name.
var rlimitNames = map[string]bool{
	"as": true, "core": true, "cpu": true, "data": true, "fsize": true, "locks": true, "memlock": true,
	"msgqueue": true, "nice": true, "nofile": true, "nproc": true, "rss": true, "rtprio": true, "rttime": true,
	"sigpending": true, "stack": true,
}

// rlimits lowers each limit to what the runtime may set: hard holds its own hard limits, and raising one takes
// CAP_SYS_RESOURCE, which it may lack.
func rlimits(ulimits []executor.Ulimit, hard map[string]uint64) ([]specs.POSIXRlimit, error) {
	out := make([]specs.POSIXRlimit, 0, len(ulimits))
	for _, u := range ulimits {
		if !rlimitNames[u.Name] {
			return nil, fmt.Errorf("ulimit %q: unknown", u.Name)
		}
		if u.Soft > u.Hard {
			return nil, fmt.Errorf("ulimit %s: soft limit %d is above the hard limit %d", u.Name, u.Soft, u.Hard)
		}
		if h, ok := hard[u.Name]; ok {
			u.Hard, u.Soft = min(u.Hard, h), min(u.Soft, h)
		}
		out = append(out, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Hard: u.Hard, Soft: u.Soft})
	}
	return out, nil
}
