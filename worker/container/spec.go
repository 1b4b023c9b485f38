package container

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
)

// defaultPath is the PATH of a container whose image sets none.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// spec is the sandbox of a run, without its root and the mounts of files and volumes.
func (m *Manager) spec(rec *record, net *worker.NetworkSetup) (*executor.Spec, error) {
	host, config := rec.HostConfig, rec.Config
	path, args := rec.command()
	s := &executor.Spec{
		ID: rec.ID, Hostname: config.Hostname, Domain: config.Domainname, ReadOnly: host.ReadonlyRootfs,
		Process: executor.Process{
			Args: append([]string{path}, args...), Env: environment(rec, config.Tty, net.Env), Cwd: config.WorkingDir,
			User: config.User, AddGroups: host.GroupAdd, Terminal: config.Tty,
			Rows: uint16(host.ConsoleSize[0]), Cols: uint16(host.ConsoleSize[1]),
		},
		Network: net.Network, Limits: limits(&host.Resources), CgroupPath: host.CgroupParent,
		Privileged: host.Privileged, CapAdd: host.CapAdd, CapDrop: host.CapDrop, Sysctls: host.Sysctls, ShmSize: host.ShmSize,
		HostPID: host.PidMode.IsHost(), HostIPC: host.IpcMode.IsHost(), NoShm: host.IpcMode.IsNone(), HostUTS: host.UTSMode.IsHost(),
		HostCgroup: host.CgroupnsMode.IsHost(), Init: host.Init != nil && *host.Init,
		MaskedPaths: host.MaskedPaths, ReadonlyPaths: host.ReadonlyPaths, Umask: host.Umask,
	}
	if s.HostUTS {
		s.Hostname, s.Domain = "", "" // they are the host's
	}
	if s.Process.Cwd == "" {
		s.Process.Cwd = "/"
	}
	if host.OomScoreAdj != 0 {
		s.OOMScoreAdj = &host.OomScoreAdj
	}
	if _, err := m.confine(s, host.SecurityOpt); err != nil {
		return nil, err
	}
	if host.Privileged && host.MaskedPaths == nil {
		s.MaskedPaths, s.ReadonlyPaths = []string{}, []string{}
	}
	if err := m.devices(s, &host.Resources); err != nil {
		return nil, err
	}
	return s, m.join(s, host)
}

// join has the sandbox join namespaces of other containers.
func (m *Manager) join(s *executor.Spec, host *container.HostConfig) error {
	if ref := host.PidMode.Container(); host.PidMode.IsContainer() {
		pid, err := m.pidOf(ref, "PID")
		if err != nil {
			return err
		}
		s.PIDNamespace = fmt.Sprintf("/proc/%d/ns/pid", pid)
	}
	if ref := host.IpcMode.Container(); host.IpcMode.IsContainer() {
		pid, err := m.pidOf(ref, "IPC")
		if err != nil {
			return err
		}
		s.IPCNamespace = fmt.Sprintf("/proc/%d/ns/ipc", pid)
	}
	return nil
}

// pidOf returns the first process of the container ref, whose namespace is to be joined.
func (m *Manager) pidOf(ref, what string) (int, error) {
	c, err := m.find(ref)
	if err != nil {
		return 0, worker.Errorf(class(err), "failed to join %s namespace: %v", what, err)
	}
	rec := c.get()
	switch {
	case rec.Status.Phase == Restarting:
		return 0, worker.Conflictf("failed to join %s namespace: %v", what, isRestarting(c.id))
	case !rec.Status.Alive():
		return 0, worker.Conflictf("failed to join %s namespace: %v", what, notRunning(c.id))
	case what == "IPC" && !rec.HostConfig.IpcMode.IsShareable():
		return 0, worker.Invalidf("cannot join IPC of a non-running or non-shareable container: %s", c.id)
	}
	return rec.Status.Pid, nil
}

// environment is that of a process, at a terminal or not: docker's defaults, what linked containers are called, and the container's own,
// which win. An entry without "=" takes a default away.
func environment(rec *record, tty bool, linked []string) []string {
	env := []string{defaultPath, "HOSTNAME=" + rec.Config.Hostname}
	if tty {
		env = append(env, "TERM=xterm")
	}
	return replaceEnv(append(env, linked...), rec.Config.Env)
}

// replaceEnv returns env with the entries of more in place of those of the same name, or behind.
func replaceEnv(env, more []string) []string {
	out := slices.Clone(env)
	at := make(map[string]int, len(out))
	for i, kv := range out {
		name, _, _ := strings.Cut(kv, "=")
		at[name] = i
	}
	for _, kv := range more {
		name, _, set := strings.Cut(kv, "=")
		i, there := at[name]
		switch {
		case !set && there:
			out[i] = ""
			delete(at, name)
		case !set:
		case there:
			out[i] = kv
		default:
			at[name] = len(out)
			out = append(out, kv)
		}
	}
	return slices.DeleteFunc(out, func(kv string) bool { return kv == "" })
}

