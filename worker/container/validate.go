package container

import (
	"fmt"
	"net/netip"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/sys/capability"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
)

// validate completes what is left out and refuses what cannot be, with docker's texts.
func (m *Manager) validate(c *container.Config, h *container.HostConfig) (warnings []string, err error) {
	warnings = adapt(h)
	if len(c.Entrypoint) == 0 && len(c.Cmd) == 0 {
		return nil, worker.Invalidf("no command specified")
	}
	for _, check := range []func() error{
		func() error { return checkConfig(c) },
		func() error { return checkHealth(c.Healthcheck) },
		func() error { return checkHost(h) },
		func() error {
			discarded, err := m.confine(new(executor.Spec), h.SecurityOpt)
			warnings = append(warnings, discarded...)
			return err
		},
		func() error { return checkCapabilities(h) },
		func() error { return checkForeign(&h.Resources) },
		func() error { return checkNetworkMode(c, h) },
		func() error { return checkPorts(h) },
		func() error { return m.checkLog(&h.LogConfig) },
		func() error {
			discarded, err := m.discard(&h.Resources)
			warnings = append(warnings, discarded...)
			return err
		},
		func() error { return checkMemory(&h.Resources) },
		func() error { return checkCPU(&h.Resources) },
	} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	lowered, err := checkUlimits(h.Ulimits)
	for _, w := range lowered { // whoever runs the daemon can change that
		m.log.Warn("limiting a container by less than it asks for", "warning", w)
	}
	return append(warnings, lowered...), err
}

// The paths that are hidden from, or protected against, the processes of a container, as docker shows them.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// adapt sets defaults as docker does when a container is made.
func adapt(h *container.HostConfig) (warnings []string) {
	if h.ShmSize == 0 {
		h.ShmSize = 64 << 20
	}
	if h.Memory > 0 && h.MemorySwap == 0 {
		h.MemorySwap = 2 * h.Memory // as much swap as memory
	}
	orElse(&h.IpcMode, container.IPCModePrivate)
	orElse(&h.CgroupnsMode, container.CgroupnsModePrivate)
	orElse(&h.Runtime, worker.DefaultRuntime)
	orElse(&h.RestartPolicy.Name, container.RestartPolicyDisabled)
	if h.NetworkMode == "" || h.NetworkMode.IsDefault() {
		h.NetworkMode = network.NetworkBridge
	}
	if s := h.MemorySwappiness; s != nil && *s == -1 {
		h.MemorySwappiness = nil // how clients say that it is not set
	}
	if h.OomKillDisable == nil {
		h.OomKillDisable = new(bool)
	}
	if h.PidsLimit != nil && *h.PidsLimit <= 0 {
		h.PidsLimit = nil
	}
	if h.Privileged {
		if h.MaskedPaths == nil {
			h.MaskedPaths = []string{}
		}
		if h.ReadonlyPaths == nil {
			h.ReadonlyPaths = []string{}
		}
	}
	if h.MaskedPaths == nil {
		h.MaskedPaths = maskedPaths
	}
	if h.ReadonlyPaths == nil {
		h.ReadonlyPaths = readonlyPaths
	}
	if h.NetworkMode.IsHost() && len(h.PortBindings) > 0 {
		warnings = append(warnings, "Published ports are discarded when using host network mode")
	}
	return warnings
}

func checkConfig(c *container.Config) error {
	if c.WorkingDir != "" {
		if !path.IsAbs(c.WorkingDir) {
			return worker.Invalidf("the working directory '%s' is invalid, it needs to be an absolute path", c.WorkingDir)
		}
		c.WorkingDir = path.Clean(c.WorkingDir)
	}
	for _, kv := range c.Env {
		if name, _, _ := strings.Cut(kv, "="); name == "" {
			return worker.Invalidf("invalid environment variable: %s", kv)
		}
	}
	if c.StopSignal != "" {
		if _, err := parseSignal(c.StopSignal); err != nil {
			return err
		}
	}
	if len(c.Hostname) > 63 {
		return worker.Invalidf("invalid hostname format: %s", c.Hostname)
	}
	return nil
}

func checkHealth(h *container.HealthConfig) error {
	if h == nil {
		return nil
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"Interval", h.Interval}, {"Timeout", h.Timeout}, {"StartPeriod", h.StartPeriod}, {"StartInterval", h.StartInterval}} {
		if d.d != 0 && d.d < container.MinimumDuration {
			return worker.Invalidf("%s in Healthcheck cannot be less than %s", d.name, container.MinimumDuration)
		}
	}
	if h.Retries < 0 {
		return worker.Invalidf("Retries in Healthcheck cannot be negative")
	}
	return nil
}

func checkHost(h *container.HostConfig) error {
	if err := checkPolicy(h.RestartPolicy); err != nil {
		return err
	}
	switch {
	case h.AutoRemove && !h.RestartPolicy.IsNone():
		return worker.Invalidf("can't create 'AutoRemove' container with restart policy")
	case len(h.StorageOpt) > 0:
		return worker.Invalidf("--storage-opt is not supported: the storage driver has no limits per container")
	case h.ShmSize < 0:
		return worker.Invalidf("SHM size can not be less than 0")
	case h.OomScoreAdj < -1000 || h.OomScoreAdj > 1000:
		return worker.Invalidf("Invalid value %d, range for oom score adj is [-1000, 1000]", h.OomScoreAdj)
	case h.Umask != nil && *h.Umask > 0o777:
		return worker.Invalidf("invalid umask %#o: want 0 to 0777", *h.Umask)
	case strings.Contains(h.CgroupParent, "\x00") || slices.Contains(strings.Split(h.CgroupParent, "/"), ".."):
		return worker.Invalidf("invalid cgroup parent %q: want a path without \"..\"", h.CgroupParent)
	case h.Cgroup != "":
		return worker.Invalidf("the option Cgroup is not supported: a container cannot use the cgroup of another")
	case !slices.Contains(worker.Runtimes, h.Runtime):
		return worker.Invalidf("unknown or invalid runtime name: %s", h.Runtime)
	case !h.Isolation.IsDefault():
		return worker.Invalidf("invalid isolation '%s' on linux", h.Isolation)
	case !h.CgroupnsMode.Valid():
		return worker.Invalidf("invalid cgroup namespace mode: %v", h.CgroupnsMode)
	case !h.PidMode.Valid():
		return worker.Invalidf("invalid PID mode: %v", h.PidMode)
	case !h.IpcMode.Valid():
		return worker.Invalidf("invalid IPC mode: %v", h.IpcMode)
	case !h.UTSMode.Valid():
		return worker.Invalidf("invalid UTS mode: %v", h.UTSMode)
	case !h.UsernsMode.Valid():
		return worker.Invalidf("invalid user namespace mode: %v", h.UsernsMode)
	}
	for _, host := range h.ExtraHosts {
		name, ip, ok := strings.Cut(strings.Replace(host, "=", ":", 1), ":")
		if !ok || name == "" {
			return worker.Invalidf("bad format for add-host: %q", host)
		}
		if _, err := netip.ParseAddr(strings.Trim(ip, "[]")); err != nil && ip != worker.HostGateway {
			return worker.Invalidf("invalid IP address in add-host: %q", ip)
		}
	}
	for _, rule := range h.DeviceCgroupRules {
		if _, err := deviceRule(rule); err != nil {
			return err
		}
	}
	return nil
}

// checkCapabilities refuses those that there are not, and writes the others as docker shows them.
func checkCapabilities(h *container.HostConfig) error {
	for _, list := range []struct {
		field string
		names *[]string
	}{{"CapAdd", &h.CapAdd}, {"CapDrop", &h.CapDrop}} {
		*list.names = slices.Clone(*list.names)
		for i, name := range *list.names {
			name = strings.ToUpper(name)
			if name != "ALL" && !strings.HasPrefix(name, "CAP_") {
				name = "CAP_" + name
			}
			known := func(c capability.Cap) bool { return "CAP_"+strings.ToUpper(c.String()) == name }
			if name != "ALL" && !slices.ContainsFunc(capability.ListKnown(), known) {
				return worker.Invalidf("invalid %s: unknown capability: %q", list.field, name)
			}
			(*list.names)[i] = name
		}
	}
	return nil
}

// checkForeign refuses the limits of Windows, which docker does not heed on Linux.
func checkForeign(r *container.Resources) error {
	for name, set := range map[string]bool{
		"CpuCount": r.CPUCount != 0, "CpuPercent": r.CPUPercent < 0, "IOMaximumIOps": r.IOMaximumIOps != 0,
		"IOMaximumBandwidth": r.IOMaximumBandwidth != 0,
	} {
		if set {
			return worker.Invalidf("invalid option: Linux does not support %s", name)
		}
	}
	return nil
}

func checkPolicy(p container.RestartPolicy) error {
	if err := container.ValidateRestartPolicy(p); err != nil {
		return worker.Invalidf("%v", err)
	}
	return nil
}

// checkNetworkMode refuses what does not go together.
func checkNetworkMode(c *container.Config, h *container.HostConfig) error {
	mode := h.NetworkMode
	conflict := func(what string) error { return worker.Invalidf("conflicting options: %s", what) }
	switch {
	case h.UTSMode.IsHost() && c.Hostname != "":
		return conflict("hostname and the UTS mode")
	case mode.IsHost() && len(h.Links) > 0:
		return conflict("host type networking can't be used with links. This would result in undefined behavior")
	case !mode.IsContainer():
		return nil
	case mode.ConnectedContainer() == "":
		return worker.Invalidf("invalid container format container:<name|id>")
	case c.Hostname != "":
		return conflict("hostname and the network mode")
	case len(h.Links) > 0:
		return conflict("container type network can't be used with links. This would result in undefined behavior")
	case len(h.DNS) > 0:
		return conflict("dns and the network mode")
	case len(h.ExtraHosts) > 0:
		return conflict("custom host-to-IP mapping and the network mode")
	case len(h.PortBindings) > 0 || h.PublishAllPorts:
		return conflict("port publishing and the container type network mode")
	}
	return nil
}