// limits are the cgroup's.
func limits(r *container.Resources) executor.Limits {
	l := executor.Limits{
		Memory: r.Memory, MemorySwap: r.MemorySwap, MemoryReservation: r.MemoryReservation,
		CPUShares: uint64(max(r.CPUShares, 0)), CPUQuota: r.CPUQuota, CPUPeriod: uint64(max(r.CPUPeriod, 0)),
		CPUSetCPUs: r.CpusetCpus, CPUSetMems: r.CpusetMems,
		CPURealtimePeriod: uint64(max(r.CPURealtimePeriod, 0)), CPURealtime: r.CPURealtimeRuntime, BlkioWeight: r.BlkioWeight,
		OOMKillDisable: r.OomKillDisable != nil && *r.OomKillDisable,
	}
	if r.NanoCPUs > 0 {
		const period = 100_000 // microseconds
		l.CPUPeriod, l.CPUQuota = period, r.NanoCPUs*period/1e9
	}
	if r.PidsLimit != nil && *r.PidsLimit > 0 {
		l.Pids = *r.PidsLimit
	}
	if r.MemorySwappiness != nil && *r.MemorySwappiness >= 0 {
		v := uint64(*r.MemorySwappiness)
		l.Swappiness = &v
	}
	for _, d := range r.BlkioWeightDevice {
		l.Blkio = append(l.Blkio, executor.BlkioLimit{Path: d.Path, Weight: d.Weight})
	}
	for _, d := range r.BlkioDeviceReadBps {
		l.Blkio = append(l.Blkio, executor.BlkioLimit{Path: d.Path, ReadBPS: d.Rate})
	}
	for _, d := range r.BlkioDeviceWriteBps {
		l.Blkio = append(l.Blkio, executor.BlkioLimit{Path: d.Path, WriteBPS: d.Rate})
	}
	for _, d := range r.BlkioDeviceReadIOps {
		l.Blkio = append(l.Blkio, executor.BlkioLimit{Path: d.Path, ReadIOPS: d.Rate})
	}
	for _, d := range r.BlkioDeviceWriteIOps {
		l.Blkio = append(l.Blkio, executor.BlkioLimit{Path: d.Path, WriteIOPS: d.Rate})
	}
	return l
}

// devices are those that the user names, and their limits.
func (m *Manager) devices(s *executor.Spec, r *container.Resources) error {
	for _, d := range r.Devices {
		access := d.CgroupPermissions
		if access == "" {
			access = "rwm"
		}
		in := d.PathInContainer
		if in == "" {
			in = d.PathOnHost
		}
		if _, err := os.Stat(d.PathOnHost); errors.Is(err, os.ErrNotExist) {
			return worker.Invalidf("error gathering device information while adding custom device %q: no such file or directory", d.PathOnHost)
		}
		s.Devices = append(s.Devices, executor.Device{HostPath: d.PathOnHost, Path: in, Access: access})
	}
	for _, rule := range r.DeviceCgroupRules {
		dr, err := deviceRule(rule)
		if err != nil {
			return err
		}
		s.DeviceRules = append(s.DeviceRules, dr)
	}
	for _, u := range r.Ulimits {
		s.Ulimits = append(s.Ulimits, executor.Ulimit{Name: u.Name, Soft: uint64(u.Soft), Hard: uint64(u.Hard)})
	}
	return nil
}

// deviceRule reads "c 1:3 rwm".
func deviceRule(rule string) (executor.DeviceRule, error) {
	bad := worker.Invalidf("invalid device cgroup rule format: '%s'", rule)
	fields := strings.Fields(rule)
	if len(fields) != 3 || !slices.Contains([]string{"a", "b", "c"}, fields[0]) || strings.Trim(fields[2], "rwm") != "" {
		return executor.DeviceRule{}, bad
	}
	major, minor, ok := strings.Cut(fields[1], ":")
	if !ok {
		return executor.DeviceRule{}, bad
	}
	dr := executor.DeviceRule{Type: fields[0], Access: fields[2]}
	for _, part := range []struct {
		text string
		to   *int64
	}{{major, &dr.Major}, {minor, &dr.Minor}} {
		*part.to = -1
		if part.text == "*" {
			continue
		}
		n, err := strconv.ParseUint(part.text, 10, 32)
		if err != nil {
			return executor.DeviceRule{}, bad
		}
		*part.to = int64(n)
	}
	return dr, nil
}

// hostOptions are what the keeper does.
func (m *Manager) hostOptions(rec *record) executor.HostOptions {
	return executor.HostOptions{
		OpenStdin: rec.Config.OpenStdin, StdinOnce: rec.Config.StdinOnce, Log: m.logOptions(rec),
	}
}