func checkPorts(h *container.HostConfig) error {
	for port, bindings := range h.PortBindings {
		if !port.IsValid() {
			return worker.Invalidf("invalid port specification: %q", port.String())
		}
		for _, b := range bindings {
			if b.HostPort == "" {
				continue
			}
			if _, err := network.ParsePortRange(b.HostPort); err != nil {
				return worker.Invalidf("invalid port specification: %q", b.HostPort)
			}
		}
	}
	return nil
}

// minMemory is the least that a process can be started with.
const minMemory = 6 << 20

func checkMemory(r *container.Resources) error {
	switch {
	case r.Memory != 0 && r.Memory < minMemory:
		return worker.Invalidf("Minimum memory limit allowed is 6MB")
	case r.Memory > 0 && r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return worker.Invalidf("Minimum memoryswap limit should be larger than memory limit, see usage")
	case r.Memory == 0 && r.MemorySwap > 0:
		return worker.Invalidf("You should always set the Memory limit when using Memoryswap limit, see usage")
	case r.MemorySwappiness != nil && (*r.MemorySwappiness < -1 || *r.MemorySwappiness > 100):
		return worker.Invalidf("Invalid value: %v, valid memory swappiness range is 0-100", *r.MemorySwappiness)
	case r.MemoryReservation > 0 && r.MemoryReservation < minMemory:
		return worker.Invalidf("Minimum memory reservation allowed is 6MB")
	case r.Memory > 0 && r.MemoryReservation > 0 && r.Memory < r.MemoryReservation:
		return worker.Invalidf("Minimum memory limit can not be less than memory reservation limit, see usage")
	case r.BlkioWeight > 0 && (r.BlkioWeight < 10 || r.BlkioWeight > 1000):
		return worker.Invalidf("Range of blkio weight is from 10 to 1000")
	}
	return nil
}

func checkCPU(r *container.Resources) error {
	cpus := runtime.NumCPU()
	switch {
	case r.CPUShares < 0:
		return worker.Invalidf("invalid CPU shares (%d): value must be a positive integer", r.CPUShares)
	case r.NanoCPUs > 0 && r.CPUPeriod > 0:
		return worker.Invalidf("Conflicting options: Nano CPUs and CPU Period cannot both be set")
	case r.NanoCPUs > 0 && r.CPUQuota > 0:
		return worker.Invalidf("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
	case r.NanoCPUs < 0 || r.NanoCPUs > int64(cpus)*1e9:
		return worker.Invalidf("range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", cpus, cpus)
	case r.CPUPeriod != 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1_000_000):
		return worker.Invalidf("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case r.CPUQuota > 0 && r.CPUQuota < 1000:
		return worker.Invalidf("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	case r.CPURealtimePeriod > 0 && r.CPURealtimeRuntime > r.CPURealtimePeriod:
		return worker.Invalidf("cpu real-time runtime cannot be higher than cpu real-time period")
	}
	for _, set := range []struct{ what, list, file string }{
		{"cpus", r.CpusetCpus, "/sys/devices/system/cpu/online"}, {"mems", r.CpusetMems, "/sys/devices/system/node/online"},
	} {
		if err := checkSet(set.what, set.list, set.file); err != nil {
			return err
		}
	}
	return nil
}

// checkSet checks a list of CPUs or memory nodes against those that there are.
func checkSet(what, list, file string) error {
	if list == "" {
		return nil
	}
	asked, err := parseSet(list)
	if err != nil {
		return worker.Invalidf("Invalid value %s for cpuset %s", list, what)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil //nolint:nilerr // the kernel will say
	}
	have, err := parseSet(strings.TrimSpace(string(b)))
	if err != nil {
		return nil //nolint:nilerr // likewise
	}
	for n := range asked {
		if !have[n] {
			return worker.Invalidf("Requested %s are not available - requested %s, available: %s",
				map[string]string{"cpus": "CPUs", "mems": "memory nodes"}[what], list, strings.TrimSpace(string(b)))
		}
	}
	return nil
}

// parseSet reads a list like "0-2,7".
func parseSet(list string) (map[int]bool, error) {
	out := make(map[int]bool)
	for part := range strings.SplitSeq(list, ",") {
		var from, to int
		if n, err := fmt.Sscanf(part, "%d-%d", &from, &to); n != 2 || err != nil {
			if n, err := fmt.Sscanf(part, "%d", &from); n != 1 || err != nil {
				return nil, fmt.Errorf("invalid list %q", list)
			}
			to = from
		}
		if from < 0 || to < from || to > 8191 {
			return nil, fmt.Errorf("invalid list %q", list)
		}
		for ; from <= to; from++ {
			out[from] = true
		}
	}
	return out, nil
}
